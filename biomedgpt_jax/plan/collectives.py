"""Collectives in an optimized HLO program: which devices take part, and how many bytes each of them sends.

Bytes are those of ring algorithms, which send the least: (n-1)/n of the whole array for an all-gather, a reduce-scatter
or an all-to-all over n devices, twice that for an all-reduce.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from math import prod

import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.plan.hlo import Instruction, shape_bytes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")


class When(Enum):
    """What an instruction is of its collective."""

    WHOLE = "whole"  # nothing else runs beside it
    START = "start"
    END = "end"


@dataclass(frozen=True)
class Collective:
    kind: str
    when: When
    groups: tuple[tuple[int, ...], ...]  # devices that exchange with each other
    bytes: float  # that one device sends
    key: str  # what a start and its end have in common
    through_hosts: bool = False  # over the network between slices; `groups` then holds slices


def collective(instruction: Instruction, inside: Iterable[Instruction]) -> Collective | None:
    """None where the instruction starts or ends no collective.

    Args:
        inside: all instructions of the computations that it calls.
    """
    if instruction.opcode in ("recv", "recv-done"):
        return _between_slices(instruction)
    for suffix, when in (("", When.WHOLE), ("-start", When.START), ("-done", When.END)):
        kind = instruction.opcode.removesuffix(suffix)
        if instruction.opcode == kind + suffix and kind in KINDS:
            return _made(kind, when, instruction, instruction)
    inside = list(inside)
    sources = [each for each in inside if each.opcode in KINDS]
    if not sources:
        return None
    marks = {each.attribute("custom_call_target") for each in inside}
    if '"AsyncCollectiveStart"' in marks or instruction.opcode == "async-start":
        return _made(sources[0].opcode, When.START, sources[0], instruction)
    if '"AsyncCollectiveDone"' in marks or instruction.opcode == "async-done":
        return _made(sources[0].opcode, When.END, sources[0], instruction)
    # A TPU writes a reduce-scatter as a fusion of an all-reduce with the slices that are kept of it.
    if "ReduceScatter" in (instruction.setting("emitter") or ""):
        return _made("reduce-scatter", When.WHOLE, sources[0], instruction, whole_input=True)
    # Else the fusion computes while a collective runs that was started before.
    return None


def _made(
    kind: str, when: When, source: Instruction, instruction: Instruction, *, whole_input: bool = False
) -> Collective:
    key = source.attribute("channel_id") or (instruction.operands[0] if when is When.END else instruction.name)
    if when is When.END:
        return Collective(kind, when, (), 0.0, key)
    groups = _groups(source)
    count = len(groups[0])
    size = shape_bytes(source.shape)
    if source.opcode == "collective-permute-start":  # its shape holds operand and result
        size /= 2
    elif source.opcode in ("all-gather-start", "reduce-scatter-start"):  # one of which is 1/count of the other
        size *= count / (count + 1)
    elif kind == "reduce-scatter" and not whole_input:
        size *= count
    return Collective(kind, when, groups, size * _sent_share(kind, count), key)


def _sent_share(kind: str, count: int) -> float:
    share = (count - 1) / count
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)


def _between_slices(instruction: Instruction) -> Collective:
    """What the hosts of several slices exchange for their devices: a send that costs nothing, and this receipt."""
    if instruction.opcode == "recv-done":
        return Collective("recv", When.END, (), 0.0, instruction.operands[0])
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    target = re.search(r'_xla_megascale_target="\{([^}]*)\}', instruction.attributes)
    if kind is None or target is None:
        raise RunError(f"{instruction.name}: what is received from whom is written in an unknown way.")
    name = kind[1].lower().replace("_", "-")
    slices = tuple(slice_ for part in target[1].split(",") for slice_ in _range(part))
    size = shape_bytes(instruction.shape) - 4  # beside the array it has a u32 of its own
    sent = size * _sent_share(name, len(slices))
    return Collective(name, When.START, (slices,), sent, instruction.name, through_hosts=True)


def _range(text: str) -> range:
    """`3` or `0:15`, both ends included."""
    first, _, last = text.partition(":")
    return range(int(first), int(last or first) + 1)


def _groups(source: Instruction) -> tuple[tuple[int, ...], ...]:
    """Who exchanges with whom: lists, a grid (`[2,4]<=[8]`), a transposed grid, or named axes of a mesh."""
    text = source.attributes
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", text):
        return _lists(pairs[1])
    if lists := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return _lists(lists[1])
    if grid := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        sizes = _numbers(grid[2])
        places = np.arange(np.prod(sizes)).reshape(sizes)
        places = places.transpose(_numbers(grid[3])) if grid[3] else places
        return tuple(map(tuple, places.reshape(_numbers(grid[1])).tolist()))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?\)?)\))?\s*\{([^}]*)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        inside, names = re.findall(r"'([^']+)'", mesh[3]), list(sizes)
        order = sorted(range(len(names)), key=lambda axis: names[axis] in inside)
        count = prod(sizes[name] for name in inside)
        places = _device_ids(mesh[2], prod(sizes.values())).reshape(list(sizes.values()))
        return tuple(map(tuple, places.transpose(order).reshape(-1, count).tolist()))
    raise RunError(f"{source.name}: who takes part in this {source.opcode} is written in an unknown way: {text[:200]}")


def _device_ids(text: str | None, count: int) -> np.ndarray:
    """The devices of a named mesh in its order: 0 to count, `[2,4]T(1,0)` for a transposed grid, or a list."""
    if not text:
        return np.arange(count)
    if grid := re.fullmatch(r"\[([\d,]+)\]T\(([\d,]+)\)", text):
        return np.arange(count).reshape(_numbers(grid[1])).transpose(_numbers(grid[2])).ravel()
    return np.array(_numbers(text))


def _lists(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(_numbers(each) for each in re.findall(r"\{([\d,]+)\}", text))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
