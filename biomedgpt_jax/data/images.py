"""Encoded image bytes to square RGB arrays: what the towers see, decided once and said openly.

Normalisation is not here: images travel as uint8 and the device normalises them.
"""

import enum
import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from biomedgpt_jax.data import dicom
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.grey import BICUBIC, Color, as_grey, pad_grey
from biomedgpt_jax.data.limits import MAX_PIXELS, MAX_WORK_PIXELS, refuse_pixels

STORED_AS_IS = ("JPEG", "PNG")
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
TURNED = 5  # EXIF orientations from here on lie on their side


class Geometry(enum.Enum):
    """How a picture of any shape becomes a square.

    PAD: pasted centred on a square of the background colour, then resized (nothing lost, nothing distorted).
    RESIZE: resized to the square (distorts). CROP: shortest edge resized, then the centre cut out (loses the
    ends). These three are bit-equal to the Hugging Face processors. The fast ones let the JPEG decoder halve a
    picture (as often as it stays large enough) before it is resized: about one grey level off on average.
    """

    PAD = "pad"
    RESIZE = "resize"
    CROP = "crop"
    PAD_FAST = "pad-fast"
    RESIZE_FAST = "resize-fast"
    CROP_FAST = "crop-fast"

    @property
    def exact(self) -> "Geometry":
        """The same shape, bit-equal to the Hugging Face processors."""
        return Geometry(self.value.removesuffix("-fast"))


def load_square(data: bytes, size: int, geometry: Geometry, background: Color, name: str = "image") -> np.ndarray:
    """Encoded bytes -> uint8 [size size 3]. `background` fills transparency and padding.

    Raises DataError (naming `name`) for truncated, oversized or unreadable images.
    """
    if dicom.is_dicom(data):
        return to_square(dicom.decode(data, name), size, geometry, background, name)
    image = open_image(data, name, needed=None if geometry is geometry.exact else partial(_needed, size, geometry))
    plain = image.mode == "L" and "transparency" not in image.info
    return _square(image if plain else _named_rgb(image, background, name), size, geometry, background, name)


def decode_rgb(data: bytes, background: Color, name: str = "image", frame: int = 0) -> np.ndarray:
    """Encoded bytes (anything Pillow reads, or DICOM) -> uint8 [h w 3], upright.

    - EXIF orientation is applied; alpha and transparent palette entries are composited on `background`;
      CMYK goes through Pillow's plain conversion (no colour profile).
    - Grey deeper than 8 bits (16-bit, 32-bit, float) is scaled linearly so that the image's own least value
      becomes 0 and its greatest 255 (a constant image becomes 0): files seldom say which part of the range
      they use.
    - Of a file with several frames, `frame` is taken (the first unless said otherwise).
    - DICOM: see `dicom.decode`.
    """
    if dicom.is_dicom(data):
        return dicom.decode(data, name, frame)
    return np.asarray(_named_rgb(open_image(data, name, frame), background, name))


def to_square(rgb: np.ndarray, size: int, geometry: Geometry, background: Color, name: str = "image") -> np.ndarray:
    """uint8 [h w 3] -> uint8 [size size 3] by Pillow's antialiased bicubic, bit-equal to the Hugging Face
    processors.
    """
    return _square(Image.fromarray(rgb), size, geometry, background, name)


def open_image(
    data: bytes, name: str = "image", frame: int = 0, needed: Callable[[int, int], tuple[int, int]] | None = None
) -> Image.Image:
    """Decodes the whole file, so that truncation shows here; returns it upright, in its own mode.

    With `needed` (width, height -> the least width and height that will do) a JPEG file may come out smaller by
    2, 4 or 8. Raises DataError with the reason.
    """
    try:
        image = Image.open(io.BytesIO(data))
        refuse_pixels(image.width * image.height, MAX_PIXELS, name, f"{image.width} x {image.height}")
        image.seek(frame)
        if needed is not None:
            image.draft(None, needed(*image.size))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as reason:
        raise DataError(f"{name}: refused as a decompression bomb: {str(reason).rstrip('.')}") from reason
    except UnidentifiedImageError as reason:
        raise DataError(f"{name}: not a readable image ({len(data)} bytes): no known format, nor DICOM") from reason
    # Pillow's readers raise nearly every kind of exception on damaged files; all of them mean the same to the
    # caller.
    except Exception as reason:
        raise DataError(
            f"{name}: not a readable image ({len(data)} bytes): {reason or type(reason).__name__}"
        ) from reason


