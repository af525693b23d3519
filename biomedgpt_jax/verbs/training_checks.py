"""What can be wrong with the call of a training, found before any data is read."""

from pathlib import Path

from jax.sharding import Mesh

from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import ModelSpec, read_spec


def begun(workdir: Path) -> bool:
    """Whether the run has a checkpoint to go on from; Orbax gives a step its number when it is whole."""
    checkpoints = workdir / "checkpoints"
    return checkpoints.is_dir() and any(step.name.isdigit() for step in checkpoints.iterdir())


def check_same_model(workdir: Path, spec: ModelSpec) -> None:
    """Raises UsageError where the run in `workdir` is of another model, naming what differs."""
    saved, asked = (leaf_paths(to_json(each)) for each in (read_spec(workdir), spec))
    other = [key for key in sorted({*saved, *asked}) if saved.get(key) != asked.get(key)]
    if other:
        shown = "; ".join(f"{key}: expected {saved.get(key)!r}, found {asked.get(key)!r}" for key in other[:5])
        raise UsageError(
            f"{workdir} holds a run of another model than the configuration says ({len(other)} differences). {shown}. "
            "Resume with the settings that the run began with, or choose another workdir."
        )


def check_rows(config: Config, mesh: Mesh) -> None:
    """Raises UsageError for counts that cannot be, and rows that do not divide over devices or micro-batches."""
    train, data = config.train, config.data
    for key, found in (
        ("train.batch_rows", train.batch_rows),
        ("train.accumulate", train.accumulate),
        ("train.epochs", train.epochs),
        ("train.loss_chunk", train.loss_chunk),
        ("train.save_every", train.save_every),
        ("data.row_tokens", data.row_tokens),
        ("eval.batch_rows", config.eval.batch_rows),
        ("eval.max_new_tokens", config.eval.max_new_tokens),
    ):
        if found < 1:
            raise UsageError(f"config.{key} = {found}: expected 1 or more.")
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    for key, found, parts, what in (
        ("train.batch_rows", train.batch_rows, shards, "the devices along data and fsdp of config.mesh"),
        ("train.batch_rows", train.batch_rows, train.accumulate, "the parts of config.train.accumulate"),
        ("data.row_tokens", data.row_tokens, mesh.shape["context"], "the devices along context of config.mesh"),
    ):
        if found % parts:
            nearest = -(-found // parts) * parts
            raise UsageError(f"config.{key} = {found}: expected a multiple of {parts}, {what}; {nearest} would do.")
