"""A folder of weights written as its tensors come, in any order, with little of them in memory.

The caller's thread reads, and copies each slice into the order of the disk; others sum it and write it. Buffers are
few and used again: they bound the memory, and fresh pages cost as much as the copying.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import jax
import numpy as np
from etils import epath

from biomedgpt_jax.checkpoint.arrays import chunk_shape, create_array, disk_errors, write_block
from biomedgpt_jax.checkpoint.fingerprint import LeafRecord, hexadecimal, slice_digest
from biomedgpt_jax.checkpoint.weights import ARRAYS, begin_weights, finish_weights
from biomedgpt_jax.core.errors import RunError

THREADS = 4
BUFFERS = 6  # of one chunk each; when none is free the caller waits
# Elements of a row that are copied at once when axes change places: their cache lines stay in the cache.
BLOCK = 128
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
        self._writing: list[Future] = []
        self._free: SimpleQueue[np.ndarray] = SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(np.empty(0, np.uint8))

    def write(self, path: str, layer: int | None, array: np.ndarray) -> None:
        """Takes a whole leaf (layer None) or a layer of it; `array` may be a view, and is not needed after."""
        with self._errors():
            leaf = self._leaf(path, layer, array)
            leaf.written += array.size
            for index, start, view in leaf.parts(layer, array):
                buffer = self._free.get()
                size = view.size * leaf.dtype.itemsize
                buffer = buffer if buffer.nbytes >= size else np.empty(size, np.uint8)
                block = buffer[:size].view(leaf.dtype).reshape(view.shape)
                copy_in_blocks(block, view)
                self._writing.append(self._pool.submit(self._write, leaf, index, start, block, buffer))
            self._check()

    def finish(self, meta: Mapping[str, Any]) -> str:
        """Waits for the disk, writes the table that makes the folder whole, and returns its hash."""
        with self._errors():
            for writing in self._writing:
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

    def _write(self, leaf: "_Leaf", index: tuple[Any, ...], start: int, block: np.ndarray, buffer: np.ndarray) -> None:
        try:
            leaf.write(index, start, block)
        finally:
            self._free.put(buffer)

    def _check(self) -> None:
        """Raises what the writing of a slice raised."""
        for done in [writing for writing in self._writing if writing.done()]:
            self._writing.remove(done)
            done.result()

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


def copy_in_blocks(out: np.ndarray, view: np.ndarray) -> None:
    """`out[...] = view` for a view whose axes are in another order than in memory, several times faster."""
    fast = int(
        np.argmin([stride if size > 1 else np.inf for stride, size in zip(view.strides, view.shape, strict=True)])
    )
    if view.ndim < 2 or fast == view.ndim - 1:
        out[...] = view
        return
    out, view = (np.moveaxis(each, (fast, -1), (-2, -1)) for each in (out, view))
    for index in np.ndindex(out.shape[:-2]):
        for at in range(0, out.shape[-1], BLOCK):
            out[index][:, at : at + BLOCK] = view[index][:, at : at + BLOCK]


def in_order(array: np.ndarray) -> np.ndarray:
    """The same contiguous: itself, or a copy made in blocks."""
    if array.flags.c_contiguous:
        return array
    out = np.empty(array.shape, array.dtype)
    copy_in_blocks(out, array)
    return out


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

    def parts(self, layer: int | None, array: np.ndarray) -> Iterator[tuple[tuple[Any, ...], int, np.ndarray]]:
        """(index in the leaf, the same in the flattened leaf, view) for each chunk of a slice."""
        if self._gathered is not None:
            self._gathered[... if layer is None else layer] = array
            return
        before = () if layer is None else (layer,)
        first = 0 if layer is None else layer * array.size
        rows, row = self._chunk[len(before)], array.size // array.shape[0]
        for at in range(0, array.shape[0], rows):
            yield (*before, slice(at, min(at + rows, array.shape[0]))), first + at * row, array[at : at + rows]

    def write(self, index: tuple[Any, ...], start: int, block: np.ndarray) -> None:
        self._digests.append(slice_digest(block, start))
        write_block(self._store, index, block).result()

    def finish(self) -> LeafRecord:
        if self._gathered is not None:
            self.write((...,), 0, self._gathered)
        digest = np.stack(self._digests).sum(axis=0, dtype=np.uint32)
        return LeafRecord(self.shape, str(self.dtype), hexadecimal(digest))
