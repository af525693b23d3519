"""128-bit sums of arrays where they lie: the same on every mesh, whole or slice by slice."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

_SEED, _ODD = 0x243F6A88, (0x9E3779B1, 0xC2B2AE3D, 0x85EBCA6B, 0x27D4EB2F)
# Elements that are summed at once on the host: they stay in the cache.
_BLOCK = 1 << 16


@dataclass(frozen=True)
class LeafRecord:
    """What identifies one stored array. `digest` is the sum over its bits, in hexadecimal."""

    shape: tuple[int, ...]
    dtype: str
    digest: str


def leaf_records(tree: Any) -> dict[str, LeafRecord]:
    """Maps the path of each leaf (`decoder/norm/scale`) to its shape, dtype and digest."""
    leaves = path_leaves(tree)
    digests = jax.device_get(jax.jit(_digests, out_shardings=_everywhere(leaves))(leaves)) if leaves else {}
    return {path: LeafRecord(leaf.shape, str(leaf.dtype), hexadecimal(digests[path])) for path, leaf in leaves.items()}


def slice_digest(piece: np.ndarray, start: int) -> np.ndarray:
    """uint32 [4]: what a contiguous piece of an array adds to its digest; sums wrap around.

    Args:
        piece: contiguous, of a dtype that jax has.
        start: index of its first element in the flattened array.
    """
    flat = piece.reshape(-1)
    if jnp.issubdtype(flat.dtype, jnp.floating):
        flat = flat.view(f"u{flat.dtype.itemsize}")
    total = np.zeros(4, np.uint32)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        for at in range(0, flat.size, _BLOCK):
            block = flat[at : at + _BLOCK]
            count = block.size
            if count < _BLOCK:
                block = np.pad(block, (0, _BLOCK - count))
            total = _add_block(total, block, np.uint32((start + at) % 2**32), np.uint32(count))
    return np.asarray(total)


def hexadecimal(digest: np.ndarray) -> str:
    return bytes(np.asarray(digest, ">u4")).hex()


def tree_hash(records: dict[str, LeafRecord]) -> str:
    """One hash for a whole tree: equal for equal paths, shapes, dtypes and bits."""
    table = {path: asdict(record) for path, record in sorted(records.items())}
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()[:32]


def path_leaves(tree: Any) -> dict[str, Any]:
    """Flattens any pytree to `{path: leaf}`; equals `leaf_paths` on nested dicts."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _digests(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {path: _digest(leaf) for path, leaf in leaves.items()}


def _everywhere(leaves: dict[str, Any]) -> NamedSharding | None:
    """Where the digests can be read by each of several processes."""
    laid = [getattr(leaf, "sharding", None) for leaf in leaves.values()]  # arrays of numpy have none
    meshes = [sharding.mesh for sharding in laid if isinstance(sharding, NamedSharding)]
    return NamedSharding(meshes[0], PartitionSpec()) if meshes else None


def _digest(leaf: jax.Array) -> jax.Array:
    """uint32 [4]: sums of four hashes of (bits, place) modulo 2^32, which any order of adding leaves equal."""
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for dimension, size in enumerate(leaf.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, dimension)
    return jnp.stack([jnp.sum(hashed, dtype=jnp.uint32) for hashed in _mixed(leaf, place)])


@jax.jit
def _add_block(total: jax.Array, block: jax.Array, start: jax.Array, count: jax.Array) -> jax.Array:
    """One pass for all four sums, which XLA would make four passes on a CPU."""
    index = jax.lax.iota(jnp.uint32, _BLOCK)
    hashes = tuple(jnp.where(index < count, hashed, 0) for hashed in _mixed(block, index + start))
    zeros = (np.uint32(0),) * len(hashes)
    return total + jnp.stack(jax.lax.reduce(hashes, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (0,)))


def _mixed(bits: jax.Array, place: jax.Array) -> tuple[jax.Array, ...]:
    """Multiply and shift, as MurmurHash3 ends; each round is one to one and gives one hash more."""
    x = bits.astype(jnp.uint32) * jnp.uint32(_ODD[0]) ^ (place * jnp.uint32(_ODD[1]) + jnp.uint32(_SEED))
    x = (x ^ (x >> 16)) * jnp.uint32(_ODD[2])
    hashes = []
    for odd, shift in zip(_ODD, (13, 15, 14, 17), strict=True):
        x = (x ^ (x >> shift)) * jnp.uint32(odd)
        hashes.append(x ^ (x >> 16))
    return tuple(hashes)
