"""A row of pre-training data to one of its examples, anew in every epoch; what is drawn comes from the generator.

| `meta.task`   | examples                                    | target                 | half, confidence |
|---------------|---------------------------------------------|------------------------|------------------|
| caption       | the caption; does a caption match?          | caption; yes or no     | 1st, 1           |
| vqa           | the answer; is an answer right?             | answer; yes or no      | 1st, its own     |
| grounding     | where is it? (`meta.box`); what is here?    | four bins; caption     | 1st, 1           |
| text          | the text out of itself with words hidden    | the text               | 2nd, 2           |
| image_codes   | the hidden middle of the picture            | the codes (its answer) | 2nd, 2           |
| detection     | what is where? (`meta.boxes`)               | four bins and a label  | 2nd, 2           |

`meta.objects` are what the caption of an image speaks of; a wrong caption is made by exchanging one of them (4 of 10
times, where there is one) or is that of another image. `meta.boxes` are [x0, y0, x1, y1, label].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens
from biomedgpt_jax.data.boxes import Box, Jitter, box_ids, draw_jitter, read_box
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.infilling import infill
from biomedgpt_jax.data.pair_encoding import EncodedPair, confidence
from biomedgpt_jax.data.pair_tasks import IMAGE_PROMPT
from biomedgpt_jax.data.rows import IMAGE_PLACE
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.text_cleaning import clean_caption, clean_question


class Example(IntEnum):
    """What is made of a turn; the number is kept on disk."""

    CAPTION = 0
    MATCHING = 1
    ANSWER = 2
    VERIFICATION = 3
    GROUNDING = 4
    GROUNDED_CAPTION = 5
    TEXT = 6
    CODES = 7
    DETECTION = 8


EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "caption": (Example.CAPTION, Example.MATCHING),
    "vqa": (Example.ANSWER, Example.VERIFICATION),
    "grounding": (Example.GROUNDING, Example.GROUNDED_CAPTION),
    "text": (Example.TEXT,),
    "image_codes": (Example.CODES,),
    "detection": (Example.DETECTION,),
}
SECOND_HALF = (Example.TEXT, Example.CODES, Example.DETECTION)
CAPTION_WORDS, QUESTION_WORDS = 30, 80


@dataclass(frozen=True)
class PretrainingSettings:
    """`image_size`: pixels of a side. `mask_ratio`: of the words of a text. Of a text the first `text_read` tokens are
    read, and of these the last `text_kept`. `flips`: pictures of detection are flipped (never where a text names
    sides). `confidence`: of the second half.
    """

    image_size: int
    mask_ratio: float = 0.3
    text_read: int = 512
    text_kept: int = 256
    flips: bool = False
    confidence: float = 2.0


@dataclass(frozen=True)
class Pools:
    """What wrong examples are made of, from the same data. `caption(rng)` is the caption of any row."""

    caption: Callable[[np.random.Generator], str]
    objects: tuple[str, ...]
    answers: Mapping[str, tuple[str, ...]]  # by type
    longest_caption: int  # tokens


@dataclass(frozen=True)
class Maker:
    """Makes examples. `image_sides` gives (width, height) of an image record of the split."""

    tokenizer: BiomedGptTokens
    settings: PretrainingSettings
    pools: Pools
    image_sides: Callable[[int], tuple[int, int]]

    def make(self, example: Example, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
        """DataError, naming the sample, where it lacks what the example needs."""
        return _MAKERS[example](self, sample, turn, rng)

    def pair(self, sample: Sample, source: list[int], target: list[int], **facts) -> EncodedPair:
        """<s> source </s> and target </s>."""
        tokens = self.tokenizer
        return EncodedPair(
            sample.id,
            np.array([tokens.bos_id, *source, tokens.eos_id], np.int32),
            np.zeros(0, np.int32),
            np.array([*target, tokens.eos_id], np.int32),
            **{"image": sample.images[0] if sample.images else -1, **facts},
        )

    def ids(self, *texts: str) -> list[int]:
        return [token for text in texts for token in self.tokenizer.encode(text)]

    def second(self) -> dict:
        return {"extra": True, "weight": self.settings.confidence}


def answer_type(answer: str) -> str:
    """Answers of one type may stand for each other as wrong ones."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer[:1].isdigit() else "other"


