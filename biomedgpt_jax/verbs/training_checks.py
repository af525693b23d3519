"""What can be wrong with the call of a training, found before any data is read."""

import math
from collections.abc import Callable, Iterable
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
from biomedgpt_jax.verbs.spec_file import read_spec

# Sections whose keys become the fields of a class, and fields that come from elsewhere.
_FIELDS = {"mesh": (MeshShape, ()), "optim": (OptimConfig, ("total_steps",))}
_COUNTS = (
    *("train.batch_rows", "train.accumulate", "train.epochs", "train.loss_chunk", "train.save_every"),
    *("train.log_every", "train.keep", "eval.batch_rows", "eval.max_new_tokens"),
)
_NOT_NEGATIVE = "optim.learning_rate", "optim.weight_decay", "seed", "data.workers", "data.threads"
_POSITIVE = "optim.eps", "optim.clip_norm"
_SHARES = "optim.b1", "optim.b2", "train.average_decay"


def begun(workdir: Path) -> bool:
    """Whether the run has a checkpoint to go on from; Orbax gives a step its number when it is whole."""
    checkpoints = workdir / "checkpoints"
    return checkpoints.is_dir() and any(step.name.isdigit() for step in checkpoints.iterdir())


def check_same_model(workdir: Path, spec: Any) -> None:
    """Raises UsageError where the run in `workdir` is of another model, naming what differs."""
    saved, asked = (leaf_paths(to_json(each)) for each in (read_spec(workdir, type(spec)), spec))
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
    check_counts(config, _COUNTS)
    check_not_negative(config, _NOT_NEGATIVE)
    check_positive(config, _POSITIVE)
    check_shares(config, _SHARES)
    _check_number("optim.warmup_ratio", config.optim.warmup_ratio, "from 0 to 1", lambda number: 0 <= number <= 1)
    for group, rate in config.optim.group_rates.items():
        _check_number(f"optim.group_rates.{group}", rate, "0 or more", lambda number: number >= 0)
    for weight in config.data.weights:
        _check_number("data.weights", weight, "numbers more than 0", lambda number: number > 0)


def check_model_settings(config: Config) -> None:
    """The same for the settings of a Llama3-Med."""
    check_counts(config, ("data.row_tokens",))
    check_not_negative(config, ("data.image_slots",))
    check_positive(config, ("lora.rank", "lora.alpha", "lora.tile"))
    if not config.model.scales and not config.init.weights:  # whose folder says them
        raise UsageError("config.model.scales is empty: expected at least one size in pixels.")


def check_counts(config: Config, keys: Iterable[str]) -> None:
    """Raises UsageError for a setting that is no number of 1 or more, or a tuple with one that is not."""
    for key in keys:
        value = _value(config, key)
        for number in value if isinstance(value, tuple) else (value,):
            _check_number(key, number, "1 or more", lambda number: number >= 1)


def check_not_negative(config: Config, keys: Iterable[str]) -> None:
    for key in keys:
        _check_number(key, _value(config, key), "0 or more", lambda number: number >= 0)


def check_positive(config: Config, keys: Iterable[str]) -> None:
    for key in keys:
        _check_number(key, _value(config, key), "more than 0", lambda number: number > 0)


def check_shares(config: Config, keys: Iterable[str]) -> None:
    for key in keys:
        _check_number(key, _value(config, key), "from 0 to below 1", lambda number: 0 <= number < 1)


def check_rows(config: Config, mesh: Mesh) -> None:
    """Raises UsageError for rows that do not divide over devices and micro-batches."""
    train, sizes = config.train, mesh.shape
    shards = f"mesh data={sizes['data']} * fsdp={sizes['fsdp']} * train.accumulate={train.accumulate}"
    check_divides("train.batch_rows", train.batch_rows, sizes["data"] * sizes["fsdp"] * train.accumulate, shards)


def check_divides(key: str, found: int, parts: int, what: str) -> None:
    """Raises UsageError where a setting is no multiple of `parts`, which is called `what`."""
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
