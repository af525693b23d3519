"""The mesh of a slice: `hardware=v5e-64` in a configuration. Its reasons are arithmetic, not measurements."""

import math

from biomedgpt_jax.core.topology import parse

# A row of 4096 tokens in so many parts is still one block of the attention kernel on each device.
MOST_DEVICES_OF_A_ROW = 8


def mesh_for(hardware: str, rows: int) -> dict[str, int]:
    """`config.mesh` for a topology's name and the rows of a step.

    - `data` over slices, and over hosts of GPUs: the network between them carries gradients, once a step.
    - `fsdp` over the rest as far as there are rows: weights travel, activations do not.
    - `context` over what is left: devices that share a row exchange its keys and values, which grouped heads keep
      small. `tensor` stays 1: it would send activations, several times in each layer.

    Raises:
        ValueError: more devices than the rows can use. UsageError: an unknown topology.
    """
    topology = parse(hardware)
    data = topology.slices if topology.chip.platform == "tpu" else topology.hosts
    inside = topology.devices // data
    fsdp = math.gcd(rows // data, inside) if rows % data == 0 else 0
    if not fsdp or inside // fsdp > MOST_DEVICES_OF_A_ROW:
        least = topology.devices // MOST_DEVICES_OF_A_ROW
        raise ValueError(
            f"hardware={hardware} has {topology.devices} devices for {rows} rows in a step, and at most "
            f"{MOST_DEVICES_OF_A_ROW} devices share a row: give rows={max(data, least)} or a multiple of it, or less "
            "hardware. The batch is part of the recipe: the learning rate was chosen for it."
        )
    return {"data": data, "fsdp": fsdp, "tensor": 1, "context": inside // fsdp}
