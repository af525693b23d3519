"""Checks of the images of a split, decoded once and kept in small: unreadable, of one colour, described, alike."""

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
from biomedgpt_jax.data.lint.likeness import CUTS, LOW, SIDE, SMALL, in_small, near
from biomedgpt_jax.data.lint.material import Material, Part, Pictures
from biomedgpt_jax.data.source import PreparedSplit

FLAT = 2  # grey levels between the darkest and the lightest pixel of an image of one colour
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
    low = [np.zeros((0, len(CUTS), LOW, LOW), np.float32)]
    small = [np.zeros((0, len(CUTS), SMALL, SMALL), np.uint8)]
    facts: list[tuple[bool, bool, bool]] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for start in range(0, split.num_images, _CHUNK):
            chunk = range(start, min(start + _CHUNK, split.num_images))
            seen = list(pool.map(partial(_seen, split), chunk))
            waves, copies = in_small(np.stack([each[0] for each in seen]))
            low.append(waves)
            small.append(copies)
            facts += [each[1:] for each in seen]
            progress(chunk.stop, split.num_images)
    unreadable, constant, described = np.array(facts, bool).reshape(-1, 3).T
    return Pictures(np.concatenate(low), np.concatenate(small), unreadable, constant, described)


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
