"""Attention in plain XLA, a block of queries at a time: what CPUs run, and what serves any shape anywhere.

Axis letters: b rows, s queries, t keys, h query heads, g key/value heads, r query heads of one
key/value head (h = g r), n queries of one key/value head (n = s r), k head width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from biomedgpt_jax.core.module import Kept, keep, of_each
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
    def of_head(masks: Any, q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        outs, log_sums = [], []
        for block, mask in zip(blocks, masks, strict=True):
            scores = _masked(_product("nk,tk->nt", _rows(q, block, blocks), k[: block.keys]) * scale, mask)
            top = jnp.max(scores, axis=-1, keepdims=True)
            weights = jnp.exp(scores - top)
            total = jnp.sum(weights, axis=-1, keepdims=True)
            mixed = _product("nt,tk->nk", weights.astype(v.dtype), v[: block.keys])
            outs.append((mixed / total).astype(q.dtype))
            log_sums.append((top + jnp.log(total))[:, 0])
        return jnp.concatenate(outs), jnp.concatenate(log_sums)

    masks = _masks(segment_ids, blocks, q.shape[2])
    out, log_sum = (keep(each, Kept.ATTENTION) for each in _for_each_head(of_head, masks, q, k, v))
    return out, (q, k, v, segment_ids, out, log_sum)


def _attend_backward(scale: float, blocks: tuple[_Block, ...], kept: Any, d_out: jax.Array) -> tuple[Any, ...]:
    """With scores as [t n]: XLA's CPU backend is slow at products over the first axis of their first factor."""
    q, k, v, segment_ids, out, log_sum = kept
    # What the softmax takes off each gradient of a weight: their weighted mean.
    mean = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)

    def of_head(masks: Any, q: Any, k: Any, k_turned: Any, v: Any, d_out: Any, log_sum: Any, mean: Any) -> Any:
        d_queries, d_k, d_v = [], jnp.zeros(k.shape, jnp.float32), jnp.zeros(v.shape, jnp.float32)
        for block, mask in zip(blocks, masks, strict=True):
            queries, d_rows, log_sums, means = (_rows(each, block, blocks) for each in (q, d_out, log_sum, mean))
            scores = _masked(_product("tk,nk->tn", k[: block.keys], queries) * scale, mask)
            weights = jnp.exp(scores - log_sums)
            d_weights = _product("tk,nk->tn", v[: block.keys], d_rows)
            d_scores = (weights * (d_weights - means) * scale).astype(q.dtype)
            d_queries.append(_product("kt,tn->kn", k_turned[:, : block.keys], d_scores).astype(q.dtype))
            d_k = d_k.at[: block.keys].add(_product("tn,nk->tk", d_scores, queries))
            d_v = d_v.at[: block.keys].add(_product("tn,nk->tk", weights.astype(v.dtype), d_rows))
        return jnp.concatenate(d_queries, axis=1), d_k.astype(k.dtype), d_v.astype(v.dtype)

    masks = [None if mask is None else mask.swapaxes(1, 2) for mask in _masks(segment_ids, blocks, q.shape[2])]
    d_q, d_k, d_v = _for_each_head(of_head, masks, q, k, k.swapaxes(2, 3), v, d_out, log_sum, mean)
    return d_q.swapaxes(2, 3), d_k, d_v, None


_attend.defvjp(_attend_forward, _attend_backward)


def _for_each_head(of_head: Callable[..., Any], masks: Any, *arrays: Float[Array, "b g ..."]) -> Any:
    """`of_head(masks of the row, arrays without b and g)` of each row's key/value heads, stacked again.

    Scores of one head stay in a CPU's cache, and masks are arrays before the loop over heads reads them.
    """
    return of_each(lambda row: of_each(lambda head: of_head(row[0], *head), row[1]), (masks, arrays))


def _masked(scores: jax.Array, mask: jax.Array | None) -> jax.Array:
    return scores if mask is None else jnp.where(mask, scores, jnp.finfo(jnp.float32).min)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """With a batch axis of one, by which `Remat.DOTS` tells it from the products with weights."""
    product = partial(jnp.einsum, equation, preferred_element_type=jnp.float32)
    return jax.vmap(product)(a[None], b[None])[0]


def _rows(x: Float[Array, "n ..."], block: _Block, blocks: tuple[_Block, ...]) -> jax.Array:
    share = x.shape[0] // blocks[-1].stop  # r
    return x[block.start * share : block.stop * share]


def _masks(
    segment_ids: jax.Array | None, blocks: tuple[_Block, ...], queries: int
) -> list[Bool[Array, "b n t"] | None]:
    if segment_ids is None:
        return [None for _ in blocks]
    share = queries // blocks[-1].stop
    return [jnp.repeat(segment_causal_mask(segment_ids, each.start, each.stop), share, axis=1) for each in blocks]
