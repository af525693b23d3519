"""Encoded pairs to arrays of static shape: one source and one target per row.

Axis letters: b rows, t tokens of a source, s positions of the decoder, h w pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np

from biomedgpt_jax.data.batches import NO_SAMPLE, HostBatch, ImageReader
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_encoding import EncodedPair
from biomedgpt_jax.data.source import PreparedSplit

BOS, PAD, EOS = 0, 1, 2  # the same in every vocabulary of this family
ALL_PATCHES = int(np.iinfo(np.int32).max)  # `patches_kept` of a row of which none is left out


@dataclass(frozen=True, order=True)
class PairShape:
    """Tokens of a source, with <s> and </s>, and positions of the decoder. Buckets are tried from the smallest on."""

    source: int
    target: int


@dataclass(frozen=True)
class PairFields:
    """What the rows of a batch hold besides texts. `image_size` is (height, width) in pixels, None: no images."""

    image_size: tuple[int, int] | None
    pretraining: bool = False  # image_hole, code_targets and patches_kept
    answers: bool = False  # answer_nodes


def empty_pair_batch(rows: int, shape: PairShape, fields: PairFields) -> HostBatch:
    """A batch of rows that teach nothing: <s> </s> as the source, so that there is something to attend to, and <s>."""
    batch: HostBatch = {
        "source_tokens": np.full((rows, shape.source), PAD, np.int32),
        "source_mask": np.zeros((rows, shape.source), bool),
        "tokens": np.full((rows, shape.target), PAD, np.int32),
        "targets": np.zeros((rows, shape.target), np.int32),
        "loss_weights": np.zeros((rows, shape.target), np.float32),
        "segment_ids": np.zeros((rows, shape.target), np.int32),
        "positions": np.zeros((rows, shape.target), np.int32),
        "samples": np.full((rows, 1), NO_SAMPLE, np.int32),
    }
    batch["source_tokens"][:, :2] = BOS, EOS
    batch["source_mask"][:, :2] = True
    batch["tokens"][:, 0] = BOS
    batch["segment_ids"][:, 0] = 1
    if fields.image_size is not None:
        batch["images"] = np.zeros((rows, 1, *fields.image_size, 3), np.uint8)
        batch["image_mask"] = np.zeros(rows, bool)
    if fields.pretraining:
        batch["code_targets"] = np.zeros(rows, bool)
    if fields.pretraining and fields.image_size is not None:
        batch["image_hole"] = np.zeros(rows, bool)
        batch["patches_kept"] = np.full(rows, ALL_PATCHES, np.int32)
    if fields.answers:
        batch["answer_nodes"] = np.zeros((rows, shape.target), np.int32)
    return batch


def fill_pair_row(
    batch: HostBatch,
    row: int,
    pair: EncodedPair,
    number: int,
    picture: np.ndarray | None,
    *,
    weight: float,
    answer_nodes: np.ndarray | None = None,
) -> None:
    """Writes a pair into a row of an empty batch. `weight` is that of each position that learns.

    `picture` is uint8 [h w 3]; a row of a batch with images may go without. `answer_nodes` int32 [len(target)] is
    None outside of a list of answers.
    """
    length = len(pair.source)
    batch["source_tokens"][row, :length] = pair.source
    batch["source_mask"][row, :length] = True
    read = np.concatenate([[BOS], pair.given, pair.target[:-1]])
    here = (row, slice(0, len(read)))
    batch["tokens"][here] = read
    batch["segment_ids"][here] = 1
    batch["positions"][here] = np.arange(len(read))
    learned = (row, slice(len(pair.given), len(pair.given) + len(pair.target)))
    batch["targets"][row, : len(pair.given)] = pair.given
    batch["targets"][learned] = pair.target
    batch["loss_weights"][learned] = weight
    batch["samples"][row, 0] = number
    if picture is not None:
        batch["images"][row, 0] = picture
        batch["image_mask"][row] = True
    if "code_targets" in batch:
        batch["code_targets"][row] = pair.codes
    if "image_hole" in batch:
        batch["image_hole"][row] = pair.hole
    if answer_nodes is not None:
        batch["answer_nodes"][learned] = answer_nodes


def pair_prompt_batches(
    prompts: Sequence[EncodedPair],
    split: PreparedSplit,
    reader: ImageReader | None,
    buckets: Sequence[PairShape],
    batch_size: int,
    threads: int = 4,
    pictured: range | None = None,
) -> Iterator[HostBatch]:
    """Batches of one prompt per row: source, and <s> and what the decoder is given in `tokens`; nothing is learned.

    Every prompt occurs once; its number in `prompts` is in `samples` int32 [b 1], in batches of the smallest of
    `buckets` that holds it. Prompts with and without an image come in batches of their own. A last batch that is not
    full is filled up with copies of its last prompt, with -1 in `samples`. Only rows in `pictured` (None: all) get
    their image, whose size is the reader's (None: prompts are text). DataError for a prompt that is too long.
    """
    sizes = sorted(buckets)
    where = [(_bucket(prompt, sizes), prompt.image >= 0) for prompt in prompts]
    if reader is None and any(seen for _, seen in where):
        raise DataError("prompts with images need a reader of images")
    planned = []
    for group in sorted(set(where)):
        members = [number for number, place in enumerate(where) if place == group]
        planned += [(group, members[first : first + batch_size]) for first in range(0, len(members), batch_size)]

    def build(plan: tuple[tuple[int, bool], list[int]]) -> HostBatch:
        (bucket, seen), real = plan
        size = reader.size if seen and reader is not None else None
        batch = empty_pair_batch(batch_size, sizes[bucket], PairFields(size))
        for row in range(batch_size):
            number = real[min(row, len(real) - 1)]
            pair = prompts[number]
            # A row whose picture is another process's still counts as one with a picture.
            picture = None if size is None or reader is None else np.zeros((*size, 3), np.uint8)
            if picture is not None and reader is not None and (pictured is None or row in pictured):
                picture = reader.read(split, pair.image)
            fill_pair_row(batch, row, pair, number if row < len(real) else NO_SAMPLE, picture, weight=0.0)
        return batch

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(grain.MapDataset.source(planned).map(build).to_iter_dataset(options))


def bucket_of(source: np.ndarray, target: np.ndarray, buckets: Sequence[PairShape]) -> np.ndarray:
    """The first bucket that holds each pair, int64 [n]; len(buckets) where none does."""
    fits = (source[:, None] <= [shape.source for shape in buckets]) & (
        target[:, None] <= [shape.target for shape in buckets]
    )
    return np.where(fits.any(axis=1), fits.argmax(axis=1), len(buckets))


def _bucket(prompt: EncodedPair, sizes: Sequence[PairShape]) -> int:
    source, target = len(prompt.source), 1 + len(prompt.given)
    bucket = int(bucket_of(np.array([source]), np.array([target]), sizes)[0])
    if bucket == len(sizes):
        raise DataError(
            f"sample {prompt.id}: its prompt has {source} source and {target} decoder tokens, the buckets are "
            f"{[(shape.source, shape.target) for shape in sizes]}; allow longer ones"
        )
    return bucket