def caption_of(sample: Sample, turn: Turn) -> str:
    """The cleaned caption; DataError if nothing is left of it."""
    return _filled(sample, "caption", clean_caption(turn.answer, CAPTION_WORDS))


def answer_of(sample: Sample, turn: Turn) -> str:
    return _filled(sample, "answer", " ".join(turn.answer.lower().split()))


def objects_of(sample: Sample) -> list[str]:
    """What its caption speaks of, cleaned."""
    named = sample.meta.get("objects") or []
    listed = named if isinstance(named, list) else [named]
    return [cleaned for name in listed if (cleaned := clean_caption(str(name), CAPTION_WORDS))]


def boxes_of(sample: Sample) -> list[Box]:
    """Its regions with labels; DataError where there is none or one is broken."""
    boxes = []
    for entry in sample.meta.get("boxes") or []:
        if not isinstance(entry, list) or len(entry) != 5:
            raise DataError(
                f"sample {sample.name}: a region must be [x0, y0, x1, y1, label], found {len(entry)} values"
            )
        label = _filled(sample, "label of a region", clean_caption(str(entry[4]), CAPTION_WORDS))
        boxes.append(read_box(entry[:4], label))
    if not boxes:
        raise DataError(f"sample {sample.name}: meta.boxes is empty; there is nothing to detect")
    return boxes


def text_ids(maker: Maker, sample: Sample, turn: Turn) -> np.ndarray:
    """The part of a text that is learned, int32 [n]."""
    text = _filled(sample, "text", " ".join(turn.answer.lower().split()))
    ids = maker.tokenizer.encode(" " + text)[: maker.settings.text_read][-maker.settings.text_kept :]
    return np.array(ids, np.int32)


