"""fairseq checkpoints (`checkpoint_best.pt`): weights, averaged weights, and the settings of the model's training.

Besides tensors they hold the settings as an `argparse.Namespace` or as omegaconf containers, which are read as plain
values (pickled_data.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedgpt_jax.convert.joined import Joined
from biomedgpt_jax.convert.pickled_data import plain, stand_in
from biomedgpt_jax.convert.source import Tensors
from biomedgpt_jax.convert.torch_archive import TorchArchive
from biomedgpt_jax.convert.torch_file import ArchiveTensors
from biomedgpt_jax.core.errors import RunError, UsageError

CHECKPOINT = "checkpoint.pt"  # in a folder of ours
_EMA, _EMA_FLOAT32 = "ema", "ema_fp32_params"


@dataclass(frozen=True)
class FairseqCheckpoint:
    path: Path
    settings: Mapping[str, Any]  # of the model's class, by their names on fairseq's command line
    tensors: Tensors  # by the names of the fairseq state dict


def is_torch_file(path: Path) -> bool:
    """Whether a path may be given in the place of a folder."""
    return path.is_file() and path.suffix in (".pt", ".pth", ".bin", ".ckpt")


def checkpoint_of(path: Path) -> Path:
    """The path; where it is a folder that `export --form=fairseq` wrote, the checkpoint in it."""
    file = path / CHECKPOINT
    return file if file.is_file() and not (path / "config.json").exists() else path


def open_fairseq(path: Path, *, averaged: bool) -> FairseqCheckpoint:
    """Reads the settings of a checkpoint, and its tensors by name and shape.

    Args:
        averaged: take the exponential moving average of the weights that training kept beside them.

    Raises:
        RunError: not a fairseq checkpoint, or it holds anything that is neither tensors nor settings.
        UsageError: `averaged`, and there is no average.
    """
    archive = TorchArchive(path, known=stand_in)
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
