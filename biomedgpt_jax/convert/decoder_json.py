"""Our decoder configurations written in the vocabulary of Hugging Face."""

from enum import Enum
from typing import Any

from biomedgpt_jax.convert.processing import ExportText
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.layers.mlp import Activation
from biomedgpt_jax.models.llama import LlamaConfig

Json = dict[str, Any]


class DecoderFamily(Enum):
    """The value is the `model_type` in config.json."""

    LLAMA = "llama"
    QWEN2 = "qwen2"
    GEMMA = "gemma"


def decoder_family(decoder: LlamaConfig) -> DecoderFamily:
    """The published family whose layout this decoder has.

    Raises:
        RunError: it is of none.
    """
    scale = decoder.embed_scale
    if decoder.width % decoder.heads:
        raise RunError(
            f"transformers refuses a decoder of width {decoder.width} with {decoder.heads} heads: no multiple."
        )
    if decoder.norm_offset == 0 and scale == 1 and decoder.activation is Activation.SILU:
        if not decoder.qkv_bias:
            return DecoderFamily.LLAMA
        if decoder.head_dim * decoder.heads == decoder.width and decoder.rope_scaling is None:
            return DecoderFamily.QWEN2
    elif decoder.norm_offset == 1 and not decoder.qkv_bias and decoder.tied and decoder.rope_scaling is None:
        return DecoderFamily.GEMMA
    raise RunError(
        f"This decoder has the layout of no published family (norm offset {decoder.norm_offset}, qkv bias "
        f"{decoder.qkv_bias}, embedding scale {scale}, activation {decoder.activation.value}), "
        "expected that of Llama, Qwen2 or Gemma."
    )


def decoder_json(decoder: LlamaConfig, text: ExportText | None) -> Json:
    """`text_config` of an export; without `text` there are no special tokens, and no answer ends by itself."""
    values: Json = {
        "model_type": decoder_family(decoder).value,
        "hidden_size": decoder.width,
        "intermediate_size": decoder.mlp_width,
        "num_hidden_layers": decoder.depth,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "vocab_size": decoder.vocab_size,
        "hidden_act": decoder.activation.value,
        "rms_norm_eps": decoder.eps,
        # The spelling before transformers 5, which every version reads.
        "rope_theta": decoder.rope_theta,
        "rope_scaling": _rope_scaling(decoder),
        "tie_word_embeddings": decoder.tied,
        "initializer_range": decoder.init_std,
        "attention_dropout": 0.0,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if text is not None:
        stop = text.stop_ids
        values["bos_token_id"], values["pad_token_id"] = text.bos_id, text.pad_id
        values["eos_token_id"] = stop[0] if len(stop) == 1 else list(stop)
        if text.context is not None:
            values["max_position_embeddings"] = text.context
    match decoder_family(decoder):
        case DecoderFamily.LLAMA:
            own: Json = {"head_dim": decoder.head_dim, "attention_bias": False, "mlp_bias": False}
        case DecoderFamily.QWEN2:
            own = {"use_sliding_window": False}
        case DecoderFamily.GEMMA:
            own = {"head_dim": decoder.head_dim, "hidden_activation": decoder.activation.value}
    return values | own


def _rope_scaling(decoder: LlamaConfig) -> Json | None:
    scaling = decoder.rope_scaling
    if scaling is None:
        return None
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_length,
    }
