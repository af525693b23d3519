"""From prepared samples to what a language model is told of each: caption, mentions of the image, images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.rows import spaces
from biomedgpt_jax.data.source import PreparedSplit, Sample

CAPTION_FIELDS = ("caption", "fig_caption", "figure_caption")
MENTION_FIELDS = ("mentions", "in_text_mentions", "in_text_mention", "inline_mentions")
CAPTION_TASK = "caption"
# Longer sources are no captions, and each of their characters is paid for.
MAX_CAPTION = 6_000
MAX_MENTIONS = 12_000


@dataclass(frozen=True)
class Source:
    """One sample to write about. `mentions_left` of its mentions were too long to be told."""

    split: PreparedSplit
    sample: Sample
    caption: str
    mentions: tuple[str, ...]
    mentions_left: int

    @property
    def id(self) -> str:
        return self.sample.id

    @property
    def text(self) -> str:
        return "\n".join((self.caption, *self.mentions))

    def told(self) -> str:
        """As it stands in a prompt."""
        mentions = "".join(f"\n<mention>\n{each}\n</mention>" for each in self.mentions)
        return f"<caption>\n{self.caption}\n</caption>{mentions}"

    def images(self) -> list[bytes]:
        return [self.split.image(number) for number in self.sample.images]


@dataclass(frozen=True)
class Left:
    """A sample that nothing can be asked about, and why."""

    id: str
    reason: str


def sources(split: PreparedSplit, rows: int, seed: int, caption_field: str) -> Iterator[Source | Left]:
    """The sources of `rows` samples drawn by `seed` (0: all), in the order of the split.

    The caption is the field `caption_field` of meta; where that is "", a field of CAPTION_FIELDS, or the answer of a
    sample whose task is captioning.
    """
    chosen: Sequence[int] = range(len(split))
    if 0 < rows < len(split):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(split))[:rows]).tolist()
    for start in range(0, len(chosen), 256):
        for sample in split.samples(chosen[start : start + 256]):
            try:
                yield _source(split, sample, caption_field)
            except DataError as reason:
                yield Left(sample.id, str(reason))


def _source(split: PreparedSplit, sample: Sample, caption_field: str) -> Source:
    if not sample.images:
        raise DataError("no image")
    caption = spaces(_caption(sample, caption_field))
    if not caption:
        raise DataError("empty caption")
    if len(caption) > MAX_CAPTION:
        raise DataError(f"caption of more than {MAX_CAPTION} characters")
    mentions = [spaces(each) for name in MENTION_FIELDS for each in _texts(sample.meta.get(name), name)]
    told: list[str] = []
    for mention in dict.fromkeys(filter(None, mentions)):
        if sum(map(len, told)) + len(mention) <= MAX_MENTIONS:
            told.append(mention)
    return Source(split, sample, caption, tuple(told), len(set(filter(None, mentions))) - len(told))


def _caption(sample: Sample, field: str) -> str:
    for name in (field,) if field else CAPTION_FIELDS:
        if isinstance(sample.meta.get(name), str):
            return sample.meta[name]
    if not field and sample.meta.get("task") == CAPTION_TASK and len(sample.turns) == 1:
        return sample.turns[0].answer
    raise DataError("no caption")


def _texts(value: Any, name: str) -> list[str]:
    found = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise DataError(f"field {name} is neither a text nor a list of texts")
    return found
