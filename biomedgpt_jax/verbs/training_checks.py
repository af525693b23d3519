"""What can be wrong with the call of a training, found before any data is read."""

import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from biomedgpt_jax.core.config_json import to_json
from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.sharding import MeshShape, nearest
from biomedgpt_jax.train.optim import OptimConfig
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import ModelSpec, read_spec

# Sections whose keys become the fields of a class, and fields that come from elsewhere.
_FIELDS = {"mesh": (MeshShape, ()), "optim": (OptimConfig, ("total_steps",))}
_COUNTS = (
    *("train.batch_rows", "train.accumulate", "train.epochs", "train.loss_chunk", "train.save_every"),
    *("train.log_every", "train.keep", "data.row_tokens", "eval.batch_rows", "eval.max_new_tokens"),
)
_NOT_NEGATIVE = "optim.learning_rate", "optim.weight_decay", "seed", "data.workers", "data.threads", "data.image_slots"
_POSITIVE = "optim.eps", "optim.clip_norm", "lora.rank", "lora.alpha", "lora.tile"
_SHARES = "optim.b1", "optim.b2"


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


def check_settings(config: Config) -> None:
    """Raises UsageError for a section with keys too few or too many, and for numbers that cannot be."""
    for section, (kind, others) in _FIELDS.items():
        expected, found = {field.name for field in fields(kind)}.difference(others), set(config[section])
        if expected != found:
            said = "it lacks" if expected - found else "it has the unknown"
            raise UsageError(
                f"config.{section}: {said} {', '.join(sorted(expected - found or found - expected))}; "
                f"expected {', '.join(sorted(expected))}."
            )
    for key in _COUNTS:
        _check_number(key, _value(config, key), "1 or more", lambda number: number >= 1)
    for key in _NOT_NEGATIVE:
        _check_number(key, _value(config, key), "0 or more", lambda number: number >= 0)
    for key in _POSITIVE:
        _check_number(key, _value(config, key), "more than 0", lambda number: number > 0)
    for key in _SHARES:
        _check_number(key, _value(config, key), "from 0 to below 1", lambda number: 0 <= number < 1)
    _check_number("optim.warmup_ratio", config.optim.warmup_ratio, "from 0 to 1", lambda number: 0 <= number <= 1)
    for group, rate in config.optim.group_rates.items():
        _check_number(f"optim.group_rates.{group}", rate, "0 or more", lambda number: number >= 0)
    if not config.model.scales:
        raise UsageError("config.model.scales is empty: expected at least one size in pixels.")
    for weight in config.data.weights:
        _check_number("data.weights", weight, "numbers more than 0", lambda number: number > 0)


def check_rows(config: Config, mesh: Mesh) -> None:
    """Raises UsageError for rows that do not divide over devices and micro-batches, or tokens over devices."""
    train, data, sizes = config.train, config.data, mesh.shape
    shards = f"mesh data={sizes['data']} * fsdp={sizes['fsdp']} * train.accumulate={train.accumulate}"
    for key, found, parts, what in (
        ("train.batch_rows", train.batch_rows, sizes["data"] * sizes["fsdp"] * train.accumulate, shards),
        ("data.row_tokens", data.row_tokens, sizes["context"], f"mesh context={sizes['context']}"),
    ):
        if found % parts:
            below = found // parts * parts
            fitting = nearest(found, [size for size in (below, below + parts) if size])
            raise UsageError(f"config.{key} = {found} does not divide by {parts}, {what}; nearest that fit: {fitting}.")


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".") if "." in key else (None, key)
    there = config if section is None else config[section]
    if name not in there:
        where = "config" if section is None else f"config.{section}"
        raise UsageError(f"{where} lacks the key {name!r}. Add it to the file, or begin from one in configs/.")
    return there[name]


def _check_number(key: str, value: Any, expected: str, holds: Callable[[float], bool]) -> None:
    if value is None:  # a setting that may be left open
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise UsageError(f"config.{key} = {value!r}: expected {expected}.")
