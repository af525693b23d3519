"""Checks of the images of a split, decoded once and kept in small: unreadable, of one colour, described, alike.

Two images are nearly the same when their perceptual hashes (signs of the 63 lowest frequencies) and then their small
copies agree: the same picture in another size or quality is found, a cut-out or a turned one is not.
"""

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import Image

from biomedgpt_jax.data.dicom import is_dicom
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import Geometry, load_square
from biomedgpt_jax.data.lint.findings import Finding, found
from biomedgpt_jax.data.lint.material import Material, Part, Pictures
from biomedgpt_jax.data.source import PreparedSplit

SIDE, SMALL, LOW = 64, 16, 8  # pixels that are decoded, kept, and frequencies per axis that are hashed
FLAT = 2  # grey levels between the darkest and the lightest pixel of an image of one colour
MOST_BITS = 8  # in which the hashes of two copies differ
MOST_LEVELS = 4.0  # mean difference of two small copies, of 256
_COMPARED = 1 << 24  # pairs at once
_CHUNK = 256  # images between two reports of progress
# EXIF fields and PNG chunks that say nothing of a person.
_TECHNICAL = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi", "gamma", "srgb", "chromaticity", "interlace",
              "transparency", "icc_profile", "progressive", "progression", "adobe", "adobe_transform", "aspect",
              "background", "exif", "photoshop", "mp", "mpoffset"}  # fmt: skip
# Description, artist, copyright, owner, serial numbers, user comment, and Windows' title, comment, author, keywords.
_TELLING = {0x010E, 0x013B, 0x8298, 0x9286, 0xA430, 0xA431, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E}
_GPS, _EXIF = 0x8825, 0x8769
Progress = Callable[[int, int], None]


def look(split: PreparedSplit, threads: int, progress: Progress) -> Pictures:
    """Decodes all images of a split."""
    hashes, small, facts = [], [], []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in range(0, split.num_images, _CHUNK):
            chunk = range(start, min(start + _CHUNK, split.num_images))
            seen = list(pool.map(partial(_seen, split), chunk))
            grey = np.stack([each[0] for each in seen])
            hashes.append(perceptual_hash(grey))
            small.append(_mean(grey, SIDE // SMALL).astype(np.uint8))
            facts += [each[1:] for each in seen]
            progress(chunk.stop, split.num_images)
    flags = np.array(facts, bool).reshape(-1, 3)
    return Pictures(
        np.concatenate([np.zeros(0, np.uint64), *hashes]),
        np.concatenate([np.zeros((0, SMALL, SMALL), np.uint8), *small]),
        unreadable=flags[:, 0],
        constant=flags[:, 1],
        described=flags[:, 2],
    )


def pictures(material: Material) -> Iterator[Finding]:
    """Nothing of a part that was not looked at."""
    for part in material.parts:
        if part.pictures is None:
            continue
        for code, flags in (
            ("unreadable-image", part.pictures.unreadable),
            ("constant-image", part.pictures.constant),
            ("image-metadata", part.pictures.described),
            ("near-images", near(part.pictures, part.pictures, earlier=True) >= 0),
        ):
            yield from found(code, part.name, shown_by(part, flags), len(flags), count=int(flags.sum()))


def shown_by(part: Part, flags: np.ndarray) -> list[str]:
    """Ids of samples that show the flagged images, one for each."""
    return part.ids([part.users[image] for image in np.flatnonzero(flags).tolist() if image in part.users])


def near(pictures: Pictures, others: Pictures, *, earlier: bool = False) -> np.ndarray:
    """Of each picture the first of `others` that is nearly the same (`earlier`: that stands before it), int64 [n]; -1
    where there is none.
    """
    match = np.full(len(pictures.hashes), -1, np.int64)
    step = max(1, _COMPARED // max(1, len(others.hashes)))
    for start in range(0, len(match), step):
        rows = slice(start, start + step)
        alike = np.bitwise_count(pictures.hashes[rows, None] ^ others.hashes) <= MOST_BITS
        alike &= pictures.plain[rows, None] & others.plain
        if earlier:
            alike &= np.arange(len(others.hashes)) < np.arange(start, start + len(alike))[:, None]
        for row in np.flatnonzero(alike.any(axis=1)).tolist():
            candidates = np.flatnonzero(alike[row])
            apart = others.small[candidates].astype(np.float32) - pictures.small[start + row]
            same = np.flatnonzero(np.abs(apart).mean(axis=(1, 2)) <= MOST_LEVELS)
            match[start + row] = candidates[same[0]] if len(same) else -1
    return match


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """Grey levels [n 64 64] -> uint64 [n]: which low frequencies, without the mean, are above their median."""
    waves = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5))
    low = np.einsum("ui,nij,vj->nuv", waves, grey.astype(np.float64), waves).reshape(len(grey), -1)[:, 1:]
    bits = np.zeros((len(grey), LOW * LOW), bool)
    bits[:, 1:] = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()


def _seen(split: PreparedSplit, image: int) -> tuple[np.ndarray, bool, bool, bool]:
    """Grey float32 [64 64], whether it is unreadable, of one colour, described."""
    nothing = np.zeros((SIDE, SIDE), np.float32)
    try:
        data = split.image(image)
        square = load_square(data, SIDE, Geometry.RESIZE_FAST, (0, 0, 0))
    except DataError:
        return nothing, True, False, False
    grey = square.astype(np.float32).mean(axis=2)
    return grey, False, bool(np.ptp(square) < FLAT), _described(data)


def _described(data: bytes) -> bool:
    if is_dicom(data):
        return True
    with Image.open(io.BytesIO(data)) as image:
        exif = image.getexif()
        told = {**exif, **exif.get_ifd(_EXIF)}
        texts = [value for key, value in image.info.items() if str(key).lower() not in _TECHNICAL]
        telling = [value for key, value in told.items() if key in _TELLING]
        return bool(exif.get_ifd(_GPS)) or any(
            isinstance(each, str | bytes) and each.strip() for each in texts + telling
        )


def _mean(grey: np.ndarray, size: int) -> np.ndarray:
    """Means of squares of `size` pixels."""
    n, side, _ = grey.shape
    return grey.reshape(n, side // size, size, side // size, size).mean(axis=(2, 4))
