import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.core.module import Functional, Remat
from biomedgpt_jax.models.s2 import MapSize, S2Config, multiscale, parse_scales, tokens_out
from biomedgpt_jax.models.towers import PENULTIMATE_PATCHES, TOWERS
from biomedgpt_jax.models.vision import VisionConfig, encode_images, feature_widths, make_tower, tokens_per_image
from biomedgpt_jax.models.vit import Features
from tests.models.references import close
from tests.models.vision_references import pixels, tower_reference


def steps_in_torch(tower, images, scales, largest):
    """The published algorithm one tile at a time; `tower` maps [b 3 p p] to [b n c]."""
    tile, maps = scales[0], []
    for scale in scales:
        resized = F.interpolate(images, size=(scale, scale), mode="bicubic", align_corners=False)
        rows = []
        for y in range(0, scale, tile):
            row = [tower(resized[:, :, y : y + tile, x : x + tile]) for x in range(0, scale, tile)]
            side = round(row[0].shape[1] ** 0.5)
            rows.append(torch.cat([each.transpose(1, 2).unflatten(2, (side, side)) for each in row], dim=3))
        maps.append(torch.cat(rows, dim=2))
    size = maps[-1 if largest else 0].shape[2:]
    pooled = [F.interpolate(each, size=size, mode="area") for each in maps]
    return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("scales", "output"),
    [
        ((224, 672, 1344), MapSize.SMALLEST),
        ((336, 672, 1008), MapSize.SMALLEST),
        ((384, 768, 1152), MapSize.SMALLEST),
        ((224,), MapSize.SMALLEST),
        ((224, 896, 1344), MapSize.LARGEST),  # 896 to 1344 enlarges by 1.5
    ],
)
def test_published_scales(scales, output):
    """The tower gives mean and two corners of each 16 x 16 patch, so that only S2 is compared."""
    images = pixels(scales[-1], count=1)
    config = S2Config(scales, output)

    def ours(tiles):
        patches = rearrange(tiles, "t (r p) (c q) k -> t (r c) p q k", p=16, q=16)
        return jnp.concatenate([patches.mean((2, 3)), patches[:, :, 0, 0], patches[:, :, 15, 15]], axis=-1)

    def theirs(tiles):
        corners = tiles[:, :, ::16, ::16], tiles[:, :, 15::16, 15::16]
        return torch.cat([F.avg_pool2d(tiles, 16), *corners], 1).flatten(2).transpose(1, 2)

    result = jax.jit(lambda x: multiscale(ours, x, config, prefix_tokens=0))(images)
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
    close(result, steps_in_torch(theirs, channels_first, scales, output is MapSize.LARGEST))
    assert result.shape[1] == tokens_out(config, scales[0] // 16, 0)


@pytest.mark.parametrize("output", MapSize)
@pytest.mark.parametrize(
    ("name", "scales"), [("clip", (56, 112, 168)), ("siglip", (60, 120)), ("dinov2-registers", (42, 84, 168))]
)
def test_with_a_tower(name, scales, output):
    reference = tower_reference(name)
    images = np.random.default_rng(0).integers(0, 256, (2, scales[-1], scales[-1], 3), np.uint8)
    config = VisionConfig(reference.config, None, S2Config(scales, output), PENULTIMATE_PATCHES)
    encode = jax.jit(lambda x: encode_images(reference.bind(), config, x, dtype=jnp.float32, remat=Remat.NONE))
    normal = (images / 255 - reference.config.mean) / np.asarray(reference.config.std)

    def tower(tiles):
        states = reference.hidden_states(tiles.permute(0, 2, 3, 1).numpy())
        return states[-2][:, reference.config.prefix_tokens :]

    channels_first = torch.from_numpy(normal.astype(np.float32)).permute(0, 3, 1, 2)
    ours = encode(images)
    close(ours, steps_in_torch(tower, channels_first, scales, output is MapSize.LARGEST))
    assert ours.shape[1:] == (tokens_per_image(config), sum(feature_widths(config)))


def test_kept_prefix_is_the_mean_over_tiles():
    reference = tower_reference("clip")
    images = pixels(112)
    config = S2Config((56, 112), MapSize.SMALLEST)

    def tower(tiles):
        return reference.bind()(tiles, Features(-1, False, True), remat=Remat.NONE)

    ours = jax.jit(lambda x: multiscale(tower, x, config, prefix_tokens=1))(images)
    bicubic = F.interpolate(torch.from_numpy(images).permute(0, 3, 1, 2), size=56, mode="bicubic")
    small = reference.hidden_states(bicubic.permute(0, 2, 3, 1).numpy())[-1][:, 0]
    corners = [images[:, y : y + 56, x : x + 56] for y in (0, 56) for x in (0, 56)]
    large = [reference.hidden_states(np.ascontiguousarray(each))[-1][:, 0] for each in corners]
    close(ours[:, 0], torch.cat([small, torch.stack(large).mean(0)], dim=-1))
    patches = jax.jit(lambda x: multiscale(lambda t: tower(t)[:, 1:], x, config, prefix_tokens=0))(images)
    np.testing.assert_allclose(ours[:, 1:], patches, atol=1e-5)


def test_two_towers_see_the_same_pixels():
    first, second = tower_reference("clip"), tower_reference("dinov2")
    config = VisionConfig(first.config, second.config, S2Config((56, 112), MapSize.SMALLEST), PENULTIMATE_PATCHES)
    images = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), np.uint8)

    functional = Functional(lambda rngs: make_tower(config, rngs=rngs))
    params = {"first": first.params, "second": second.params}
    ours = jax.jit(lambda x: encode_images(functional.bind(params), config, x, dtype=jnp.float32, remat=Remat.NONE))(
        images
    )
    normal = ((images / 255 - first.config.mean) / np.asarray(first.config.std)).astype(np.float32)
    channels_first = torch.from_numpy(normal).permute(0, 3, 1, 2)
    theirs = [
        steps_in_torch(
            lambda tiles, each=each: each.hidden_states(tiles.permute(0, 2, 3, 1).numpy())[-2][:, 1:],
            channels_first,
            config.s2.scales,
            False,
        )
        for each in (first, second)
    ]
    assert feature_widths(config) == (64, 64)
    close(ours, torch.cat(theirs, dim=-1))


