"""Model FLOPs of a run and the peak of its devices, for MFU."""

from collections.abc import Callable

import jax

from biomedgpt_jax.core.topology import chip_of
from biomedgpt_jax.models.flops import train_flops
from biomedgpt_jax.train.recorder import Costs
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import ModelSpec


def training_costs(config: Config, spec: ModelSpec, is_trainable: Callable[[str], bool]) -> Costs:
    """Attention counts in full, not causally halved. Devices without a stated peak, such as CPUs, show no MFU."""
    flops = train_flops(
        spec.model,
        is_trainable,
        row_tokens=config.data.row_tokens,
        lora=spec.lora,
        run_tower=not config.data.features,
    )
    chip = chip_of(jax.devices()[0].device_kind)
    return Costs(flops.per_token, flops.per_image, chip and chip.peak_flops)
