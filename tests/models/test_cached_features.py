"""Features from a cache in the place of images: the same numbers, bit for bit, and no tower in the program."""

from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.types import ModelFns
from biomedgpt_jax.models.connector import connector_from_name
from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.models.flops import matmul_flops
from biomedgpt_jax.models.llama3_med import NO_REMAT, Llama3MedConfig, make_llama3_med
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import PUBLISHED_FEATURES, TOWERS
from biomedgpt_jax.models.vision import VisionConfig, feature_widths, make_encoder
from tests.compiler import AS_IN_TRAINING

ROWS, SLOTS = 4, 2


@dataclass(frozen=True)
class Case:
    config: Llama3MedConfig
    model: ModelFns
    dtype: str

    def batch(self) -> dict[str, np.ndarray]:
        rng, tokens = np.random.default_rng(0), self.config.tokens_per_image
        length, size = 2 * tokens + 16, self.config.image_size
        index = np.full((ROWS, length), -1, np.int32)
        index[:, 2 : 2 + 2 * tokens] = np.arange(2 * tokens)
        index[0] = -1  # a row of text
        return {
            "tokens": rng.integers(1, 50, (ROWS, length)).astype(np.int32),
            "segment_ids": np.ones((ROWS, length), np.int32),
            "positions": np.tile(np.arange(length, dtype=np.int32), (ROWS, 1)),
            "image_index": index,
            "images": rng.integers(0, 256, (ROWS, SLOTS, size, size, 3)).astype(np.uint8),
        }

    def loss(self, connector, params, batch):
        params = {**params, "connector": connector}
        logits = self.model.unembed(params, self.model.forward(params, batch))
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[..., 3])


@cache
def make_case(tower: str, scales: tuple[int, ...], dtype: str) -> Case:
    vision = VisionConfig(TOWERS[tower], None, S2Config(scales, MapSize.SMALLEST), PUBLISHED_FEATURES[tower])
    decoder = replace(PRESETS["smoke"], depth=1)
    config = Llama3MedConfig(vision, connector_from_name("mlp2x_gelu", feature_widths(vision), decoder.width), decoder)
    return Case(config, make_llama3_med(config, compute_dtype=dtype, remat=NO_REMAT, lora=None), dtype)


def features_in_another_order(case: Case, tower, images: np.ndarray) -> np.ndarray:
    """As a cache makes them: as many images at a time as a step has, whichever they are."""
    flat = images.reshape(-1, *images.shape[2:])
    order = np.random.default_rng(3).permutation(len(flat))
    encoder = jax.jit(make_encoder(case.config.vision, compute_dtype=case.dtype), compiler_options=AS_IN_TRAINING)
    features = np.asarray(encoder(tower, flat[order]))
    return features[np.argsort(order)].reshape(*images.shape[:2], *features.shape[1:])


@pytest.mark.parametrize(
    ("tower", "scales", "dtype"),
    [
        ("tiny-clip", (56, 112), "bfloat16"),
        ("tiny-dinov2", (56,), "float32"),
    ],
)
def test_loss_and_gradients_are_those_of_images_bit_for_bit(tower: str, scales: tuple[int, ...], dtype: str) -> None:
    """On one device; see docs/feature_cache.md for several."""
    case = make_case(tower, scales, dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), jax.jit(case.model.init)(jax.random.key(0)))
    step, batch = jax.jit(jax.value_and_grad(case.loss), compiler_options=AS_IN_TRAINING), case.batch()
    online = step(params["connector"], params, batch)
    features = features_in_another_order(case, params["tower"], batch.pop("images"))
    cached = step(params["connector"], params, {**batch, "features": features})
    assert float(online[0]) == float(cached[0])
    for path, gradient in leaf_paths(online[1]).items():
        assert np.abs(np.asarray(gradient, np.float32)).max() > 0, path
        np.testing.assert_array_equal(np.asarray(leaf_paths(cached[1])[path]), np.asarray(gradient), err_msg=path)


def test_the_tower_is_not_run() -> None:
    case = make_case("tiny-clip", (56,), "float32")
    params, batch = jax.eval_shape(case.model.init, jax.random.key(0)), case.batch()
    images = batch.pop("images")
    features = jax.ShapeDtypeStruct((ROWS, SLOTS, case.config.tokens_per_image, 128), jnp.float32)
    online = matmul_flops(case.model.forward, params, {**batch, "images": images})
    cached = matmul_flops(case.model.forward, params, {**batch, "features": features})
    flat = jax.ShapeDtypeStruct((ROWS * SLOTS, *images.shape[2:]), jnp.uint8)
    tower = matmul_flops(make_encoder(case.config.vision, compute_dtype="float32"), params["tower"], flat)
    assert min(tower) > 0
    assert tuple(np.subtract(online, cached)) == tower


def test_a_batch_without_either_is_refused() -> None:
    case = make_case("tiny-clip", (56,), "float32")
    params, batch = jax.eval_shape(case.model.init, jax.random.key(0)), case.batch()
    del batch["images"]
    with pytest.raises(UsageError, match="neither images nor features; it has image_index, positions"):
        jax.eval_shape(case.model.forward, params, batch)
