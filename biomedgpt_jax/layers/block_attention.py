"""Attention in plain XLA, a block of queries at a time: what CPUs run, and what serves any shape anywhere.

Axis letters: b rows, s queries, t keys, h query heads, g key/value heads, r query heads of one
key/value head (h = g r), n queries of one key/value head (n = s r), k head width.
"""

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from biomedgpt_jax.core.module import Kept, keep
from biomedgpt_jax.core.sharding import is_split

# Queries are worked on in at most so many blocks, each a multiple of so many queries.
MAX_BLOCKS, BLOCK = 8, 64


def block_attention(
    q: Float[Array, "b s h k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t g k"],
    *,
    segment_ids: Int[Array, "b s"] | None,
    scale: float,
) -> Float[Array, "b s h k"]:
    """softmax(scale q k) v; with segment ids causal within each segment, without them everything sees everything.

    The backward pass makes the scores of each block again, so that no array of s by t outlives its block; blocks of
    keys that a causal mask hides are never computed.
    """
    b, s, h, width = q.shape
    groups = k.shape[2]
    # Each key/value head's queries, keys and values side by side.
    queries = q.reshape(b, s, groups, h // groups, width).swapaxes(1, 2).reshape(b, groups, -1, width)
    blocks = _blocks(s, k.shape[1], segment_ids is not None)
    # custom_vjp hides the type of what it wraps.
    out = cast(jax.Array, _attend(queries, k.swapaxes(1, 2), v.swapaxes(1, 2), segment_ids, scale, blocks))
    return out.reshape(b, groups, s, h // groups, width).swapaxes(1, 2).reshape(q.shape)


def segment_causal_mask(segment_ids: Int[Array, "b s"], first: int, last: int) -> Bool[Array, "b q t"]:
    """What the tokens `first` to `last` of each row (q of them) see of those before `last`.

    Each token sees itself and the earlier tokens of its own segment. segment_ids [1 1 1 2 2 0] give, for all
    queries (row = query, column = key):

        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        0 0 0 1 0 0
        0 0 0 1 1 0
        0 0 0 0 0 1      padding (segment 0) sees only padding
    """
    same = segment_ids[:, first:last, None] == segment_ids[:, None, :last]
    return same & (jnp.arange(last) <= jnp.arange(first, last)[:, None])


class _Block(NamedTuple):
    """Queries `start` to `stop` of each head look at the first `keys` keys."""

    start: int
    stop: int
    keys: int


def _blocks(queries: int, keys: int, causal: bool) -> tuple[_Block, ...]:
    # Slices of a sequence that is itself split would move it between devices.
    size = queries if is_split("length") else -(-queries // (MAX_BLOCKS * BLOCK)) * BLOCK
    bounds = [(start, min(start + size, queries)) for start in range(0, queries, size)]
    return tuple(_Block(start, stop, stop if causal else keys) for start, stop in bounds)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
    q: Float[Array, "b g n k"],
    k: Float[Array, "b g t k"],
    v: Float[Array, "b g t k"],
    segment_ids: Int[Array, "b s"] | None,
    scale: float,
    blocks: tuple[_Block, ...],
) -> Float[Array, "b g n k"]:
    return _attend_forward(q, k, v, segment_ids, scale, blocks)[0]


def _attend_forward(
    q: Any, k: Any, v: Any, segment_ids: Any, scale: float, blocks: tuple[_Block, ...]
) -> tuple[Any, Any]:
    outs, log_sums = [], []
    for block in blocks:
        scores = _scores(_rows(q, block, blocks), k[:, :, : block.keys], _mask(segment_ids, block), scale)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = _product("bgnt,bgtk->bgnk", weights.astype(v.dtype), v[:, :, : block.keys])
        outs.append((mixed / total).astype(q.dtype))
        log_sums.append(top + jnp.log(total))
    out, log_sum = (keep(jnp.concatenate(each, axis=2), Kept.ATTENTION) for each in (outs, log_sums))
    return out, (q, k, v, segment_ids, out, log_sum)


def _attend_backward(scale: float, blocks: tuple[_Block, ...], kept: Any, d_out: jax.Array) -> tuple[Any, ...]:
    q, k, v, segment_ids, out, log_sum = kept
    # What the softmax takes off each gradient of a weight: their weighted mean.
    mean = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    d_queries, d_k, d_v = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
    for block in blocks:
        queries, d_rows = _rows(q, block, blocks), _rows(d_out, block, blocks)
        keys, values = k[:, :, : block.keys], v[:, :, : block.keys]
        scores = _scores(queries, keys, _mask(segment_ids, block), scale)
        weights = jnp.exp(scores - _rows(log_sum, block, blocks))
        d_weights = _product("bgnk,bgtk->bgnt", d_rows, values)
        d_scores = (weights * (d_weights - _rows(mean, block, blocks)) * scale).astype(q.dtype)
        d_queries.append(_product("bgnt,bgtk->bgnk", d_scores, keys).astype(q.dtype))
        d_k = d_k.at[:, :, : block.keys].add(_product("bgnt,bgnk->bgtk", d_scores, queries))
        d_v = d_v.at[:, :, : block.keys].add(_product("bgnt,bgnk->bgtk", weights.astype(v.dtype), d_rows))
    return jnp.concatenate(d_queries, axis=2), d_k.astype(k.dtype), d_v.astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def _scores(q: jax.Array, k: jax.Array, mask: jax.Array | None, scale: float) -> Float[Array, "b g n t"]:
    scores = _product("bgnk,bgtk->bgnt", q, k) * scale
    if mask is None:
        return scores
    by_query = scores.reshape(*scores.shape[:2], mask.shape[1], -1, scores.shape[3])  # b g s r t
    return jnp.where(mask[:, None, :, None], by_query, jnp.finfo(jnp.float32).min).reshape(scores.shape)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _rows(x: Float[Array, "b g n _"], block: _Block, blocks: tuple[_Block, ...]) -> jax.Array:
    share = x.shape[2] // blocks[-1].stop  # r
    return x[:, :, block.start * share : block.stop * share]


def _mask(segment_ids: jax.Array | None, block: _Block) -> jax.Array | None:
    return None if segment_ids is None else segment_causal_mask(segment_ids, block.start, block.stop)
