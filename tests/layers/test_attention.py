import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.layers.attention import LayersCache, attention, cache_mask, causal_attention, segment_causal_mask


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
            scores = np.where(mask[row, 0], scores, -1e30) if mask is not None else scores
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[row, :, head] = weights / weights.sum(-1, keepdims=True) @ v[row, :, group]
    return out


def test_grouped_heads_equal_a_plain_loop():
    q, k, v = random(2, 5, 6, 4), random(2, 7, 2, 4, seed=1), random(2, 7, 2, 4, seed=2)
    mask = np.random.default_rng(0).random((2, 1, 5, 7)) < 0.6
    mask[..., 0] = True
    for given in (mask, None):
        ours = attention(q, k, v, mask=None if given is None else jnp.asarray(given), scale=0.7)
        np.testing.assert_allclose(ours, naive(q, k, v, given, 0.7), atol=1e-6)


def packed_mask(rows: int, length: int) -> jax.Array:
    """Segments of 70 tokens, so that blocks of queries begin and end inside them."""
    places = jnp.broadcast_to(jnp.arange(length), (rows, length))
    return segment_causal_mask(1 + places // 70, places % 70)


@pytest.mark.parametrize("groups", [2, 6])
def test_causal_blocks_equal_a_plain_loop_with_gradients(groups):
    """300 queries are five blocks, the last one short."""
    q, k, v = random(2, 300, 6, 4), random(2, 300, groups, 4, seed=1), random(2, 300, groups, 4, seed=2)
    mask = packed_mask(2, 300)
    ours = causal_attention(q, k, v, mask=mask, scale=0.7)
    np.testing.assert_allclose(ours, naive(q, k, v, np.asarray(mask), 0.7), atol=2e-6)

    def plain(q, k, v):
        k, v = (jnp.repeat(each, 6 // groups, axis=2) for each in (k, v))
        scores = jnp.where(mask, 0.7 * jnp.einsum("bshk,bthk->bhst", q, k), -jnp.inf)
        return jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(scores), v)

    for function, given in ((causal_attention, mask), (attention, mask)):
        _, backward = jax.vjp(lambda q, k, v, f=function, m=given: f(q, k, v, mask=m, scale=0.7), q, k, v)
        for found, expected in zip(backward(jnp.sin(ours)), jax.vjp(plain, q, k, v)[1](jnp.sin(ours)), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_without_a_mask_and_with_fewer_keys_than_queries():
    q, k, v = random(2, 90, 4, 4), random(2, 7, 2, 4, seed=1), random(2, 7, 2, 4, seed=2)

    def plain(q, k, v):
        k, v = (jnp.repeat(each, 2, axis=2) for each in (k, v))
        return jnp.einsum("bhst,bthk->bshk", jax.nn.softmax(0.7 * jnp.einsum("bshk,bthk->bhst", q, k)), v)

    out, backward = jax.vjp(lambda q, k, v: attention(q, k, v, mask=None, scale=0.7), q, k, v)
    for found, expected in zip(backward(jnp.sin(out)), jax.vjp(plain, q, k, v)[1](jnp.sin(out)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_softmax_is_float32_under_bfloat16():
    """256 equal keys: weights of 1/256 summed in bfloat16 would lose the small values."""
    q, k = jnp.zeros((1, 1, 1, 4), jnp.bfloat16), jnp.zeros((1, 256, 1, 4), jnp.bfloat16)
    v = jnp.ones((1, 256, 1, 4), jnp.bfloat16)
    out = attention(q, k, v, mask=None, scale=1.0)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.astype(jnp.float32), 1.0)


def test_a_query_without_keys_is_finite():
    q = random(1, 2, 1, 4)
    out = attention(q, q, q, mask=jnp.zeros((1, 1, 2, 2), bool), scale=1.0)
    assert np.isfinite(out).all()


def test_segment_causal_mask_as_documented():
    mask = segment_causal_mask(jnp.asarray([[1, 1, 1, 2, 2, 0]]), jnp.asarray([[0, 1, 2, 0, 1, 0]]))
    expected = """
        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        0 0 0 1 0 0
        0 0 0 1 1 0
        0 0 0 0 0 1
    """
    rows = [[int(x) for x in line.split()] for line in expected.split("\n") if line.strip()]
    np.testing.assert_array_equal(mask[0, 0], rows)


def test_cache_mask_as_documented():
    np.testing.assert_array_equal(cache_mask(jnp.asarray([2, 0]), 4)[:, 0, 0], [[1, 1, 1, 0], [1, 0, 0, 0]])


def test_append_writes_each_row_at_its_own_place():
    zeros = jnp.zeros((2, 2, 1, 3, 2))
    cache = LayersCache(zeros, zeros, jnp.asarray([0, 2]))
    cache = cache.append(jnp.asarray(1), jnp.full((2, 1, 1, 2), 5.0), jnp.full((2, 1, 1, 2), 7.0))
    np.testing.assert_array_equal(cache.keys[1, :, 0, :, 0], [[5, 0, 0], [0, 0, 5]])
    np.testing.assert_array_equal(cache.values[1, :, 0, :, 1], [[7, 0, 0], [0, 0, 7]])
    assert not cache.keys[0].any() and not cache.values[0].any()
