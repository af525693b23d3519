"""The whole train step on meshes of eight devices: the same numbers as on one, and nothing large left whole."""

import math
import re
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.lora import BaseWeights, Lora, is_adapter, without_lora
from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import leaf_paths, map_with_path, merge, split
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.models.connector import connector_from_name
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.llama import ALL_LINEARS
from biomedgpt_jax.models.llama3_med import Llama3MedConfig, PartRemat, Tune, add_lora, make_llama3_med, trainable
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import PUBLISHED_FEATURES, TOWERS
from biomedgpt_jax.models.vision import VisionConfig, feature_widths
from biomedgpt_jax.train.optim import make_optimizer
from biomedgpt_jax.train.state import abstract_state
from tests.models.image_rows import PER_IMAGE
from tests.train.tiny_med import CONFIG, ROWS, SLOTS, TOKENS, VISION, make_med, random_params, rows
from tests.train.toy import toy_optim

MESHES = {
    "data=1 fsdp=8": {"fsdp": 8},
    "data=2 fsdp=4": {"data": 2, "fsdp": 4},
    "data=2 fsdp=2, in two parts": {"data": 2, "fsdp": 2, "parts": 2},
    "data=8": {"data": 8},
    "tensor=2": {"fsdp": 4, "tensor": 2},
    "context=2": {"data": 2, "fsdp": 2, "context": 2},
    "data=2 fsdp=2 tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
}
MIXED = ("two", "three", "text", "last") * 2


@cache
def med(**options):
    return make_med(**options)


@cache
def params():
    return random_params()


@cache
def one_device():
    return med().gradients(params(), rows(MIXED))


def assert_same(found, expected, tolerance=1e-5):
    (metrics, gradients), (expected_metrics, expected_gradients) = found, expected
    for name in ("loss", "accuracy", "supervised_tokens", "images", "grad_norm"):
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=tolerance, err_msg=name)
    expected_leaves = leaf_paths(expected_gradients)
    assert leaf_paths(gradients).keys() == expected_leaves.keys()
    for path, leaf in leaf_paths(gradients).items():
        largest = np.abs(expected_leaves[path]).max()
        assert largest > 0, path
        np.testing.assert_allclose(leaf, expected_leaves[path], rtol=0, atol=tolerance * largest, err_msg=path)


@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradients_equal_those_of_one_device(name):
    assert_same(med(**MESHES[name]).gradients(params(), rows(MIXED)), one_device())


def test_text_only_batches_need_no_other_program():
    metrics, gradients = med().gradients(params(), rows(("text",) * ROWS))
    assert metrics["images"] == 0 and np.isfinite(metrics["loss"])
    for path, leaf in leaf_paths(gradients).items():
        assert bool(np.abs(leaf).max() > 0) is path.startswith("decoder"), path
    # The program is compiled ahead of time: it takes these shapes alone.
    with pytest.raises(TypeError, match=r"compiled with uint8\[8,2,"):
        med().gradients(params(), {name: array[:4] for name, array in rows(MIXED).items()})


def alone(batch, row, segment):
    """One sample of a pack as the only one of its batch."""
    here = batch["segment_ids"][row] == segment
    single = {name: np.zeros_like(array) for name, array in batch.items()}
    for name in ("tokens", "targets", "loss_weights", "positions"):
        single[name][0, : here.sum()] = batch[name][row, here]
    single["segment_ids"][0, : here.sum()] = 1
    index = batch["image_index"][row, here]
    slot = min(index[index >= 0], default=0) // PER_IMAGE
    single["image_index"][:] = -1
    single["image_index"][0, : here.sum()] = np.where(index >= 0, index - slot * PER_IMAGE, -1)
    single["images"][0, : SLOTS - slot] = batch["images"][row, slot:]
    return single


@pytest.mark.parametrize(("row", "segment"), [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3)])
def test_a_packed_sample_has_the_loss_and_gradients_that_it_has_alone(row, segment):
    pack = rows(MIXED)
    only = (np.arange(ROWS) == row)[:, None] & (pack["segment_ids"] == segment)
    packed = {**pack, "loss_weights": np.where(only, pack["loss_weights"], 0).astype(np.float32)}
    (metrics, gradients), (expected_metrics, expected) = (
        med().gradients(params(), each) for each in (packed, alone(pack, row, segment))
    )
    assert metrics["supervised_tokens"] == expected_metrics["supervised_tokens"] > 0
    np.testing.assert_allclose(metrics["loss"], expected_metrics["loss"], rtol=1e-5)
    for path, leaf in leaf_paths(gradients).items():
        largest = np.abs(leaf_paths(expected)[path]).max()
        np.testing.assert_allclose(leaf, leaf_paths(expected)[path], rtol=0, atol=1e-5 * largest, err_msg=path)


