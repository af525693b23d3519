"""What an optimized TPU program costs by its compiler's own estimates: a walk over the schedule.

Each fusion, copy and matrix product carries the compiler's estimate in cycles. Loops count as often as they run (the
compiler's `cost_analysis` counts their bodies once); of a conditional the dearer branch counts. Collectives carry no
estimate: their seconds are their bytes over the speeds in `Machine`. Asynchronous ones run beside the compute from
their start to their end, one at a time, and delay the step by what the compute does not hide.

Not in it: kernels beyond the stated share of the peak, operations without an estimate (`unpriced` counts them), waits
for memory, the host, the input pipeline.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace

from biomedgpt_jax.plan.collectives import Collective, When, collective
from biomedgpt_jax.plan.hlo import Computation, Instruction, Module
from biomedgpt_jax.plan.kernels import TARGET, kernel_flops

_UNKNOWN_LOOP = "while of unknown length"
# Nothing happens at these that an estimate of another instruction does not cover.
_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "partition-id", "replica-id"),
    *("after-all", "opt-barrier", "add-dependency"),
}
# Asynchronous copies between memories.
_COPIES = {"copy-start", "copy-done", "slice-start", "slice-done", "async-start", "async-update", "async-done"}
_HOST = {"send", "send-done"}  # the receipt that goes with it counts


@dataclass(frozen=True)
class Machine:
    clock: float  # cycles per second
    slice_speed: float  # bytes per second that a device sends inside its slice
    network_speed: float  # the same between slices
    slice_devices: int  # with neighbouring numbers in a program
    kernel_flops: float  # per second, in Pallas kernels


@dataclass(frozen=True)
class Channel:
    """Collectives that are alike; `devices` take part in each (through the hosts: so many slices)."""

    kind: str
    devices: int
    between_slices: bool
    asynchronous: bool


@dataclass(frozen=True)
class Traffic:
    count: float = 0.0
    bytes: float = 0.0  # that one device sends
    seconds: float = 0.0

    def plus(self, other: "Traffic", times: float) -> "Traffic":
        return Traffic(
            self.count + times * other.count, self.bytes + times * other.bytes, self.seconds + times * other.seconds
        )


@dataclass(frozen=True)
class Cost:
    """Of one device: `seconds` from the first instruction to the last, the others are sums."""

    seconds: float = 0.0
    cycles: float = 0.0
    kernel_seconds: float = 0.0
    kernel_flops: float = 0.0
    traffic: dict[Channel, Traffic] = field(default_factory=dict)
    unpriced: Counter = field(default_factory=Counter)  # operations without an estimate

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        traffic = dict(self.traffic)
        for channel, each in other.traffic.items():
            traffic[channel] = traffic.get(channel, Traffic()).plus(each, times)
        unpriced = Counter({what: times * count for what, count in other.unpriced.items()})
        return Cost(
            self.seconds + times * other.seconds,
            self.cycles + times * other.cycles,
            self.kernel_seconds + times * other.kernel_seconds,
            self.kernel_flops + times * other.kernel_flops,
            traffic,
            self.unpriced + unpriced,
        )


def program_cost(module: Module, machine: Machine) -> Cost:
    """One run of the module on one device."""
    return _walk(module, module.entry, machine)


def trip_count(module: Module, loop: Instruction) -> int | None:
    """How often a `while` runs: the number that its counter, which begins at 0, is compared with. None: not found."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    condition = module.computations[loop.attribute("condition") or ""]
    limits = {
        int(each.literal)
        for each in condition.instructions
        if each.opcode == "constant" and re.match(r"[su]\d+\[\]", each.shape) and each.literal.isdecimal()
    }
    return limits.pop() if len(limits) == 1 else None


def _walk(module: Module, computation: Computation, machine: Machine) -> Cost:
    """Plays the schedule: `now` is the compute's clock, `links` the time from which the links are free."""
    total, now, links = Cost(), 0.0, 0.0
    running: dict[str, float] = {}  # key of a collective -> when it is done
    for instruction in computation.instructions:
        found = collective(instruction, module.inside(instruction) if _may_wrap(instruction) else ())
        if found is None:
            step = _single(module, instruction, machine)
            now += step.seconds
            total = total.plus(step)
        elif found.when is When.END:
            now = max(now, running.pop(found.key, now))
        else:
            channel, traffic = _traffic(found, machine)
            links = max(now, links) + traffic.seconds
            if found.when is When.WHOLE:
                now = links
            else:
                running[found.key] = links
            total = total.plus(Cost(traffic={channel: traffic}))
    return replace(total, seconds=max(now, links))


def _single(module: Module, instruction: Instruction, machine: Machine) -> Cost:
    """An instruction that is no collective."""
    if instruction.opcode == "while":
        trips = trip_count(module, instruction)
        once = _walk(module, module.computations[instruction.attribute("body") or ""], machine)
        return (
            Cost(unpriced=Counter({_UNKNOWN_LOOP: 1})).plus(once) if trips is None else Cost().plus(once, float(trips))
        )
    if instruction.opcode == "conditional":
        return max(
            (_walk(module, module.computations[name], machine) for name in instruction.called),
            key=lambda branch: branch.seconds,
        )
    if instruction.opcode == "call":
        return _walk(module, module.computations[instruction.called[0]], machine)
    if instruction.attribute("custom_call_target") == TARGET and (flops := kernel_flops(instruction)) is not None:
        seconds = flops / machine.kernel_flops
        return Cost(seconds=seconds, kernel_seconds=seconds, kernel_flops=flops)
    if (cycles := instruction.setting("estimated_cycles")) is not None:
        return Cost(seconds=float(cycles) / machine.clock, cycles=float(cycles))
    if instruction.opcode in _FREE | _COPIES | _HOST or _is_scalar(instruction):
        return Cost()
    return Cost(unpriced=Counter({_named(instruction): 1}))


def _may_wrap(instruction: Instruction) -> bool:
    return instruction.opcode in ("fusion", "async-start", "async-done")


def _traffic(found: Collective, machine: Machine) -> tuple[Channel, Traffic]:
    between = found.through_hosts or any(
        len({device // machine.slice_devices for device in group}) > 1 for group in found.groups
    )
    seconds = found.bytes / (machine.network_speed if between else machine.slice_speed)
    channel = Channel(found.kind, len(found.groups[0]), between, found.when is When.START)
    return channel, Traffic(1.0, found.bytes, seconds)


def _named(instruction: Instruction) -> str:
    target = instruction.attribute("custom_call_target")
    if target == TARGET:
        return f"kernel {re.sub(r'[.][0-9]+$', '', instruction.name)}"
    return instruction.opcode if target is None else target.strip('"')


def _is_scalar(instruction: Instruction) -> bool:
    return re.match(r"\w+\[\]", instruction.shape) is not None
