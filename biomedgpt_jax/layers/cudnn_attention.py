"""cuDNN's flash attention for NVIDIA GPUs; what it cannot serve goes to XLA, and the log says so once per shape.

Axis letters: b rows, s queries, t keys, h query heads, g key/value heads, k head width.
"""

import logging
from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from biomedgpt_jax.layers.block_attention import block_attention, segment_causal_mask

WIDEST_HEAD = 128  # before Hopper


def cudnn_attention(
    q: Float[Array, "b s h k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t g k"],
    *,
    segment_ids: Int[Array, "b s"] | None,
    scale: float,
) -> Float[Array, "b s h k"]:
    """softmax(scale q k) v; with segment ids causal within each segment, without them everything sees everything."""
    reason = unserved(q, packed=segment_ids is not None)
    if reason is None:
        mask = None if segment_ids is None else segment_causal_mask(segment_ids, 0, q.shape[1])[:, None]
        try:
            return jax.nn.dot_product_attention(
                q, k, v, mask=mask, is_causal=mask is not None, scale=scale, implementation="cudnn"
            )
        except RuntimeError as error:  # cuDNN itself is absent or too old
            reason = str(error)
    _log(q.shape, k.shape, str(q.dtype), reason)
    return block_attention(q, k, v, segment_ids=segment_ids, scale=scale)


def unserved(q: Float[Array, "b s h k"], *, packed: bool) -> str | None:
    """Why cuDNN has no kernel for these queries, or None."""
    _, s, _, width = q.shape
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 and float16, found {q.dtype}"
    if width > WIDEST_HEAD or width % 8:
        return f"heads must have a multiple of 8 and at most {WIDEST_HEAD} channels, found {width}"
    if packed and s % 2:
        return f"rows with segments must have an even number of tokens, found {s}"
    return None


@cache
def _log(queries: tuple[int, ...], keys: tuple[int, ...], dtype: str, reason: str) -> None:
    logging.getLogger(__name__).warning(
        "Attention of queries %s on keys %s (%s) runs in XLA instead of cuDNN: %s.", queries, keys, dtype, reason
    )
