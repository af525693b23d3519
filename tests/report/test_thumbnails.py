import io

import numpy as np
import pytest
from PIL import Image

from biomedgpt_jax.report.thumbnails import thumbnail


def encoded(image: Image.Image, kind="PNG", **settings) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def pixels(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG" and image.mode == "RGB"
        return np.asarray(image).astype(int)


def test_sixteen_bit_greyscale_is_stretched():
    ramp = np.tile(np.linspace(1000, 3000, 64).astype(np.uint16), (64, 1))
    shown = pixels(thumbnail(encoded(Image.fromarray(ramp))))
    assert shown[32, 0, 0] < 10 and shown[32, -1, 0] > 245 and abs(shown[32, 32, 0] - 128) < 10


def test_transparency_becomes_black():
    image = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    assert pixels(thumbnail(encoded(image))).max() < 5


def test_rotation_tags_are_honoured():
    image = Image.new("RGB", (600, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    assert pixels(thumbnail(encoded(image, "JPEG", exif=exif))).shape == (256, 128, 3)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_other_modes_are_shown(mode):
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert pixels(thumbnail(encoded(Image.new(mode, (20, 10)), kind), side=8)).shape == (4, 8, 3)
    with pytest.raises(OSError):
        thumbnail(b"\x89PNG not really")


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="decompression bomb"):
        thumbnail(encoded(Image.new("L", (20, 20))))


def test_a_grey_jpeg_keeps_its_grey():
    shown = pixels(thumbnail(encoded(Image.new("L", (2000, 1000), 77), "JPEG")))
    assert shown.shape == (128, 256, 3) and abs(shown - 77).max() <= 1
