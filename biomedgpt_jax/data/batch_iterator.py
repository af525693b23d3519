"""Planned batches in order, read ahead by Grain.

The state of the iterator is the number of the next batch (and a hash of the plan, to refuse another run's), so it
survives another number of workers, threads or processes.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grain

from biomedgpt_jax.data.batches import HostBatch
from biomedgpt_jax.data.errors import DataError


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


@runtime_checkable
class PlannedBatches(Protocol):
    """All batches of a run at random access; must pickle for worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> HostBatch: ...

    def digest(self) -> str:
        """A hash of what is in the batches, whoever makes them."""
        ...


class BatchIterator(grain.DatasetIterator[HostBatch]):
    """Batches in order, read ahead by Grain. Its state is {"next_step": n, "plan": hash}."""

    def __init__(self, batches: PlannedBatches, reading: Reading):
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
