"""Says what would go wrong in a run on these machines, before it does, and what to do about it.

    biomedgpt doctor --workdir=runs/a --config=configs/llama3_med.py:stage=2,...
    biomedgpt launch --target=tpu-pod --topology=v5e-64 --zone=us-east5-b -- doctor --workdir=gs://lab/run

Versions on all machines, devices, folders, memory, disk, compile cache and clocks. Exit code 1 if a run would fail.
"""

import json
import time
from contextlib import nullcontext
from dataclasses import asdict
from math import prod
from typing import Any
from uuid import uuid4

import jax
from absl import flags
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from biomedgpt_jax.core.compile_cache import cache_folder
from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.processes import is_leader
from biomedgpt_jax.doctor.facts import Facts, Folder, gather_facts, made, marked, platform, sees
from biomedgpt_jax.doctor.findings import (
    Finding,
    Level,
    Needs,
    check_clocks,
    check_shared_folder,
    findings,
)
from biomedgpt_jax.doctor.gather import gather
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.cluster import define_processes, join_processes
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.families import training_config
from biomedgpt_jax.verbs.train import Parts, build_parts, check_mesh, checked_family
from biomedgpt_jax.verbs.training_data import reading

EXAMPLE = "biomedgpt doctor --workdir=runs/a --config=configs/smoke.py:stage=1,data=data/vqa_rad"
_PORT_ADVICE = (
    "See that all were started. On Cloud TPU the firewall opens port 8476: export JAX_COORDINATOR_PORT=8476 on all, "
    "as `biomedgpt launch` does."
)
_WORKER_BYTES = 300 << 20  # of one process that reads data, before it holds any; an estimate
_TOKEN_BYTES = 6 * 4  # the arrays of a batch that have a number for each token
_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red"}


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    define_processes(values)
    flags.DEFINE_string("workdir", None, "Folder that a run would write to.", flag_values=values)
    flags.DEFINE_float("wait", 60.0, "Seconds to wait for the other processes.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    config = training_config(values, EXAMPLE) if values["config"].value else None
    coordinator = _meet(values)
    found = [*coordinator, *examine(config, values["workdir"].value)]
    print_findings(found, make_console())
    return int(any(each.level is Level.FAILURE for each in found))


def _meet(values: flags.FlagValues) -> list[Finding]:
    """Joins the other processes, if there are some; where that fails, what this machine says is still of use."""
    if not values["coordinator"].value and values["process"].value is None:
        return []
    begun = time.monotonic()
    try:
        join_processes(values, seconds=values.wait)
    except UsageError:
        raise
    except RunError as error:
        return [Finding(Level.FAILURE, "coordinator", str(error), _PORT_ADVICE)]
    return [Finding(Level.OK, "coordinator", f"all processes met in {time.monotonic() - begun:.1f} s")]


def examine(config: Config | None, workdir: str | None) -> list[Finding]:
    """All findings; every process must call it, and all get the same."""
    cache = cache_folder(config.compile_cache if config else "", workdir or "", platform())
    with made((workdir, cache)):
        gather("doctor folders", "")  # all are made before any is used, and used before any is removed
        mine = gather_facts(workdir, cache)
        said = gather("doctor facts", json.dumps(asdict(mine)))
        everyone = [_facts(number, text) for number, text in enumerate(said)]
        found, needs, workers = [], Needs(None, None), 0
        if config and not mine.device_error:
            fits, needs = _fits(config, len(everyone))
            found, workers = [fits], config.data.workers
        found = [*findings(everyone, needs, workers=workers), *found]
        if len(everyone) > 1:
            found.append(check_clocks(_clocks(), everyone))
        if len(everyone) > 1 and workdir:
            found.append(check_shared_folder(workdir, _seen(workdir), everyone))
        gather("doctor done", "")
    return found


def print_findings(found: list[Finding], console: Console) -> None:
    table = Table("", "what", "found, and what to do")
    for each in found:
        advice = f"\n[bold]{escape(each.do)}[/]" if each.do else ""
        table.add_row(f"[{_COLORS[each.level]}]{each.level.value}[/]", each.what, escape(each.found) + advice)
    console.print(table)
    failures = sum(each.level is Level.FAILURE for each in found)
    warnings = sum(each.level is Level.WARNING for each in found)
    verdict = f"A run would fail: {failures} of {len(found)} findings." if failures else "A run can start."
    console.print(verdict + (f" {warnings} warnings." if warnings else ""))


def _facts(number: int, said: str) -> Facts:
    values = json.loads(said)
    folders = {name: Folder(**values[name]) if values[name] else None for name in ("workdir", "cache")}
    return Facts(**{**values, **folders, "process": number})


def _clocks() -> list[float]:
    """Read right after a barrier, which opens for all within milliseconds."""
    gather("doctor clocks", "")
    return [float(said) for said in gather("doctor clock", repr(time.time()))]


def _seen(workdir: str) -> list[bool]:
    mark = gather("doctor mark", uuid4().hex)[0]
    with marked(workdir, mark) if is_leader() else nullcontext():
        gather("doctor marked", "")
        seen = gather("doctor saw", str(int(sees(workdir, mark))))
    return [each == "1" for each in seen]


def _fits(config: Config, processes: int) -> tuple[Finding, Needs]:
    """Whether the settings fit each other and these devices; and what such a run needs."""
    what = "configuration"
    try:
        checked_family(config)
        parts = build_parts(config, total_steps=1)
        check_mesh(config, parts)
    except RunError as error:
        return Finding(Level.FAILURE, what, str(error), "Change it, or take other machines."), Needs(None, None)
    shape = " ".join(f"{axis}={size}" for axis, size in parts.mesh.shape.items())
    needs = Needs(_loader_bytes(config, parts, processes), _checkpoint_bytes(config, parts))
    return Finding(Level.OK, what, f"fits the devices: mesh {shape}"), needs


def _loader_bytes(config: Config, parts: Parts, processes: int) -> int:
    """Of one process and those that read data for it: batches that are read ahead, images that are kept."""
    how, shapes = reading(config), parts.family.batch_shapes(config, parts.spec)
    batch = _bytes(shapes) // processes
    ahead = max(how.ahead, how.threads) + 1
    return max(1, how.workers) * (ahead * batch + how.image_cache_bytes) + how.workers * _WORKER_BYTES


def _checkpoint_bytes(config: Config, parts: Parts) -> int:
    """Of the checkpoints that are kept and the one that is being written, and of the frozen part, kept once."""
    state = parts.abstract
    changing = _bytes((state.trainable, state.opt_state, state.statistics, state.average))
    return ((config.train.keep or 1) + 1) * changing + _bytes(parts.abstract.frozen)


def _bytes(shapes: Any) -> int:
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