def shapes_in(name):
    """Shapes of all arrays of the program of one mesh, as each device holds them."""
    text = med(**MESHES[name]).compiled.as_text()
    return {tuple(map(int, found.split(","))) for found in re.findall(r"(?:f32|s32|u8)\[([\d,]+)\]", text)}


def test_the_tower_shares_the_tiles_of_all_scales_over_all_devices():
    tiles, patches = ROWS * SLOTS * VISION.s2.tiles, 1 + (VISION.s2.tile // VISION.tower.patch) ** 2
    for name in ("tensor=2", "context=2"):
        batches = {shape[0] for shape in shapes_in(name) if shape[1:] == (patches, VISION.tower.width)}
        assert batches == {tiles // 8}


def test_logits_and_hidden_states_are_split():
    width, words = CONFIG.decoder.width, CONFIG.decoder.vocab_size
    for name, row_share, token_share, word_share in (("tensor=2", 4, 1, 2), ("context=2", 4, 2, 1)):
        shapes = shapes_in(name)
        assert (ROWS // row_share, TOKENS // token_share, width) in shapes
        assert not any(shape[:2] == (ROWS, TOKENS // token_share) and shape[-1] == width for shape in shapes)
        chunks = [shape for shape in shapes if len(shape) == 3 and shape[-1] in (words, words // word_share)]
        logits = [shape for shape in chunks if shape[:2] == (1, 10 * ROWS // row_share // token_share)]
        assert logits and all(shape[-1] == words // word_share for shape in logits)


def test_parts_of_a_batch_are_cut_where_they_lie():
    text = med(**MESHES["data=2 fsdp=2, in two parts"]).compiled.as_text()
    pixels = VISION.s2.image_size
    for line in text.splitlines():
        if re.search(r"= .*(all-to-all|all-gather|collective-permute)(-start)?\(", line):
            assert f"{pixels},{pixels},3]" not in line and "u8[" not in line, line


def test_nothing_large_of_the_published_model_is_left_whole():
    tower = TOWERS["bioptimus/H-optimus-0"]
    vision = VisionConfig(
        tower, None, S2Config((224, 672, 1344), MapSize.SMALLEST), PUBLISHED_FEATURES["bioptimus/H-optimus-0"]
    )
    decoder = PRESETS["llama-3.1-8b"]
    config = Llama3MedConfig(vision, connector_from_name("mlp2x_gelu", feature_widths(vision), 4096), decoder)
    model = make_llama3_med(config, compute_dtype=jnp.bfloat16, remat=PartRemat(Remat.FULL, Remat.FULL), lora=None)
    is_trainable = trainable(config, tower=False, connector=True, decoder=Tune.FULL)
    optimizer = make_optimizer(toy_optim(10), split(model.axes(), is_trainable)[0])
    mesh = make_mesh(MeshShape(data=1, fsdp=2, tensor=2, context=2))
    state = abstract_state(model, optimizer, is_trainable, mesh=mesh, frozen_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.frozen)} == {jnp.dtype(jnp.bfloat16)}
    held = total = 0
    for leaf in jax.tree.leaves((state.trainable, state.frozen, state.opt_state)):
        part = math.prod(leaf.sharding.shard_shape(leaf.shape))
        held, total = held + part * leaf.dtype.itemsize, total + leaf.size * leaf.dtype.itemsize
        assert part <= leaf.size // 4 or leaf.size < 2_000_000, leaf
    # Norms and biases lie whole on each device, the connector is not split over tensor.
    assert total / 8 < held < 1.005 * total / 8


FLOAT = Lora(rank=4, alpha=12.0, targets=ALL_LINEARS, base=BaseWeights.FLOAT, tile=None)
BASES = {
    "float": FLOAT,
    "int8": replace(FLOAT, base=BaseWeights.INT8),
    "nf4": replace(FLOAT, base=BaseWeights.NF4, tile=8),
}


@pytest.mark.parametrize("base", BASES)
def test_adapters_on_a_mesh_train_as_on_one_device(base):
    # One program on one device serves all: a quantised base is that of the numbers that it stands for.
    lora, tuned = BASES[base], {"tower": False, "tune": Tune.LORA}
    adapted = jax.jit(lambda params: add_lora(CONFIG, lora, params, jax.random.key(1)))(params())
    noise = np.random.default_rng(2)
    adapted = map_with_path(
        lambda path, leaf: jnp.asarray(noise.normal(0, 0.05, leaf.shape), jnp.float32) if "lora_b" in path else leaf,
        adapted,
    )
    adapters, _ = split(adapted, is_adapter)
    plain = merge(without_lora(adapted, lora), adapters)
    found = med(fsdp=4, tensor=2, lora=lora, **tuned).gradients(adapted, rows(MIXED))
    assert_same(found, med(lora=FLOAT, **tuned).gradients(plain, rows(MIXED)))
