"""Scaled dot-product attention with grouped key/value heads, its masks, and the KV cache.

Axis letters: b rows, s queries, t keys, h query heads, g key/value heads, r query heads of one
key/value head (h = g r), k head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def attention(
    q: Float[Array, "b s h k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t g k"],
    *,
    mask: Bool[Array, "#b 1 s t"] | None,
    scale: float,
) -> Float[Array, "b s h k"]:
    """softmax(scale q k) v, the softmax in float32; query head h reads key/value head h // r.

    Every model calls this function, so the kernel is chosen here and nowhere else; today it is
    XLA's on every backend.

    Args:
        mask: True where a query may look at a key; None means everywhere.
        scale: usually 1 / sqrt(k).
    """
    b, s, h, width = q.shape
    groups = k.shape[2]
    grouped = q.reshape(b, s, groups, h // groups, width)
    scores = jnp.einsum("bsgrk,btgk->bgrst", grouped, k, preferred_element_type=jnp.float32) * scale
    if mask is not None:
        # Finite, so that a query without any key yields a mean instead of NaN.
        scores = jnp.where(mask[:, :, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bgrst,btgk->bsgrk", weights, v).reshape(q.shape)


def segment_causal_mask(segment_ids: Int[Array, "b s"], positions: Int[Array, "b s"]) -> Bool[Array, "b 1 s s"]:
    """Each token sees itself and the earlier tokens of its own segment.

    segment_ids [1 1 1 2 2 0], positions [0 1 2 0 1 0] give (row = query, column = key):

        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        0 0 0 1 0 0
        0 0 0 1 1 0
        0 0 0 0 0 1      padding (segment 0) sees only padding
    """
    same = segment_ids[:, :, None] == segment_ids[:, None, :]
    earlier = positions[:, None, :] <= positions[:, :, None]
    return (same & earlier)[:, None]


class KVCache(NamedTuple):
    """Keys (already rotated) and values of the tokens so far.

    A whole decoder's cache has a leading `layers` axis on keys and values; the one that a layer
    receives has not. `lengths` counts the filled places of each row.
    """

    keys: jax.Array  # [layers b t g k]
    values: jax.Array  # [layers b t g k]
    lengths: jax.Array  # int32 [b]

    def append(self, k: Float[Array, "b 1 g k"], v: Float[Array, "b 1 g k"]) -> "KVCache":
        """One layer's cache with a token written at place `lengths` of each row."""
        here = (jnp.arange(self.keys.shape[1]) == self.lengths[:, None])[:, :, None, None]
        return self._replace(
            keys=jnp.where(here, k.astype(self.keys.dtype), self.keys),
            values=jnp.where(here, v.astype(self.values.dtype), self.values),
        )


def cache_mask(lengths: Int[Array, " b"], places: int) -> Bool[Array, "b 1 1 t"]:
    """What the token just appended sees: with lengths [2 0] and 4 places, [1 1 1 0] and [1 0 0 0]."""
    return (jnp.arange(places) <= lengths[:, None])[:, None, None]
