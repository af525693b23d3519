"""Grey pictures, most of radiology: one channel's work instead of three, for the same pixels.

JPEG and PNG files often hold a grey picture as RGB. `as_grey` proves that no pixel has a colour; `pad_grey` makes the
padded square, whose background may have one. Where padding and picture meet, the channels differ: those few lines are
summed here, in whole numbers as Pillow's antialiased bicubic does (`Resample.c`: columns before rows, each rounded).
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

Color = tuple[int, int, int]

BICUBIC = Image.Resampling.BICUBIC
REACH = 2.0  # of the bicubic filter, to either side
BITS = 22  # binary digits of Pillow's weights
PROBE = 8  # places a side, enough to tell most coloured pictures at once


def as_grey(image: Image.Image) -> Image.Image | None:
    """In mode L, if the picture is in mode L, or in mode RGB with three equal channels; else None."""
    if image.mode == "L":
        return image
    if _one_channel(image.resize((PROBE, PROBE), Image.Resampling.NEAREST)) is None:
        return None
    values = _one_channel(image)
    return None if values is None else Image.frombuffer("L", image.size, values, "raw", "L", 0, 1)


def pad_grey(image: Image.Image, size: int, background: Color) -> UInt8[np.ndarray, "size size 3"]:
    """Pasted centred on a square of the background, then resized: what Pillow makes of the same in mode RGB.

    `image` is in mode L.
    """
    long, short = max(image.size), min(image.size)
    wide, pad = image.width > image.height, (long - short) // 2
    if wide:
        image = image.resize((size, short), BICUBIC)
    canvas = Image.new("L", (size if wide else long, long), background[0])
    canvas.paste(image, (0, pad) if wide else (pad, 0))
    square = np.stack([np.asarray(canvas.resize((size, size), BICUBIC))] * 3, axis=-1)
    if long == short:
        return square
    across = square.transpose(1, 0, 2) if wide else square  # the padded side is the second
    center, first, last = _taps(long, size)
    empty = (last <= pad) | (first >= pad + short)
    mixed = ~empty & ((first < pad) | (last > pad + short))
    across[:, empty] = background
    if mixed.any():
        lines = np.asarray(image).T if wide else np.asarray(image)
        edge = _edge(lines, center[mixed], first[mixed], last[mixed], pad, long / size, background)
        across[:, mixed] = edge if wide else np.asarray(Image.fromarray(edge).resize((edge.shape[1], size), BICUBIC))
    return square


def _taps(long: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each place of `size`: its centre among `long`, the first place that it sees and the one after the last."""
    scale = long / size
    center = (np.arange(size) + 0.5) * scale
    reach = REACH * max(scale, 1.0)
    first = np.maximum((center - reach + 0.5).astype(np.int64), 0)
    return center, first, np.minimum((center + reach + 0.5).astype(np.int64), long)


def _edge(
    lines: UInt8[np.ndarray, "n w"],
    center: Float64[np.ndarray, " m"],
    first: Int64[np.ndarray, " m"],
    last: Int64[np.ndarray, " m"],
    pad: int,
    scale: float,
    background: Color,
) -> UInt8[np.ndarray, "n m 3"]:
    """Some places of the padded side in all lines, which are the places from `pad` on."""
    places = np.unique(np.concatenate([np.arange(*ends) for ends in zip(first, last, strict=True)]))[:, None]  # k 1
    weights = _bicubic((places - center + 0.5) * (1.0 / max(scale, 1.0))) * ((places >= first) & (places < last))
    weights = weights / weights.sum(axis=0) * (1 << BITS)
    weights = np.trunc(weights + np.copysign(0.5, weights))  # whole numbers far below 2^53: sums are exact
    inside = ((places >= pad) & (places < pad + lines.shape[1]))[:, 0]
    picture = np.dot(lines[:, places[inside, 0] - pad].astype(np.float64), weights[inside])
    total = picture[..., None] + weights[~inside].sum(axis=0)[:, None] * np.array(background)
    return np.clip(np.floor((total + (1 << (BITS - 1))) / (1 << BITS)), 0, 255).astype(np.uint8)


def _bicubic(distance: Float64[np.ndarray, "k m"]) -> Float64[np.ndarray, "k m"]:
    """Keys' cubic convolution with a = -0.5."""
    x = np.abs(distance)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0)
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _one_channel(image: Image.Image) -> bytes | None:
    red = image.tobytes("raw", "R")
    return red if red == image.tobytes("raw", "G") == image.tobytes("raw", "B") else None
