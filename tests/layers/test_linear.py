"""Products with matrices kept as [out in]: of few rows, which XLA's CPU backend gets in another order, and of many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.layers.linear import FEW_ROWS, contract


@pytest.mark.parametrize("leading", [(1,), (2,), (5,), (2, 3), (FEW_ROWS,), (FEW_ROWS + 1,)])
def test_rows_times_a_turned_matrix(leading: tuple[int, ...]):
    keys = jax.random.split(jax.random.key(0))
    x, kernel = jax.random.normal(keys[0], (*leading, 6)), jax.random.normal(keys[1], (9, 6))
    expected = np.einsum("...i,oi->...o", np.float64(x), np.float64(kernel))
    np.testing.assert_allclose(jax.jit(contract, static_argnums=2)(x, kernel, (1,)), expected, atol=1e-5)


def test_few_rows_are_summed_in_the_dtype_asked_for():
    x, kernel = jnp.full((3, 512), 1.0, jnp.bfloat16), jnp.full((4, 512), 1 + 2**-7, jnp.bfloat16)
    found = contract(x, kernel, (1,), accumulate=jnp.float32)
    assert found.dtype == jnp.float32 and found.shape == (3, 4)
    np.testing.assert_array_equal(found, 512 * (1 + 2**-7))
    assert contract(x, kernel, (1,)).dtype == jnp.bfloat16


def test_gradients_of_few_rows():
    x, kernel = jax.random.normal(jax.random.key(0), (3, 6)), jax.random.normal(jax.random.key(1), (9, 6))
    found = jax.grad(lambda *each: (contract(*each, (1,)) ** 2).sum(), argnums=(0, 1))(x, kernel)
    expected = jax.grad(lambda x, kernel: (jnp.einsum("ri,oi->ro", x, kernel) ** 2).sum(), argnums=(0, 1))(x, kernel)
    jax.tree.map(lambda *each: np.testing.assert_allclose(*each, rtol=1e-5), found, expected)
