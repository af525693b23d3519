"""Samples that a mixture must not hold, because they are known from an evaluation set.

A sample is dropped for the first of these that it has in common with any evaluation set: an image byte for byte; an
image that looks the same; its question with all that it reads (without an image alone: questions to images repeat);
most of its own text (`lint/overlap.py`), either of the sample's or of the evaluation's; a patient or case.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from biomedgpt_jax.data.lint.leaks import patients_of
from biomedgpt_jax.data.lint.likeness import near
from biomedgpt_jax.data.lint.material import Part
from biomedgpt_jax.data.lint.overlap import MOSTLY, covered, own_text, runs

# Of each contaminated sample by its number, the evaluation set that knows it.
Known = dict[int, str]
Find = Callable[[Part, Part], Iterator[int]]
_CHUNK = 4096  # samples whose texts are compared at once


def contaminated(part: Part, scored: Sequence[Part]) -> dict[int, tuple[str, str]]:
    """Of the samples of `part` by number: the reason, and the evaluation set."""
    found: dict[int, tuple[str, str]] = {}
    for reason, find in _REASONS.items():
        for other in scored:
            for number in find(part, other):
                found.setdefault(number, (reason, other.name))
    return found


def _same_image(part: Part, other: Part) -> Iterator[int]:
    shown = {image for images in other.image_keys for image in images}
    yield from (number for number, images in enumerate(part.image_keys) if shown.intersection(images))


def _near_image(part: Part, other: Part) -> Iterator[int]:
    if part.pictures is not None and other.pictures is not None:
        alike = near(part.pictures, other.pictures) >= 0
        yield from (number for number, sample in enumerate(part.samples) if alike[list(sample.images)].any())


def _same_question(part: Part, other: Part) -> Iterator[int]:
    asked = {asked for asked, sample in zip(other.asked, other.samples, strict=True) if not sample.images}
    yield from (number for number, each in enumerate(part.asked) if each in asked)


def _near_text(part: Part, other: Part) -> Iterator[int]:
    known, starts = runs([own_text(sample) for sample in other.samples])
    owners, sizes = np.repeat(np.arange(len(starts) - 1), np.diff(starts)), np.diff(starts)
    order = np.argsort(known, kind="stable")
    known, owners = known[order], owners[order]
    for first in range(0, len(part.samples), _CHUNK):
        hashes, ends = runs([own_text(sample) for sample in part.samples[first : first + _CHUNK]])
        begin, end = np.searchsorted(known, hashes, "left"), np.searchsorted(known, hashes, "right")
        mostly = covered(end > begin, ends)
        for number in range(len(mostly)):
            mine = slice(ends[number], ends[number + 1])
            yield from [first + number] if mostly[number] or _holds_one(begin[mine], end[mine], owners, sizes) else []


def _holds_one(begin: np.ndarray, end: np.ndarray, owners: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether most runs of one text of the evaluation set are among these."""
    spans = [owners[a:b] for a, b in zip(begin.tolist(), end.tolist(), strict=True) if b > a]
    if not spans:
        return False
    texts, counts = np.unique(np.concatenate(spans), return_counts=True)
    return bool((counts >= MOSTLY * sizes[texts]).any())


def _same_patient(part: Part, other: Part) -> Iterator[int]:
    known = {who for sample in other.samples for who in patients_of(other, sample)}
    yield from (number for number, sample in enumerate(part.samples) if known.intersection(patients_of(part, sample)))


_REASONS: dict[str, Find] = {
    "test-image": _same_image,
    "test-image-near": _near_image,
    "test-question": _same_question,
    "test-text": _near_text,
    "test-patient": _same_patient,
}
