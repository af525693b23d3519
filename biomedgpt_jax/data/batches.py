"""Encoded samples to arrays of static shape: packed rows for training, one prompt per row for evaluation.

Axis letters: b rows, s tokens of a row, i image slots of a row, h w pixels, n c features of an image and
their channels, m samples of a row.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import grain
import numpy as np

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.features import FeatureReader, FeatureShape
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.tasks import Encoded, expand, expanded_length

ImageTransform = Callable[[bytes], np.ndarray]  # encoded bytes -> uint8 [h w 3]; must pickle for worker processes
HostBatch = dict[str, np.ndarray]
NO_SAMPLE = -1


@dataclass(frozen=True)
class RowShape:
    """The static sizes of a row; `image_size` is (height, width) in pixels. With `features` its slots hold those."""

    seq_len: int
    image_slots: int
    tokens_per_image: int
    image_size: tuple[int, int]
    image_token_id: int
    features: FeatureShape | None = field(default=None, repr=False)  # the plan of a run is the same with either


class ImageReader:
    """Decoded images of prepared splits, the last used ones kept up to `cache_bytes`. Safe for threads."""

    feature_shape = None  # it reads images

    def __init__(self, transform: ImageTransform, size: tuple[int, int], cache_bytes: int):
        self.transform = transform
        self.size = size
        self.cache_bytes = cache_bytes
        self._clear()

    def read(self, split: PreparedSplit, number: int) -> np.ndarray:
        """Image record `number` as uint8 [h w 3]; DataError names the split and the record."""
        key = (split.name, number)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pixels = self._decode(split, number)
        with self._lock:
            if key not in self._kept and pixels.nbytes <= self.cache_bytes:
                self._kept[key] = pixels
                self._held += pixels.nbytes
                while self._held > self.cache_bytes:
                    self._held -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    def _decode(self, split: PreparedSplit, number: int) -> np.ndarray:
        where = f"{split.name}, image record {number}"
        try:
            pixels = self.transform(split.image(number))
        except (DataError, OSError, ValueError) as error:
            raise DataError(f"{where}: {error}") from error
        if pixels.dtype != np.uint8 or pixels.shape != (*self.size, 3):
            raise DataError(
                f"{where}: expected uint8 {(*self.size, 3)} from the image transform, "
                f"found {pixels.dtype} {pixels.shape}"
            )
        return pixels

    def _clear(self) -> None:
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return ImageReader, (self.transform, self.size, self.cache_bytes)


def empty_batch(rows: int, shape: RowShape, max_samples: int) -> HostBatch:
    """A batch of padding: segment ids 0, weights 0, image index -1, samples -1, slots of zeros."""
    text, slots = (rows, shape.seq_len), (rows, shape.image_slots)
    if shape.features is None:
        held = {"images": np.zeros((*slots, *shape.image_size, 3), np.uint8)}
    else:
        each = shape.features
        held = {"features": np.zeros((*slots, each.tokens, each.channels), each.numpy_dtype)}
    return {
        "tokens": np.zeros(text, np.int32),
        "targets": np.zeros(text, np.int32),
        "loss_weights": np.zeros(text, np.float32),
        "segment_ids": np.zeros(text, np.int32),
        "positions": np.zeros(text, np.int32),
        "image_index": np.full(text, -1, np.int32),
        **held,
        "samples": np.full((rows, max_samples), NO_SAMPLE, np.int32),
    }


def fill_row(
    batch: HostBatch,
    row: int,
    samples: Sequence[Encoded],
    numbers: Sequence[int],
    images: Sequence[Sequence[np.ndarray]],
    shape: RowShape,
) -> None:
    """Writes `samples` one after another into a row of an empty batch.

    `numbers` are their global numbers, `images[k]` the pixels or features of sample k. A position has weight 1 where
    the next token of the same sample is supervised, and that token as its target.
    """
    held = batch["images"] if shape.features is None else batch["features"]
    start = slot = 0
    for segment, (sample, number, pictures) in enumerate(zip(samples, numbers, images, strict=True)):
        tokens, supervised, image_index = expand(sample, shape.tokens_per_image, shape.image_token_id, slot)
        here = (row, slice(start, start + len(tokens)))
        learned = (row, start + np.flatnonzero(supervised) - 1)
        batch["tokens"][here] = tokens
        batch["image_index"][here] = image_index
        batch["segment_ids"][here] = segment + 1
        batch["positions"][here] = np.arange(len(tokens))
        batch["targets"][learned] = tokens[supervised]
        batch["loss_weights"][learned] = 1
        batch["samples"][row, segment] = number
        for picture in pictures:
            held[row, slot] = picture
            slot += 1
        start += len(tokens)


def prompt_batches(
    prompts: Sequence[Encoded],
    split: PreparedSplit,
    reader: ImageReader | FeatureReader,
    shape: RowShape,
    buckets: Sequence[int],
    batch_size: int,
    threads: int = 4,
    pictured: range | None = None,
) -> Iterator[HostBatch]:
    """Batches of one prompt per row, right-padded to the smallest of `buckets` that holds it (not to seq_len).

    Every prompt occurs once; its number in `prompts` is in `samples` int32 [b 1]. A last batch that is not full is
    filled up with copies of its last prompt, with -1 in `samples`. Batches are made ahead in `threads`. Only rows in
    `pictured` (None: all) get their images; the slots of others stay zeros. DataError for a prompt that is too long or
    has too many images.
    """
    lengths = np.array([expanded_length(p, shape.tokens_per_image) for p in prompts], np.int64)
    _check_prompts(prompts, lengths, shape, max(buckets))
    sizes = np.array(sorted(buckets))
    width = sizes[np.searchsorted(sizes, lengths)]
    planned = [
        (bucket, members[first : first + batch_size])
        for bucket in sorted(set(width.tolist()))
        for members in [np.flatnonzero(width == bucket)]
        for first in range(0, len(members), batch_size)
    ]

    def build(plan: tuple[int, np.ndarray]) -> HostBatch:
        padded, real = replace(shape, seq_len=plan[0]), plan[1].tolist()
        batch = empty_batch(batch_size, padded, 1)
        for row in range(batch_size):
            number = real[min(row, len(real) - 1)]
            here = pictured is None or row in pictured
            pictures = [reader.read(split, image) for image in prompts[number].images] if here else []
            fill_row(batch, row, [prompts[number]], [number if row < len(real) else NO_SAMPLE], [pictures], padded)
        return batch

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    return iter(grain.MapDataset.source(planned).map(build).to_iter_dataset(options))


def _check_prompts(prompts: Sequence[Encoded], lengths: np.ndarray, shape: RowShape, longest: int) -> None:
    for prompt, length in zip(prompts, lengths.tolist(), strict=True):
        if length > longest:
            raise DataError(
                f"sample {prompt.id}: its prompt has {length} tokens, the largest bucket {longest}; allow longer ones"
            )
        if len(prompt.images) > shape.image_slots:
            raise DataError(
                f"sample {prompt.id}: it has {len(prompt.images)} images, a row has {shape.image_slots} slots"
            )
