import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.layers.attention import LayersCache, attention, cache_mask, causal_attention
from biomedgpt_jax.layers.block_attention import segment_causal_mask


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def naive(q, k, v, mask, scale) -> np.ndarray:
    """Head by head in numpy; query head h reads key/value head h // (heads / groups)."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for row in range(q.shape[0]):
        for head in range(q.shape[2]):
            group = head // (q.shape[2] // k.shape[2])
            scores = scale * q[row, :, head] @ k[row, :, group].T
            scores = np.where(mask[row], scores, -1e30) if mask is not None else scores
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[row, :, head] = weights / weights.sum(-1, keepdims=True) @ v[row, :, group]
    return out


def test_grouped_heads_equal_a_plain_loop():
    q, k, v = random(2, 5, 6, 4), random(2, 7, 2, 4, seed=1), random(2, 7, 2, 4, seed=2)
    np.testing.assert_allclose(attention(q, k, v, scale=0.7), naive(q, k, v, None, 0.7), atol=1e-6)


def packed(rows: int, length: int) -> jax.Array:
    """Segments of 70 tokens, so that blocks of queries begin and end inside them; the last is padding."""
    segment = 1 + jnp.arange(length) // 70
    return jnp.broadcast_to(segment % segment[-1], (rows, length))


@pytest.mark.parametrize("groups", [2, 6])
def test_causal_blocks_equal_a_plain_loop_with_gradients(groups):
    """300 queries are five blocks, the last one short."""
    q, k, v = random(2, 300, 6, 4), random(2, 300, groups, 4, seed=1), random(2, 300, groups, 4, seed=2)
    segment_ids = packed(2, 300)
    mask = segment_causal_mask(segment_ids, 0, 300)
    ours = causal_attention(q, k, v, segment_ids=segment_ids, scale=0.7)
    np.testing.assert_allclose(ours, naive(q, k, v, np.asarray(mask), 0.7), atol=2e-6)

    def plain(q, k, v):
        k, v = (jnp.repeat(each, 6 // groups, axis=2) for each in (k, v))
        scores = jnp.where(mask[:, None], 0.7 * jnp.einsum("bshk,bthk->bhst", q, k), -jnp.inf)
        return jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores), v)

    def of_segments(q, k, v):
        return causal_attention(q, k, v, segment_ids=segment_ids, scale=0.7)

    gradients = (
        jax.jit(lambda q, k, v, f=f: jax.vjp(f, q, k, v)[1](jnp.sin(ours)))(q, k, v) for f in (of_segments, plain)
    )
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_without_a_mask_and_with_fewer_keys_than_queries():
    q, k, v = random(2, 90, 4, 4), random(2, 7, 2, 4, seed=1), random(2, 7, 2, 4, seed=2)

    def plain(q, k, v):
        k, v = (jnp.repeat(each, 2, axis=2) for each in (k, v))
        return jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(0.7 * jnp.einsum("bshk,bthk->bhst", q, k)), v)

    out, backward = jax.vjp(lambda q, k, v: attention(q, k, v, scale=0.7), q, k, v)
    for found, expected in zip(backward(jnp.sin(out)), jax.vjp(plain, q, k, v)[1](jnp.sin(out)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_softmax_is_float32_under_bfloat16():
    """256 equal keys: weights of 1/256 summed in bfloat16 would lose the small values."""
    q, k = jnp.zeros((1, 1, 1, 4), jnp.bfloat16), jnp.zeros((1, 256, 1, 4), jnp.bfloat16)
    v = jnp.ones((1, 256, 1, 4), jnp.bfloat16)
    out = attention(q, k, v, scale=1.0)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.astype(jnp.float32), 1.0)


def test_segment_causal_mask_as_documented():
    mask = segment_causal_mask(jnp.asarray([[1, 1, 1, 2, 2, 0]]), 0, 6)
    expected = """
        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        0 0 0 1 0 0
        0 0 0 1 1 0
        0 0 0 0 0 1
    """
    rows = [[int(x) for x in line.split()] for line in expected.split("\n") if line.strip()]
    np.testing.assert_array_equal(mask[0], rows)
    np.testing.assert_array_equal(
        segment_causal_mask(jnp.asarray([[1, 1, 1, 2, 2, 0]]), 2, 5)[0], np.array(rows)[2:5, :5]
    )


def test_cache_mask_as_documented():
    np.testing.assert_array_equal(cache_mask(jnp.asarray([2, 0]), 4)[:, 0, 0], [[1, 1, 1, 0], [1, 0, 0, 0]])


def test_append_writes_each_row_at_its_own_place():
    zeros = jnp.zeros((2, 2, 1, 3, 2))
    cache = LayersCache(zeros, zeros, jnp.asarray([0, 2]))
    cache = cache.append(jnp.asarray(1), jnp.full((2, 1, 1, 2), 5.0), jnp.full((2, 1, 1, 2), 7.0))
    np.testing.assert_array_equal(cache.keys[1, :, 0, :, 0], [[5, 0, 0], [0, 0, 5]])
    np.testing.assert_array_equal(cache.values[1, :, 0, :, 1], [[7, 0, 0], [0, 0, 7]])
    assert not cache.keys[0].any() and not cache.values[0].any()
