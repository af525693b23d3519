"""Random views of a picture for training; all that is drawn comes from the generator that is handed in.

There are two recipes, after BiomedGPT's. `CAPTIONED`: the shorter side resized to 1 to 1.875 times the output (the
longer one to 2.625 times at most), the centre cut out, two random operations of magnitude 7. `CLASSIFIED`: a random
part (8 to 100% of the area, 3:4 to 4:3) resized to the output, a left-right flip, two operations of magnitude 9 +- 0.5
each made half of the time, two of magnitude 7, and a quarter of the time a rectangle of noise.

Operations: identity, autocontrast, equalise, brightness, sharpness, shear and translation along either axis, rotation.
Not among them, though in timm's list of the original: invert, posterise, solarise, colour and contrast, which change
what a grey level means; and its colour jitter, which timm leaves out beside other operations.

Where a text names sides, a left-right flip makes it false: `refuse_flips` is called before one is used.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from biomedgpt_jax.data.encoded_pairs import Pairs
from biomedgpt_jax.data.errors import UnusableSamples
from biomedgpt_jax.data.pair_encoding import EncodedPair
from biomedgpt_jax.data.source import PreparedSplit, Sample

LEVELS = 10  # magnitudes are tenths of the strongest
GREY = (128, 128, 128)  # what moves in from outside
# No letter before and after: kidney_left names a side, cleft does not.
_SIDES = re.compile(r"(?<![a-z])(left|right|lt|rt|[lr](ul|ml|ll))(s|er|most|wards?)?(?![a-z])|[左右]", re.IGNORECASE)

Operation = Callable[[Image.Image, float, float], Image.Image]  # picture, strength 0..1, sign
Recipe = Callable[[Image.Image, int, np.random.Generator], Image.Image]


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied; `flips`: a left-right flip is among it."""

    name: str
    flips: bool
    view: Recipe

    def __call__(self, rgb: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 [h w 3] -> uint8 [size size 3]."""
        return np.asarray(self.view(Image.fromarray(rgb), size, rng))


class AugmentedPairs:
    """The same pairs, with each picture seen as an augmentation draws it, anew in every epoch.

    Raises:
        DataError: it flips pictures, and the texts of the data name sides.
    """

    def __init__(self, pairs: Pairs, augmentation: Augmentation, size: int):
        if augmentation.flips:
            refuse_flips(pairs.split)
        self.pairs, self.augmentation, self.size = pairs, augmentation, size
        self.split = pairs.split
        self.key = f"{pairs.key} {augmentation.name} {size}"

    def __len__(self) -> int:
        return len(self.pairs)

    def sample_id(self, index: int) -> str:
        return self.pairs.sample_id(index)

    def pair(self, index: int, rng: np.random.Generator) -> EncodedPair:
        pair = self.pairs.pair(index, rng)
        if pair.image < 0 or pair.view is not None:
            return pair
        return replace(pair, view=partial(self._view, rng.spawn(1)[0]))

    def lengths(self) -> np.ndarray:
        return self.pairs.lengths()

    def kinds(self) -> np.ndarray:
        return self.pairs.kinds()

    def _view(self, rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
        return self.augmentation(rgb, self.size, rng)


def names_sides(sample: Sample) -> bool:
    """Whether its questions, answers, labels or choices say left or right (also lt, rt, RUL, LLL and the like)."""
    said = [text for turn in sample.turns for text in (turn.question, turn.answer)]
    known = [value for name, value in sample.meta.items() if name != "image_name"]  # a file may be called anything
    return any(_SIDES.search(text) for text in _texts([said, known]))


def _texts(value: object) -> Iterator[str]:
    """Every text in what JSON holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def refuse_flips(split: PreparedSplit) -> None:
    """UnusableSamples if texts of the split name sides."""
    sided = [sample.name for number in range(len(split)) if names_sides(sample := split[number])]
    if sided:
        raise UnusableSamples(
            f"{split.name}: {len(sided)} of {len(split)} samples name sides (left, right), for example {sided[0]}; a "
            "left-right flip would make them false. Use one without flips: classified-unflipped",
            [(f"{split.name} {name}", "it names a side") for name in sided],
        )


def random_operations(image: Image.Image, count: int, magnitude: float, rng: np.random.Generator) -> Image.Image:
    """`count` operations one after another, drawn with replacement; magnitude 0..10."""
    for name in rng.choice(list(OPERATIONS), count):
        sign = 1.0 if rng.random() < 0.5 else -1.0
        image = OPERATIONS[str(name)](image, magnitude / LEVELS, sign)
    return image


def _captioned(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    scale = rng.uniform(size, size * 480 / 256) / min(width, height)
    scale = max(min(scale, size * 672 / 256 / max(width, height)), size / min(width, height))
    return random_operations(_centre(image, scale, size), 2, 7.0, rng)


def _centre(image: Image.Image, scale: float, size: int) -> Image.Image:
    """The middle of the picture `scale` times as large; only that part is resized."""
    left, top = ((side - size / scale) / 2 for side in image.size)
    box = (max(0.0, left), max(0.0, top), min(image.width, left + size / scale), min(image.height, top + size / scale))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _classified(image: Image.Image, size: int, rng: np.random.Generator, flips: bool) -> Image.Image:
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=_random_part(*image.size, rng))
    if flips and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    for _ in range(2):
        magnitude = float(np.clip(rng.normal(9, 0.5), 0, LEVELS))
        if rng.random() < 0.5:
            image = random_operations(image, 1, magnitude, rng)
    return _erased(random_operations(image, 2, 7.0, rng), rng)


def _random_part(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = rng.uniform(0.08, 1) * width * height
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        wide, high = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
            return left, top, left + wide, top + high
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _erased(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A quarter of the time, a rectangle of 2 to 33% of the area becomes noise around middle grey."""
    if rng.random() >= 0.25:
        return image
    area = rng.uniform(0.02, 1 / 3) * image.width * image.height
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
    wide = min(max(1, round(np.sqrt(area * ratio))), image.width)
    high = min(max(1, round(np.sqrt(area / ratio))), image.height)
    left, top = int(rng.integers(image.width - wide + 1)), int(rng.integers(image.height - high + 1))
    pixels = np.array(image)
    noise = rng.normal(127.5, 127.5, (high, wide, 3))
    pixels[top : top + high, left : left + wide] = np.clip(noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _brighter(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * strength)


def _sharper(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * strength)


def _moved(matrix: Callable[[float, float, float], tuple[float, ...]]) -> Operation:
    """An affine map; `matrix` gives it for a signed strength, width and height."""

    def move(image: Image.Image, strength: float, sign: float) -> Image.Image:
        data = matrix(strength * sign, image.width, image.height)
        return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=GREY)

    return move


def _rotated(image: Image.Image, strength: float, sign: float) -> Image.Image:
    return image.rotate(30 * strength * sign, Image.Resampling.BILINEAR, fillcolor=GREY)


# At full strength: shear 0.3, translation 10% of the side, rotation 30 degrees, factors 0.1 (weak) to 1.9.
OPERATIONS: Mapping[str, Operation] = {
    "identity": lambda image, strength, sign: image,
    "autocontrast": lambda image, strength, sign: ImageOps.autocontrast(image),
    "equalise": lambda image, strength, sign: ImageOps.equalize(image),
    "brightness": _brighter,
    "sharpness": _sharper,
    "shear_x": _moved(lambda s, w, h: (1, 0.3 * s, 0, 0, 1, 0)),
    "shear_y": _moved(lambda s, w, h: (1, 0, 0, 0.3 * s, 1, 0)),
    "translate_x": _moved(lambda s, w, h: (1, 0, 0.1 * s * w, 0, 1, 0)),
    "translate_y": _moved(lambda s, w, h: (1, 0, 0, 0, 1, 0.1 * s * h)),
    "rotate": _rotated,
}

CAPTIONED = Augmentation("captioned", False, _captioned)
CLASSIFIED = Augmentation("classified", True, partial(_classified, flips=True))
CLASSIFIED_UNFLIPPED = Augmentation("classified-unflipped", False, partial(_classified, flips=False))
AUGMENTATIONS: Mapping[str, Augmentation] = {each.name: each for each in (CAPTIONED, CLASSIFIED, CLASSIFIED_UNFLIPPED)}
