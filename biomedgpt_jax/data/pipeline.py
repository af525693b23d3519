"""From encoded splits to batches: every row of a run is planned, then built at random access and read ahead by Grain.

The state of the iterator is the number of the next batch (and a hash of the plan, to refuse another run's), so it
survives another number of workers, threads or processes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from biomedgpt_jax.data.batches import HostBatch, ImageReader, ImageTransform, RowShape, empty_batch, fill_row
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.features import FeatureReader
from biomedgpt_jax.data.mixture import Mixture, Part
from biomedgpt_jax.data.packing import Fill, Plan, fill, join_plans, plan_rows
from biomedgpt_jax.data.tasks import Encoded, Overflow, expanded_length, truncate


@dataclass(frozen=True)
class Reading:
    """How batches are made, never what is in them.

    `workers` processes (0: threads of the calling one) of `threads` threads each keep `ahead` batches ready; each
    process holds up to `image_cache_bytes` of decoded images.
    """

    workers: int
    threads: int
    ahead: int
    image_cache_bytes: int


@dataclass(frozen=True)
class TrainData:
    """All batches of a run. `skipped` are the numbers of the samples that no row can hold."""

    mixture: Mixture
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
    ) -> "BatchIterator":
        """The rows of every batch that one process reads (None: all), from the first batch on.

        `images` turns encoded bytes into pixels, or reads features where the shape of a row has them.
        """
        return BatchIterator(_Batches(self, images, reading, rows or range(self.batch_size)), reading)


def build_train_data(
    parts: Sequence[Part],
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
    lengths, images = mixture.lengths(shape.tokens_per_image), mixture.image_counts()
    usable = (lengths <= shape.seq_len) & (images <= shape.image_slots)
    if overflow is Overflow.ERROR and not usable.all():
        raise _too_large(mixture, shape, lengths, images, usable)
    if overflow is Overflow.TRUNCATE:
        # A sample that can't be cut without harm is an error here, before the first step.
        for number in np.flatnonzero(~usable).tolist():
            lengths[number] = expanded_length(_sample(mixture, shape, number), shape.tokens_per_image)
        usable[:] = True
    plans = []
    for epoch in range(num_epochs):
        order = mixture.epoch_order(usable, seed, epoch)
        rng = np.random.default_rng((seed, epoch))
        plans.append(plan_rows(order, lengths, images, shape.seq_len, shape.image_slots, pack, rng))
    plan = join_plans(plans)
    share = fill(plan, lengths, images, shape.seq_len, shape.image_slots)
    return TrainData(mixture, shape, plan, batch_size, share, tuple(np.flatnonzero(~usable).tolist()))


class BatchIterator(grain.DatasetIterator[HostBatch]):
    """Batches in order, read ahead by Grain. Its state is {"next_step": n, "plan": hash}."""

    def __init__(self, batches: "_Batches", reading: Reading):
        super().__init__()
        self._batches = batches
        self._reading = reading
        self._plan = batches.digest()
        self._next_step = 0
        self._ahead: Any = None

    def __next__(self) -> HostBatch:
        self._assert_not_closed()
        if self._next_step >= len(self._batches):
            raise StopIteration
        self.start_prefetch()
        batch = next(self._ahead)
        self._next_step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        return {"next_step": self._next_step, "plan": self._plan}

    def set_state(self, state: dict[str, Any]) -> None:
        step = state.get("next_step")
        if state.get("plan") != self._plan or not isinstance(step, int) or not 0 <= step <= len(self._batches):
            raise DataError(
                f"the saved place in the data, {state}, is not of this run, whose plan is {self._plan} with "
                f"{len(self._batches)} batches: data, tokenizer, template, row or batch size, epochs or seed differ. "
                "Resume with the settings that the run began with, or start a new one"
            )
        self._stop()
        self._next_step = step

    def start_prefetch(self) -> None:
        """Starts reading ahead; called by the first `next` if not before."""
        if self._ahead is not None or self._next_step >= len(self._batches):
            return
        reading = self._reading
        ahead = max(reading.ahead, reading.threads)
        stream = grain.MapDataset.source(self._batches)[self._next_step :].to_iter_dataset(
            grain.ReadOptions(num_threads=reading.threads, prefetch_buffer_size=ahead)
        )
        if reading.workers:
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=reading.workers))
        self._ahead = iter(stream)
        self._ahead.start_prefetch()

    def close(self) -> None:
        if not self._closed:
            self._stop()
        super().close()

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


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


def _sample(mixture: Mixture, shape: RowShape, number: int) -> Encoded:
    encoded, index = mixture.locate(number)
    sample = encoded[index]
    if len(sample.images) > shape.image_slots:
        raise DataError(f"sample {sample.id}: {len(sample.images)} images, but a row has {shape.image_slots} slots")
    if expanded_length(sample, shape.tokens_per_image) > shape.seq_len:
        return truncate(sample, shape.seq_len, shape.tokens_per_image)
    return sample


def _too_large(
    mixture: Mixture, shape: RowShape, lengths: np.ndarray, images: np.ndarray, usable: np.ndarray
) -> DataError:
    first = int(np.flatnonzero(~usable)[0])
    return DataError(
        f"sample {mixture.sample_id(first)}: {lengths[first]} tokens and {images[first]} images, but a row holds "
        f"{shape.seq_len} and {shape.image_slots}; {int((~usable).sum())} of {len(usable)} samples are too large. "
        "Use longer rows or more image slots, or set overflow to 'skip' or 'truncate'"
    )
