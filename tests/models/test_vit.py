from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.core.partition import leaf_paths
from biomedgpt_jax.core.sharding import MeshShape, make_mesh, shardings
from biomedgpt_jax.models.s2 import MapSize, S2Config
from biomedgpt_jax.models.towers import PUBLISHED_FEATURES, TOWERS
from biomedgpt_jax.models.vision import VisionConfig, encode_images, make_tower, tokens_per_image
from biomedgpt_jax.models.vit import Features, Vit, blocks_run, leaves_without_gradient
from tests.models.references import close
from tests.models.vision_references import NAMES, pixels, tower_reference, tower_shapes

PENULTIMATE = Features(layer=-2, final_norm=False, keep_prefix=False)


CHOICES = {
    (layer, norm, keep): Features(layer, norm, keep)
    for layer, norm, keep in [(1, False, True), (-2, False, False), (-1, False, True), (-1, True, False)]
}


@pytest.mark.parametrize("name", NAMES)
def test_hidden_states_of_the_reference(name):
    reference = tower_reference(name)
    images = pixels(reference.config.image_size)
    tower = jax.jit(lambda x: [reference.bind()(x, choice, remat=Remat.NONE) for choice in CHOICES.values()])
    theirs = reference.hidden_states(images)
    for (layer, norm, keep), ours in zip(CHOICES, tower(images), strict=True):
        expected = reference.final_norm(theirs[layer]) if norm else theirs[layer]
        close(ours, expected if keep else expected[:, reference.config.prefix_tokens :])


def test_prefix_counts():
    assert {name: tower_reference(name).config.prefix_tokens for name in NAMES} == {
        "clip": 1,
        "siglip": 0,
        "dinov2": 1,
        "dinov2-giant": 1,
        "dinov2-registers": 4,
        "h-optimus": 5,
    }


@pytest.mark.parametrize("name", ["dinov2", "dinov2-registers"])
@pytest.mark.parametrize("size", [42, 98, (56, 112)])
def test_interpolated_positions(name, size):
    reference = tower_reference(name)
    images = pixels(size)
    ours = jax.jit(lambda x: reference.bind()(x, Features(-1, False, True), remat=Remat.NONE))(images)
    close(ours, reference.hidden_states(images)[-1])


def test_a_tower_that_does_not_interpolate_says_so():
    with pytest.raises(UsageError, match=r"takes images of 56 pixels .* found 5 x 5 patches"):
        tower_reference("clip").bind()(jnp.asarray(pixels(70)), PENULTIMATE, remat=Remat.NONE)


@pytest.mark.parametrize("layer", [0, 4, -4])
def test_a_layer_that_is_not_there(layer):
    with pytest.raises(UsageError, match=rf"3 blocks, .* found {layer}"):
        blocks_run(tower_reference("clip").config, Features(layer, False, False))


