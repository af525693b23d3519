"""A batch from the host onto the mesh: which rows a process reads, and how its arrays become global ones."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.sharding import spec, spec_for
from biomedgpt_jax.core.types import Batch

BATCH_AXES: dict[str, tuple[str | None, ...]] = {
    "tokens": ("batch", "length"),
    "targets": ("batch", "length"),
    "loss_weights": ("batch", "length"),
    "segment_ids": ("batch", "length"),
    "positions": ("batch", "length"),
    "image_index": ("batch", "length"),
    "images": ("batch", None, None, None, None),
    "features": ("batch", None, None, None),  # in the place of images
    # of an encoder-decoder
    "source_tokens": ("batch", None),
    "source_mask": ("batch", None),
    "image_mask": ("batch",),
    "image_hole": ("batch",),
    "patches_kept": ("batch",),
    "code_targets": ("batch",),
    "answer_nodes": ("batch", "length"),
}


class Rows(NamedTuple):
    """Rows `start` to `stop` of a batch of `total`."""

    start: int
    stop: int
    total: int


def local_rows(mesh: Mesh, total: int) -> Rows:
    """The rows of a global batch that lie on this process's devices, and that it must therefore read.

    Processes that split a row between them (over `tensor` or `context`) read the same one.

    Raises:
        UsageError: the rows do not divide over the mesh, or those of this process are not neighbours.
    """
    sharding = NamedSharding(mesh, spec(("batch",)))
    try:
        held = sharding.addressable_devices_indices_map((total,))
        sharding.shard_shape((total,))
    except ValueError as error:
        raise UsageError(_uneven(f"{total} rows", mesh)) from error
    pieces = sorted({index[0].indices(total)[:2] for index in held.values() if index is not None})
    start, stop = pieces[0][0], pieces[-1][1]
    if stop - start != sum(last - first for first, last in pieces):
        raise UsageError(
            f"Mesh {dict(mesh.shape)}: the rows of process {jax.process_index()}, {pieces}, are not neighbours. "
            "Make data * fsdp a multiple of the number of processes."
        )
    return Rows(start, stop, total)


def place_batch(batch: dict[str, Any], mesh: Mesh, rows: Rows | None = None) -> Batch:
    """Puts numpy arrays, which hold `rows` of the global batch (None: all), on this process's devices.

    Raises:
        UsageError: the rows or tokens of the global batch are not divided evenly by the mesh.
    """
    placed = {}
    rows = rows or Rows(0, len(batch["tokens"]), len(batch["tokens"]))
    for name, array in batch.items():
        shape = (rows.total, *array.shape[1:])
        sharding = NamedSharding(mesh, spec(BATCH_AXES[name]))
        try:
            # This is the transfer that a training loop is there to make; all others it forbids.
            with jax.transfer_guard_host_to_device("allow"):
                placed[name] = jax.make_array_from_callback(shape, sharding, partial(_part, array, rows=rows))
        except ValueError as error:
            raise UsageError(f"{_uneven(f'Batch array {name} of shape {shape}', mesh)} {error}") from error
    return cast(Batch, placed)


def spread(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Numpy arrays that every process holds whole, split over the mesh set by `jax.set_mesh` as far as they divide."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return dict(batch)
    return {
        name: jax.make_array_from_callback(
            array.shape,
            NamedSharding(mesh, cast(PartitionSpec, spec_for(array.shape, *BATCH_AXES[name]))),
            array.__getitem__,
        )
        for name, array in batch.items()
    }


def _part(array: Any, index: Any, *, rows: Rows) -> Any:
    """`index` of the global array, which this process holds from `rows.start` on."""
    first, last, _ = index[0].indices(rows.total)
    return array[(slice(first - rows.start, last - rows.start), *index[1:])]


def _uneven(what: str, mesh: Mesh) -> str:
    return (
        f"{what} does not divide over the mesh {dict(mesh.shape)}: rows must be a multiple of data * fsdp, tokens of "
        "context."
    )
