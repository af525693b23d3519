"""Dropout of single numbers and of whole branches; without a key nothing is dropped.

Axis letters: b rows, d width.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dropout(x: Float[Array, "..."], rate: float, key: jax.Array | None) -> Float[Array, "..."]:
    """Each number is 0 with probability `rate`, and else divided by 1 - rate."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


def drop_path(x: Float[Array, "b ... d"], rate: float | jax.Array, key: jax.Array | None) -> Float[Array, "b ... d"]:
    """Each row is 0 with probability `rate`, and else divided by 1 - rate."""
    if key is None:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)
