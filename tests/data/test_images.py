"""Decoding and geometry against Hugging Face's own processors and hand-made files."""

import io

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import Geometry, decode_rgb, load_square, storable, to_square, upright_sides

CLIP_BACKGROUND = (122, 116, 104)
WHITE = (255, 255, 255)


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(processor, rgb):
    """What a Hugging Face processor makes, before its normalisation."""
    out = processor(Image.fromarray(rgb), do_rescale=False, do_normalize=False, return_tensors="np")
    return np.moveaxis(out["pixel_values"][0], 0, -1)


@pytest.mark.parametrize("shape", [(97, 61), (61, 97), (80, 80), (30, 45), (333, 100)])
def test_geometry_is_bit_equal_to_hugging_face(shape):
    rgb = picture(*shape)
    crop = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    pad = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    squash = SiglipImageProcessorPil(size={"height": 56, "width": 56})
    for geometry, processor in [(Geometry.CROP, crop), (Geometry.PAD, pad), (Geometry.RESIZE, squash)]:
        ours = to_square(rgb, 56, geometry, CLIP_BACKGROUND)
        assert ours.dtype == np.uint8 and ours.shape == (56, 56, 3)
        np.testing.assert_array_equal(ours, pixels(processor, rgb), err_msg=geometry.value)


def test_the_three_geometries_differ_and_pad_keeps_the_ends():
    rgb = np.zeros((10, 40, 3), np.uint8)
    rgb[:, :4] = (255, 0, 0)  # a stripe at the left end
    made = {g: to_square(rgb, 20, g, (0, 0, 255)) for g in Geometry}
    assert made[Geometry.CROP][..., 0].max() == 0  # the stripe is cut away
    assert made[Geometry.RESIZE][10, 0, 0] == 255
    assert tuple(made[Geometry.PAD][0, 0]) == (0, 0, 255) and made[Geometry.PAD][10, 0, 0] == 255


def test_jpeg_decodes_as_pillow_does():
    data = encoded(picture(50, 40), "JPEG")
    np.testing.assert_array_equal(decode_rgb(data, WHITE), np.asarray(Image.open(io.BytesIO(data))))


def test_16_bit_grey_is_scaled_by_its_own_range():
    values = np.array([[1000, 1510], [2020, 4000]], np.uint16)
    shown = decode_rgb(encoded(values), WHITE)
    np.testing.assert_array_equal(shown[..., 0], [[0, 43], [87, 255]])
    assert (shown[..., 0] == shown[..., 2]).all()
    assert decode_rgb(encoded(np.full((2, 2), 7, np.uint16)), WHITE).max() == 0


