import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.layers.dropout import drop_path, dropout

X = jnp.arange(1.0, 40_001.0).reshape(4000, 10)


def test_what_is_kept_makes_up_for_what_is_dropped():
    dropped = np.asarray(dropout(X, 0.2, jax.random.key(0))) / np.asarray(X)
    assert set(np.unique(dropped.round(5))) == {0.0, 1.25}
    assert (dropped == 0).mean() == pytest.approx(0.2, abs=0.01)
    rows = np.asarray(drop_path(X, jnp.float32(0.2), jax.random.key(0))) / np.asarray(X)
    assert (rows == rows[:, :1]).all() and (rows == 0).mean() == pytest.approx(0.2, abs=0.02)
    assert rows.max() == pytest.approx(1.25)


def test_nothing_is_dropped_without_a_key_or_a_rate():
    for found in (dropout(X, 0.2, None), dropout(X, 0.0, jax.random.key(0)), drop_path(X, 0.2, None)):
        assert found is X
    np.testing.assert_array_equal(drop_path(X, jnp.float32(0), jax.random.key(0)), X)


def test_the_type_of_the_activations_stays():
    half = X.astype(jnp.bfloat16)
    assert dropout(half, 0.1, jax.random.key(0)).dtype == jnp.bfloat16
    assert drop_path(half, jnp.float32(0.1), jax.random.key(0)).dtype == jnp.bfloat16
