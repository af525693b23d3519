"""Attributes that configurations of vision towers share, beside those of every configuration."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert.attributes import FIXED, LEGACY, read_attributes
from biomedgpt_jax.convert.kinds import check_heads, check_kinds, kinds_of
from biomedgpt_jax.core.errors import RunError

_DROPOUT = frozenset(
    {"attention_dropout", "attention_probs_dropout_prob", "drop_path_rate", "dropout", "hidden_dropout_prob"}
)


def read_tower_attributes(
    config: Mapping[str, Any], *, defaults: Mapping[str, Any], ignored: frozenset[str], where: str
) -> dict[str, Any]:
    """`read_attributes` with what all towers share.

    Dropout is ignored: published towers have none, and features are computed without it.

    Returns:
        The configuration with `defaults` filled in, of their kinds; sizes in pixels as one number.

    Raises:
        RunError: an attribute that is neither handled nor knowingly ignored, or a value we cannot do.
    """
    read = read_attributes(
        config,
        where=where,
        defaults=defaults,
        fixed=FIXED | {"num_channels": (3,)},
        ignored=ignored | LEGACY | _DROPOUT,
    )
    read |= {name: _side(read[name], name, where) for name in ("image_size", "patch_size")}
    check_kinds(read, kinds_of(defaults), where)
    check_heads(read["hidden_size"], read["num_attention_heads"], where)
    return read


def _side(value: Any, name: str, where: str) -> Any:
    """Hugging Face writes a size in pixels as a number or as two equal ones."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) != 2 or value[0] != value[1]:
        raise RunError(f"{where}: {name} is {value!r:.80}, expected a square.")
    return value[0]
