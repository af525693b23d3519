"""Compiles the train step for devices that are not here, and says what it needs of their memory."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from biomedgpt_jax.core.placing import BATCH_AXES
from biomedgpt_jax.core.sharding import spec
from biomedgpt_jax.core.types import ModelFns, TrainState
from biomedgpt_jax.train.optim import Optimizer
from biomedgpt_jax.train.step import StepSettings, compile_step, make_train_step

Shapes = dict[str, jax.ShapeDtypeStruct]  # of the global batch


@dataclass(frozen=True)
class Memory:
    """Bytes of one device. `peak` is the most that is held at once; `arguments` are part of it."""

    peak: int
    arguments: int
    temporaries: int  # more than the peak holds of them at once
    host: int  # on the host, for what is offloaded


@dataclass(frozen=True)
class Compiled:
    hlo: str  # the optimized program
    memory: Memory
    seconds: float  # it took to compile


@dataclass(frozen=True)
class DoesNotFit:
    message: str  # the compiler's, first line
    needed: int | None  # bytes of a device's memory, where it says so
    seconds: float


def lower_step(
    model: ModelFns, optimizer: Optimizer, settings: StepSettings, abstract: TrainState, mesh: Mesh, shapes: Shapes
) -> Any:
    """The step that a training runs, traced and lowered for the mesh's devices (a `jax.stages.Lowered`)."""
    batch = {
        name: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=NamedSharding(mesh, spec(BATCH_AXES[name])))
        for name, each in shapes.items()
    }
    with jax.set_mesh(mesh):
        step: Any = compile_step(make_train_step(model, optimizer, settings), abstract, mesh)
        return step.lower(abstract, batch)


def compile_lowered(lowered: Any, options: Mapping[str, Any]) -> Compiled | DoesNotFit:
    """Takes minutes for billions of parameters; their number hardly matters, that of different layers does."""
    begun = monotonic()
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return DoesNotFit(_first_line(str(error)), needed_bytes(str(error)), monotonic() - begun)
    found = compiled.memory_analysis()
    memory = Memory(
        peak=found.peak_memory_in_bytes,
        arguments=found.argument_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        host=found.host_temp_size_in_bytes + found.host_argument_size_in_bytes,
    )
    return Compiled(compiled.as_text(), memory, monotonic() - begun)


def needed_bytes(message: str) -> int | None:
    """What a compiler's message says that a program needs of a device's memory (or its temporaries alone)."""
    match = re.search(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? (?:hbm|HBM)", message) or re.search(
        r"\(([\d.]+)([KMGT]?)\) exceeds available HBM", message
    )
    return None if match is None else int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def _first_line(message: str) -> str:
    return message.strip().splitlines()[0]
