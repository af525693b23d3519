"""The model as it learns on meshes of eight devices, whatever it computes again: the same numbers as on one."""

import math
import re
from dataclasses import astuple
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.module import Remat
from biomedgpt_jax.core.partition import leaf_paths, merge, split
from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shardings
from biomedgpt_jax.models.biomedgpt_config import BatchNorm, Learning, is_statistic
from tests.models.biomedgpt_rows import make, params_of, rows, tiny
from tests.models.torch_biomedgpt import random_biomedgpt

MESHES = {
    "fsdp=2 tensor=2 context=2": (MeshShape(data=1, fsdp=2, tensor=2, context=2), Remat.OFFLOAD),
    "data=2 fsdp=4": (MeshShape(data=2, fsdp=4, tensor=1, context=1), Remat.FULL),
}
# Keys moved by one vector leave every softmax as it is, so the gradient of their bias is rounding alone.
KEY_BIAS = r".*(attention/k|positions/(k|self_k|cross_k))/bias"
CONFIG = tiny(encoder_layers=1, decoder_layers=1, stem_blocks=(2, 1, 1))
LEARNING = Learning(dropout=0.1, drop_path=0.1, batch_norm=BatchNorm.SYNCED)
ROWS = 8
BATCH = rows((9, 6, 7, 3, 9, 9, 2, 5), (6, 3, 5, 5, 1, 2, 6, 4), image=32) | {
    "image_mask": np.array([True, False] + [True] * 6),
    "code_targets": np.array([False, False, True] + [False] * 5),
}


@cache
def params():
    return params_of(random_biomedgpt(CONFIG, seed=1), CONFIG)


def learned(shape: MeshShape, remat: Remat):
    """Loss, statistics and gradients."""
    model = make(CONFIG, LEARNING, remat=remat)

    def loss(trainable, statistics, batch, key):
        whole = merge(trainable, statistics)
        hidden, moved = model.train(whole, batch, key)
        likely = jax.nn.log_softmax(model.unembed(whole, hidden))
        right = jnp.take_along_axis(likely, batch["targets"][..., None], axis=-1)[..., 0]
        return -(right * batch["loss_weights"]).sum() / batch["loss_weights"].sum(), moved

    mesh = make_mesh(shape, jax.devices()[: math.prod(astuple(shape))])
    placed = jax.device_put(params(), shardings(mesh, model.axes(), params()))
    batch_axes = {name: ("batch",) + (None,) * (array.ndim - 1) for name, array in BATCH.items()}
    batch = jax.device_put(BATCH, shardings(mesh, batch_axes, BATCH))
    trainable, statistics = split(placed, lambda path: not is_statistic(path))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, moved), gradients = step(trainable, statistics, batch, jax.random.key(0))
    return float(value), leaf_paths(jax.tree.map(np.asarray, moved)), leaf_paths(jax.tree.map(np.asarray, gradients))


one_device = cache(lambda: learned(MeshShape(1, 1, 1, 1), Remat.NONE))


@pytest.mark.parametrize("name", MESHES)
def test_loss_statistics_and_gradients_equal_those_of_one_device(name):
    (value, moved, gradients), (expected, kept, right) = learned(*MESHES[name]), one_device()
    assert value == pytest.approx(expected, rel=1e-5)
    for path, leaf in kept.items():
        np.testing.assert_allclose(moved[path], leaf, rtol=1e-5, atol=1e-5, err_msg=path)
    for path, leaf in right.items():
        largest = np.abs(leaf).max()
        if re.fullmatch(KEY_BIAS, path):
            assert largest < 1e-5, path
            continue
        assert largest > 0, path
        # BatchNorms take means off gradients, which leaves small differences of large sums.
        tolerance = 1e-4 if "/stem/" in path else 1e-5
        np.testing.assert_allclose(gradients[path], leaf, rtol=0, atol=tolerance * largest, err_msg=path)
