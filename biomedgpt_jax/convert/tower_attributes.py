"""Attributes that configurations of vision towers share, beside those of every configuration."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert.attributes import read_attributes
from biomedgpt_jax.core.errors import RunError

# Generation and label settings that transformers wrote into every configuration before version 5.
_LEGACY = frozenset(
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
_FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "num_channels": (3,),
    "pruned_heads": ({}, None),
}
_DROPOUT = frozenset(
    {"attention_dropout", "attention_probs_dropout_prob", "drop_path_rate", "dropout", "hidden_dropout_prob"}
)


def read_tower_attributes(
    config: Mapping[str, Any], *, defaults: Mapping[str, Any], ignored: frozenset[str], where: str
) -> dict[str, Any]:
    """`read_attributes` with what all towers share.

    Dropout is ignored: published towers have none, and features are computed without it.

    Raises:
        RunError: an attribute that is neither handled nor knowingly ignored, or a value we cannot do.
    """
    return read_attributes(config, where=where, defaults=defaults, fixed=_FIXED, ignored=ignored | _LEGACY | _DROPOUT)


def square(value: int | list[int] | tuple[int, int], name: str, where: str) -> int:
    """A size in pixels that Hugging Face writes as a number or as two equal ones.

    Raises:
        RunError: two different ones.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise RunError(f"{where}: {name} is {value!r}, expected a square.")
    return sides[0]