def test_pixels_are_normalised_as_by_the_processor():
    reference = tower_reference("clip")
    images = np.random.default_rng(1).integers(0, 256, (2, 56, 56, 3), np.uint8)
    processor = transformers.CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    processed = processor(list(images), return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    vision = VisionConfig(reference.config, None, S2Config((56,), MapSize.SMALLEST), PENULTIMATE)
    ours = encode_images(reference.bind(), vision, jnp.asarray(images), dtype=jnp.float32, remat=Remat.NONE)
    close(ours, reference.hidden_states(np.ascontiguousarray(processed))[-2][:, 1:])
    assert ours.shape[1] == tokens_per_image(vision) == 16


@pytest.mark.parametrize(
    ("name", "features"),
    [("clip", PENULTIMATE), ("dinov2-registers", PENULTIMATE), ("h-optimus", Features(-1, True, False))],
)
def test_every_leaf_in_use_gets_a_gradient(name, features):
    config = tower_reference(name).config
    grads = gradients(name, features, Remat.NONE)
    unused = leaves_without_gradient(config, features)
    assert unused <= grads.keys()
    largest = {path: np.abs(grad).max() for path, grad in grads.items()}
    assert {path for path in grads if largest[path] < 1e-6 * max(largest.values())} == unused
    run = blocks_run(config, features)
    for path in grads.keys() - unused:
        if path.startswith("layers/"):
            used = np.abs(grads[path]).reshape(config.depth, -1).max(-1) > 0
            assert used.tolist() == [index < run for index in range(config.depth)], path


def test_rematerialised_gradients_are_the_same():
    plain, again = gradients("clip", PENULTIMATE, Remat.NONE), gradients("clip", PENULTIMATE, Remat.FULL)
    largest = max(np.abs(grad).max() for grad in plain.values())
    for path in plain:
        np.testing.assert_allclose(again[path], plain[path], atol=1e-5 * largest)


@cache
def gradients(name, features, remat):
    reference = tower_reference(name)
    functional = Functional(lambda rngs: Vit(reference.config, rngs=rngs))
    images = jnp.asarray(pixels(reference.config.image_size))

    @jax.jit
    @jax.grad
    def gradient(params):
        x = functional.bind(params)(images, features, remat=remat)
        return jnp.sum(x * jnp.cos(jnp.arange(x.size).reshape(x.shape)))

    return leaf_paths(gradient(reference.params))


def test_sharded_over_all_axes_gives_the_same_features():
    config = TOWERS["tiny-clip"]
    vision = VisionConfig(config, None, S2Config((56, 112), MapSize.SMALLEST), PENULTIMATE)
    functional = Functional(lambda rngs: make_tower(vision, rngs=rngs))
    params = jax.jit(functional.init)(jax.random.key(0))
    images = jnp.asarray(np.random.default_rng(2).integers(0, 256, (8, 112, 112, 3), np.uint8))

    def encode(params, images):
        return encode_images(functional.bind(params), vision, images, dtype=jnp.float32, remat=Remat.NONE)

    encode = jax.jit(encode)
    alone = encode(params, images)
    mesh = make_mesh(MeshShape(data=1, fsdp=2, tensor=4, context=1))
    with jax.set_mesh(mesh):
        spread = jax.device_put(params, shardings(mesh, functional.axes(), params))
        compiled = encode.lower(spread, images).compile()
        together = compiled(spread, images)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    # 8 images of 5 tiles over 8 devices: each runs 5 tiles of 16 x 16 pixels of a patch
    assert "f32[5,50,128]" in compiled.as_text()


def test_bfloat16_is_the_dtype_of_the_features():
    reference = tower_reference("dinov2")
    tower = jax.jit(lambda x: reference.bind()(x, PENULTIMATE, remat=Remat.NONE))
    images = jnp.asarray(pixels(70))
    low, high = tower(images.astype(jnp.bfloat16)), tower(images)
    assert low.dtype == jnp.bfloat16
    assert np.abs(low - high).mean() < 0.02 * np.abs(high).mean()


PARAMETERS = {  # transformers' modules built at full size, without pooling heads and mask tokens
    "openai/clip-vit-base-patch16": 85_799_424,
    "openai/clip-vit-base-patch32": 87_456_000,
    "openai/clip-vit-large-patch14": 303_179_776,
    "openai/clip-vit-large-patch14-336": 303_507_456,
    "google/siglip-base-patch16-224": 85_797_120,
    "google/siglip-so400m-patch14-384": 412_987_248,
    "facebook/dinov2-small": 22_056_192,
    "facebook/dinov2-base": 86_579_712,
    "facebook/dinov2-large": 304_367_616,
    "facebook/dinov2-giant": 1_136_479_232,
    "facebook/dinov2-with-registers-small": 22_057_728,
    "facebook/dinov2-with-registers-base": 86_582_784,
    "facebook/dinov2-with-registers-large": 304_371_712,
    "facebook/dinov2-with-registers-giant": 1_136_485_376,
    "bioptimus/H-optimus-0": 1_134_774_272,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_at_full_size(name):
    shapes = tower_shapes(TOWERS[name])
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == PARAMETERS[name]


def test_published_features():
    assert PUBLISHED_FEATURES["bioptimus/H-optimus-0"] == Features(-1, True, False)
    assert PUBLISHED_FEATURES["openai/clip-vit-large-patch14-336"] == PENULTIMATE
    assert PUBLISHED_FEATURES.keys() == TOWERS.keys()
