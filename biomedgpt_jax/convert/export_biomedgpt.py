"""A BiomedGPT -> the files that others know: OFA's Hugging Face folder, or a checkpoint by fairseq's names.

Both hold all that the published files hold, copies and tables too, so that what loads those loads these.
"""

import importlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from biomedgpt_jax.convert.biomedgpt import FAIRSEQ_RULES, HF_RULES
from biomedgpt_jax.convert.biomedgpt_buffers import with_stored
from biomedgpt_jax.convert.biomedgpt_settings import fairseq_settings, hf_json
from biomedgpt_jax.convert.card import Card, write_card
from biomedgpt_jax.convert.export import MAX_SHARD_BYTES, Exported, Form, appear, check_leaves
from biomedgpt_jax.convert.fairseq_file import CHECKPOINT
from biomedgpt_jax.convert.leaves import Leaves
from biomedgpt_jax.convert.mapping import export_tensors
from biomedgpt_jax.convert.processing import ASKING, write_json
from biomedgpt_jax.convert.shapes import leaf_shapes
from biomedgpt_jax.convert.tensors import write_safetensors
from biomedgpt_jax.convert.torch_writer import save_state
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig

OFA_MODEL, FAIRSEQ_MODEL = "OFAModel", "fairseq's ofa"  # what loads them
_LICENCE = (
    "If this model began from BiomedGPT's published weights: their README limits code and checkpoints to academic "
    "research and forbids commercial and clinical use, although the files are tagged apache-2.0. Until the authors say "
    "otherwise, take the narrower terms."
)


@dataclass(frozen=True)
class ExportPairs:
    """What goes along with the weights."""

    asking: Mapping[str, Any] | None  # how the model is asked, as our verbs read it; None where nobody knows
    files: Sequence[Path]  # the tokenizer's, and the closed list of answers
    card: Card


def export_ofa(folder: Path, leaves: Leaves, config: BiomedGptConfig, extras: ExportPairs) -> Exported:
    """Writes OFA's Hugging Face folder in the dtype of the leaves; it appears when it is complete.

    Raises:
        UsageError: the folder is taken. RunError: leaves of another model, or a model that the form cannot say.
    """
    content = {**hf_json(config, str(folder)), "torch_dtype": str(leaves.dtype)}

    def fill(part: Path) -> None:
        write_json(part / "config.json", content)
        write_safetensors(part, _stored(leaves, config, part, hugging_face=True), MAX_SHARD_BYTES)
        _write_extras(part, leaves, config, extras, OFA_MODEL)

    return Exported(appear(folder, fill), Form.OFA, OFA_MODEL, ())


def export_fairseq(folder: Path, leaves: Leaves, config: BiomedGptConfig, extras: ExportPairs) -> Exported:
    """Writes `checkpoint.pt`, in which the settings are a plain dict, so that PyTorch loads it as weights alone.

    Raises:
        UsageError, RunError: as `export_ofa`; torch is not installed.
    """
    torch, settings = _torch(), fairseq_settings(config, str(folder))
    content = {
        "args": None,
        "cfg": {"model": settings},
        "extra_state": {"train_iterator": {"epoch": 1}, "val_loss": None},
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "num_updates": 0, "lr_scheduler_state": {}}],
        "last_optimizer_state": None,
        "task_state": {},
    }

    def fill(part: Path) -> None:
        tensors = _stored(leaves, config, part, hugging_face=False)
        save_state(part / CHECKPOINT, torch, content, "model", tensors)
        _write_extras(part, leaves, config, extras, FAIRSEQ_MODEL)

    return Exported(appear(folder, fill), Form.FAIRSEQ, FAIRSEQ_MODEL, ())


def _stored(
    leaves: Leaves, config: BiomedGptConfig, where: Path, *, hugging_face: bool
) -> Iterator[tuple[str, np.ndarray]]:
    check_leaves(leaves.shapes, leaf_shapes(config), where)
    rules = HF_RULES if hugging_face else FAIRSEQ_RULES
    tensors = export_tensors(leaves, rules, where=str(where), shapes=leaves.shapes)
    return with_stored(tensors, config, hugging_face=hugging_face)


def _write_extras(part: Path, leaves: Leaves, config: BiomedGptConfig, extras: ExportPairs, loader: str) -> None:
    for file in extras.files:
        shutil.copyfile(file, part / file.name)
    if extras.asking is not None:
        write_json(part / ASKING, dict(extras.asking))
    facts = [
        ("encoder", f"{config.encoder_layers} layers of {config.width}"),
        ("decoder", f"{config.decoder_layers} layers of {config.width}"),
        (
            "image stem",
            f"ResNet of {', '.join(map(str, config.stem_blocks))} blocks, BatchNorm with running statistics",
        ),
        ("vocabulary", str(config.vocab_size)),
        ("text positions", str(config.text_positions)),
        ("weights", str(leaves.dtype)),
    ]
    asking = extras.asking or {}
    facts += [("image size", str(asking["image_size"]))] if "image_size" in asking else []
    card = replace(extras.card, notes=(_LICENCE, *extras.card.notes))
    write_card(part, card, loader, tuple(facts))


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise RunError(
            f"A checkpoint is written by PyTorch: {error}. Install it (pip install 'biomedgpt-jax[hf]'), or export "
            f"with --form={Form.OFA.value}, which needs none."
        ) from error
