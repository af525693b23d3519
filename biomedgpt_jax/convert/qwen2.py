"""Qwen2ForCausalLM of transformers: a Llama with biases on queries, keys and values."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert import llama
from biomedgpt_jax.convert.kinds import LIST_OR_NULL, check_kinds
from biomedgpt_jax.convert.mapping import Rule
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.llama import LlamaConfig

RULES = (
    *llama.RULES,
    *(
        Rule(f"model.layers.{{layer}}.self_attn.{name}_proj.bias", f"layers/attention/{name}/bias", "(h k) -> h k")
        for name in "qkv"
    ),
)

# What transformers assumes for an absent attribute (5.23, Qwen2Config).
_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": None,
    "hidden_act": "silu",
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "layer_types": None,
}


def config_from_hf(config: Mapping[str, Any], where: str) -> LlamaConfig:
    """Reads the content of a config.json with model_type "qwen2".

    Raises:
        RunError: an attribute that we neither handle nor know to be harmless.
    """
    found = llama.read_decoder_attributes(
        config,
        where=where,
        defaults=_DEFAULTS,
        fixed={"model_type": ("qwen2",), "use_sliding_window": (False,), "attention_dropout": (0, 0.0)},
        # The window's numbers count only when use_sliding_window is true.
        ignored=frozenset({"max_position_embeddings", "max_window_layers", "sliding_window"}),
    )
    check_kinds(found, {"layer_types": LIST_OR_NULL}, where)
    if any(each != "full_attention" for each in found["layer_types"] or ()):
        raise RunError(f"{where}: layer_types {found['layer_types']}: only full_attention is implemented.")
    return llama.llama_config(found, where, eps=found["rms_norm_eps"], qkv_bias=True, norm_offset=0.0, embed_scale=1.0)
