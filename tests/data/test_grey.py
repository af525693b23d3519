"""One channel's work against Pillow's three."""

import io

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.data.grey import as_grey, pad_grey
from biomedgpt_jax.data.images import Geometry, load_square

CLIP_BACKGROUND = (122, 116, 104)


def grey_picture(width, height, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width)) if seed % 2 else 255 * (rng.random((height, width)) < 0.5)
    return Image.fromarray(values.astype(np.uint8))


def padded_as_rgb(image, size, background):
    long = max(image.size)
    canvas = Image.new("RGB", (long, long), background)
    canvas.paste(image.convert("RGB"), ((long - image.width) // 2, (long - image.height) // 2))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("seed", range(120))
def test_padding_is_bit_equal_to_three_channels(seed):
    rng = np.random.default_rng(1000 + seed)
    width, height, size = (int(n) for n in rng.integers(1, 300, 3))
    image = grey_picture(width, height, seed)
    np.testing.assert_array_equal(
        pad_grey(image, size, CLIP_BACKGROUND),
        padded_as_rgb(image, size, CLIP_BACKGROUND),
        err_msg=f"{width} x {height} to {size}",
    )


@pytest.mark.parametrize("shape", [(1024, 715), (715, 1024), (335, 336), (1, 336), (512, 512)])
def test_padding_at_the_sizes_of_radiology(shape):
    image = grey_picture(*shape, seed=1)
    np.testing.assert_array_equal(pad_grey(image, 336, CLIP_BACKGROUND), padded_as_rgb(image, 336, CLIP_BACKGROUND))


def test_one_coloured_pixel_is_a_colour():
    values = np.repeat(np.asarray(grey_picture(50, 40, seed=1))[..., None], 3, axis=-1)
    assert np.array_equal(np.asarray(as_grey(Image.fromarray(values))), values[..., 0])
    for channel in range(3):
        coloured = values.copy()
        coloured[17, 31, channel] ^= 1  # no place that the probe looks at
        assert as_grey(Image.fromarray(coloured)) is None
    assert as_grey(Image.new("RGB", (9, 9), (1, 1, 2))) is None


@pytest.mark.parametrize("geometry", list(Geometry))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_file_gives_the_same_square_in_one_channel_and_in_three(geometry, kind):
    image = grey_picture(97, 61, seed=1)
    squares = []
    for mode in ("L", "RGB"):
        file = io.BytesIO()
        image.convert(mode).save(file, kind, quality=95)
        squares.append(load_square(file.getvalue(), 40, geometry, CLIP_BACKGROUND))
    assert squares[0].shape == (40, 40, 3) and squares[0].dtype == np.uint8
    np.testing.assert_array_equal(*squares)
