"""Weights written slice by slice are the folder that `save_weights` writes, and what goes wrong leaves none."""

import json
import resource

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from biomedgpt_jax.checkpoint.arrays import CHUNK_BYTES
from biomedgpt_jax.checkpoint.fingerprint import hexadecimal, leaf_records, slice_digest
from biomedgpt_jax.checkpoint.stream import WeightsStream
from biomedgpt_jax.checkpoint.weights import load_weights, save_weights, weights_table
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import from_leaf_paths

# More than a chunk in one slice, in a number of rows that no chunk divides; a stack of layers; a small stack.
SHAPES = {"table": (5003, 3500), "layers/kernel": (3, 700, 8, 90), "layers/scale": (3, 16)}


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    return {path: rng.standard_normal(shape, np.float32) for path, shape in SHAPES.items()}


def slices(tree):
    """In the order of some file: last layer first, every slice a view whose axes are not as in memory."""
    for path, leaf in reversed(tree.items()):
        for layer in [None] if path == "table" else [2, 0, 1]:
            array = leaf if layer is None else leaf[layer]
            yield path, layer, np.array(array.T, order="C").T


def stream(folder, tree, dtype=None):
    with WeightsStream(folder, SHAPES, dtype) as writer:
        for path, layer, array in slices(tree):
            writer.write(path, layer, array)
            array[...] = np.nan  # it may be used again at once
        return writer.finish({})


def expected(dtype):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return from_leaf_paths({path: jax.ShapeDtypeStruct(s, dtype, sharding=place) for path, s in SHAPES.items()})


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_slices_make_the_same_folder_as_the_whole_tree(tmp_path, tree, dtype):
    assert np.prod(SHAPES["table"]) * 4 > CHUNK_BYTES
    kind = dtype or "float32"
    whole = {path: jnp.asarray(leaf).astype(kind) for path, leaf in tree.items()}
    assert stream(tmp_path / "slices", tree, dtype) == save_weights(tmp_path / "whole", from_leaf_paths(whole), {})
    loaded = load_weights(tmp_path / "slices", expected(kind))
    np.testing.assert_array_equal(loaded["table"], whole["table"])
    np.testing.assert_array_equal(loaded["layers"]["kernel"], whole["layers/kernel"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "uint8", "bool", "int32"])
def test_digests_of_parts_add_up_to_that_of_the_array(dtype):
    raw = np.random.default_rng(1).integers(-99, 99, (3, 70_001))
    array = raw.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    parts = [slice_digest(row, number * row.size) for number, row in enumerate(array)]
    assert hexadecimal(np.sum(parts, axis=0, dtype=np.uint32)) == leaf_records({"a": array})["a"].digest


def test_a_leaf_that_does_not_come_whole_is_named(tmp_path, tree):
    with (
        pytest.raises(RunError, match=r"layers/kernel, layers/scale did not come whole"),
        WeightsStream(
            tmp_path / "w", {path: SHAPES[path] for path in ("layers/kernel", "layers/scale")}, None
        ) as writer,
    ):
        writer.write("layers/kernel", 0, tree["layers/kernel"][0])
        writer.finish({})
    assert not list((tmp_path / "w").iterdir())
    with (
        pytest.raises(RunError, match=r"layers/kernel: layer 1 is float16, the one before float32"),
        WeightsStream(tmp_path / "w", SHAPES, None) as writer,
    ):
        writer.write("layers/kernel", 0, tree["layers/kernel"][0])
        writer.write("layers/kernel", 1, tree["layers/kernel"][1].astype(np.float16))


def test_what_a_killed_process_left_is_unfinished_and_written_over(tmp_path, tree):
    killed = WeightsStream(tmp_path / "w", SHAPES, None)
    killed.write("layers/scale", 0, tree["layers/scale"][0])
    with pytest.raises(RunError, match="unfinished"):
        load_weights(tmp_path / "w", expected("float32"))
    stream(tmp_path / "w", tree)
    assert set(weights_table(tmp_path / "w")["leaves"]) == set(SHAPES)


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, tree):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # no file may be larger than a megabyte
    try:
        with pytest.raises(RunError, match=r"w: weights could not be written .*Free space or choose another folder"):
            stream(tmp_path / "w", tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "w").iterdir())


def test_changed_and_lost_bits_are_found(tmp_path, tree):
    stream(tmp_path / "w", tree)
    (file,) = [path for path in (tmp_path / "w/arrays/layers/kernel/c/1").rglob("*") if path.is_file()]
    raw = bytearray(file.read_bytes())
    raw[1000] ^= 1
    file.write_bytes(raw)
    with pytest.raises(RunError, match=r"the bits of layers/kernel are not those that were written"):
        load_weights(tmp_path / "w", expected("float32"))
    file.unlink()  # zarr takes an absent chunk for zeros
    with pytest.raises(RunError, match=r"the bits of layers/kernel are not those that were written"):
        load_weights(tmp_path / "w", expected("float32"))
    (tmp_path / "w/arrays/table/zarr.json").write_text(json.dumps({"zarr_format": 3}))
    with pytest.raises(RunError, match=r"arrays/table: cannot be read .*import or copy it again"):
        load_weights(tmp_path / "w", {"table": expected("float32")["table"]})
