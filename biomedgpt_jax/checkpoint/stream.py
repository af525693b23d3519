"""A folder of weights written as its tensors come, in any order, with little of them in memory.

The caller's thread reads; a few threads bring each slice into the order of the disk, sum it and write it.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from biomedgpt_jax.checkpoint.arrays import chunk_shape, create_array, disk_errors, write_block
from biomedgpt_jax.checkpoint.fingerprint import LeafRecord, hexadecimal, slice_digest
from biomedgpt_jax.checkpoint.weights import ARRAYS, begin_weights, finish_weights
from biomedgpt_jax.core.errors import RunError

THREADS = 4
# Slices that wait to be written; beyond this the caller waits.
WAITING_BYTES = 256 * 2**20
# A leaf of at most this is gathered in memory and becomes one file instead of one per layer.
SMALL_BYTES = 4 * 2**20


class WeightsStream:
    """Writes the leaves in `shapes`; a context manager, which removes what it wrote where it is left by an error.

    Args:
        path: the folder; must not hold finished weights.
        shapes: of all leaves, stacked layers with their leading axis.
        dtype: of all leaves on disk; None keeps what each comes in.

    Raises:
        RunError: the folder holds weights, or (from any method) the disk refuses.
    """

    def __init__(self, path: epath.PathLike, shapes: Mapping[str, tuple[int, ...]], dtype: str | None):
        self._folder = begin_weights(path)
        self._shapes, self._dtype = shapes, dtype
        self._leaves: dict[str, _Leaf] = {}
        self._pool = ThreadPoolExecutor(THREADS)
        self._waiting: list[tuple[int, Future]] = []

    def write(self, path: str, layer: int | None, array: np.ndarray) -> None:
        """Takes a whole leaf (layer None) or a layer of it; `array` may be a view and must stay as it is."""
        with self._errors():
            leaf = self._leaf(path, layer, array)
            leaf.written += array.size
            for job in leaf.jobs(layer, array):
                self._waiting.append((job.nbytes, self._pool.submit(leaf.write, job)))
            while sum(nbytes for nbytes, _ in self._waiting) > WAITING_BYTES:
                self._waiting.pop(0)[1].result()

    def finish(self, meta: Mapping[str, Any]) -> str:
        """Waits for the disk, writes the table that makes the folder whole, and returns its hash."""
        with self._errors():
            for _, writing in self._waiting:
                writing.result()
            records = {path: self._leaves[path].finish() for path in sorted(self._leaves)}
            short = sorted(path for path in self._shapes if path not in records or not self._leaves[path].complete)
            if short:
                raise RunError(f"{self._folder}: {', '.join(short[:5])} did not come whole ({len(short)} leaves).")
            return finish_weights(self._folder, records, meta)

    def __enter__(self) -> "WeightsStream":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)
        if kind is not None:
            (self._folder / ARRAYS).rmtree(missing_ok=True)

    def _leaf(self, path: str, layer: int | None, array: np.ndarray) -> "_Leaf":
        if path not in self._leaves:
            dtype = np.dtype(self._dtype) if self._dtype else jax.dtypes.canonicalize_dtype(array.dtype)
            stacked = layer is not None
            self._leaves[path] = _Leaf(self._folder / ARRAYS / path, self._shapes[path], dtype, stacked, array.dtype)
        leaf = self._leaves[path]
        if not self._dtype and array.dtype != leaf.source_dtype:
            raise RunError(
                f"{path}: layer {layer} is {array.dtype}, the one before {leaf.source_dtype}; all layers are one "
                "array here. Give --dtype to cast them."
            )
        return leaf

    def _errors(self) -> Any:
        return disk_errors(
            self._folder, "weights could not be written", "Free space or choose another folder, and start again."
        )


class _Job:
    """A contiguous part of a leaf: where it begins, and a view of what is to stand there."""

    def __init__(self, index: tuple[Any, ...], start: int, view: np.ndarray):
        self.index, self.start, self.view, self.nbytes = index, start, view, view.nbytes


class _Leaf:
    def __init__(self, folder: epath.Path, shape: tuple[int, ...], dtype: Any, stacked: bool, source_dtype: Any):
        self.shape, self.dtype, self.source_dtype = shape, dtype, source_dtype
        self.written = 0
        self._digests: list[np.ndarray] = []
        small = prod(shape) * dtype.itemsize <= SMALL_BYTES
        inner = chunk_shape(shape[1:] if stacked else shape, dtype.itemsize)
        self._chunk = shape if small else (1, *inner) if stacked else inner
        self._store = create_array(folder, shape, dtype, self._chunk)
        self._gathered = np.empty(shape, dtype) if small else None

    @property
    def complete(self) -> bool:
        return self.written == prod(self.shape)

    def jobs(self, layer: int | None, array: np.ndarray) -> list[_Job]:
        """One per chunk of the slice; the chunks split its first axis."""
        if self._gathered is not None:
            self._gathered[... if layer is None else layer] = array
            return []
        before = () if layer is None else (slice(layer, layer + 1),)
        first = 0 if layer is None else layer * array.size
        rows, row = self._chunk[len(before)], array.size // array.shape[0]
        return [
            _Job((*before, slice(at, min(at + rows, array.shape[0]))), first + at * row, array[at : at + rows])
            for at in range(0, array.shape[0], rows)
        ]

    def write(self, job: _Job) -> None:
        # jax turns strided views into contiguous arrays several times faster than NumPy.
        moved = jax.device_put(job.view, jax.local_devices(backend="cpu")[0])
        block = np.asarray(moved if moved.dtype == self.dtype else jnp.astype(moved, self.dtype))
        self._digests.append(slice_digest(block, job.start))
        write_block(self._store, job.index, block.reshape(self._store[job.index].shape)).result()

    def finish(self) -> LeafRecord:
        if self._gathered is not None:
            self._digests.append(slice_digest(self._gathered, 0))
            write_block(self._store, (...,), self._gathered).result()
        digest = np.sum(self._digests, axis=0, dtype=np.uint32)
        return LeafRecord(self.shape, str(self.dtype), hexadecimal(digest))
