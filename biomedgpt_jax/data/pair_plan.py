"""Which pairs share a batch: a plan made ahead of time from lengths alone, so that any batch can be made at any time.

The plan is a pure function of its arguments: every process makes the same one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biomedgpt_jax.data.batches import NO_SAMPLE


@dataclass(frozen=True)
class PairPlan:
    """Batch n has the pairs `numbers[n]` of epochs `epochs[n]`, in the shape of `buckets[n]`.

    `pictured[n]`: it has images. Empty rows are NO_SAMPLE and come last.
    """

    numbers: np.ndarray  # int64 [steps b]
    epochs: np.ndarray  # int32 [steps b]
    buckets: np.ndarray  # int64 [steps]
    pictured: np.ndarray  # bool [steps]

    def __len__(self) -> int:
        return len(self.buckets)

    def kinds(self) -> list[tuple[int, bool]]:
        """The (bucket, has images) that occur, the commonest first."""
        found, counts = np.unique(np.stack([self.buckets, self.pictured], axis=1), axis=0, return_counts=True)
        return [(int(bucket), bool(seen)) for bucket, seen in found[np.argsort(-counts, kind="stable")].tolist()]


def plan_pairs(orders: Sequence[np.ndarray], buckets: np.ndarray, pictured: np.ndarray, batch_size: int) -> PairPlan:
    """Fills batches in the order of the epochs: each pair goes to the open batch of its bucket and kind.

    `orders[e]` are the pairs of epoch e (repeats allowed); `buckets` int64 [n] and `pictured` bool [n] say where a
    pair may go. Batches stand where they became full; those that never did come last, with empty rows. An epoch's
    last pairs may thus be in a batch with the next one's first.
    """
    numbers = np.concatenate([np.zeros(0, np.int64), *orders])
    epochs = np.repeat(np.arange(len(orders), dtype=np.int32), [len(order) for order in orders])
    group = buckets[numbers] * 2 + pictured[numbers]
    made: list[tuple[int, int, np.ndarray]] = []  # (place in the order where it is full, group, its places there)
    for kind in np.unique(group).tolist():
        places = np.flatnonzero(group == kind)
        for first in range(0, len(places), batch_size):
            mine = places[first : first + batch_size]
            full = len(mine) == batch_size
            made.append((int(mine[-1]) if full else len(numbers) + kind, kind, mine))
    made.sort(key=lambda batch: batch[:2])
    plan = PairPlan(
        np.full((len(made), batch_size), NO_SAMPLE, np.int64),
        np.zeros((len(made), batch_size), np.int32),
        np.array([kind // 2 for _, kind, _ in made], np.int64),
        np.array([kind % 2 == 1 for _, kind, _ in made], bool),
    )
    for step, (_, _, mine) in enumerate(made):
        plan.numbers[step, : len(mine)] = numbers[mine]
        plan.epochs[step, : len(mine)] = epochs[mine]
    return plan
