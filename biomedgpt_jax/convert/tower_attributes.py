"""Attributes that configurations of vision towers share, beside those of every configuration."""

from collections.abc import Mapping
from typing import Any

from biomedgpt_jax.convert.attributes import FIXED, LEGACY, read_attributes
from biomedgpt_jax.core.errors import RunError

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
    return read_attributes(
        config,
        where=where,
        defaults=defaults,
        fixed=FIXED | {"num_channels": (3,)},
        ignored=ignored | LEGACY | _DROPOUT,
    )


def square(value: int | list[int] | tuple[int, int], name: str, where: str) -> int:
    """A size in pixels that Hugging Face writes as a number or as two equal ones.

    Raises:
        RunError: two different ones.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or sides[0] != sides[1]:
        raise RunError(f"{where}: {name} is {value!r}, expected a square.")
    return sides[0]
