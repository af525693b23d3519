"""The FLOPs of Pallas kernels in an optimized HLO program, which the compiler gives no estimate for.

Known are splash attention's (forward, and backward fused or in two); of a causal mask the blocks that are computed
count.
"""

import re

from biomedgpt_jax.plan.hlo import Instruction, arrays

TARGET = '"tpu_custom_call"'
# Products of queries, keys, values and their gradients: [s k] with [t k], or [s t] with [t k].
_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
_FUSED = 5  # of the backward pass in one kernel, which has a result for each block of keys more


def kernel_flops(kernel: Instruction) -> float | None:
    """Of one call; None for a kernel that is not known."""
    name = next((name for name in _PRODUCTS if name in kernel.name), None)
    operands = re.search(r"operand_layout_constraints=\{(.*?\})\}", kernel.attributes)
    if name is None or operands is None:
        return None
    found = arrays(operands[1])
    heads = [sizes for kind, sizes in found if kind in ("bf16", "f32") and len(sizes) >= 3]
    (*rows, queries, width), (*_, keys, _) = heads[0], heads[1]
    products = _PRODUCTS[name]
    if name == "splash_mha_dkv" and _is_fused(kernel, heads[0]):
        products = _FUSED
    total = products * 2.0 * queries * keys * width
    for size in rows:
        total *= size
    return total * _computed_share(found)


def _is_fused(kernel: Instruction, queries: tuple[int, ...]) -> bool:
    """Whether the gradients of the queries are among the results, for each block of keys apart."""
    return any(len(sizes) == len(queries) + 1 for _, sizes in arrays(kernel.shape))


def _computed_share(operands: list[tuple[str, tuple[int, ...]]]) -> float:
    """Of all blocks: what a causal mask leaves where positions are among the operands, else all."""
    grid = next((sizes for kind, sizes in operands if kind in ("s8", "s16", "s32") and len(sizes) == 3), None)
    positions = any(kind == "s32" and len(sizes) == 2 for kind, sizes in operands)
    if grid is None or not positions:
        return 1.0
    _, rows, columns = grid
    return sum(min(columns, -(-(row + 1) * columns // rows)) for row in range(rows)) / (rows * columns)
