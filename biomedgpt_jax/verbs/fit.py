"""Says what a training needs and how fast it would be on accelerators that are not here, by compiling it for them.

    biomedgpt fit --config=configs/llama3_med.py:stage=2 --topology=v5e-64 --config.train.batch_rows=64

The step that is compiled is the one that `train` runs. No weights, no data, no accelerator; a compilation takes some
minutes of one core and is kept, so that a second call answers at once.
"""

import json
from math import prod
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from biomedgpt_jax.core.placing import BATCH_AXES
from biomedgpt_jax.core.sharding import spec as partition
from biomedgpt_jax.core.topology import Topology, parse
from biomedgpt_jax.data.batches import RowShape, empty_batch
from biomedgpt_jax.models.flops import train_flops
from biomedgpt_jax.plan.cache import compile_once, default_folder
from biomedgpt_jax.plan.compile import Shapes, lower_step
from biomedgpt_jax.plan.prediction import Prediction, Workload, predict, prediction_json
from biomedgpt_jax.plan.report import print_prediction
from biomedgpt_jax.plan.target import target_devices
from biomedgpt_jax.train.ledger import make_ledger
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.features import feature_shape
from biomedgpt_jax.verbs.model_spec import ModelSpec, spec_from_config
from biomedgpt_jax.verbs.train import SECTIONS, Parts, build_parts, step_settings
from biomedgpt_jax.verbs.training_checks import check_rows, check_settings

EXAMPLE = "biomedgpt fit --config=configs/llama3_med.py:stage=2 --topology=v5e-64"


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    flags.DEFINE_string("topology", None, "Such as v5e-64, 2xv5e-256, v5p-32, h100-8.", flag_values=values)
    flags.DEFINE_string("json", None, "File to write the prediction to.", flag_values=values)
    flags.DEFINE_string("cache", str(default_folder()), "Folder that keeps compilations.", flag_values=values)


def run(values: flags.FlagValues) -> None:
    config = command_line.require_config(values, EXAMPLE, SECTIONS)
    topology = parse(command_line.require(values, "topology", EXAMPLE))
    console = make_console()
    prediction = fit(config, topology, Path(values.cache), console)
    print_prediction(prediction, console)
    if values.json:
        Path(values.json).write_text(json.dumps(prediction_json(prediction), indent=1) + "\n")


def fit(config: Config, topology: Topology, cache: Path, console: Console) -> Prediction:
    """Compiles the step of a configuration for a topology, or finds it compiled.

    Raises:
        UsageError: settings that do not fit each other or the topology. RunError: no compiler for it.
    """
    check_settings(config)
    devices = target_devices(topology)
    spec = spec_from_config(config)
    parts = build_parts(config, spec, total_steps=1, devices=devices)
    check_rows(config, parts.mesh)
    shapes = batch_shapes(config, spec)
    with console.status(f"compiling for {topology.name} (some minutes)"):
        lowered = lower_step(
            parts.model, parts.optimizer, step_settings(config, spec), parts.abstract, parts.mesh, shapes
        )
        made, _ = compile_once(lowered, topology, cache)
    ledger = make_ledger(parts.abstract, parts.optimizer)
    return predict(
        made,
        topology,
        workload(config, spec, parts),
        parameters=ledger.parameter_bytes_per_device,
        optimizer=ledger.optimizer_bytes_per_device,
        batch=_batch_bytes(shapes, parts),
    )


def batch_shapes(config: Config, spec: ModelSpec) -> Shapes:
    """Of the global batch, as the data pipeline makes it."""
    size = spec.model.image_size
    features = feature_shape(spec, config.model.compute_dtype) if config.data.features else None
    row = RowShape(
        config.data.row_tokens, config.data.image_slots, spec.model.tokens_per_image, (size, size), 0, features
    )
    one = empty_batch(1, row, max_samples=1)
    del one["samples"]
    rows = config.train.batch_rows
    return {name: jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype) for name, array in one.items()}


def workload(config: Config, spec: ModelSpec, parts: Parts) -> Workload:
    rows = config.train.batch_rows
    tokens, images = rows * config.data.row_tokens, rows * config.data.image_slots
    flops = train_flops(
        spec.model,
        parts.is_trainable,
        row_tokens=config.data.row_tokens,
        lora=spec.lora,
        run_tower=not config.data.features,
    )
    seen = images * flops.per_image
    return Workload(tokens, images, tokens * flops.per_token + seen, tokens * flops.per_token_causal + seen)


def _batch_bytes(shapes: Shapes, parts: Parts) -> int:
    """On one device."""
    local = (
        (jax.sharding.NamedSharding(parts.mesh, partition(BATCH_AXES[name])).shard_shape(each.shape), each.dtype)
        for name, each in shapes.items()
    )
    return sum(prod(shape) * dtype.itemsize for shape, dtype in local)
