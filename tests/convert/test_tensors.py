import json

import ml_dtypes
import numpy as np
import pytest

from biomedgpt_jax.convert.tensors import INDEX, SINGLE, SafetensorsFolder, write_safetensors
from biomedgpt_jax.core.errors import RunError

RNG = np.random.default_rng(0)


def _tensors() -> dict[str, np.ndarray]:
    return {
        "a.weight": RNG.standard_normal((3, 5)).astype(np.float32),
        "b.weight": RNG.standard_normal((7,)).astype(ml_dtypes.bfloat16),
        "c.weight": RNG.standard_normal((2, 2, 2)).astype(np.float16),
        "d.ids": np.arange(6, dtype=np.int64),
        "e.scalar": np.asarray(2.5, np.float32),
        "f.empty": np.zeros((0, 4), np.float32),
    }


@pytest.fixture
def sharded(tmp_path):
    write_safetensors(tmp_path, _tensors().items(), max_shard_bytes=64)
    return tmp_path


def _assert_same(found, expected):
    assert set(found) == set(expected)
    for key, array in expected.items():
        assert found[key].dtype == np.asarray(array).dtype, key
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 64, 1])
def test_there_and_back_is_bit_equal_in_every_dtype(tmp_path, max_shard_bytes):
    tensors = _tensors()
    files = write_safetensors(tmp_path, tensors.items(), max_shard_bytes)
    assert (tmp_path / SINGLE).is_file() == (max_shard_bytes == 10**9)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == sorted(path.name for path in files)
    _assert_same(dict(SafetensorsFolder(tmp_path)), tensors)


def test_the_safetensors_library_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    tensors = _tensors()
    write_safetensors(tmp_path, tensors.items())
    loaded = load_file(tmp_path / SINGLE)
    assert str(loaded["b.weight"].dtype) == "torch.bfloat16"
    np.testing.assert_array_equal(loaded["b.weight"].float().numpy(), tensors["b.weight"].astype(np.float32))
    np.testing.assert_array_equal(loaded["c.weight"].numpy(), tensors["c.weight"])
    with safe_open(tmp_path / SINGLE, "np") as file:
        assert file.metadata() == {"format": "pt"}
    other = tmp_path / "other"
    other.mkdir()
    save_file(loaded, other / SINGLE)
    _assert_same(dict(SafetensorsFolder(other)), tensors)


def test_many_tensors_overflow_the_header_into_a_second_shard(tmp_path):
    tensors = {f"layer.{'x' * 60}.{n}": np.full((2,), n, np.float32) for n in range(1500)}
    files = write_safetensors(tmp_path, tensors.items())
    assert len(files) == 2
    _assert_same(dict(SafetensorsFolder(tmp_path)), tensors)


def test_a_failing_source_leaves_the_earlier_weights_alone(tmp_path):
    write_safetensors(tmp_path, _tensors().items())
    before = (tmp_path / SINGLE).read_bytes()

    def broken():
        yield "a.weight", np.zeros(3, np.float32)
        raise RunError("the source broke")

    with pytest.raises(RunError, match="the source broke"):
        write_safetensors(tmp_path, broken())
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
    assert (tmp_path / SINGLE).read_bytes() == before


def test_a_rewrite_as_one_file_removes_stale_shards(sharded):
    write_safetensors(sharded, [("only", np.ones(2, np.float32))])
    assert [path.name for path in sharded.iterdir()] == [SINGLE]


def _missing_shard(folder):
    (folder / "model-00002-of-00003.safetensors").unlink()
    return "model-00002-of-00003.safetensors.*not in"


def _truncated_shard(folder):
    file = folder / "model-00001-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    return "model-00001-of-00003.safetensors: cut off: tensor"


def _key_in_two_shards(folder):
    (folder / "model-00002-of-00003.safetensors").write_bytes(
        (folder / "model-00001-of-00003.safetensors").read_bytes()
    )
    return "tensor a.weight is also in"


def _edit_index(folder, edit):
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def _index_names_absent_key(folder):
    _edit_index(folder, lambda names: names.update(ghost="model-00001-of-00003.safetensors"))
    return "tensor ghost is in model-00001-of-00003.safetensors, found in no shard"


def _index_lacks_a_key(folder):
    _edit_index(folder, lambda names: names.pop("d.ids"))
    return r"tensor d.ids \(1 in all\) is not in"


def _index_leaves_the_folder(folder):
    _edit_index(folder, lambda names: names.update({"d.ids": "../other.safetensors"}))
    return "leaves the folder"


def _index_key_twice(folder):
    (folder / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    return "key a occurs twice"


def _index_not_json(folder):
    (folder / INDEX).write_text("{")
    return "not a safetensors index"


def _garbage_shard(folder):
    (folder / "model-00001-of-00003.safetensors").write_bytes(b"\xff" * 50)
    return "not a safetensors file"


def _starts_before_the_data(folder):
    """Else numbers of the header would pass for weights."""
    file = folder / "model-00001-of-00003.safetensors"
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    entry = next(value for key, value in header.items() if key != "__metadata__")
    entry["data_offsets"] = [each - 4 for each in entry["data_offsets"]]
    file.write_bytes(raw[:8] + json.dumps(header).encode().ljust(size) + raw[8 + size :])
    return "header is damaged .* lies at -4 to"


def _no_weights(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / "pytorch_model.bin").touch()
    return "found pytorch_model.bin"


@pytest.mark.parametrize(
    "damage",
    [
        _missing_shard,
        _truncated_shard,
        _key_in_two_shards,
        _index_names_absent_key,
        _index_lacks_a_key,
        _index_leaves_the_folder,
        _index_key_twice,
        _index_not_json,
        _garbage_shard,
        _starts_before_the_data,
        _no_weights,
    ],
)
def test_damage_is_named(sharded, damage):
    message = damage(sharded)
    with pytest.raises(RunError, match=message):
        SafetensorsFolder(sharded)


def test_writing_a_key_twice_or_a_strange_dtype_is_refused(tmp_path):
    with pytest.raises(RunError, match="a would be written twice"):
        write_safetensors(tmp_path, [("a", np.ones(1)), ("a", np.ones(1))])
    with pytest.raises(RunError, match="a has dtype complex64"):
        write_safetensors(tmp_path, [("a", np.ones(1, np.complex64))])
