"""Names of accelerators: what they stand for, and what does not exist."""

import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.topology import CHIPS, chip_of, parse


@pytest.mark.parametrize(
    ("name", "devices", "hosts", "libtpu"),
    [
        ("v5e-64", 64, 16, "v5e:8x8"),
        ("v5litepod-8", 8, 1, "v5e:2x4"),
        ("v6e-1", 1, 1, "v6e:1x1"),
        ("v5p-32", 16, 4, "v5p:2x2x4"),  # TensorCores in the name, a device per chip
        ("v4-8", 4, 1, "v4:2x2x1"),
        ("tpu7x-8", 8, 1, "tpu7x:2x2x1"),  # TensorCores in the name, and each a device
        ("2xv5e-256", 512, 128, "v5e:16x16"),
    ],
)
def test_tpus(name, devices, hosts, libtpu):
    topology = parse(name)
    assert (topology.devices, topology.hosts, topology.libtpu_name) == (devices, hosts, libtpu)


def test_gpus():
    assert (parse("h100-8").devices, parse("h100-8").hosts) == (8, 1)
    assert (parse("a100-40g-16").chip.name, parse("a100-40g-16").hosts) == ("a100-40g", 2)
    assert parse("a100-80g-8").chip is CHIPS["a100"]


@pytest.mark.parametrize(
    ("name", "speed"),
    [
        ("v5e-64", 2 * 45e9),  # two open axes
        ("v5e-256", 4 * 45e9),  # two rings
        ("v5e-128", 3 * 45e9),  # one of each
        ("v5p-32", 3 * 90e9),
        ("v5p-128", 6 * 90e9),  # a cube closes on all sides
        ("v5p-8", 2 * 90e9),  # flat
        ("tpu7x-128", 6 * 90e9 / 2),  # shared by the chip's two devices
    ],
)
def test_speed_inside_a_slice(name, speed):
    assert parse(name).slice_speed == pytest.approx(speed)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e", "expected CHIP-NUMBER"),
        ("v9e-8", "there is no chip 'v9e'; there are v4, v5e"),
        ("v5e-48", "v5e-32, v5e-64, v5e-128"),
        ("v5p-16x", "expected CHIP-NUMBER"),
        ("v5p-7", "TensorCores, two on each chip"),
        ("h100-12", "multiples of 8"),
        ("2xh100-8", "write h100-16"),
    ],
)
def test_what_does_not_exist_is_said_with_what_does(name, said):
    with pytest.raises(UsageError, match="Topology") as caught:
        parse(name)
    assert said in str(caught.value)


def test_every_slice_of_the_tables_has_its_chips():
    for chip in CHIPS.values():
        for chips, grid in chip.grids.items():
            topology = parse(f"{chip.name}-{chips * chip.counted_per_chip}")
            assert (topology.chips, topology.grid) == (chips, grid)
            size = 1
            for side in grid:
                size *= side
            assert size == chips


# What the MFU of a training log is a share of.
PEAKS = {
    **{"TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v5p": 459e12},
    **{"TPU v6 lite": 918e12, "TPU v6e": 918e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA H100 80GB HBM3": 989e12},
}


def test_devices_are_known_by_jax_names():
    assert {kind: found.peak_flops for kind in PEAKS if (found := chip_of(kind))} == PEAKS
    assert chip_of("cpu") is None
