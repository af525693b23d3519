"""The VQ-GAN's encoder against an independent build in torch, through a checkpoint file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from biomedgpt_jax.convert.vqgan import read_vqgan
from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.models.vqgan import GUMBEL_F8, make_code_reader, vqgan_functions
from tests.models.torch_vqgan import random_vqgan

SIZES = {"channels": 32, "multipliers": (1, 2), "attention": (False, True), "blocks": 1, "latent": 12, "width": 8}


@pytest.fixture(scope="module")
def theirs():
    return random_vqgan(3, codes=50, **SIZES)


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    file = tmp_path_factory.mktemp("vqgan") / "last.ckpt"
    torch.save({"epoch": 3, "global_step": 7, "state_dict": theirs.state_dict()}, file)
    return read_vqgan(file)


def test_logits_and_codes_equal_those_of_torch(theirs, ours):
    config, params = ours
    assert {name: getattr(config, name) for name in SIZES} == SIZES and config.codes == 50
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    logits = jax.jit(lambda params, x: vqgan_functions(config).bind(params)(x))(params, images / np.float32(127.5) - 1)
    expected = expected.permute(0, 2, 3, 1).numpy()
    assert expected.shape == (2, 8, 12, 50) and np.abs(expected).max() > 0.5
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    codes = jax.jit(make_code_reader(config))(params, jnp.asarray(images))
    assert codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, expected.argmax(-1).reshape(2, -1))


def test_the_published_encoder_has_the_published_shapes():
    shapes = leaf_paths(jax.eval_shape(vqgan_functions(GUMBEL_F8).init, jax.random.key(0)))
    assert shapes["level3/attention1/q/kernel"].shape == (1, 1, 512, 512)
    assert shapes["level2/block0/shortcut/kernel"].shape == (1, 1, 128, 256)
    assert shapes["code_logits/kernel"].shape == (1, 1, 256, 8192)
    assert GUMBEL_F8.stride == 8 and "level3/halve/kernel" not in shapes


def test_another_kind_of_quantiser_is_named(theirs, tmp_path):
    state = {key: tensor for key, tensor in theirs.state_dict().items() if not key.startswith("quantize.proj")}
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    with pytest.raises(RunError, match=r"lacks quantize.proj.weight; expected a Gumbel VQ-GAN"):
        read_vqgan(tmp_path / "other.ckpt")
