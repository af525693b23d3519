"""Put an exam to a model that transformers runs, through its own chat template."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from biomedgpt_jax.convert.chat_model import ChatModel, Parts
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import decode_rgb
from biomedgpt_jax.data.prompts import IMAGE
from biomedgpt_jax.data.source import PreparedSplit, Sample
from biomedgpt_jax.eval.protocols import Protocol
from biomedgpt_jax.eval.runner import evaluate
from biomedgpt_jax.verbs.exam import Exam
from biomedgpt_jax.verbs.progress import Advance

BLACK = (0, 0, 0)  # behind transparent pictures


def put_to_chat_model(
    chat: ChatModel,
    exam: Exam,
    protocol: Protocol,
    batch_rows: int,
    max_new_tokens: int,
    folder: Path,
    facts: Mapping[str, Any],
    advance: Advance,
) -> None:
    """Asks all questions and writes predictions.jsonl and scores.json, which says `facts`, into `folder`.

    Raises:
        DataError: a picture that cannot be read, or pictures that do not match the marks in a question.
    """
    evaluate(
        _batches(chat, exam.split, batch_rows),
        exam.questions,
        exam.remember(partial(chat.generate, max_new_tokens=max_new_tokens)),
        chat.decode,
        protocol,
        train=exam.train_questions,
        train_source=exam.train_source,
        folder=str(folder),
        facts={**facts, "decoding": {"method": "greedy", "max_new_tokens": max_new_tokens}},
        progress=lambda done, total, _: advance(f"ask {exam.split.name}", done, total),
    )


def as_parts(sample: Sample, pictures: Sequence[Image.Image]) -> Parts:
    """The question of a sample with a picture at each mark; without marks all pictures stand in front.

    Raises:
        DataError: another number of marks than of pictures.
    """
    pieces = sample.turns[-1].question.strip().split(IMAGE)
    if len(pieces) == 1:
        return (*pictures, pieces[0])
    if len(pieces) - 1 != len(pictures):
        raise DataError(f"sample {sample.id}: {len(pieces) - 1} {IMAGE} in its question, but {len(pictures)} images")
    parts: list[str | Image.Image] = [pieces[0].strip()]
    for picture, piece in zip(pictures, pieces[1:], strict=True):
        parts += [picture, piece.strip()]
    return tuple(part for part in parts if part != "")


def _batches(chat: ChatModel, split: PreparedSplit, rows: int) -> Iterator[dict[str, Any]]:
    """Questions of like length with equally many pictures together."""
    samples = split.samples(range(len(split)))
    order = sorted(range(len(samples)), key=lambda n: (len(samples[n].images), len(samples[n].turns[-1].question), n))
    while order:
        pictures = len(samples[order[0]].images)
        taken = [n for n in order[:rows] if len(samples[n].images) == pictures]
        order = order[len(taken) :]
        questions = [as_parts(samples[n], [_picture(split, image) for image in samples[n].images]) for n in taken]
        yield {**chat.encode(questions), "samples": np.array(taken, np.int32)[:, None]}


def _picture(split: PreparedSplit, number: int) -> Image.Image:
    return Image.fromarray(decode_rgb(split.image(number), BLACK, f"{split.name}, image record {number}"))
