"""From encoded splits to batches: every row of a run is planned, then built at random access."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biomedgpt_jax.data.batch_iterator import BatchIterator, Reading
from biomedgpt_jax.data.batches import HostBatch, ImageReader, ImageTransform, RowShape, empty_batch, fill_row
from biomedgpt_jax.data.encoded import EncodedSplit
from biomedgpt_jax.data.errors import DataError, UnusableSamples
from biomedgpt_jax.data.features import FeatureReader
from biomedgpt_jax.data.mixture import Mixture, Part
from biomedgpt_jax.data.packing import Fill, Plan, fill, join_plans, plan_rows
from biomedgpt_jax.data.tasks import Encoded, Overflow, expanded_length, truncate


@dataclass(frozen=True)
class TrainData:
    """All batches of a run. `skipped` are the numbers of the samples that no row can hold."""

    mixture: Mixture[EncodedSplit]
    shape: RowShape
    plan: Plan
    batch_size: int
    fill: Fill
    skipped: tuple[int, ...]

    @property
    def num_steps(self) -> int:
        return -(-len(self.plan) // self.batch_size)

    def sample_id(self, number: int) -> str:
        """'folder:split id' of a number in `samples` of a batch."""
        return self.mixture.sample_id(number)

    def batches(
        self, images: ImageTransform | FeatureReader, reading: Reading, rows: range | None = None
    ) -> BatchIterator:
        """The rows of every batch that one process reads (None: all), from the first batch on.

        `images` turns encoded bytes into pixels, or reads features where the shape of a row has them.
        """
        return BatchIterator(_Batches(self, images, reading, rows or range(self.batch_size)), reading)


def build_train_data(
    parts: Sequence[Part[EncodedSplit]],
    shape: RowShape,
    batch_size: int,
    num_epochs: int,
    seed: int,
    pack: bool = True,
    overflow: Overflow = Overflow.ERROR,
) -> TrainData:
    """Plans every row of `num_epochs` epochs; the same arguments give the same rows everywhere.

    Raises DataError naming a sample that no row can hold, unless `overflow` says to skip or truncate it.
    """
    mixture = Mixture(parts)
    splits = [part.encoded for part in parts]
    lengths = np.concatenate([split.lengths(shape.tokens_per_image) for split in splits])
    images = np.concatenate([split.image_counts() for split in splits])
    usable = (lengths <= shape.seq_len) & (images <= shape.image_slots)
    if overflow is Overflow.ERROR and not usable.all():
        raise _too_large(mixture, shape, lengths, images, usable)
    if overflow is Overflow.TRUNCATE:
        # A sample that can't be cut without harm is an error here, before the first step.
        for number in np.flatnonzero(~usable).tolist():
            lengths[number] = expanded_length(_sample(mixture, shape, number), shape.tokens_per_image)
        usable[:] = True
    if not usable.any():
        raise DataError(
            f"none of the {len(usable)} samples fits a row of {shape.seq_len} tokens and {shape.image_slots} images; "
            "use longer rows or more image slots"
        )
    plans = []
    for epoch in range(num_epochs):
        order = mixture.epoch_order(usable, seed, epoch)
        rng = np.random.default_rng((seed, epoch))
        plans.append(plan_rows(order, lengths, images, shape.seq_len, shape.image_slots, pack, rng))
    plan = join_plans(plans)
    share = fill(plan, lengths, images, shape.seq_len, shape.image_slots)
    return TrainData(mixture, shape, plan, batch_size, share, tuple(np.flatnonzero(~usable).tolist()))


class _Batches:
    """Random access: item n is `rows` of batch n."""

    def __init__(
        self,
        data: TrainData,
        images: ImageTransform | FeatureReader,
        reading: Reading,
        rows: range,
    ):
        self._data = data
        cached = isinstance(images, FeatureReader)
        self._reader = images if cached else ImageReader(images, data.shape.image_size, reading.image_cache_bytes)
        self._rows = rows
        self._max_samples = data.plan.max_samples

    def __len__(self) -> int:
        return self._data.num_steps

    def digest(self) -> str:
        """A hash of what is in the batches, whoever makes them; images and their features count as one."""
        data = self._data
        keys = [part.encoded.folder.name for part in data.mixture.parts]
        digest = hashlib.sha256(repr((keys, data.shape, data.batch_size)).encode())
        digest.update(data.plan.starts.tobytes())
        digest.update(data.plan.samples.tobytes())
        return digest.hexdigest()[:16]

    def __getitem__(self, index: int) -> HostBatch:
        data = self._data
        batch = empty_batch(len(self._rows), data.shape, self._max_samples)
        first = int(index) * data.batch_size + self._rows.start
        # The last batch of a run may end in empty rows.
        for row in range(min(len(self._rows), len(data.plan) - first)):
            numbers = data.plan[first + row].tolist()
            samples = [_sample(data.mixture, data.shape, number) for number in numbers]
            splits = [data.mixture.locate(number)[0].split for number in numbers]
            images = [
                [self._reader.read(split, image) for image in sample.images]
                for split, sample in zip(splits, samples, strict=True)
            ]
            fill_row(batch, row, samples, numbers, images, data.shape)
        return batch


def _sample(mixture: Mixture[EncodedSplit], shape: RowShape, number: int) -> Encoded:
    encoded, index = mixture.locate(number)
    sample = encoded[index]
    if len(sample.images) > shape.image_slots:
        raise DataError(f"sample {sample.id}: {len(sample.images)} images, but a row has {shape.image_slots} slots")
    if expanded_length(sample, shape.tokens_per_image) > shape.seq_len:
        return truncate(sample, shape.seq_len, shape.tokens_per_image)
    return sample


def _too_large(
    mixture: Mixture[EncodedSplit], shape: RowShape, lengths: np.ndarray, images: np.ndarray, usable: np.ndarray
) -> DataError:
    first = int(np.flatnonzero(~usable)[0])
    found = [
        (mixture.sample_id(number), f"{lengths[number]} tokens and {images[number]} images")
        for number in np.flatnonzero(~usable).tolist()
    ]
    return UnusableSamples(
        f"sample {found[0][0]}: {lengths[first]} tokens and {images[first]} images, but a row holds "
        f"{shape.seq_len} and {shape.image_slots}; {len(found)} of {len(usable)} samples are too large. "
        "Use longer rows or more image slots, or set on_overflow to 'skip' or 'truncate'",
        found,
    )
