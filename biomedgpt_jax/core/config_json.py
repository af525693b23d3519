"""Frozen dataclasses to JSON and back, so that a folder of weights says which model they are of."""

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from biomedgpt_jax.core.errors import RunError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """JSON values; a dataclass becomes a dict that names its class, an enum its value."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **named}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[T] | types.UnionType, data: Any, where: str) -> T:
    """The inverse of `to_json` for a value of type `kind`; `where` names the file in messages.

    Raises:
        RunError: missing or unknown fields, or a value of another type.
    """
    return _read(kind, data, where)


def _read(kind: Any, data: Any, where: str) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        return _read_union(get_args(kind), data, where)
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        kinds = [inner[0]] * len(data) if inner[-1:] == (Ellipsis,) else inner
        return tuple(_read(item_kind, item, where) for item_kind, item in zip(kinds, data, strict=True))
    if is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(data)
        except ValueError:
            raise RunError(f"{where}: expected one of {[each.value for each in kind]}, found {data!r}.") from None
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(kind, type) and not isinstance(data, kind):
        raise RunError(f"{where}: expected {kind.__name__}, found {data!r}.")
    return data


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    found = set(data) - {"type"} if isinstance(data, dict) else set()
    named = data.get("type") if isinstance(data, dict) else None
    if named not in (None, kind.__name__):
        raise RunError(f"{where}: expected a {kind.__name__}, found a {named}, which is something else.")
    if not isinstance(data, dict) or named is None or found != set(hints):
        raise RunError(
            f"{where}: expected a {kind.__name__} with the fields {sorted(hints)}, found {data!r:.300}. "
            "The file is of another version; make it again with this one."
        )
    return kind(**{name: _read(hint, data[name], f"{where}: {name}") for name, hint in hints.items()})


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    named = data.get("type") if isinstance(data, dict) else None
    names = [getattr(kind, "__name__", str(kind)) for kind in kinds]
    for kind, name in zip(kinds, names, strict=True):
        if kind is not type(None) and (not is_dataclass(kind) or name == named):
            return _read(kind, data, where)
    raise RunError(f"{where}: expected one of {names}, found {data!r:.300}.")
