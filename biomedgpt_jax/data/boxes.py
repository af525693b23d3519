"""Regions of pictures as coordinate tokens, and views of a picture that keep its regions in sight."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.errors import DataError

LONGEST = 2.0  # coordinates are told as shares of this many sides of the picture that the model sees, as published
SEEN = 8  # pixels of each region that a view keeps


@dataclass(frozen=True)
class Box:
    """Corners in pixels of the stored picture."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""


@dataclass(frozen=True)
class Jitter:
    """A square cut out of the picture made `scale` times as large, its left top corner at (left, top)."""

    scale: float
    left: int
    top: int
    flip: bool
    size: int

    def view(self, rgb: np.ndarray) -> np.ndarray:
        """uint8 [h w 3] -> uint8 [size size 3]; black where the picture does not reach."""
        image = Image.fromarray(rgb)
        wide, high = (min(self.size, _scaled(side, self.scale)) for side in image.size)
        box = tuple(value / self.scale for value in (self.left, self.top, self.left + wide, self.top + high))
        box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
        canvas = Image.new("RGB", (self.size, self.size))
        canvas.paste(image.resize((wide, high), Image.Resampling.BICUBIC, box=box))
        return np.asarray(ImageOps.mirror(canvas) if self.flip else canvas)

    def move(self, box: Box) -> Box:
        """The box in pixels of the view, cut at its edges."""
        x0, x1 = (float(np.clip(x * self.scale - self.left, 0, self.size)) for x in (box.x0, box.x1))
        y0, y1 = (float(np.clip(y * self.scale - self.top, 0, self.size)) for y in (box.y0, box.y1))
        if self.flip:
            x0, x1 = self.size - x1, self.size - x0
        return Box(x0, y0, x1, y1, box.label)


def draw_jitter(
    width: int, height: int, boxes: Sequence[Box], size: int, flips: bool, rng: np.random.Generator
) -> Jitter:
    """A view 1 to 1.5 times as large as the whole picture in a square of `size`, flipped half of the time if `flips`.

    The place is drawn among those that keep a part of every box in sight (the original drops boxes, which would make
    the number of tokens unknown before); where there is none, the whole picture is seen.
    """
    flip = bool(flips and rng.random() < 0.5)
    whole = size / max(width, height)
    scale = whole * rng.uniform(1.0, 1.5)
    corners = np.array([[box.x0, box.y0, box.x1, box.y1] for box in boxes]) * scale
    place = []
    for axis, side in enumerate((width, height)):
        least = max(0, int(np.ceil((corners[:, axis] - size + SEEN).max(initial=0))))
        most = min(
            max(0, _scaled(side, scale) - size), int(np.floor((corners[:, axis + 2] - SEEN).min(initial=side * scale)))
        )
        if least > max(0, most):
            return Jitter(whole, 0, 0, flip, size)
        place.append(int(rng.integers(least, max(least, most) + 1)))
    return Jitter(scale, place[0], place[1], flip, size)


def box_ids(box: Box, size: int, tokenizer: BiomedGptTokens) -> list[int]:
    """x0 y0 x1 y1 as bins, from pixels of a view of `size`."""
    shares = np.array([box.x0, box.y0, box.x1, box.y1]) / (LONGEST * size)
    return [tokenizer.bin_id(int(bin)) for bin in np.rint(shares * (tokenizer.num_bins - 1))]


def read_box(values: object, label: str = "") -> Box:
    """Four numbers x0 y0 x1 y1 >= 0, the second corner right of and below the first; DataError if they are not."""
    try:
        x0, y0, x1, y1 = (float(value) for value in values)  # type: ignore[union-attr]  # what cannot be iterated is refused below
    except (TypeError, ValueError) as reason:
        # Not what they are: in a file of another layout that may be a patient's text.
        found = f"{len(values)} values" if isinstance(values, Sized) else type(values).__name__
        raise DataError(f"a region: expected four numbers x0, y0, x1, y1, found {found}, not all numbers") from reason
    if not (0 <= x0 < x1 < float("inf") and 0 <= y0 < y1 < float("inf")):
        raise DataError(f"a region: corners {x0:g}, {y0:g}, {x1:g}, {y1:g} are not in order")
    return Box(x0, y0, x1, y1, label)


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))
