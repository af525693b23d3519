"""From a compiled program to what a user asks: does it fit, and how fast would it be."""

from dataclasses import asdict, dataclass
from typing import Any

from biomedgpt_jax.core.topology import Topology
from biomedgpt_jax.plan.compile import Compiled, DoesNotFit
from biomedgpt_jax.plan.hlo import parse
from biomedgpt_jax.plan.hlo_cost import Cost, Machine, program_cost

# The share of the peak that Pallas kernels are ASSUMED to reach.
KERNEL_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Workload:
    """What a step works on, over all devices: rows and image slots count as full."""

    tokens: int
    images: int
    flops: float  # of the model, attention in full
    flops_causal: float  # with half of the decoder's attention


@dataclass(frozen=True)
class Bytes:
    """Of one device. `temporaries` is what is left of the peak: activations, gradients, gathered weights."""

    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    peak: int
    usable: int
    host: int


@dataclass(frozen=True)
class Speed:
    """Predicted, per step and device; `exposed` is what communication delays the step by."""

    compute_seconds: float
    kernel_seconds: float
    communication_seconds: float
    exposed_seconds: float
    step_seconds: float
    tokens_per_second: float  # of all devices
    images_per_second: float
    mfu: float  # attention in full
    mfu_causal: float
    unpriced: dict[str, float]


@dataclass(frozen=True)
class Traffic:
    """Collectives that are alike: how many in a step, what one device sends in all of them."""

    kind: str
    devices: int
    between_slices: bool
    asynchronous: bool
    count: float
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Prediction:
    fits: bool
    needed: int | None  # bytes of a device's memory; None: the compiler does not say
    bytes: Bytes | None  # None where it does not fit
    traffic: tuple[Traffic, ...]
    speed: Speed | None  # None where the compiler has no cost model
    flops: float  # of the model, per step and device
    compile_seconds: float
    message: str  # the compiler's, where it does not fit


def predict(
    made: Compiled | DoesNotFit, topology: Topology, workload: Workload, *, parameters: int, optimizer: int, batch: int
) -> Prediction:
    """Args: parameters, optimizer, batch: their bytes on one device."""
    flops = workload.flops / topology.devices
    if isinstance(made, DoesNotFit):
        return Prediction(False, made.needed, None, (), None, flops, made.seconds, made.message)
    peak = made.memory.peak
    held = Bytes(
        *(parameters, optimizer, batch, max(0, peak - parameters - optimizer - batch), peak, topology.chip.memory),
        host=made.memory.host,
    )
    cost = program_cost(parse(made.hlo), machine(topology))
    traffic = tuple(
        Traffic(**asdict(channel), **asdict(each))
        for channel, each in sorted(cost.traffic.items(), key=lambda item: -item[1].bytes)
    )
    speed = None if topology.chip.clock is None else _speed(cost, topology, workload)
    return Prediction(peak <= topology.chip.memory, peak, held, traffic, speed, flops, made.seconds, "")


def machine(topology: Topology) -> Machine:
    chip = topology.chip
    return Machine(
        clock=chip.clock or 1.0,
        slice_speed=topology.slice_speed,
        network_speed=topology.network_speed,
        slice_devices=topology.devices_per_slice,
        kernel_flops=KERNEL_EFFICIENCY * chip.peak_flops,
    )


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    return asdict(prediction)


def _speed(cost: Cost, topology: Topology, workload: Workload) -> Speed:
    assert topology.chip.clock is not None
    compute = cost.cycles / topology.chip.clock
    peak = topology.chip.peak_flops * topology.devices
    return Speed(
        compute_seconds=compute,
        kernel_seconds=cost.kernel_seconds,
        communication_seconds=sum(each.seconds for each in cost.traffic.values()),
        exposed_seconds=cost.seconds - compute - cost.kernel_seconds,
        step_seconds=cost.seconds,
        tokens_per_second=workload.tokens / cost.seconds,
        images_per_second=workload.images / cost.seconds,
        mfu=workload.flops / cost.seconds / peak,
        mfu_causal=workload.flops_causal / cost.seconds / peak,
        unpriced=dict(cost.unpriced),
    )
