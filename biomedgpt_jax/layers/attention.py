"""Scaled dot-product attention with grouped key/value heads, and the KV cache.

Every model calls the functions here, so the kernel is chosen here and nowhere else: splash attention on TPUs, cuDNN
on GPUs, plain XLA on CPUs.

Axis letters: b rows, s queries, t keys, h query heads, g key/value heads, r query heads of one
key/value head (h = g r), k head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from biomedgpt_jax.core.sharding import target_platform
from biomedgpt_jax.layers.block_attention import block_attention
from biomedgpt_jax.layers.cudnn_attention import cudnn_attention
from biomedgpt_jax.layers.splash_attention import splash_attention

_KERNELS = {"tpu": splash_attention, "gpu": cudnn_attention, "cpu": block_attention}


def attention(
    q: Float[Array, "b s h k"], k: Float[Array, "b t g k"], v: Float[Array, "b t g k"], *, scale: float
) -> Float[Array, "b s h k"]:
    """softmax(scale q k) v over all keys, the softmax in float32; query head h reads key/value head h // r.

    Args:
        scale: usually 1 / sqrt(k).
    """
    return _KERNELS[target_platform()](q, k, v, segment_ids=None, scale=scale)


def causal_attention(
    q: Float[Array, "b s h k"],
    k: Float[Array, "b s g k"],
    v: Float[Array, "b s g k"],
    *,
    segment_ids: Int[Array, "b s"],
    scale: float,
) -> Float[Array, "b s h k"]:
    """As `attention`, but each token sees itself and the earlier tokens of its own segment alone.

    Padding, segment 0, is a segment like any other.
    """
    return _KERNELS[target_platform()](q, k, v, segment_ids=segment_ids, scale=scale)


def cached_attention(
    q: Float[Array, "b 1 h k"],
    cache: "LayersCache",
    layer: Int[Array, ""],
    *,
    scale: float,
    bias: Float[Array, "b h t"] | None = None,
) -> Float[Array, "b 1 h k"]:
    """One query per row, that of the token just appended, over the cache of one layer; `bias` is added to scores."""
    keys, values = cache.keys[layer], cache.values[layer]
    b, _, h, width = q.shape
    groups, places = keys.shape[1:3]
    grouped = q.reshape(b, groups, h // groups, width)
    scores = scale * jnp.einsum("bgrk,bgtk->bgrt", grouped, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        scores += bias.reshape(scores.shape)
    # Finite, so that no row is NaN.
    scores = jnp.where(cache_mask(cache.lengths, places), scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bgrt,bgtk->bgrk", weights.astype(values.dtype), values).astype(q.dtype).reshape(q.shape)


class LayersCache(NamedTuple):
    """Keys (already rotated) and values of the tokens so far in some layers, each head's places side by side."""

    keys: jax.Array  # [layers b g t k]
    values: jax.Array  # [layers b g t k]
    lengths: jax.Array  # int32 [b], filled places of each row

    def append(self, layer: Int[Array, ""], k: Float[Array, "b 1 g k"], v: Float[Array, "b 1 g k"]) -> "LayersCache":
        """The cache with a token of one layer written at place `lengths` of each row; nothing else is touched."""
        rows = jnp.arange(self.lengths.shape[0])

        def write(places: jax.Array, token: jax.Array) -> jax.Array:  # layers b g t k; b 1 g k
            return places.at[layer, rows, :, self.lengths].set(token[:, 0].astype(places.dtype))

        return self._replace(keys=write(self.keys, k), values=write(self.values, v))


class KVCache(NamedTuple):
    """The cache of a decoder: keys and values [layers b g t k] of one or several runs of layers, in order."""

    parts: tuple[tuple[jax.Array, jax.Array], ...]
    lengths: jax.Array  # int32 [b]

    def widen(self, beams: int) -> "KVCache":
        """Row i becomes rows i * beams to (i + 1) * beams - 1."""
        return self.take(jnp.repeat(jnp.arange(self.lengths.shape[0]), beams))

    def take(self, rows: Int[Array, " r"]) -> "KVCache":
        """Its rows in another order; a row may be taken twice, and another not at all."""
        parts = tuple((keys[:, rows], values[:, rows]) for keys, values in self.parts)
        return KVCache(parts, self.lengths[rows])

    def rewind(self, lengths: Int[Array, " b"]) -> "KVCache":
        """Forgets the tokens of each row from place `lengths` on: the next one is written there."""
        return self._replace(lengths=lengths)


def cache_mask(lengths: Int[Array, " b"], places: int) -> Bool[Array, "b 1 1 t"]:
    """What the token just appended sees: with lengths [2 0] and 4 places, [1 1 1 0] and [1 0 0 0]."""
    return (jnp.arange(places) <= lengths[:, None])[:, None, None]
