"""Model FLOPs of a run and the peak of its devices, for MFU."""

from collections.abc import Callable

import jax

from biomedgpt_jax.models.flops import train_flops
from biomedgpt_jax.train.recorder import Costs
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.model_spec import ModelSpec

# bfloat16 FLOP/s of one JAX device, from the makers' data sheets (dense); a v7x chip is two devices.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 1153e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def training_costs(config: Config, spec: ModelSpec, is_trainable: Callable[[str], bool]) -> Costs:
    """Attention counts in full, not causally halved. Devices without a stated peak, such as CPUs, show no MFU."""
    flops = train_flops(
        spec.model,
        is_trainable,
        row_tokens=config.data.row_tokens,
        lora=spec.lora,
        run_tower=not config.data.features,
    )
    return Costs(flops.per_token, flops.per_image, PEAKS.get(jax.devices()[0].device_kind))
