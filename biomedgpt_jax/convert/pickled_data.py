"""Settings inside pickles, as plain values: what stands for the classes of others, and how it is read.

In the place of each class that settings are stored in stands one here that only keeps what it is given, so that
nothing of the file runs; a name that is not listed is refused by whoever reads the pickle.
"""

import re
from collections import defaultdict
from typing import Any

# Modules of which every name may stand in a checkpoint: nothing of them is looked up or called.
_MODULES = re.compile(r"(omegaconf|typing|fairseq\.dataclass|fairseq\.meters|pytorch_lightning)(\..*)?")
_NAMES = {
    ("argparse", "Namespace"),
    ("_codecs", "encode"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("torch", "device"),
    ("torch", "Size"),
    *((f"numpy{private}.multiarray", name) for private in (".core", "._core") for name in ("scalar", "_reconstruct")),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(("torch", f"float{bits}") for bits in (16, 32, 64)),
}
_PLAIN = {"dict": dict, "list": list, "tuple": tuple, "set": set, "int": int, "float": float, "str": str, "bool": bool}


class Kept:
    """What a class of the file was given, instead of that class."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def stand_in(module: str, name: str) -> Any | None:
    """What an unpickler takes for a name of the file, None to refuse it."""
    if (module, name) == ("collections", "defaultdict"):
        return defaultdict
    if module in ("builtins", "__builtin__"):
        return _PLAIN.get(name)
    if _MODULES.fullmatch(module) or (module, name) in _NAMES:
        return Kept
    return None


def plain(value: Any) -> Any:
    """Namespaces and omegaconf containers as dicts and lists of plain values; what is neither, as None.

    What stands in several places is made once, and what stands inside itself is None there.
    """
    return _plain(value, {})


def _plain(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, str | int | float | bool | None):
        return value
    if id(value) not in done:
        done[id(value)] = None
        done[id(value)] = _content(value, done)
    return done[id(value)]


def _content(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, Kept):
        state = getattr(value, "state", None)
        if not isinstance(state, dict):  # an enumeration, a path, a number of numpy
            arguments = getattr(value, "arguments", ())
            return _plain(arguments[0], done) if len(arguments) == 1 else None
        for inside in ("_content", "_val"):  # of omegaconf's containers and values
            if inside in state:
                return _plain(state[inside], done)
        return _plain(state, done)
    if isinstance(value, dict):
        return {str(key): _plain(each, done) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each, done) for each in value]
    return None
