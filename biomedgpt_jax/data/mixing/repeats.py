"""Samples that say what an earlier one of the mixture says: exactly, or nearly.

Nearly: each of its texts (question, documents, answer) is the same words as the earlier's, or both are made mostly of
the same runs of words, and each of its images is, or looks like, the earlier's.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from biomedgpt_jax.data.lint.likeness import near
from biomedgpt_jax.data.lint.material import Part, answer_text, documents, plain
from biomedgpt_jax.data.lint.overlap import MOSTLY, covered, runs, seen_earlier
from biomedgpt_jax.data.source import Sample

Place = tuple[int, int]  # a part and the number of a sample in it


def repeated(parts: Sequence[Part], places: Sequence[Place]) -> dict[Place, tuple[str, str]]:
    """Of these samples, in the order of `places`, those that repeat an earlier one: the reason, and the id of that."""
    found: dict[Place, tuple[str, str]] = {}
    exact: dict[object, Place] = {}
    for part, number in places:
        key = (parts[part].asked[number], answer_text(parts[part].samples[number]))
        if (first := exact.setdefault(key, (part, number))) != (part, number):
            found[part, number] = ("duplicate", parts[first[0]].samples[first[1]].id)
    left = [place for place in places if place not in found]
    looks = _looks(parts)
    texts = {place: _texts(parts[place[0]].samples[place[1]]) for place in left}
    for place, first in (_same_looks(left, looks, texts) | _near_texts(left, looks, texts)).items():
        found[place] = ("near-duplicate", parts[first[0]].samples[first[1]].id)
    return found


Looks = list[list[tuple[str, ...]]]  # of each part and sample, its images; those that look the same have one name


def _looks(parts: Sequence[Part]) -> Looks:
    named: list[dict[int, str]] = []
    for place, part in enumerate(parts):
        names = {
            record: image
            for sample, images in zip(part.samples, part.image_keys, strict=True)
            for record, image in zip(sample.images, images, strict=True)
        }
        if part.pictures is not None:
            pictures = part.pictures
            for other in range(place + 1):
                those = parts[other].pictures
                match = near(pictures, those, earlier=other == place) if those is not None else np.zeros(0, int)
                for record in np.flatnonzero(match >= 0).tolist():
                    if record in names and (first := named[other] if other < place else names).get(int(match[record])):
                        names[record] = first[int(match[record])]
        named.append(names)
    return [
        [tuple(named[n][image] for image in sample.images) for sample in part.samples] for n, part in enumerate(parts)
    ]


def _texts(sample: Sample) -> tuple[str, ...]:
    """Question, documents, answer, in plain words; a question that only wraps its documents is not one of them."""
    read = documents(sample)
    asked = str(sample.meta.get("question", "")) if read else " / ".join(turn.question for turn in sample.turns)
    return tuple(map(plain, (asked, *read, answer_text(sample))))


def _same_looks(left: Sequence[Place], looks: Looks, texts: dict[Place, tuple[str, ...]]) -> dict[Place, Place]:
    first: dict[object, Place] = {}
    earlier = {place: first.setdefault((looks[place[0]][place[1]], texts[place]), place) for place in left}
    return {place: other for place, other in earlier.items() if other != place}


def _near_texts(left: Sequence[Place], looks: Looks, texts: dict[Place, tuple[str, ...]]) -> dict[Place, Place]:
    """The earlier sample is the one that has most of its runs of words, where they are compared text by text."""
    hashes, starts = runs([" / ".join(texts[place]) for place in left])
    owners = np.repeat(np.arange(len(left)), np.diff(starts))
    _, first, back = np.unique(hashes, return_index=True, return_inverse=True)
    origin = owners[first][back]
    found: dict[Place, Place] = {}
    for number in np.flatnonzero(covered(seen_earlier(hashes, starts), starts)).tolist():
        place = left[number]
        before = Counter(each for each in origin[starts[number] : starts[number + 1]].tolist() if each < number)
        other = left[before.most_common(1)[0][0]]
        same = looks[place[0]][place[1]] == looks[other[0]][other[1]]
        if same and len(texts[place]) == len(texts[other]) and all(map(_alike, texts[place], texts[other])):
            first_of_all = found.get(other)
            found[place] = other if first_of_all is None else first_of_all
    return found


def _alike(text: str, other: str) -> bool:
    if text == other:
        return True
    (mine, theirs) = (set(runs([each])[0].tolist()) for each in (text, other))
    shared = len(mine & theirs)
    return bool(mine and theirs) and shared >= MOSTLY * max(len(mine), len(theirs))
