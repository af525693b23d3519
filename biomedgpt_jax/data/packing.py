"""Which samples share a row: a plan made ahead of time from lengths alone.

The plan is a pure function of its arguments, so every process makes the same one, and any row of it can be built
at any time: that is what makes resuming exact, also with another number of processes.
"""

from dataclasses import dataclass

import numpy as np

from biomedgpt_jax.data.errors import DataError

WINDOW = 4096  # samples packed together
BUFFER = 96  # samples that wait for a row; their pairs are dense enough to close a row within a few tokens
PAIR_FROM = 2.5  # a pair is looked for when the room is this many average samples or less


@dataclass(frozen=True)
class Plan:
    """Row r holds the samples `samples[starts[r]:starts[r + 1]]` (numbers into the arrays it was made from)."""

    starts: np.ndarray  # int64 [rows + 1]
    samples: np.ndarray  # int64 [number of placed samples]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.samples[self.starts[row] : self.starts[row + 1]]

    @property
    def max_samples(self) -> int:
        """Most samples in one row."""
        return int(np.diff(self.starts).max(initial=0))


@dataclass(frozen=True)
class Fill:
    """How full the rows of a plan are; shares are between 0 and 1."""

    rows: int
    samples: int
    token_share: float
    image_share: float


def plan_rows(
    order: np.ndarray,
    lengths: np.ndarray,
    images: np.ndarray,
    seq_len: int,
    image_slots: int,
    pack: bool,
    rng: np.random.Generator,
) -> Plan:
    """Packs the samples numbered in `order` (repeats allowed) into rows of `seq_len` tokens and `image_slots` images.

    `lengths`, `images`: tokens and images per sample number. Samples keep the neighbourhood of `order` (windows are
    packed one after another), then rows are shuffled with `rng`. Without `pack` each row holds one sample. Every
    number of `order` is placed exactly once; DataError for a sample that fits no row.
    """
    too_big = np.flatnonzero((lengths[order] > seq_len) | (images[order] > image_slots))
    if too_big.size:
        first = int(order[too_big[0]])
        raise DataError(
            f"sample number {first} has {lengths[first]} tokens and {images[first]} images; a row holds {seq_len} "
            f"and {image_slots} ({too_big.size} samples do not fit)"
        )
    if pack:
        # A limit of 1 image that no sample uses keeps the shares finite where there are no slots.
        limits = np.array([seq_len, max(1, image_slots)], np.int64)
        windows = np.split(order, range(WINDOW, len(order), WINDOW))
        rows = [row for window in windows for row in _pack_window(window, lengths, images, limits)]
    else:
        rows = list(order.reshape(-1, 1))
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in shuffled])]).astype(np.int64)
    samples = np.concatenate(shuffled) if shuffled else np.zeros(0, np.int64)
    return Plan(starts, samples.astype(np.int64))


def join_plans(plans: list[Plan]) -> Plan:
    """The rows of one plan after those of the other (epochs)."""
    sizes = np.concatenate([np.diff(plan.starts) for plan in plans])
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Plan(starts, np.concatenate([plan.samples for plan in plans]))


def fill(plan: Plan, lengths: np.ndarray, images: np.ndarray, seq_len: int, image_slots: int) -> Fill:
    """Share of the token positions and of the image slots that hold something."""
    rows = max(1, len(plan))
    tokens = int(lengths[plan.samples].sum()) / (rows * seq_len)
    slots = int(images[plan.samples].sum()) / (rows * image_slots) if image_slots else 0.0
    return Fill(len(plan), len(plan.samples), tokens, slots)


def _pack_window(window: np.ndarray, lengths: np.ndarray, images: np.ndarray, limits: np.ndarray) -> list[np.ndarray]:
    """Two packers, the better result: completing rows wins with many samples per row, best fit with few."""
    sizes = np.stack([lengths[window], images[window]], axis=1)
    packed = min(_complete_rows(sizes, limits), _best_fit(sizes, limits), key=len)
    return [window[row] for row in packed]


def _complete_rows(sizes: np.ndarray, limits: np.ndarray) -> list[list[int]]:
    """Fills one row after another from a buffer: the oldest first, then the pair that leaves least room."""
    rows: list[list[int]] = []
    buffer, rest = np.arange(len(sizes))[:BUFFER], BUFFER
    while len(buffer):
        size, waiting = sizes[buffer], np.ones(len(buffer), bool)
        near = PAIR_FROM * size[:, 0].mean()
        room, row = limits.copy(), []
        while len(fit := np.flatnonzero(waiting & (size <= room).all(axis=1))):
            take = fit[:1] if not row or room[0] > near else fit[_best_pair(size[fit], room, limits)]
            waiting[take] = False
            room -= size[take].sum(axis=0)
            row += buffer[take].tolist()
        rows.append(row)
        new = np.arange(rest, min(len(sizes), rest + len(row)))
        rest += len(new)
        buffer = np.concatenate([buffer[waiting], new])
    return rows


def _best_pair(size: np.ndarray, room: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The pair, or the single one if it is larger, that takes the largest share of a row and fits in `room`."""
    share = (size / limits).sum(axis=1)
    both = np.add.outer(share, share)
    for column in (0, 1):
        both[np.add.outer(size[:, column], size[:, column]) > room[column]] = 0
    np.fill_diagonal(both, share)
    first, second = divmod(int(both.argmax()), len(size))
    return np.unique([first, second])


def _best_fit(sizes: np.ndarray, limits: np.ndarray) -> list[list[int]]:
    """Best fit decreasing: the longest sample first, each into the row where least room stays."""
    room = np.tile(limits, (len(sizes), 1))
    rows: list[list[int]] = []
    for sample in np.argsort(-sizes[:, 0], kind="stable").tolist():
        opened = room[: len(rows)]
        left = np.where((sizes[sample] <= opened).all(axis=1), opened[:, 0], np.iinfo(np.int64).max)
        row = int(left.argmin()) if rows else 0
        if not rows or left[row] > limits[0]:
            row = len(rows)
            rows.append([])
        room[row] -= sizes[sample]
        rows[row].append(sample)
    return rows
