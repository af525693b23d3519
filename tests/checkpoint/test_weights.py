import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.checkpoint.fingerprint import leaf_records, tree_hash
from biomedgpt_jax.checkpoint.weights import load_weights, read_layers, read_leaf, save_weights, weights_table
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import map_with_path
from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shardings

AXES = {"tower": {"kernel": ("embed", "mlp"), "bias": ("mlp",)}, "head": {"kernel": ("embed", "vocab")}}


def _params():
    keys = jax.random.split(jax.random.key(3), 3)
    return {
        "tower": {
            "kernel": jax.random.normal(keys[0], (16, 24)).astype(jnp.bfloat16),
            "bias": jax.random.normal(keys[1], (24,)),
        },
        "head": {"kernel": jax.random.normal(keys[2], (24, 8))},
    }


def _expected(params, fsdp=1, tensor=1, dtype=None):
    mesh = make_mesh(MeshShape(1, fsdp, tensor, 1), jax.devices()[: fsdp * tensor])
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding),
        params,
        shardings(mesh, AXES, params),
    )


@pytest.fixture
def folder(tmp_path):
    save_weights(tmp_path / "w", _params(), {"model": "toy"})
    return tmp_path / "w"


def test_weights_come_back_on_another_mesh_and_in_another_dtype(folder):
    params = _params()
    expected = _expected(params, 4, 2, jnp.float32)
    loaded = load_weights(folder, expected)
    assert loaded["tower"]["kernel"].sharding == expected["tower"]["kernel"].sharding
    assert len(loaded["tower"]["kernel"].addressable_shards) == 8
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float32)), loaded, params)
    assert weights_table(folder)["meta"] == {"model": "toy"}


def test_a_part_can_be_read_and_hung_elsewhere(folder):
    tower = _expected(_params())["tower"]
    loaded = load_weights(folder, {"tower": tower})
    assert list(loaded) == ["tower"]
    hung = load_weights(folder, {"decoder": {"tower": tower}}, prefix="decoder")
    np.testing.assert_array_equal(hung["decoder"]["tower"]["bias"], loaded["tower"]["bias"])


def test_hash_depends_on_bits_places_and_names_but_not_on_the_mesh():
    params = _params()
    base = tree_hash(leaf_records(params))
    mesh = make_mesh(MeshShape(1, 4, 2, 1))
    assert tree_hash(leaf_records(jax.device_put(params, shardings(mesh, AXES, params)))) == base
    flipped = params | {"head": {"kernel": params["head"]["kernel"][::-1]}}
    renamed = {"tower": params["tower"], "tail": params["head"]}
    tiny = params | {"head": {"kernel": params["head"]["kernel"].at[3, 3].multiply(1 + 1e-7)}}
    negative_zero = map_with_path(lambda _, leaf: leaf * 0, params), map_with_path(lambda _, leaf: leaf * -0.0, params)
    hashes = [tree_hash(leaf_records(tree)) for tree in (params, flipped, renamed, tiny, *negative_zero)]
    assert len(set(hashes)) == 6


def test_missing_and_misshapen_keys_are_named(folder):
    params = _params()
    with pytest.raises(RunError, match=r"weights.json: 1 expected keys are missing, first lora/a; found 3"):
        load_weights(folder, {"lora": {"a": _expected(params)["tower"]["bias"]}})
    wrong = {
        "tower": {"bias": _expected({**params, "tower": {**params["tower"], "bias": jnp.ones(23)}})["tower"]["bias"]}
    }
    with pytest.raises(RunError, match=r"tower/bias: expected \(23,\), found \(24,\)"):
        load_weights(folder, wrong)


def test_damaged_and_unfinished_folders_are_refused(folder, tmp_path):
    table = json.loads((folder / "weights.json").read_text())
    table["leaves"]["tower/bias"]["digest"] = "0" * 32
    (folder / "weights.json").write_text(json.dumps(table))
    with pytest.raises(RunError, match=r"the bits of tower/bias are not those that were written"):
        load_weights(folder, _expected(_params()))
    (folder / "weights.json").write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        load_weights(folder, _expected(_params()))
    (folder / "weights.json").unlink()
    with pytest.raises(RunError, match="unfinished"):
        load_weights(folder, _expected(_params()))
    with pytest.raises(RunError, match="the folder does not exist"):
        load_weights(tmp_path / "nowhere", _expected(_params()))
    save_weights(folder, _params(), {})  # what was unfinished may be written again
    with pytest.raises(RunError, match="already holds weights"):
        save_weights(folder, _params(), {})


def test_layers_are_read_one_by_one_and_checked_after_the_last(folder):
    kernel = np.asarray(_params()["tower"]["kernel"])
    np.testing.assert_array_equal(read_leaf(folder, "tower/kernel"), kernel)
    layers = list(read_layers(folder, "tower/kernel"))
    assert layers[0].dtype == kernel.dtype and layers[0].shape == kernel.shape[1:]
    np.testing.assert_array_equal(np.stack(layers), kernel)
    (file,) = [each for each in (folder / "arrays" / "tower" / "kernel" / "c").rglob("*") if each.is_file()]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    reading = read_layers(folder, "tower/kernel")
    assert len([next(reading) for _ in kernel]) == 16
    with pytest.raises(RunError, match="the bits of tower/kernel are not those that were written"):
        next(reading)
    with pytest.raises(RunError, match="the bits of tower/kernel"):
        read_leaf(folder, "tower/kernel")
