"""A folder of weights: arrays, and a table that says what they must be.

    <folder>/arrays/        a zarr folder per parameter (arrays.py), readable onto any mesh
    <folder>/weights.json   {"meta", "hash", "leaves": {path: {shape, dtype, digest}}}, written last

Without weights.json the folder is unfinished. Imported models, a run's frozen base and exported merges
all are such folders.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from biomedgpt_jax.checkpoint.arrays import disk_errors, read_array, read_host, save_array
from biomedgpt_jax.checkpoint.fingerprint import (
    LeafRecord,
    hexadecimal,
    leaf_records,
    path_leaves,
    slice_digest,
    tree_hash,
)
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths
from biomedgpt_jax.core.processes import is_leader, meet
from biomedgpt_jax.core.types import Params

TABLE = "weights.json"
ARRAYS = "arrays"


def save_weights(path: epath.PathLike, params: Params, meta: Mapping[str, Any]) -> str:
    """Writes a folder of weights and returns its hash; what is half written is never taken for whole.

    Raises:
        RunError: the folder already holds finished weights, or the disk refuses.
    """
    folder = begin_weights(path)
    leaves = {leaf: jnp.asarray(array) for leaf, array in path_leaves(params).items()}
    records = leaf_records(leaves)
    with disk_errors(folder, "weights could not be written", "Free space or choose another folder, and start again."):
        for leaf, array in leaves.items():
            save_array(folder / ARRAYS / leaf, array)
        return finish_weights(folder, records, meta)


def begin_weights(path: epath.PathLike) -> epath.Path:
    """The folder, ready to be written: what an interrupted call left in it is removed.

    Raises:
        RunError: it already holds finished weights, or cannot be written.
    """
    folder = epath.Path(path).resolve()
    if (folder / TABLE).exists():
        raise RunError(f"{folder} already holds weights. Choose another folder or delete this one.")
    if is_leader():
        with disk_errors(folder, "cannot be written", "Choose another folder."):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ARRAYS).rmtree(missing_ok=True)
            (folder / ARRAYS).mkdir()
    meet(f"begin {folder}")
    return folder


def finish_weights(folder: epath.Path, records: Mapping[str, LeafRecord], meta: Mapping[str, Any]) -> str:
    """Writes the table, when all processes have written their arrays; returns the hash."""
    table = {
        "meta": dict(meta),
        "hash": tree_hash(dict(records)),
        "leaves": {leaf: asdict(record) for leaf, record in records.items()},
    }
    meet(f"finish {folder}")
    if is_leader():
        write_atomically(folder / TABLE, json.dumps(table, indent=1))
    return table["hash"]


def load_weights(path: epath.PathLike, expected: Params, *, prefix: str = "") -> Params:
    """Reads the leaves of `expected`, each cast and placed as its `ShapeDtypeStruct` says.

    Args:
        path: a folder made by `save_weights`.
        expected: nested dict of ShapeDtypeStructs with shardings; all of the folder or a part of it.
        prefix: where the folder's tree hangs in the expected one ("decoder"), "" for the root.

    Raises:
        RunError: the folder is missing or unfinished, a key is missing or of another shape, or the
            stored bits are not those that were written.
    """
    folder = epath.Path(path).resolve()
    records = weights_records(folder)
    wanted = {_without(prefix, leaf): like for leaf, like in path_leaves(expected).items()}
    check_leaves(folder / TABLE, wanted, {leaf: r.shape for leaf, r in records.items()})
    arrays = {leaf: _read_leaf(folder, leaf, records[leaf], like) for leaf, like in wanted.items()}
    return from_leaf_paths({f"{prefix}/{leaf}" if prefix else leaf: array for leaf, array in arrays.items()})


def read_leaf(path: epath.PathLike, leaf: str) -> np.ndarray:
    """One leaf as it is stored, in the memory of the host.

    Raises:
        RunError: as `load_weights`.
    """
    folder = epath.Path(path).resolve()
    record = weights_records(folder)[leaf]
    (array,) = _checked(folder, leaf, record, ...)
    return array


def read_layers(path: epath.PathLike, leaf: str) -> Iterator[np.ndarray]:
    """The slices of a leaf along its first axis, in order, each read when it is asked for.

    Raises:
        RunError: as `load_weights`; other bits than were written are found out after the last slice.
    """
    folder = epath.Path(path).resolve()
    record = weights_records(folder)[leaf]
    yield from _checked(folder, leaf, record, *range(record.shape[0]))


def weights_table(path: epath.PathLike) -> dict[str, Any]:
    """The contents of weights.json.

    Raises:
        RunError: there is none, or it is not readable as such.
    """
    file = epath.Path(path).resolve() / TABLE
    if not file.exists():
        there = "the folder does not exist" if not file.parent.exists() else "no such file (unfinished?)"
        raise RunError(f"{file}: {there}. Expected a folder made by `biomedgpt import` or by a run.")
    try:
        table = json.loads(file.read_text())
    except ValueError as error:
        raise RunError(f"{file} is not JSON ({error}). Import or copy it again.") from error
    if not isinstance(table, dict) or not {"meta", "hash", "leaves"} <= table.keys():
        raise RunError(f"{file} is not a table of weights: expected the keys meta, hash and leaves.")
    return table


def weights_records(path: epath.PathLike) -> dict[str, LeafRecord]:
    """The stored leaves of a folder of weights, by path."""
    return {
        leaf: LeafRecord(tuple(record["shape"]), record["dtype"], record["digest"])
        for leaf, record in weights_table(path)["leaves"].items()
    }


def check_leaves(file: epath.PathLike, expected: Mapping[str, Any], found: Mapping[str, tuple[int, ...]]) -> None:
    """Compares paths and shapes of what is wanted with what `file` holds.

    Raises:
        RunError: naming the file, the first keys, the expected and the found shapes.
    """
    missing = sorted(set(expected) - set(found))
    if missing:
        raise RunError(
            f"{file}: {len(missing)} expected keys are missing, first {', '.join(missing[:5])}; "
            f"found {len(found)} keys, first {', '.join(sorted(found)[:5])}. Is it of the same model and tuning?"
        )
    wrong = [leaf for leaf in sorted(expected) if tuple(expected[leaf].shape) != tuple(found[leaf])]
    if wrong:
        details = "; ".join(
            f"{leaf}: expected {tuple(expected[leaf].shape)}, found {tuple(found[leaf])}" for leaf in wrong[:5]
        )
        raise RunError(f"{file}: {len(wrong)} arrays have another shape. {details}. Check the model's size.")


def write_atomically(file: epath.Path, text: str) -> None:
    """Writes through a neighbour file and a rename, so that readers see the old text or the new one."""
    draft = file.parent / f".{file.name}.partial"
    draft.write_text(text)
    draft.replace(file)


def _without(prefix: str, leaf: str) -> str:
    return leaf.removeprefix(f"{prefix}/") if prefix else leaf


def _checked(folder: epath.Path, leaf: str, record: LeafRecord, *indices: Any) -> Iterator[np.ndarray]:
    """Parts that are the whole leaf together, in order."""
    digest, start = np.zeros(4, np.uint32), 0
    for index in indices:
        with _reading(folder / ARRAYS / leaf):
            array = read_host(folder / ARRAYS / leaf, record.dtype)[index].read().result()
        digest, start = digest + slice_digest(array, start), start + array.size
        yield array
    if hexadecimal(digest) != record.digest:
        raise _damaged(folder, leaf)


def _read_leaf(folder: epath.Path, leaf: str, record: LeafRecord, like: Any) -> jax.Array:
    """As stored first: the digest is of those bits, and a cast would change them."""
    stored = jax.ShapeDtypeStruct(like.shape, record.dtype, sharding=like.sharding)
    with _reading(folder / ARRAYS / leaf):
        array = read_array(folder / ARRAYS / leaf, stored)
    if leaf_records({leaf: array})[leaf].digest != record.digest:
        raise _damaged(folder, leaf)
    return array.astype(like.dtype)


def _reading(folder: epath.Path) -> AbstractContextManager[None]:
    return disk_errors(folder, "cannot be read", "The folder is damaged; import or copy it again.")


def _damaged(folder: epath.Path, leaf: str) -> RunError:
    return RunError(
        f"{folder}: the bits of {leaf} are not those that were written. The folder is damaged; import or copy it again."
    )