def test_tiles_of_the_published_scales():
    tiles = [S2Config(parse_scales(text), MapSize.SMALLEST).tiles for text in ("224,672,1344", "1008,336,672", "224")]
    assert tiles == [46, 14, 1]
    assert tokens_out(S2Config((384, 768, 1152), MapSize.SMALLEST), 27, 0) == 729
    assert tokens_out(S2Config((384, 768, 1152), MapSize.LARGEST), 27, 0) == 81**2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S2Config((224, 700), MapSize.SMALLEST), r"scale 700 does not tile by 224.* 672 and 896"),
        (lambda: S2Config((672, 224), MapSize.SMALLEST), r"ascending"),
        (lambda: S2Config((), MapSize.SMALLEST), r"at least one size"),
        (lambda: parse_scales("224,big"), r'"224,big"'),
        (
            lambda: VisionConfig(
                TOWERS["openai/clip-vit-large-patch14-336"],
                None,
                S2Config((224, 672, 1344), MapSize.SMALLEST),
                PENULTIMATE_PATCHES,
            ),
            r"the smallest must be 336.* found 224",
        ),
        (
            lambda: VisionConfig(
                TOWERS["tiny-siglip"],
                TOWERS["facebook/dinov2-small"],
                S2Config((56,), MapSize.SMALLEST),
                PENULTIMATE_PATCHES,
            ),
            r"two towers give \[4, 7\]",
        ),
        (
            lambda: multiscale(
                lambda tiles: tiles, jnp.zeros((1, 60, 60, 3)), S2Config((56,), MapSize.SMALLEST), prefix_tokens=0
            ),
            r"60 x 60 pixels, expected 56 x 56",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(UsageError, match=message):
        make()
