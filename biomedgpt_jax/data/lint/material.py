"""What is checked: the samples of all splits that a configuration names, and what the model makes of them."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from biomedgpt_jax.data.source import PreparedSplit, Sample

# A letter of Chinese is a word.
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_DOCUMENTS = ("document", "context", "texts")  # fields of meta that the model reads


@dataclass(frozen=True)
class Coded:
    """A sample as its model reads it. `supervised` None: it could not be encoded (then not `usable`)."""

    usable: bool
    supervised: int | None
    image_tokens: int
    image_features: int
    lost: frozenset[str] = frozenset()  # of answer, question, document, image, all


@dataclass(frozen=True)
class Pictures:
    """All images of a split in small, see `likeness.in_small`. `low` float32 [n c 8 8], `small` uint8 [n c 16 16]; the
    others bool [n].
    """

    low: np.ndarray
    small: np.ndarray
    unreadable: np.ndarray
    constant: np.ndarray
    described: np.ndarray  # its file carries text or a place

    @property
    def plain(self) -> np.ndarray:
        """Those that can be compared, bool [n]."""
        return ~(self.unreadable | self.constant)


@dataclass
class Part:
    """A split that is `learned` or scored. `coded` and `pictures` are there for the checks that need them."""

    split: PreparedSplit
    learned: bool
    samples: list[Sample]
    coded: list[Coded] = field(default_factory=list)
    pictures: Pictures | None = None

    @property
    def name(self) -> str:
        """Without the way to the data, which may be long or absolute."""
        return f"{self.split.directory.resolve().name}:{self.split.split}"

    def ids(self, numbers: Sequence[int]) -> list[str]:
        return [self.samples[number].id for number in numbers]

    @cached_property
    def users(self) -> dict[int, int]:
        """Image record -> the first sample that shows it."""
        shown: dict[int, int] = {}
        for number, sample in enumerate(self.samples):
            for image in sample.images:
                shown.setdefault(image, number)
        return shown

    @cached_property
    def image_keys(self) -> list[tuple[str, ...]]:
        """Of each sample, the hashes of its images' bytes; read only where the sample does not say them."""
        known: dict[int, str] = {}
        return [
            (str(sample.meta["image_sha256"]),)
            if len(sample.images) == 1 and "image_sha256" in sample.meta
            else tuple(self._hash(image, known) for image in sample.images)
            for sample in self.samples
        ]

    @cached_property
    def asked(self) -> list[tuple[tuple[str, ...], str]]:
        """Of each sample, what it shows and asks: image hashes and plain words."""
        return [
            (images, plain(" / ".join([*(turn.question for turn in sample.turns), *documents(sample)])))
            for images, sample in zip(self.image_keys, self.samples, strict=True)
        ]

    def _hash(self, image: int, known: dict[int, str]) -> str:
        if image not in known:
            known[image] = hashlib.sha256(self.split.image(image)).hexdigest()
        return known[image]


@dataclass(frozen=True)
class Material:
    """`answers`: the closed list of a file, () where there is none. `skips`: unusable samples are left out of training.
    `hint`: the field of meta that is told with a question.
    """

    parts: tuple[Part, ...]
    answers: tuple[str, ...] = ()
    hint: str = ""
    skips: bool = False

    @property
    def learned(self) -> list[Part]:
        return [part for part in self.parts if part.learned]

    @property
    def scored(self) -> list[Part]:
        return [part for part in self.parts if not part.learned]


def documents(sample: Sample) -> list[str]:
    """The texts beside its turns."""
    found = [sample.meta[name] for name in _DOCUMENTS if name in sample.meta]
    return [text for each in found for text in (each if isinstance(each, list) else [each]) if isinstance(text, str)]


def answer_text(sample: Sample) -> str:
    return " / ".join(plain(turn.answer) for turn in sample.turns)


def plain(text: str) -> str:
    """Its words in lower case."""
    return " ".join(words(text))


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
