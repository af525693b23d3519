"""What MFU is computed from: model FLOPs of what a step's metrics count, and the peak of this machine's devices."""

from collections.abc import Mapping

import jax

from biomedgpt_jax.core.topology import chip_of
from biomedgpt_jax.train.recorder import Costs


def costs_of(flops: Mapping[str, float]) -> Costs:
    """Devices without a stated peak, such as CPUs, show no MFU."""
    chip = chip_of(jax.devices()[0].device_kind)
    return Costs(flops, chip and chip.peak_flops)
