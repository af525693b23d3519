"""Raw data sets in miniature, written in the layouts of the real ones."""

import io

import numpy as np
import pytest
from PIL import Image


def jpeg(seed: int, size: tuple[int, int] = (24, 18)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def make_jpeg():
    """Seed -> bytes of a small JPEG; equal seeds give equal bytes."""
    return jpeg
