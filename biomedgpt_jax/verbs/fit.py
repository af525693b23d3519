"""Says what a training needs and how fast it would be on accelerators that are not here, by compiling it for them.

    biomedgpt fit --config=configs/llama3_med.py:stage=2 --topology=v5e-64 --config.train.batch_rows=64

The step that is compiled is the one that `train` runs. No weights, no data, no accelerator; a compilation takes some
minutes of one core and is kept, so that a second call answers at once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.placing import BATCH_AXES
from biomedgpt_jax.core.sharding import MeshShape, mesh_sizes
from biomedgpt_jax.core.sharding import spec as partition
from biomedgpt_jax.core.topology import Topology, parse
from biomedgpt_jax.plan.cache import compile_once, default_folder
from biomedgpt_jax.plan.compile import Shapes, lower_step
from biomedgpt_jax.plan.prediction import Prediction, predict, prediction_json
from biomedgpt_jax.plan.report import print_prediction, print_search
from biomedgpt_jax.plan.search import Candidate, Tried, candidates, search, tried_json
from biomedgpt_jax.plan.target import target_devices
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.families import family_of, training_config
from biomedgpt_jax.verbs.model_spec import REMAT, lookup
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.train import Parts, build_parts, check_mesh, checked_family, step_settings

EXAMPLE = "biomedgpt fit --config=configs/llama3_med.py:stage=2 --topology=v5e-64"


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    flags.DEFINE_string("topology", None, "Such as v5e-64, 2xv5e-256, v5p-32, h100-8.", flag_values=values)
    flags.DEFINE_string("json", None, "File to write the prediction to.", flag_values=values)
    flags.DEFINE_string("cache", str(default_folder()), "Folder that keeps compilations.", flag_values=values)
    flags.DEFINE_bool("search", False, "Try several settings; the best feasible comes first.", flag_values=values)
    flags.DEFINE_list("search_rows", ["1", "2", "4", "8"], "Rows of a device at a time, to try.", flag_values=values)
    flags.DEFINE_list("search_remat", ["full", "dots", "minimal"], "Of the decoder, to try.", flag_values=values)
    flags.DEFINE_list("search_tower_remat", None, "Of the tower, to try, where there is one.", flag_values=values)
    flags.DEFINE_list("search_context", ["1"], "Devices along the mesh axis context, to try.", flag_values=values)
    flags.DEFINE_list("search_tensor", ["1", "2"], "Devices along the mesh axis tensor, to try.", flag_values=values)
    flags.DEFINE_float("search_minutes", 60.0, "When to begin no more compilations.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    config = training_config(values, EXAMPLE)
    topology = parse(command_line.require(values, "topology", EXAMPLE))
    checked_family(config)
    console, cache = make_console(), Path(values.cache)
    if values.search:
        tried = _search(config, topology, cache, values, console)
        print_search(tried, console)
        written: Any = [tried_json(each) for each in tried]
    else:
        fitted = adapted(config, topology, partial(console.print, markup=False, highlight=False))
        with console.status(f"compiling for {topology.name} (some minutes, unless it is kept from before)"):
            prediction = fit(fitted, topology, cache)
        print_prediction(prediction, console)
        written = {"topology": topology.name, "config": json.loads(fitted.to_json()), **prediction_json(prediction)}
    if values.json:
        Path(values.json).write_text(json.dumps(written, indent=1) + "\n")


def fit(config: Config, topology: Topology, cache: Path) -> Prediction:
    """Compiles the step of a configuration for a topology, or finds it compiled in the folder `cache`.

    Raises:
        UsageError: settings that do not fit each other or the topology. RunError: no compiler for it.
    """
    parts = build_parts(config, total_steps=1, devices=target_devices(topology))
    check_mesh(config, parts)
    family, spec = parts.family, parts.spec
    shapes, settings = family.batch_shapes(config, spec), step_settings(config, parts, family.objective(config, spec))
    ledger = parts.ledger()
    return predict(
        compile_once(
            # The specification too: it may come from a folder that the configuration names.
            f"{config.to_json()} {spec}",
            lambda: lower_step(parts.model, parts.optimizer, settings, parts.abstract, parts.mesh, shapes),
            topology,
            cache,
        ),
        topology,
        family.workload(config, spec, parts.is_trainable),
        parameters=ledger.parameter_bytes_per_device,
        optimizer=ledger.optimizer_bytes_per_device,
        batch=_batch_bytes(shapes, parts),
    )


def adapted(config: Config, topology: Topology, say: Callable[[str], None]) -> Config:
    """The configuration with the least changes that divide over the devices; each change is said.

    A published batch may be smaller than a pod, and slices need a part of the mesh's axis `data` each.
    """
    config = config.copy_and_resolve_references()
    if topology.slices > 1 and config.mesh.data == 1:
        config.mesh.data = topology.slices
        say(f"Planned with config.mesh.data={topology.slices}, one part for each slice. Training needs it too.")
    sizes = mesh_sizes(MeshShape(**config.mesh), topology.devices)
    least = sizes.data * sizes.fsdp * config.train.accumulate
    if config.train.batch_rows % least:
        rows = -(-config.train.batch_rows // least) * least
        say(
            f"Planned with config.train.batch_rows={rows}, not {config.train.batch_rows}, which does not divide over "
            f"data * fsdp * accumulate = {least}. Training needs it too."
        )
        config.train.batch_rows = rows
    return config


def _search(config: Config, topology: Topology, cache: Path, values: flags.FlagValues, console: Console) -> list[Tried]:
    base = MeshShape(**config.mesh)
    data = max(base.data, topology.slices)
    meshes = [
        mesh_sizes(replace(base, data=data, fsdp=-1, tensor=tensor, context=context), topology.devices)
        for tensor in _numbers("search_tensor", values.search_tensor)
        for context in _numbers("search_context", values.search_context)
    ]
    part = family_of(config).remat_part
    towers = values.search_tower_remat or [config.model.remat.get("tower", "")]
    if values.search_tower_remat and "tower" not in config.model.remat:
        raise UsageError("--search_tower_remat: this family has no config.model.remat.tower.")
    for name in (*values.search_remat, *(values.search_tower_remat or ())):
        lookup(f"model.remat.{part}", name, REMAT)
    rows = _numbers("search_rows", values.search_rows)
    tries = list(candidates(meshes, list(product(values.search_remat, towers)), rows, config.train.batch_rows))
    end = monotonic() + 60 * values.search_minutes

    def evaluate(candidate: Candidate) -> Prediction:
        chosen = config.copy_and_resolve_references()
        chosen.mesh = ConfigDict(asdict(candidate.mesh))
        chosen.model.remat[part] = candidate.remat
        if candidate.tower_remat:
            chosen.model.remat.tower = candidate.tower_remat
        chosen.train.batch_rows, chosen.train.accumulate = candidate.rows, candidate.accumulate
        return fit(chosen, topology, cache)

    with progress(console) as advance:
        return search(
            tries,
            evaluate,
            lambda done, of: advance(f"compile for {topology.name}", done, of),
            lambda: monotonic() < end,
        )


def _numbers(flag: str, texts: Sequence[str]) -> list[int]:
    if not all(text.isdecimal() and int(text) > 0 for text in texts):
        raise UsageError(f"--{flag}={','.join(texts)}: expected whole numbers more than 0, with commas between.")
    return [int(text) for text in texts]


def _batch_bytes(shapes: Shapes, parts: Parts) -> int:
    """On one device."""
    local = (
        (jax.sharding.NamedSharding(parts.mesh, partition(BATCH_AXES[name])).shard_shape(each.shape), each.dtype)
        for name, each in shapes.items()
    )
    return sum(prod(shape) * dtype.itemsize for shape, dtype in local)
