"""Arrays on disk, one folder each: zarr version 3, uncompressed, so that any zarr library reads them.

An array is written block by block and read shard by shard; neither ever needs it whole. Paths may be local
or `gs://`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, prod
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath

from biomedgpt_jax.core.errors import RunError

# Of one file: small enough that a reader of a shard reads little beside it, large enough to be few.
CHUNK_BYTES = 64 * 2**20


def create_array(folder: epath.Path, shape: tuple[int, ...], dtype: Any, chunk: tuple[int, ...]) -> Any:
    """The tensorstore of a new array; every process may ask for the same one."""
    metadata = {
        "shape": list(shape),
        "data_type": str(np.dtype(dtype)),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, size) for size in chunk]}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    return tensorstore.open({**_place(folder), "metadata": metadata}, create=True, open=True).result()


def write_block(store: Any, index: tuple[Any, ...], block: np.ndarray) -> Any:
    """Starts writing; the result's `result()` returns when it is on the disk. `block` must stay as it is."""
    return store[index].write(block, can_reference_source_data_indefinitely=True)


def save_array(folder: epath.Path, leaf: jax.Array) -> None:
    """Writes an array from where it lies; each process writes its own shards, and all must call this."""
    chunk = chunk_shape(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize)
    store = create_array(folder, leaf.shape, leaf.dtype, chunk)
    mine = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    for writing in [write_block(store, shard.index, np.asarray(shard.data)) for shard in mine]:
        writing.result()


def read_array(folder: epath.Path, like: jax.ShapeDtypeStruct) -> jax.Array:
    """Reads each shard of `like.sharding` that this process holds, and no more."""
    store = read_host(folder, str(like.dtype))
    if tuple(store.shape) != tuple(like.shape):
        raise ValueError(f"it holds the shape {tuple(store.shape)}, expected {tuple(like.shape)}")
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: store[index].read().result())


def read_host(folder: epath.Path, dtype: str) -> Any:
    """The array as tensorstore sees it: `[index].read().result()` gives a part of it in memory of its own."""
    return tensorstore.open({**_place(folder), "dtype": dtype}, read=True).result()


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """`shape` cut along its first axis into equal parts of at most CHUNK_BYTES, as far as that goes."""
    if not shape:
        return ()
    parts = ceil(prod(shape) * itemsize / CHUNK_BYTES)
    return (ceil(shape[0] / max(1, min(parts, shape[0]))), *shape[1:])


@contextmanager
def disk_errors(folder: epath.PathLike, what: str, advice: str) -> Iterator[None]:
    """What the disk or the file format refuse becomes one RunError; tensorstore reports both as ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).split(" [")[0].split("\n")[0]
        raise RunError(f"{folder}: {what} ({reason}). {advice}") from error


def _place(folder: epath.Path) -> dict[str, Any]:
    name = str(folder)
    if name.startswith("gs://"):
        bucket, _, inside = name.removeprefix("gs://").partition("/")
        return {"driver": "zarr3", "kvstore": {"driver": "gcs", "bucket": bucket, "path": f"{inside}/"}}
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{name}/"}}
