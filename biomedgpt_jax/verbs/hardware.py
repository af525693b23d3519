"""The mesh of a slice: `hardware=v5e-64` in a configuration. Its reasons are arithmetic, not measurements."""

import math

from biomedgpt_jax.core.topology import parse

# A row of 4096 tokens in so many parts is still one block of the attention kernel on each device.
MOST_DEVICES_OF_A_ROW = 8
# float32: a weight, its two moments, its moving average, its gradient.
STATE_BYTES = 5 * 4
# Of a device's memory, for the state of a model. Thinner slices of a small model save memory that nothing needs, and
# each is multiplied on its own: a product of base over 16 chips is then 16 of 48 of its 768 rows.
STATE_SHARE = 1 / 4


def mesh_for(hardware: str, rows: int, parameters: int | None = None) -> dict[str, int]:
    """`config.mesh` for a topology's name and the rows of a step.

    - `data` over slices, and over hosts of GPUs: the network between them carries gradients, once a step.
    - `fsdp` over the rest as far as there are rows: weights travel, activations do not. Where the model's `parameters`
      are known, over no more devices than it takes for their state to leave room; `data` has the others.
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
    parts = fsdp if parameters is None else _parts(parameters * STATE_BYTES, topology.chip.memory, fsdp)
    return {"data": data * (fsdp // parts), "fsdp": parts, "tensor": 1, "context": inside // fsdp}


def _parts(state: int, memory: int, most: int) -> int:
    """The fewest equal parts of at most STATE_SHARE of a device's memory, of those that divide `most`."""
    fitting = (parts for parts in range(1, most) if most % parts == 0 and state <= parts * STATE_SHARE * memory)
    return next(fitting, most)