def _caption(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    return maker.pair(sample, maker.ids(IMAGE_PROMPT), maker.ids(" " + caption_of(sample, turn)))


def _matching(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    caption, right = caption_of(sample, turn), True
    if rng.random() >= 0.5:
        told = _wrong_caption(maker.pools, sample, caption, rng)
        caption, right = told, told == caption
    told_ids = maker.ids(" " + caption)[: maker.pools.longest_caption]
    source = [*maker.ids(' does the image describe "'), *told_ids, *maker.ids(' "?')]
    return maker.pair(sample, source, maker.ids(" yes" if right else " no"))


def _wrong_caption(pools: Pools, sample: Sample, caption: str, rng: np.random.Generator) -> str:
    """Another caption; the same one where the data has no other."""
    named = [name for name in objects_of(sample) if f" {name} " in f" {caption} "]
    if named and rng.random() > 0.6:
        old = str(rng.choice(named))
        others = [name for name in pools.objects if name != old]
        if others:
            return f" {caption} ".replace(f" {old} ", f" {rng.choice(others)} ").strip()
    return next((other for _ in range(10) if (other := pools.caption(rng)) != caption), caption)


def _answer(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    target = maker.ids(" " + answer_of(sample, turn))
    return maker.pair(sample, maker.ids(" " + _asked(sample, turn)), target, weight=confidence(sample))


def _verification(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    answer, right = answer_of(sample, turn), True
    if rng.random() >= 0.5:
        alike = maker.pools.answers.get(answer_type(answer), ())
        others = [
            other for other in (alike if len(alike) > 1 else maker.pools.answers.get("other", ())) if other != answer
        ]
        if others:
            answer, right = str(rng.choice(others)), False
    question = _asked(sample, turn)
    source = maker.ids(f' what is the answer to question " {question} ". is "', f" {answer}", ' "?')
    return maker.pair(sample, source, maker.ids(" yes" if right else " no"), weight=confidence(sample))


def _grounding(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    source = maker.ids(' which region does the text "', " " + caption_of(sample, turn), ' " describe?')
    return maker.pair(sample, source, _region(maker, sample))


def _grounded_caption(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    # Two spaces in front, as the published models learned it.
    source = [*maker.ids("  what does the region describe? region:"), *_region(maker, sample)]
    return maker.pair(sample, source, maker.ids(" " + caption_of(sample, turn)))


def _region(maker: Maker, sample: Sample) -> list[int]:
    """`meta.box` in the whole picture, which is resized to a square."""
    box, size = read_box(sample.meta.get("box")), maker.settings.image_size
    width, height = _sides_around(maker, sample, [box])
    x0, x1 = (min(x * size / width, float(size)) for x in (box.x0, box.x1))
    y0, y1 = (min(y * size / height, float(size)) for y in (box.y0, box.y1))
    seen = Box(x0, y0, x1, y1)
    return box_ids(seen, size, maker.tokenizer)


def _sides_around(maker: Maker, sample: Sample, boxes: list[Box]) -> tuple[int, int]:
    """Width and height of its picture; DataError for a region outside of it, as of a picture that was made smaller."""
    width, height = maker.image_sides(sample.images[0])
    for box in boxes:
        if box.x0 >= width or box.y0 >= height:
            raise DataError(
                f"sample {sample.name}: a region that begins at {box.x0:g}, {box.y0:g} lies outside of its picture of "
                f"{width} x {height} pixels"
            )
    return width, height


def _text(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    ids, tokens = text_ids(maker, sample, turn), maker.tokenizer
    masked = infill(ids, tokens.starts_word[ids], maker.settings.mask_ratio, tokens.mask_id, rng)
    source = [*maker.ids(' what is the complete text of "'), *masked.tolist(), *maker.ids(' "?')]
    return maker.pair(sample, source, ids.tolist(), **maker.second())


def _codes(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    codes = turn.answer.split()
    side = round(len(codes) ** 0.5)
    if side * side != len(codes) or not all(code.isdecimal() for code in codes):
        raise DataError(
            f"sample {sample.name}: its answer must be the codes of a square picture, found {len(codes)} words"
        )
    target = [maker.tokenizer.code_id(int(code)) for code in codes]
    source = maker.ids(" what is the image in the middle part?")
    return maker.pair(sample, source, target, hole=True, codes=True, **maker.second())


def _detection(maker: Maker, sample: Sample, turn: Turn, rng: np.random.Generator) -> EncodedPair:
    boxes, settings = boxes_of(sample), maker.settings
    jitter: Jitter = draw_jitter(
        *_sides_around(maker, sample, boxes), boxes, settings.image_size, settings.flips, rng
    )  # fmt: skip
    target = []
    for box in map(jitter.move, boxes):
        target += [*box_ids(box, settings.image_size, maker.tokenizer), *maker.ids(" " + box.label)]
    source = maker.ids(" what are the objects in the image?")
    return maker.pair(sample, source, target, view=jitter.view, **maker.second())


_MAKERS: Mapping[Example, Callable[[Maker, Sample, Turn, np.random.Generator], EncodedPair]] = {
    Example.CAPTION: _caption,
    Example.MATCHING: _matching,
    Example.ANSWER: _answer,
    Example.VERIFICATION: _verification,
    Example.GROUNDING: _grounding,
    Example.GROUNDED_CAPTION: _grounded_caption,
    Example.TEXT: _text,
    Example.CODES: _codes,
    Example.DETECTION: _detection,
}


def _asked(sample: Sample, turn: Turn) -> str:
    return _filled(sample, "question", clean_question(turn.question.replace(IMAGE_PLACE, " ").strip(), QUESTION_WORDS))


def _filled(sample: Sample, what: str, text: str) -> str:
    if not text:
        raise DataError(f"sample {sample.name}: the {what} is empty")
    return text
