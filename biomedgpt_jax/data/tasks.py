"""A sample to token ids, loss mask and image order; the rules that every sample must obey are checked here."""

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import IMAGE, Kind, Span, Template, render
from biomedgpt_jax.data.source import Sample
from biomedgpt_jax.data.tokenizers import Tokenizer

# One per image, until `expand` puts tokens_per_image positions in its place. No vocabulary has negative ids.
PLACEHOLDER = -200


class Overflow(Enum):
    """What to do with a sample that does not fit a row."""

    ERROR = "error"
    SKIP = "skip"  # leave it out and count it
    TRUNCATE = "truncate"  # cut the end of its last answers; never an image, never all supervised tokens


@dataclass(frozen=True)
class Encoded:
    """Ids int32 [n] (one PLACEHOLDER per image) and mask bool [n] of a sample; `images` are record numbers."""

    id: str
    ids: np.ndarray
    supervised: np.ndarray
    images: tuple[int, ...]


def encode_sample(sample: Sample, template: Template, tokenizer: Tokenizer) -> Encoded:
    """The whole conversation, answers supervised. Raises DataError naming the sample if it breaks a rule."""
    turns = _checked_turns(sample)
    for number, (_, answer) in enumerate(turns):
        if not answer.strip():
            raise DataError(
                f"sample {sample.name}: the answer of turn {number + 1} is empty, so there is nothing to learn"
            )
    encoded = _encode(sample, render(template, turns), tokenizer)
    if not encoded.supervised.any():
        raise DataError(f"sample {sample.name}: no token is supervised; its answer is shorter than one prediction")
    return encoded


def encode_prompt(sample: Sample, template: Template, tokenizer: Tokenizer) -> Encoded:
    """The same up to where the last answer would begin; nothing is supervised."""
    turns = _checked_turns(sample)
    encoded = _encode(sample, render(template, [*turns[:-1], (turns[-1][0], None)]), tokenizer)
    return replace(encoded, supervised=np.zeros(len(encoded.ids), bool))


def expanded_length(encoded: Encoded, tokens_per_image: int) -> int:
    """Tokens of the sample in a row."""
    return len(encoded.ids) + len(encoded.images) * (tokens_per_image - 1)


def expand(
    encoded: Encoded, tokens_per_image: int, image_token_id: int, first_slot: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids as they stand in a row, with `tokens_per_image` positions per image.

    Returns tokens int32 [n], supervised bool [n], image_index int32 [n] (-1 for text). Images take the row's
    slots from `first_slot` on.
    """
    repeats = np.where(encoded.ids == PLACEHOLDER, tokens_per_image, 1)
    tokens = np.repeat(encoded.ids, repeats)
    is_image = tokens == PLACEHOLDER
    image_index = np.full(len(tokens), -1, np.int32)
    image_index[is_image] = first_slot * tokens_per_image + np.arange(is_image.sum())
    tokens = np.where(is_image, image_token_id, tokens).astype(np.int32)
    return tokens, np.repeat(encoded.supervised, repeats), image_index


def truncate(encoded: Encoded, limit: int, tokens_per_image: int) -> Encoded:
    """The first `limit` expanded tokens. DataError if that would cut an image or leave nothing supervised."""
    keep = len(encoded.ids) - max(0, expanded_length(encoded, tokens_per_image) - limit)
    if keep < 0 or (encoded.ids[keep:] == PLACEHOLDER).any():
        raise DataError(
            f"sample {encoded.id}: {len(encoded.images)} images of {tokens_per_image} tokens each and their text "
            f"do not fit {limit} tokens; an image would be cut"
        )
    if not encoded.supervised[:keep].any():
        raise DataError(f"sample {encoded.id}: within {limit} tokens no supervised token is left")
    return Encoded(encoded.id, encoded.ids[:keep], encoded.supervised[:keep], encoded.images)


def _checked_turns(sample: Sample) -> list[tuple[str, str]]:
    """(question, answer) pairs, one `<image>` per image; unplaced images go in front of the first question."""
    turns = [(turn.question, turn.answer) for turn in sample.turns]
    if not turns:
        raise DataError(f"sample {sample.name}: it has no turn")
    if any(IMAGE in answer for _, answer in turns):
        raise DataError(f"sample {sample.name}: {IMAGE} stands in an answer; an image can only be part of a question")
    placed = sum(question.count(IMAGE) for question, _ in turns)
    if placed == 0:
        turns[0] = (f"{IMAGE}\n" * len(sample.images) + turns[0][0].strip(), turns[0][1])
    elif placed != len(sample.images):
        raise DataError(f"sample {sample.name}: {placed} {IMAGE} in its questions, but {len(sample.images)} images")
    return turns


def _encode(sample: Sample, spans: list[Span], tokenizer: Tokenizer) -> Encoded:
    ids: list[int] = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    supervised = [False] * len(ids)
    previous = None
    for span in spans:
        new = _span_ids(span, previous, tokenizer)
        ids += new
        supervised += [span.supervised] * len(new)
        previous = span.kind
    mask = np.array(supervised, bool)
    mask[:1] = False  # nothing stands before the first token to predict it
    return Encoded(sample.id, np.array(ids, np.int32), mask, sample.images)


def _span_ids(span: Span, previous: Kind | None, tokenizer: Tokenizer) -> list[int]:
    match span.kind:
        case Kind.IMAGE:
            return [PLACEHOLDER]
        case Kind.SPECIAL:
            return [tokenizer.special(span.text)]
        case Kind.END:
            return [tokenizer.eos_id]
        case Kind.TEXT:
            words = span.text
            if tokenizer.adds_space and previous is Kind.TEXT and words.startswith(" "):
                # Text that goes on after text: the space that this tokenizer adds is the one already there.
                words = words[1:]
            return tokenizer.encode(words)
