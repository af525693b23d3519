"""Attention with a bias for each pair of places, as encoder-decoders with learned positions need it.

In plain XLA on every platform: the kernels that layers/attention.py chooses from take no bias (splash attention has no
argument for one; cuDNN's gives no gradient for one that all rows share).

Axis letters: b rows, s queries, t keys, h heads, k head width, m beams of a row, c = 1 or b.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from biomedgpt_jax.core.module import Kept, keep
from biomedgpt_jax.core.sharding import is_split

BLOCK = 512  # queries whose scores exist at a time


def biased_attention(
    q: Float[Array, "b s h k"],
    k: Float[Array, "b t h k"],
    v: Float[Array, "b t h k"],
    *,
    bias: Float[Array, "c h s t"],
    mask: Bool[Array, "#b #s t"],
    scale: float,
) -> Float[Array, "b s h k"]:
    """softmax(scale q k + bias) v over the keys that `mask` allows, the softmax in float32.

    The backward pass makes the scores of each block of queries again. A query without keys takes the mean of all.
    """
    length = q.shape[1]
    # Slices of a sequence that is itself split would move it between devices.
    size = length if is_split("length") else BLOCK
    outs = []
    for block in (slice(start, min(start + size, length)) for start in range(0, length, size)):
        of_block = mask if mask.shape[1] == 1 else mask[:, block]
        outs.append(jax.checkpoint(_attend, static_argnums=5)(q[:, block], k, v, bias[:, :, block], of_block, scale))
    return keep(jnp.concatenate(outs, axis=1) if len(outs) > 1 else outs[0], Kept.ATTENTION)


def beams_attention(
    q: Float[Array, "b m h k"],
    keys: Float[Array, "b h t k"],
    values: Float[Array, "b h t k"],
    *,
    bias: Float[Array, "b m h t"],
    mask: Bool[Array, "b t"],
    scale: float,
) -> Float[Array, "b m h k"]:
    """As `biased_attention` for one query of each beam; all beams of a row read the same keys and values."""
    scores = jnp.einsum("bmhk,bhtk->bhmt", q, keys, preferred_element_type=jnp.float32) * scale
    weights = _softmax(scores + bias.swapaxes(1, 2), mask[:, None, None])
    found = jnp.einsum("bhmt,bhtk->bhmk", weights.astype(values.dtype), values)
    return found.swapaxes(1, 2).astype(q.dtype)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, mask: jax.Array, scale: float) -> jax.Array:
    scores = jnp.einsum("bshk,bthk->bhst", q, k, preferred_element_type=jnp.float32) * scale
    weights = _softmax(scores + bias, mask[:, None])
    return jnp.einsum("bhst,bthk->bshk", weights.astype(v.dtype), v).astype(q.dtype)


def _softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    # Finite, so that no row is NaN.
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)
