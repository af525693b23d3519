"""Several encoded splits as one numbered set, and which of its samples an epoch shows in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

from biomedgpt_jax.data.source import PreparedSplit


@runtime_checkable
class Samples(Protocol):
    """What a mixture knows of the samples of a split, however they are encoded."""

    @property
    def split(self) -> PreparedSplit: ...

    def __len__(self) -> int: ...

    def sample_id(self, index: int) -> str: ...


S_co = TypeVar("S_co", bound=Samples, covariant=True)


@dataclass(frozen=True)
class Part(Generic[S_co]):
    """A split of a mixture. An epoch shows `repeats` times its samples.

    0.5 is every second sample, the others in the next epoch; 3 is each sample three times.
    """

    encoded: S_co
    repeats: float = 1.0


class Mixture(Generic[S_co]):
    """Samples of all parts numbered through, in the order of the parts."""

    def __init__(self, parts: Sequence[Part[S_co]]):
        self.parts = tuple(parts)
        self._offsets = np.concatenate([[0], np.cumsum([len(part.encoded) for part in parts])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def locate(self, number: int) -> tuple[S_co, int]:
        """The split of a sample number and its index there."""
        part = int(np.searchsorted(self._offsets, number, side="right")) - 1
        return self.parts[part].encoded, int(number - self._offsets[part])

    def sample_id(self, number: int) -> str:
        """'folder:split id', as the data set calls it."""
        encoded, index = self.locate(number)
        return f"{encoded.split.name} {encoded.sample_id(index)}"

    def epoch_order(self, usable: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """Shuffled sample numbers of one epoch, among those that are `usable` (bool [n]).

        Each part runs through shuffled rounds of its samples without end, and an epoch takes the next `repeats`
        rounds; over a run the counts of two samples of a part differ by one at most.
        """
        draws = self.epoch_draws(usable, seed, epoch)
        return np.random.default_rng((seed, len(self.parts), epoch)).permutation(np.concatenate(draws))

    def even_order(self, usable: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The same numbers, but each part spread evenly over the epoch: any stretch has the parts' proportions."""
        draws = self.epoch_draws(usable, seed, epoch)
        places = np.concatenate([(np.arange(len(draw)) + 0.5) / max(1, len(draw)) for draw in draws])
        return np.concatenate(draws)[np.argsort(places, kind="stable")]

    def epoch_draws(self, usable: np.ndarray, seed: int, epoch: int) -> list[np.ndarray]:
        """What an epoch takes of each part, in the order of that part."""
        draws = []
        for number, part in enumerate(self.parts):
            first, end = self._offsets[number : number + 2]
            members = first + np.flatnonzero(usable[first:end])
            # Rounded before floor: 0.1 * 30 must not lose a sample.
            begin, stop = (int(np.floor(round(part.repeats * len(members) * e, 6))) for e in (epoch, epoch + 1))
            draws.append(_draw(members, begin, stop, (seed, number)) if len(members) else members)
        return draws


def repeats_for(proportions: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """`Part.repeats` for an epoch as long as all sizes together, in which the parts have these proportions."""
    total, whole = sum(sizes), sum(proportions)
    return [share / whole * total / size for share, size in zip(proportions, sizes, strict=True)]


def _draw(members: np.ndarray, begin: int, stop: int, seed: tuple[int, int]) -> np.ndarray:
    """Places begin..stop of an endless run of shuffled rounds of `members`."""
    size = len(members)
    first = begin // size
    rounds = [np.random.default_rng((*seed, number)).permutation(members) for number in range(first, -(-stop // size))]
    return np.concatenate([members[:0], *rounds])[begin - first * size : stop - first * size]
