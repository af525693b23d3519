import jax
import jax.numpy as jnp
import numpy as np

from biomedgpt_jax.layers.biased_attention import beams_attention, biased_attention


def arrays(*shapes):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


def plain(q, k, v, bias, mask):
    """Written out, of all queries at once."""
    scores = jnp.einsum("bshk,bthk->bhst", q, k) * 0.3 + bias
    weights = jnp.where(mask[:, None], jnp.exp(scores - scores.max()), 0)
    return jnp.einsum("bhst,bthk->bshk", weights / weights.sum(-1, keepdims=True), v)


def test_blocks_of_queries_give_values_and_gradients_of_the_whole():
    q, k, v, bias = arrays((2, 600, 3, 4), (2, 50, 3, 4), (2, 50, 3, 4), (1, 3, 600, 50))
    mask = jnp.asarray(np.random.default_rng(1).random((2, 1, 50)) < 0.7)

    def summed(attend):
        def total(q, k, v, bias):
            out = attend(q, k, v, bias)
            return jnp.sum(jnp.sin(3 * out)), out

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True))(q, k, v, bias)

    ours = summed(lambda q, k, v, bias: biased_attention(q, k, v, bias=bias, mask=mask, scale=0.3))
    expected = summed(lambda q, k, v, bias: plain(q, k, v, bias, mask))
    for found, right in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=2e-5 * np.abs(right).max())


def test_a_row_without_keys_gives_numbers():
    q, k, v, bias = arrays((2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4), (2, 2, 3, 5))
    mask = jnp.asarray([[[True] * 5], [[False] * 5]])
    out = biased_attention(q, k, v, bias=bias, mask=mask, scale=0.3)
    np.testing.assert_allclose(out[1], jnp.broadcast_to(v[1].mean(0), (3, 2, 4)), atol=1e-6)


def test_beams_read_what_their_source_holds():
    q, keys, values, bias = arrays((2, 3, 2, 4), (2, 2, 5, 4), (2, 2, 5, 4), (2, 3, 2, 5))
    mask = jnp.asarray([[True] * 5, [True, True, False, True, False]])
    found = beams_attention(q, keys, values, bias=bias, mask=mask, scale=0.3)
    of_beams = plain(q, keys.swapaxes(1, 2), values.swapaxes(1, 2), bias.swapaxes(1, 2), mask[:, None])
    np.testing.assert_allclose(found, of_beams, atol=1e-6)
