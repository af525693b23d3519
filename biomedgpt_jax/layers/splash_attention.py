"""Splash attention, the TPU's kernel: no scores in memory, and blocks that a causal mask hides are not computed.

The kernel knows nothing of meshes, so each device runs it by hand on its share: rows over the axes of the batch,
heads over `tensor`, queries over `context` with the keys and values of the whole row. On a CPU it is interpreted.

Axis letters: b rows, s queries, t keys, h query heads, g key/value heads, k head width.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from biomedgpt_jax.core.module import Kept
from biomedgpt_jax.core.sharding import spec_for, target_platform

LANES = 128  # blocks are multiples of it

# Fewest cycles in the compiler's schedules for v5e, forward and fused backward, of the blocks from 128 to 1024 that
# were compiled. With a causal mask of 2048 tokens, 512 (10 blocks of 1193 and 2453 cycles a head) beats 256 and 1024;
# where all is seen, one block of 640 for the 577 tokens of a tower (2780 and 4094) beats four of 384 (999 and 1562).
LARGEST_CAUSAL_BLOCK, LARGEST_BLOCK = 512, 768


def splash_attention(
    q: Float[Array, "b s h k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t g k"],
    *,
    segment_ids: Int[Array, "b s"] | None,
    scale: float,
) -> Float[Array, "b s h k"]:
    """softmax(scale q k) v; with segment ids causal within each segment, without them everything sees everything."""
    causal, lengths = segment_ids is not None, (q.shape[1], k.shape[1])
    split = _split(q, causal)
    query_shards, head_shards = _size(split.queries), _size(split.heads)
    block_q, block_kv = _block(lengths[0], query_shards, causal), _block(lengths[1], 1, causal)
    # Where a device holds a part of a key/value head's queries, the head is held by several devices.
    repeats = head_shards // math.gcd(k.shape[2], head_shards)
    k, v = (_padded(jnp.repeat(each, repeats, axis=2), block_kv) for each in (k, v))
    q = _padded((q * scale).astype(q.dtype), block_q * query_shards)
    segments = _segments(segment_ids, (q.shape[0], *lengths), (q.shape[1], k.shape[1]))
    kernel = _kernel((q.shape[1], k.shape[1]), (block_q, block_kv), query_shards, causal)
    return _on_each_device(kernel, q, k, v, segments, split)[:, : lengths[0]]


Axes = tuple[str, ...] | str | None


class _Split(NamedTuple):
    """The axes of the mesh over which each dimension lies; None where it is whole."""

    rows: Axes
    queries: Axes
    heads: Axes


def _split(q: Float[Array, "b s h k"], causal: bool) -> _Split:
    axes = ("batch", "length", "activation_heads", None) if causal else ("tiles", None, None, None)
    spec = spec_for(q.shape, *axes)
    return _Split(None, None, None) if spec is None else _Split(*spec[:3])


def _size(axes: Axes) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


def _block(length: int, shards: int, causal: bool) -> int:
    """The size of the fewest equal blocks that hold each shard's part of a sequence."""
    part = -(-length // shards)
    count = -(-part // (LARGEST_CAUSAL_BLOCK if causal else LARGEST_BLOCK))
    return -(-part // (count * LANES)) * LANES


def _padded(x: Float[Array, "b s h k"], multiple: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))


def _segments(
    segment_ids: Int[Array, "b s"] | None, shape: tuple[int, int, int], padded: tuple[int, int]
) -> splash.SegmentIds | None:
    """Segments of the padded queries and keys, of which only equal ones see each other."""
    rows, queries, keys = shape
    if segment_ids is not None:
        return splash.SegmentIds(*(jnp.pad(segment_ids, ((0, 0), (0, size - queries))) for size in padded))
    if padded[1] == keys:
        return None
    # Padded queries are cut off; until then they need keys, since to see none is to divide by zero.
    ids = jnp.ones(padded[0], jnp.int32), (jnp.arange(padded[1]) < keys).astype(jnp.int32)
    return splash.SegmentIds(*(jnp.broadcast_to(each, (rows, each.size)) for each in ids))


def _kernel(
    lengths: tuple[int, int], blocks: tuple[int, int], query_shards: int, causal: bool
) -> splash.SplashAttentionKernel:
    of_one_head = masks.CausalMask(lengths) if causal else masks.FullMask(lengths)
    q, kv = blocks
    # One kernel for all gradients has those of the queries for each block of keys apart, rounded and summed later,
    # which costs more than a kernel of their own wherever there are several.
    fused = kv == lengths[1]
    of_queries = (None, None) if fused else blocks
    return splash.make_splash_mha(
        masks.MultiHeadMask([of_one_head]),  # it serves all heads
        block_sizes=splash.BlockSizes(q, kv, kv, q, kv, kv, *of_queries, use_fused_bwd_kernel=fused),
        head_shards=1,
        q_seq_shards=query_shards,
        residual_checkpoint_name=Kept.ATTENTION.value,
        interpret=target_platform() == "cpu",
    )


def _on_each_device(
    kernel: splash.SplashAttentionKernel,
    q: Float[Array, "b s h k"],
    k: Float[Array, "b t g k"],
    v: Float[Array, "b t g k"],
    segments: splash.SegmentIds | None,
    split: _Split,
) -> Float[Array, "b s h k"]:
    def run(kernel, q, k, v, segments):
        q, k, v = (each.swapaxes(1, 2) for each in (q, k, v))
        return jax.vmap(kernel)(q, k, v, segments).swapaxes(1, 2)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(kernel, q, k, v, segments)
    rows, queries, heads = split
    of_q, of_kv = PartitionSpec(rows, queries, heads, None), PartitionSpec(rows, None, heads, None)
    of_kernel = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, queries)))
    of_ids: Any = PartitionSpec(rows, queries), PartitionSpec(rows, None)
    sharded = jax.shard_map(
        run,
        in_specs=(of_kernel, of_q, of_kv, of_kv, splash.SegmentIds(*of_ids) if segments else None),
        out_specs=of_q,
        check_vma=False,  # the kernel does not say over which axes its results vary
    )
    return sharded(kernel, q, k, v, segments)
