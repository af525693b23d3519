"""Reading a Hugging Face configuration without overlooking any of its attributes."""

import reprlib
from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.core.errors import RunError

# Attributes of every transformers configuration that say nothing about what the network computes.
BOOKKEEPING = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "auto_map",
        "dtype",
        "is_encoder_decoder",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "chunk_size_feed_forward",
        "id2label",
        "label2id",
        "problem_type",
    }
)

# Generation, training and label settings that transformers wrote into every configuration before version 5.
LEGACY = frozenset(
    {
        "bad_words_ids",
        "begin_suppress_tokens",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "initializer_factor",
        "initializer_range",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "prefix",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torchscript",
        "typical_p",
        "use_bfloat16",
    }
)
# They would change the model, were they anything else.
FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "pruned_heads": ({}, None),
}


def read_attributes(
    config: Mapping[str, Any],
    *,
    where: str,
    defaults: Mapping[str, Any],
    required: frozenset[str] = frozenset(),
    fixed: Mapping[str, tuple[Any, ...]],
    ignored: frozenset[str],
    advice: str = "If such an attribute is harmless, remove it from a copy of the file; else the model needs new code.",
) -> dict[str, Any]:
    """The configuration with what transformers assumes for absent attributes filled in.

    Args:
        where: file or part of it, for messages.
        defaults: handled attributes, with the value that transformers takes when one is absent.
        required: handled attributes that must be there.
        fixed: attributes of which we can do only these values.
        ignored: attributes that do not change what we compute, beside `BOOKKEEPING`.
        advice: what to do about unknown ones.

    Raises:
        RunError: an attribute that is neither handled nor ignored, a missing one, or a value we cannot do.
    """
    known = {*defaults, *required, *fixed, *ignored, *BOOKKEEPING}
    unknown = sorted(set(config) - known)
    missing = sorted(required - set(config))
    if unknown or missing:
        raise RunError(
            f"{where}: cannot be sure to compute what this configuration means.\n"
            f"  attributes we do not know: {_shown(config, unknown)}\n  missing: {', '.join(missing) or 'none'}\n"
            f"{advice}"
        )
    for name, values in fixed.items():
        if name in config and config[name] not in values:
            raise RunError(
                f"{where}: {name} is {reprlib.repr(config[name])}, expected {' or '.join(repr(v) for v in values)}. "
                "This variant is not implemented."
            )
    return {**defaults, **config}


def _shown(config: Mapping[str, Any], names: list[str]) -> str:
    return ", ".join(f"{name} = {reprlib.repr(config[name])}" for name in names) or "none"
