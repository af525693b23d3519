"""The largest values by groups: those of a plain sort, the first of equal ones, and rows that no group divides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.eval.largest import GROUP, largest, place_of_largest


@pytest.mark.parametrize("length", [1, GROUP - 1, GROUP, 3 * GROUP + 5])
def test_as_a_stable_sort_says(length: int):
    values = np.random.default_rng(length).integers(-9, 9, (7, length)).astype(np.float32)  # with many equal ones
    values[0, : length // 2] = values[1] = -np.inf
    count = min(4, length)
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    found, places = jax.jit(largest, static_argnums=1)(values, count)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(found, np.take_along_axis(values, order, 1))
    np.testing.assert_array_equal(jax.jit(place_of_largest)(values), values.argmax(1))


def test_more_than_there_are():
    found, _ = largest(jnp.array([[3.0, 1.0, 2.0]]), 5)
    np.testing.assert_array_equal(found, [[3, 2, 1, -np.inf, -np.inf]])
