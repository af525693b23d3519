"""How large an image may be before it is refused unread: no file may take the memory or the time of a whole run."""

from biomedgpt_jax.data.errors import DataError

# Pillow's own limit before it warns of a decompression bomb; here it refuses.
MAX_PIXELS = 89_478_485
# A square canvas or an enlarged strip made from an accepted image may be larger than the image, up to here.
MAX_WORK_PIXELS = 4 * MAX_PIXELS
# Bytes of an encoded image, which may be a whole volume of many frames.
MAX_FILE_BYTES = 1 << 30
# Bytes of one line of a text file; images in rows (base64) fit.
MAX_LINE_BYTES = 64 << 20


def refuse_pixels(pixels: int, limit: int, name: str, shape: str) -> None:
    """Raises DataError for an image that says of itself that it is larger than `limit` pixels."""
    if pixels > limit:
        raise DataError(f"{name}: {shape} is {pixels} pixels, more than the limit of {limit}; shrink or tile it first")


def refuse_bytes(count: int, name: str) -> None:
    """Raises DataError for an encoded image of more than MAX_FILE_BYTES."""
    if count > MAX_FILE_BYTES:
        raise DataError(f"{name}: {count} bytes, more than the limit of {MAX_FILE_BYTES} for one image; split it first")