def upright_sides(data: bytes) -> tuple[int, int]:
    """Width and height of a stored image as it is seen, from its header."""
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        return (height, width) if image.getexif().get(ExifTags.Base.Orientation, 1) >= TURNED else (width, height)


def storable(data: bytes, name: str = "image") -> bytes:
    """Checks an image by decoding it whole and returns the bytes to store: JPEG and PNG as they are, others
    as PNG.

    DICOM is rendered (window, rescale) to an 8-bit PNG; transparency and 16-bit grey are kept.
    """
    if dicom.is_dicom(data):
        image = Image.fromarray(dicom.decode(data, name))
        image = as_grey(image) or image
    else:
        image = open_image(data, name)
        if image.format in STORED_AS_IS:
            return data
        if image.mode not in PNG_MODES:
            image = Image.fromarray(np.asarray(_to_rgb(image, (0, 0, 0))))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _needed(size: int, geometry: Geometry, width: int, height: int) -> tuple[int, int]:
    """The least width and height from which `size` can be made without enlarging."""
    if geometry is Geometry.RESIZE_FAST:
        return size, size
    side = max(width, height) if geometry is Geometry.PAD_FAST else min(width, height)
    return -(-width * size // side), -(-height * size // side)


def _named_rgb(image: Image.Image, background: Color, name: str) -> Image.Image:
    try:
        return _to_rgb(image, background)
    except (OSError, ValueError) as reason:
        raise DataError(f"{name}: no conversion from mode {image.mode} to RGB ({reason})") from reason


def _square(image: Image.Image, size: int, geometry: Geometry, background: Color, name: str) -> np.ndarray:
    """`image` is in mode RGB or L; a grey one is resized as one channel."""
    grey = as_grey(image)
    make = {Geometry.PAD: _pad, Geometry.RESIZE: _resize, Geometry.CROP: _crop}[geometry.exact]
    return make(grey or image, size, background, name)


def _to_rgb(image: Image.Image, background: Color) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_scale_range(np.asarray(image))).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scale_range(values: np.ndarray) -> np.ndarray:
    """Any number type [h w] -> uint8 [h w], least value to 0 and greatest to 255."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("pixels that are not finite numbers")
    return np.rint((values - low) * 255.0 / (high - low if high > low else np.inf)).astype(np.uint8)


def _pad(image: Image.Image, size: int, background: Color, name: str) -> np.ndarray:
    long = max(image.size)
    refuse_pixels(long * long, MAX_WORK_PIXELS, name, f"{image.width} x {image.height} padded to a square")
    if image.mode == "L":
        return pad_grey(image, size, background)
    if image.width != image.height:
        canvas = Image.new("RGB", (long, long), background)
        canvas.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
        image = canvas
    return _three_channels(image.resize((size, size), BICUBIC))


def _resize(image: Image.Image, size: int, background: Color, name: str) -> np.ndarray:
    return _three_channels(image.resize((size, size), BICUBIC))


def _crop(image: Image.Image, size: int, background: Color, name: str) -> np.ndarray:
    short, long = min(image.size), max(image.size)
    new_long = int(size * long / short)  # truncated, as Hugging Face and torchvision do
    refuse_pixels(size * new_long, MAX_WORK_PIXELS, name, f"{image.width} x {image.height}, shortest edge {size}")
    width, height = (size, new_long) if image.width <= image.height else (new_long, size)
    image = image.resize((width, height), BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return _three_channels(image.crop((left, top, left + size, top + size)))


def _three_channels(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    return values if values.ndim == 3 else np.stack([values] * 3, axis=-1)
