"""fairseq checkpoints (`checkpoint_best.pt`): weights, averaged weights, and the settings of the model's training.

Besides tensors they hold the settings as an `argparse.Namespace` or as omegaconf containers. Those are read as plain
values: in the place of each class that such containers consist of stands one here that only keeps what it is given.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedgpt_jax.convert.joined import Joined
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.torch_archive import TorchArchive
from biomedgpt_jax.convert.torch_file import ArchiveTensors
from biomedgpt_jax.core.errors import RunError, UsageError

# Modules of which every name may stand in a checkpoint: nothing of them is looked up or called.
_MODULES = re.compile(r"(omegaconf|typing|fairseq\.dataclass|fairseq\.meters)(\..*)?")
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
_EMA, _EMA_FLOAT32 = "ema", "ema_fp32_params"


@dataclass(frozen=True)
class FairseqCheckpoint:
    path: Path
    settings: Mapping[str, Any]  # of the model's class, by their names on fairseq's command line
    tensors: Tensors  # by the names of the fairseq state dict


def is_torch_file(path: Path) -> bool:
    """Whether a path may be given in the place of a folder."""
    return path.is_file() and path.suffix in (".pt", ".pth", ".bin", ".ckpt")


def open_fairseq(path: Path, *, averaged: bool) -> FairseqCheckpoint:
    """Reads the settings of a checkpoint, and its tensors by name and shape.

    Args:
        averaged: take the exponential moving average of the weights that training kept beside them.

    Raises:
        RunError: not a fairseq checkpoint, or it holds anything that is neither tensors nor settings.
        UsageError: `averaged`, and there is no average.
    """
    archive = TorchArchive(path, known=_stand_in)
    content = archive.content
    if not isinstance(content, dict) or "model" not in content:
        found = ", ".join(map(str, list(content)[:6])) if isinstance(content, dict) else type(content).__name__
        raise RunError(
            f"{path}: expected a fairseq checkpoint, a dict with model and args or cfg; found {found}. The settings of "
            "the model are read from the checkpoint alone, so a bare state dict can't be imported."
        )
    weights = ArchiveTensors(archive, archive.state_dict(content["model"], "its entry model"))
    tensors = _averaged(archive, content, weights) if averaged else weights
    return FairseqCheckpoint(path, _settings(content, path), tensors)


def _settings(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`args`, else the part of `cfg` about the model."""
    args, cfg = plain(content.get("args")), plain(content.get("cfg"))
    found = args if args is not None else cfg.get("model") if isinstance(cfg, dict) else None
    if not isinstance(found, dict):
        raise RunError(
            f"{path}: neither args nor cfg.model says what the model is (found {type(args).__name__} and "
            f"{type(cfg).__name__}). It can't be told from the weights alone; take the checkpoint as it was saved."
        )
    return found


def _averaged(archive: TorchArchive, content: Mapping[str, Any], weights: Tensors) -> Tensors:
    """`ema`, overlaid by its float32 copy; running statistics may come from the weights themselves."""
    extra = content.get("extra_state")
    extra = extra if isinstance(extra, dict) else {}
    found = [extra[name] for name in (_EMA, _EMA_FLOAT32) if extra.get(name)]
    if not found:
        raise UsageError(
            f"{archive.path}: holds no average of the weights (extra_state has "
            f"{', '.join(map(str, extra)) or 'no entries'}, expected {_EMA} or {_EMA_FLOAT32}). Leave --ema out."
        )
    layers = [ArchiveTensors(archive, archive.state_dict(each, "the average of the weights")) for each in found]
    covered = {key for layer in layers for key in layer}
    lacking = sorted(key for key in set(weights) - covered if not _is_buffer(key))
    if lacking:
        raise RunError(
            f"{archive.path}: the average of the weights lacks {len(lacking)} of them, first {', '.join(lacking[:4])}. "
            "Averaged and other weights are not mixed; leave --ema out."
        )
    return Joined(*((layer, lambda key: key) for layer in (weights, *layers)))


def _is_buffer(key: str) -> bool:
    return key.rsplit(".", 1)[-1] in (
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "version",
        "token_rp_bucket",
        "image_rp_bucket",
        "image_position_idx",
    )


class Kept:
    """What a class of the file was given, instead of that class."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def plain(value: Any) -> Any:
    """Namespaces and omegaconf containers as dicts and lists of plain values; what is neither, as None."""
    if isinstance(value, Kept):
        state = getattr(value, "state", None)
        if not isinstance(state, dict):  # an enumeration, a path, a number of numpy
            arguments = getattr(value, "arguments", ())
            return plain(arguments[0]) if len(arguments) == 1 else None
        for inside in ("_content", "_val"):  # of omegaconf's containers and values
            if inside in state:
                return plain(state[inside])
        return plain(state)
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else None


def _stand_in(module: str, name: str) -> Any | None:
    """What the unpickler takes for a name of the file."""
    if (module, name) == ("collections", "defaultdict"):
        return defaultdict
    if module in ("builtins", "__builtin__"):
        return _PLAIN.get(name)
    if _MODULES.fullmatch(module) or (module, name) in _NAMES:
        return Kept
    return None
