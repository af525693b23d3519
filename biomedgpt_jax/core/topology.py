"""Accelerators by the names under which they are rented: `v5e-64`, `2xv5e-256`, `v5p-32`, `h100-8`.

Published figures are from the makers' data sheets (Google Cloud TPU system architecture pages, NVIDIA data sheets).
The memory of a TPU is what its compiler says is there when a program does not fit. The clocks of its cost model are
inferred: peak FLOP/s over what its matrix units do in a cycle. Speeds of links are ASSUMED to reach 90% of the
published ones.
"""

import difflib
import re
from dataclasses import dataclass

from biomedgpt_jax.core.errors import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of accelerator. Bytes and FLOP/s are of one JAX device, links of one chip."""

    name: str
    platform: str  # as jax names it: "tpu" or "cuda"
    device_kind: str  # as jax names it
    devices_per_chip: int
    counted_per_chip: int  # the number in v5p-32 counts TensorCores, two on each chip
    peak_flops: float  # dense bfloat16, per second
    memory: int  # bytes that a program can use
    clock: float | None  # cycles per second of the compiler's cost model; None: it has none
    links: int  # of the interconnect inside a slice, both directions of an axis counted
    link_speed: float  # bytes per second of one link in one direction, ASSUMED
    network_speed: float  # bytes per second of one chip between slices or hosts, ASSUMED
    host_chips: int
    grids: dict[int, tuple[int, ...]]  # chips of a slice -> how they stand; empty: any number of hosts


@dataclass(frozen=True)
class Topology:
    """So many equal slices of one chip; for GPUs a slice is all that the name counts."""

    name: str
    chip: Chip
    slices: int
    chips: int  # of one slice

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.slices * self.devices_per_slice

    @property
    def devices_per_slice(self) -> int:
        return self.chips * self.chip.devices_per_chip

    @property
    def grid(self) -> tuple[int, ...]:
        """How the chips of a slice stand: 8x8 of v5e-64; () for GPUs."""
        return self.chip.grids.get(self.chips, ())

    @property
    def hosts(self) -> int:
        """Of all slices."""
        # Eight chips of the flat kinds come on one host, more of them on hosts of four.
        alone = self.chips <= self.chip.host_chips or (len(self.grid) == 2 and self.chips == 8)
        return self.slices * (1 if alone else self.chips // self.chip.host_chips)

    @property
    def libtpu_name(self) -> str:
        """A slice as libtpu names it: v5e:8x8, v5p:2x2x4."""
        return f"{self.chip.name}:{'x'.join(map(str, self.grid))}"

    @property
    def slice_speed(self) -> float:
        """Bytes per second that one device sends while a collective keeps all links of its chip busy. ASSUMED.

        An axis of the grid that closes to a ring has two links in use at once, an open one has one.
        """
        if not self.grid:
            links = self.chip.links
        else:
            links = sum((2 if self._is_ring(length) else 1) for length in self.grid if length > 1)
        return links * self.chip.link_speed / self.chip.devices_per_chip

    @property
    def network_speed(self) -> float:
        """Bytes per second that one device sends to other slices. ASSUMED."""
        return self.chip.network_speed / self.chip.devices_per_chip

    def _is_ring(self, length: int) -> bool:
        # Flat slices close at the 16 chips of a whole pod's side, cubic ones when built of 4x4x4 cubes.
        return length == 16 if len(self.grid) == 2 else all(side % 4 == 0 for side in self.grid)


_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_CUBES = {
    **{4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8), 256: (4, 8, 8)},
    **{512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16)},
}
_BIG_CUBES = {**_CUBES, 4096: (16, 16, 16), 6144: (16, 16, 24)}


def _tpu(
    name: str,
    device_kind: str,
    *,
    counted: int,
    devices: int,
    flops: float,
    gib: float,
    clock: float,
    links: int,
    link: float,
    network: float,
    grids: dict[int, tuple[int, ...]],
) -> Chip:
    memory = int(gib * GIB)
    return Chip(name, "tpu", device_kind, devices, counted, flops, memory, clock, links, link, network, 4, grids)


def _gpu(name: str, device_kind: str, *, flops: float, memory: int, nvlink: float, network: float) -> Chip:
    # XLA takes 75% of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise. NVLink counts as one link.
    usable = memory * 3 // 4
    return Chip(name, "cuda", device_kind, 1, 1, flops, usable, None, 1, 0.9 * nvlink, 0.9 * network, 8, {})


_A100 = {"flops": 312e12, "nvlink": 300e9, "network": 25e9}
_HOPPER = {"flops": 989e12, "nvlink": 450e9, "network": 50e9}
_CHIPS = (
    # v4 and v5p: both TensorCores of a chip are one device ("megacore"). A tpu7x chip is two devices.
    _tpu(
        "v4",
        "TPU v4",
        counted=2,
        devices=1,
        flops=275e12,
        gib=30.75,
        clock=1.05e9,
        links=6,
        link=45e9,
        network=5.6e9,
        grids=_CUBES,
    ),
    _tpu(
        "v5e",
        "TPU v5 lite",
        counted=1,
        devices=1,
        flops=197e12,
        gib=15.75,
        clock=1.5e9,
        links=4,
        link=45e9,
        network=2.8e9,
        grids=_FLAT,
    ),
    _tpu(
        "v5p",
        "TPU v5",
        counted=2,
        devices=1,
        flops=459e12,
        gib=95.74,
        clock=1.75e9,
        links=6,
        link=90e9,
        network=5.6e9,
        grids=_BIG_CUBES,
    ),
    _tpu(
        "v6e",
        "TPU v6 lite",
        counted=1,
        devices=1,
        flops=918e12,
        gib=31.25,
        clock=1.75e9,
        links=4,
        link=90e9,
        network=11.2e9,
        grids=_FLAT,
    ),
    _tpu(
        "tpu7x",
        "TPU7x",
        counted=2,
        devices=2,
        flops=1153e12,
        gib=94.75,
        clock=2.2e9,
        links=6,
        link=90e9,
        network=11.2e9,
        grids={1: (1, 1, 1), **_CUBES},
    ),
    _gpu("a100", "NVIDIA A100-SXM4-80GB", memory=85_899_345_920, **_A100),
    _gpu("a100-40g", "NVIDIA A100-SXM4-40GB", memory=42_949_672_960, **_A100),
    _gpu("h100", "NVIDIA H100 80GB HBM3", memory=84_942_979_072, **_HOPPER),
    _gpu("h200", "NVIDIA H200", memory=150_754_820_096, **_HOPPER),
)
CHIPS = {chip.name: chip for chip in _CHIPS}
# Device kinds that jax knows under two names, by the one above.
_ALSO_CALLED = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "a100-80g": "a100", "v7x": "tpu7x"}


def parse(name: str) -> Topology:
    """`[SLICESx]CHIP-NUMBER`, the number as the maker counts: chips of v5e and v6e, TensorCores of v4, v5p and tpu7x.

    Raises:
        UsageError: an unknown chip or a size that does not exist, with those that do.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?([a-z0-9]+(?:-\d+g)?)-([1-9]\d*)", name)
    if match is None:
        raise UsageError(
            f"Topology {name!r}: expected CHIP-NUMBER or SLICESxCHIP-NUMBER, such as v5e-64, 2xv5e-256, v5p-32 or "
            f"h100-8. Chips: {', '.join(CHIPS)}."
        )
    slices, chip, number = int(match[1] or 1), CHIPS.get(_ALIASES.get(match[2], match[2])), int(match[3])
    if chip is None:
        near = difflib.get_close_matches(match[2], CHIPS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"Topology {name!r}: there is no chip {match[2]!r}; there are {', '.join(CHIPS)}.{hint}")
    chips, odd = divmod(number, chip.counted_per_chip)
    exists = chips in chip.grids if chip.grids else chips <= chip.host_chips or chips % chip.host_chips == 0
    if odd or not exists:
        raise UsageError(f"Topology {name!r}: there is no such size; {sizes(chip)}.")
    if slices > 1 and chip.platform != "tpu":
        raise UsageError(
            f"Topology {name!r}: slices are for TPUs; write {chip.name}-{slices * number} for several hosts."
        )
    prefix = f"{slices}x" if slices > 1 else ""
    return Topology(f"{prefix}{chip.name}-{number}", chip, slices, chips)


def sizes(chip: Chip) -> str:
    """What can follow a chip's name, in words."""
    if not chip.grids:
        return f"{chip.name} comes as 1 to {chip.host_chips} GPUs, or in multiples of {chip.host_chips}"
    counts = ", ".join(f"{chip.name}-{chips * chip.counted_per_chip}" for chips in chip.grids)
    counted = "chips" if chip.counted_per_chip == 1 else "TensorCores, two on each chip"
    return f"there are {counts} (the number counts {counted})"


def chip_of(device_kind: str) -> Chip | None:
    """The chip whose devices jax calls so; None for one that is not listed, such as a CPU."""
    kind = _ALSO_CALLED.get(device_kind, device_kind)
    return next((chip for chip in CHIPS.values() if chip.device_kind == kind), None)
