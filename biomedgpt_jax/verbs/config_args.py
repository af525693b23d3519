"""The part after the colon of --config=FILE.py:stage=2,tune=lora."""

from typing import Any

from biomedgpt_jax.verbs.command_line import suggest


def parse_args(text: str | None, **defaults: Any) -> dict[str, Any]:
    """Reads `key=value,key=value` over the defaults, in the type of each default.

    A value may hold commas when its default is a tuple: `scales=224+672+1344`.

    Raises:
        ValueError: an unknown key (with the nearest right one) or a value of another type.
    """
    values = dict(defaults)
    for item in filter(None, (text or "").split(",")):
        key, equals, value = item.partition("=")
        if key not in defaults:
            raise ValueError(f"Unknown argument {key!r}; known: {', '.join(defaults)}.{suggest(key, defaults)}")
        if not equals:
            raise ValueError(f"Argument {key!r} has no value; write {key}=VALUE.")
        values[key] = _convert(key, value, defaults[key])
    return values


def choose(key: str, value: str, choices: tuple[str, ...]) -> str:
    """Returns `value` if it is one of `choices`; raises ValueError with the nearest one otherwise."""
    if value not in choices:
        raise ValueError(f"{key}={value!r}: expected one of {', '.join(choices)}.{suggest(value, choices)}")
    return value


def _convert(key: str, value: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[value.lower()]
        if isinstance(default, tuple):
            kind = type(default[0]) if default else str
            return tuple(kind(part) for part in value.split("+"))
        return type(default)(value)
    except (KeyError, ValueError):
        raise ValueError(f"{key}={value!r}: expected {type(default).__name__}, like {default!r}.") from None
