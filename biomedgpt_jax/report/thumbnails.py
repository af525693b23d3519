"""Small JPEG copies of images, as data addresses that an HTML page can hold."""

import base64
import io

import numpy as np
from PIL import Image, ImageOps


def thumbnail(encoded: bytes, side: int = 256) -> bytes:
    """JPEG bytes of the image with its longer side at most `side` pixels, upright.

    Deep greyscale is stretched from its least to its greatest value; transparency becomes black. Raises OSError or
    ValueError where the bytes are no readable image, or one of absurd size.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            opened.draft("RGB", (2 * side, 2 * side))  # lets the JPEG decoder shrink; others ignore it
            image = _plain_rgb(ImageOps.exif_transpose(opened))
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82, optimize=True)
    return out.getvalue()


def data_address(jpeg: bytes) -> str:
    """`data:image/jpeg;base64,...`"""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _plain_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _stretched(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert("RGB")


def _stretched(image: Image.Image) -> Image.Image:
    values = np.asarray(image, np.float32)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))
