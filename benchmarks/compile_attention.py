"""Whether the compilers of TPUs that are not here take attention, forward and backward, at the real sizes.

    python benchmarks/compile_attention.py

Needs libtpu and no TPU. One line for each chip and shape: the seconds to compile and the kernels in the program.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import jax
import jax.numpy as jnp

from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shardings
from biomedgpt_jax.core.topology import parse
from biomedgpt_jax.layers.attention import attention, causal_attention
from biomedgpt_jax.plan.target import target_devices

TOPOLOGIES = ("v5e-16", "v5p-16", "v6e-16")


@dataclass(frozen=True)
class Case:
    name: str
    mesh: MeshShape
    tokens: int
    keys: int
    heads: int
    groups: int
    width: int
    packed: bool


CASES = (
    Case("Llama 3 8B, 2048 tokens", MeshShape(1, -1, 1, 1), 2048, 2048, 32, 8, 128, True),
    Case("Llama 3 8B, 4096 tokens, tensor and context", MeshShape(1, -1, 2, 2), 4096, 4096, 32, 8, 128, True),
    Case("CLIP-L/336, 577 tokens", MeshShape(1, -1, 1, 1), 577, 577, 16, 16, 64, False),
    Case("H-optimus-0, 261 tokens", MeshShape(1, -1, 2, 1), 261, 261, 24, 24, 64, False),
    Case("DINOv2-L, 1370 tokens", MeshShape(1, -1, 1, 1), 1370, 1370, 16, 16, 64, False),
    Case("Q-Former, 32 queries on 577", MeshShape(1, -1, 1, 1), 32, 577, 12, 12, 64, False),
)


def compile_case(case: Case, devices: Sequence[Any]) -> str:
    mesh, rows = make_mesh(case.mesh, devices), 2 * len(devices)
    batch = "batch" if case.packed else "tiles"
    length, heads = ("length", "activation_heads") if case.packed else (None, None)
    shapes = {
        "q": jax.ShapeDtypeStruct((rows, case.tokens, case.heads, case.width), jnp.bfloat16),
        "k": jax.ShapeDtypeStruct((rows, case.keys, case.groups, case.width), jnp.bfloat16),
        "ids": jax.ShapeDtypeStruct((rows, case.tokens), jnp.int32),
    }
    axes = {"q": (batch, length, heads, None), "k": (batch, length, heads, None), "ids": (batch, length)}
    placed = jax.tree.map(
        lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where),
        shapes,
        shardings(mesh, axes, shapes),
    )

    def step(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> Any:
        def mixed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            scale = case.width**-0.5
            return (
                causal_attention(q, k, v, segment_ids=ids, scale=scale)
                if case.packed
                else attention(q, k, v, scale=scale)
            )

        out, backward = jax.vjp(mixed, q, k, v)
        return backward(out)

    begun = monotonic()
    with jax.set_mesh(mesh):
        text = jax.jit(step).lower(placed["q"], placed["k"], placed["k"], placed["ids"]).compile().as_text() or ""
    kernels = sorted(set(re.findall(r"splash_mha_(fwd|dkv|dq)", text)))
    return f"{monotonic() - begun:4.1f} s  {' '.join(kernels)}"


def main() -> None:
    for topology in TOPOLOGIES:
        devices = target_devices(parse(topology))
        for case in CASES:
            print(f"{topology}  {case.name}: {compile_case(case, devices)}", flush=True)


if __name__ == "__main__":
    main()