def test_float_tiff_is_scaled_and_nan_refused():
    values = np.array([[-1.0, 0.0, 1.0]], np.float32)
    assert decode_rgb(encoded(values, "TIFF"), WHITE)[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(DataError, match="not finite"):
        decode_rgb(encoded(np.array([[np.nan, 1.0]], np.float32), "TIFF"), WHITE, "scan.tif")


def test_alpha_and_transparent_palette_take_the_background():
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 0))
    assert decode_rgb(encoded(rgba), (1, 2, 3))[0].tolist() == [[200, 0, 0], [1, 2, 3]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert decode_rgb(encoded(palette), WHITE)[0].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert decode_rgb(encoded(palette, transparency=1), (9, 9, 9))[0].tolist() == [[10, 20, 30], [9, 9, 9]]


def test_cmyk_grey_and_one_bit():
    cmyk = encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF")
    assert decode_rgb(cmyk, WHITE)[0, 0].tolist() == [255, 0, 0]
    assert decode_rgb(encoded(Image.new("1", (3, 3), 1)), WHITE)[0, 0].tolist() == [255, 255, 255]
    assert decode_rgb(encoded(np.full((2, 2), 77, np.uint8)), WHITE)[1, 1].tolist() == [77, 77, 77]


def test_exif_rotation_is_applied():
    image = Image.fromarray(picture(6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright = decode_rgb(encoded(image, "PNG", exif=exif), WHITE)
    np.testing.assert_array_equal(upright, np.rot90(picture(6, 4), -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sides_are_those_of_the_upright_image(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture(6, 4)), "JPEG", exif=exif)
    height, width, _ = decode_rgb(data, WHITE).shape
    assert upright_sides(data) == (width, height)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_truncated_file_is_refused_by_name(kind):
    data = encoded(picture(64, 64), kind)
    with pytest.raises(DataError, match=r"case7\.img: not a readable image"):
        decode_rgb(data[: len(data) // 2], WHITE, "case7.img")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_other_bytes_are_refused(data):
    with pytest.raises(DataError, match="not a readable image"):
        decode_rgb(data, WHITE)


def test_decompression_bombs_are_refused():
    bomb = encoded(Image.new("1", (20_000, 10_000)))
    with pytest.raises(DataError, match=r"bomb|more than the limit"):
        decode_rgb(bomb, WHITE, "bomb.png")
    strip = encoded(Image.new("1", (60_000, 2)))
    assert decode_rgb(strip, WHITE).shape == (2, 60_000, 3)
    for geometry in (Geometry.PAD, Geometry.CROP):
        with pytest.raises(DataError, match="more than the limit"):
            load_square(strip, 448, geometry, WHITE, "strip.png")


def test_frames_of_a_file():
    frames = [Image.new("L", (2, 2), shade) for shade in (5, 250)]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert decode_rgb(data, WHITE)[0, 0, 0] == 5
    assert decode_rgb(data, WHITE, frame=1)[0, 0, 0] == 250
    with pytest.raises(DataError):
        decode_rgb(data, WHITE, frame=2)


def test_storable_keeps_jpeg_and_png_and_converts_the_rest_without_loss():
    for kind in ("JPEG", "PNG"):
        data = encoded(picture(9, 7), kind)
        assert storable(data) is data
    deep = np.arange(12, dtype=np.uint16).reshape(3, 4) * 4000
    for image in (picture(9, 7), deep):
        data = storable(encoded(image, "TIFF"))
        assert Image.open(io.BytesIO(data)).format == "PNG"
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
    with pytest.raises(DataError):
        storable(encoded(picture(64, 64), "JPEG")[:500])


@pytest.mark.parametrize("geometry", [Geometry.PAD_FAST, Geometry.RESIZE_FAST, Geometry.CROP_FAST])
def test_fast_geometry_is_near_the_exact_one_and_equal_where_nothing_is_halved(geometry):
    rng = np.random.default_rng(0)
    scan = Image.fromarray(rng.integers(0, 255, (25, 19, 3), np.uint8)).resize((380, 500), Image.Resampling.BICUBIC)
    packed = io.BytesIO()
    scan.save(packed, "JPEG", quality=95)
    for size, least, most in ((96, 0.01, 1.5), (300, 0.0, 0.0), (700, 0.0, 0.0)):
        fast, exact = (load_square(packed.getvalue(), size, g, (122, 116, 104)) for g in (geometry, geometry.exact))
        difference = np.abs(fast.astype(int) - exact).mean()
        assert fast.shape == (size, size, 3) and least <= difference <= most
    png = io.BytesIO()
    scan.save(png, "PNG")
    both = [load_square(png.getvalue(), 96, g, (0, 0, 0)) for g in (geometry, geometry.exact)]
    np.testing.assert_array_equal(*both)


def test_fast_geometry_refuses_what_the_exact_one_refuses():
    packed = io.BytesIO()
    Image.effect_noise((256, 256), 90).convert("RGB").save(packed, "JPEG")
    for data in (packed.getvalue()[:2000], b"text"):
        with pytest.raises(DataError, match="scan: not a readable image"):
            load_square(data, 32, Geometry.PAD_FAST, (0, 0, 0), name="scan")
