"""The TPU's kernel: its numbers interpreted on a CPU, and whether TPUs' compilers take it at real sizes."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.core.topology import parse
from biomedgpt_jax.layers.attention import attention, causal_attention
from biomedgpt_jax.layers.block_attention import block_attention
from biomedgpt_jax.layers.splash_attention import splash_attention
from biomedgpt_jax.plan.target import target_devices


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def values_and_gradients(function, q, k, v, segment_ids):
    @jax.jit
    def run(q, k, v):
        out, backward = jax.vjp(lambda q, k, v: function(q, k, v, segment_ids=segment_ids, scale=0.3), q, k, v)
        return out, *backward(jnp.sin(3 * out))

    return run(q, k, v)


def segments(rows: int, length: int) -> jax.Array:
    """Two segments that begin at other places in each row, then padding."""
    places = jnp.arange(length)[None]
    first = 40 + 30 * jnp.arange(rows)[:, None]
    return (1 + (places >= first)) * (places < length - 11)


@pytest.mark.parametrize("lengths, heads, packed", [((600, 600), (2, 1), True), ((7, 150), (1, 1), False)])
def test_equals_plain_attention_with_gradients(lengths, heads, packed):
    """Lengths are padded to multiples of 128, 600 to two blocks; query heads share key/value heads."""
    q = random(2, lengths[0], heads[0], 8)
    k, v = (random(2, lengths[1], heads[1], 8, seed=seed) for seed in (1, 2))
    ids = segments(2, lengths[0]) if packed else None
    found = values_and_gradients(splash_attention, q, k, v, ids)
    for ours, expected in zip(found, values_and_gradients(block_attention, q, k, v, ids), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("shape, rows, packed", [((1, 1, 4, 2), 1, True), ((1, 2, 2, 1), 4, False)])
def test_equals_plain_attention_on_a_mesh(shape, rows, packed):
    """Queries over two devices and two key/value heads over four; then rows over all four."""
    q = random(rows, 256, 4, 8)
    k, v = (random(rows, 256, 2, 8, seed=seed) for seed in (1, 2))
    ids = segments(rows, 256) if packed else None
    with jax.set_mesh(make_mesh(MeshShape(*shape), devices=jax.devices()[: math.prod(shape)])):
        found = values_and_gradients(splash_attention, q, k, v, ids)
    for ours, expected in zip(found, values_and_gradients(block_attention, q, k, v, ids), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_compiles_for_a_tpu_that_is_not_here():
    """Packs with grouped heads and a tower's tokens, over rows, queries and heads; heads of 64 channels too."""
    pytest.importorskip("libtpu", reason="the TPU's compiler, of the extra `tpu`, is not installed")
    mesh = make_mesh(MeshShape(1, 1, 2, 2), devices=target_devices(parse("v5e-4")))

    def step(q, k, v, segment_ids):
        out, backward = jax.vjp(lambda q, k, v: causal_attention(q, k, v, segment_ids=segment_ids, scale=1.0), q, k, v)
        tower, tower_backward = jax.vjp(lambda q: attention(q, q, q, scale=1.0), out[:, :261, :, :64])
        return backward(out), tower_backward(tower)

    def abstract(shape, dtype, *axes):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))

    q = abstract((4, 1024, 4, 128), jnp.bfloat16, None, "context", "tensor")
    k = abstract((4, 1024, 2, 128), jnp.bfloat16, None, "context", "tensor")
    # The kernel's products of bfloat16 have no float32 form, which conftest.py asks for.
    with jax.set_mesh(mesh), jax.default_matmul_precision("default"):
        compiled = jax.jit(step).lower(q, k, k, abstract((4, 1024), jnp.int32, None, "context")).compile()
    kernels = {match for match in re.findall(r"splash_mha_\w+?(?=_no|_residuals)", compiled.as_text())}
    assert kernels == {f"splash_mha_{each}_segmented" for each in ("fwd", "dkv", "dq")}
