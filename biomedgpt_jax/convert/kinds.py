"""Of which kind a value of a published configuration must be: JSON allows sizes in quotes, fractions and nulls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.layers.mlp import Activation


@dataclass(frozen=True)
class Kind:
    words: str  # "expected ..."
    holds: Callable[[Any], bool]


_MOST = 10**9  # no size or factor of a published model comes near
# bool is a subclass of int, so types are compared.
WHOLE = Kind("a whole number", lambda value: type(value) is int and abs(value) < _MOST)
SIZE = Kind("a whole number, 0 or more", lambda value: WHOLE.holds(value) and value >= 0)
COUNT = Kind("a whole number, 1 or more", lambda value: WHOLE.holds(value) and value >= 1)
COUNT_OR_NULL = Kind("a whole number, 1 or more, or null", lambda value: value is None or COUNT.holds(value))
NUMBER = Kind("a number, 0 or more", lambda value: type(value) in (int, float) and 0 <= value < _MOST)
NUMBER_OR_NULL = Kind("a number, 0 or more, or null", lambda value: value is None or NUMBER.holds(value))
LIST_OR_NULL = Kind("a list in brackets or null", lambda value: value is None or isinstance(value, list))
FLAG = Kind("true or false", lambda value: type(value) is bool)
WORD = Kind("a word in quotes", lambda value: isinstance(value, str))
OBJECT = Kind("an object in braces", lambda value: isinstance(value, Mapping))
OBJECT_OR_NULL = Kind("an object in braces or null", lambda value: value is None or OBJECT.holds(value))

_OF_DEFAULT: dict[type, Kind] = {int: COUNT, float: NUMBER, bool: FLAG, str: WORD}


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, Kind], where: str) -> None:
    """Checks the values that `kinds` names.

    Raises:
        RunError: naming the attribute, its value and what was expected.
    """
    for name, kind in kinds.items():
        if not kind.holds(values[name]):
            raise RunError(
                f"{where}: {name} is {values[name]!r:.80}, expected {kind.words}. Download the file again, or write "
                "the right value into a copy."
            )


def check_heads(width: int, heads: int, where: str) -> None:
    """Raises RunError where the heads do not share the width evenly."""
    if width % heads:
        raise RunError(f"{where}: {heads} attention heads cannot share a width of {width} evenly. Correct a copy.")


def activation(name: Any, where: str) -> Activation:
    """Raises RunError for one that we do not have; `where` names file and attribute."""
    try:
        return Activation(name)
    except ValueError:
        known = ", ".join(kind.value for kind in Activation)
        raise RunError(f"{where} is {name!r:.80}, expected one of {known}.") from None


def kinds_of(defaults: Mapping[str, Any]) -> dict[str, Kind]:
    """What each default is, its attribute must be."""
    return {name: _OF_DEFAULT[type(value)] for name, value in defaults.items()}
