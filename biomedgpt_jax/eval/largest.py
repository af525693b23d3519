"""The largest of many values, as of all words' logits. Axis letters: b rows, n values."""

import jax
import jax.numpy as jnp

from biomedgpt_jax.core.sharding import target_platform

GROUP = 64


def largest(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The `count` largest of each row [b n] with their places, -inf where there are fewer.

    They lie in the groups with the `count` largest maxima, so that few values are compared with one another.
    """
    b, n = values.shape
    room = -(-max(n, count) // GROUP) * GROUP - n
    groups = jnp.pad(values, ((0, 0), (0, room)), constant_values=-jnp.inf).reshape(b, -1, GROUP)
    _, best = _top(groups.max(-1), min(count, groups.shape[1]))
    best = jnp.sort(best, axis=1)  # so that of equal values the first is taken
    found, places = _top(jnp.take_along_axis(groups, best[..., None], 1).reshape(b, -1), count)
    places = jnp.take_along_axis(best, places // GROUP, 1) * GROUP + places % GROUP
    return found, places.clip(max=n - 1)


def place_of_largest(values: jax.Array) -> jax.Array:
    """jnp.argmax of each row [b n], for which XLA's CPU backend compares all values one by one."""
    if target_platform() != "cpu":
        return jnp.argmax(values, -1).astype(jnp.int32)
    return largest(values, 1)[1][:, 0]


def _top(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Behind the barriers XLA's CPU backend cannot turn this and what reads it into a sort of all values.

    They are two because XLA aborts where it decomposes a top_k (on several devices) whose whole result goes into one.
    """
    found, places = jax.lax.top_k(values, count)
    return jax.lax.optimization_barrier(found), jax.lax.optimization_barrier(places)
