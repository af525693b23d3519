"""BatchNorm against torch.nn.BatchNorm2d, whose running variance is the unbiased one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from biomedgpt_jax.core.module import Functional
from biomedgpt_jax.core.sharding import MeshShape, make_mesh
from biomedgpt_jax.layers.batch_norm import BatchNorm, BatchNorm2d, live

CHANNELS = 3
MODEL = Functional(lambda rngs: BatchNorm2d(CHANNELS, eps=1e-5, momentum=0.1, rngs=rngs))
RANDOM = np.random.default_rng(0)
IMAGES = (RANDOM.normal(size=(8, 2, 3, CHANNELS)) * [1, 2, 3] + [4, 5, -6]).astype(np.float32)
PARAMS = {name: jnp.asarray(RANDOM.uniform(0.5, 1.5, CHANNELS), jnp.float32) for name in ("scale", "bias", "mean")}
PARAMS["variance"] = jnp.asarray([0.5, 2.0, 3.0])


def theirs(images, *, training=True):
    """Torch's result and running statistics."""
    norm = torch.nn.BatchNorm2d(CHANNELS).train(training)
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
    state = {name: torch.tensor(np.asarray(PARAMS[ours])) for name, ours in names.items()}
    norm.load_state_dict(state, strict=False)
    with torch.no_grad():
        y = norm(torch.tensor(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y.numpy(), {"mean": norm.running_mean.numpy(), "variance": norm.running_var.numpy()}


def ours(images, mode, *, weights=None, mesh=None):
    weights = jnp.ones(len(images)) if weights is None else jnp.asarray(weights, jnp.float32)
    with jax.set_mesh(make_mesh(mesh or MeshShape(1, 1, 1, 1), jax.devices()[: 8 if mesh else 1])):
        return jax.jit(lambda x, weights: MODEL.bind(PARAMS)(x, live(mode, weights)))(images, weights)


def same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * max(1, np.abs(other).max()))


WIDE = MeshShape(data=2, fsdp=2, tensor=2, context=1)


@pytest.mark.parametrize(
    ("mode", "mesh"), [(BatchNorm.LOCAL, None), (BatchNorm.SYNCED, None), (BatchNorm.SYNCED, WIDE)]
)
def test_a_whole_batch_is_normalised_as_by_torch(mode, mesh):
    same(ours(IMAGES, mode, mesh=mesh), theirs(IMAGES))


def test_local_statistics_are_those_of_each_device_and_their_mean_is_kept():
    mesh = MeshShape(data=1, fsdp=4, tensor=1, context=1)
    with jax.set_mesh(make_mesh(mesh, jax.devices()[:4])):
        y, statistics = jax.jit(lambda x: MODEL.bind(PARAMS)(x, live(BatchNorm.LOCAL, jnp.ones(8))))(IMAGES)
    parts = [theirs(IMAGES[first : first + 2]) for first in range(0, 8, 2)]
    same(y, np.concatenate([part for part, _ in parts]))
    same(statistics, {name: np.mean([kept[name] for _, kept in parts], axis=0) for name in statistics})


def test_rows_without_an_image_count_for_nothing():
    y, statistics = ours(IMAGES, BatchNorm.SYNCED, weights=[1, 0, 1, 1, 0, 0, 0, 1])
    there = [0, 2, 3, 7]
    same((y[jnp.asarray(there)], statistics), theirs(IMAGES[there]))


def test_a_device_without_images_uses_the_running_statistics_and_leaves_them():
    mesh, weights = MeshShape(data=1, fsdp=2, tensor=1, context=1), jnp.asarray([1.0] * 4 + [0.0] * 4)
    with jax.set_mesh(make_mesh(mesh, jax.devices()[:2])):
        y, statistics = jax.jit(lambda x: MODEL.bind(PARAMS)(x, live(BatchNorm.LOCAL, weights)))(IMAGES)
    (first, kept), (second, _) = theirs(IMAGES[:4]), theirs(IMAGES[4:], training=False)
    same((y, statistics), (np.concatenate([first, second]), kept))
    _, untouched = ours(IMAGES, BatchNorm.SYNCED, weights=[0] * 8)
    same(untouched, {name: PARAMS[name] for name in untouched})


def test_frozen_statistics_normalise_and_stay():
    same(ours(IMAGES, BatchNorm.FROZEN), theirs(IMAGES, training=False))


def test_gradients_pass_through_the_statistics_of_the_batch():
    norm = torch.nn.BatchNorm2d(CHANNELS).train()
    x = torch.tensor(IMAGES).requires_grad_()
    torch.sin(norm(x.permute(0, 3, 1, 2))).sum().backward()
    of_ours = MODEL.init(jax.random.key(0))
    total = lambda x: jnp.sum(jnp.sin(MODEL.bind(of_ours)(x, live(BatchNorm.SYNCED, jnp.ones(8)))[0]))  # noqa: E731 (one line)
    same(jax.jit(jax.grad(total))(IMAGES), x.grad.numpy())


def test_bfloat16_pixels_are_measured_in_float32():
    y, statistics = ours(IMAGES.astype(jnp.bfloat16), BatchNorm.SYNCED)
    assert y.dtype == jnp.bfloat16 and statistics["mean"].dtype == jnp.float32
    same(statistics, theirs(np.asarray(IMAGES.astype(jnp.bfloat16), np.float32))[1])
