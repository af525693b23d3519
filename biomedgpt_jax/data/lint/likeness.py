"""Pictures that are nearly the same: in another size or quality, turned, mirrored, or with their edges cut off.

Two pictures are held together when their perceptual hashes (signs of the 63 lowest frequencies) and then their small
copies agree. That is asked of one as it stands and the other in all eight positions, and of each as a whole with the
other's middle (CUTS). Only pictures of nearly the same mean grey level are compared at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from biomedgpt_jax.data.lint.material import Pictures

SIDE, SMALL, LOW = 64, 16, 8  # pixels of a picture that is hashed, pixels kept, and frequencies per axis
CUTS = (64, 60, 56, 52, 48)  # pixels per side of the whole, and of the middles that a copy may show alone
MOST_BITS = 8  # in which the hashes of two copies differ
MOST_LEVELS = 8.0  # mean difference of two small copies, of 256
_ROWS, _COLUMNS = 64, 4096  # pictures that are compared at once

# Exchanged axes, upside down, mirrored.
Turn = tuple[bool, bool, bool]
TURNS: tuple[Turn, ...] = tuple(product((False, True), repeat=3))  # pyright: ignore[reportAssignmentType]
UPRIGHT: Turn = (False, False, False)


def near(pictures: Pictures, others: Pictures, *, earlier: bool = False) -> np.ndarray:
    """Of each picture the first of `others` that is nearly the same (`earlier`: that stands before it), int64 [n]; -1
    where there is none.
    """
    none = len(others.small)
    match = np.full(len(pictures.small), none, np.int64)
    for cut, other_cut, turn in _COMPARED:
        for rows, columns in _alike(_view(pictures, cut, turn), _view(others, other_cut, UPRIGHT)):
            taken = columns < rows if earlier else np.ones(len(rows), bool)
            np.minimum.at(match, rows[taken], columns[taken])
    return np.where(match == none, -1, match)


def in_small(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels [n 64 64] -> of the whole and of its middles the low frequencies, float32 [n c 8 8], and the small
    copies, uint8 [n c 16 16].
    """
    low, small = [], []
    for cut in CUTS:
        edge = (SIDE - cut) // 2
        middle = grey[:, edge : SIDE - edge, edge : SIDE - edge].astype(np.float32)
        waves = np.cos(np.pi / cut * np.outer(np.arange(LOW), np.arange(cut) + 0.5)).astype(np.float32)
        low.append(np.einsum("ui,nij,vj->nuv", waves, middle, waves, optimize=True) / cut)
        means = _means(cut)
        small.append(np.einsum("ui,nij,vj->nuv", means, middle, means, optimize=True))
    return np.stack(low, axis=1), np.rint(np.stack(small, axis=1)).astype(np.uint8)


def perceptual_hash(low: np.ndarray) -> np.ndarray:
    """Low frequencies [n 8 8] -> uint64 [n]: which of them, without the mean, are above their median."""
    flat = low.reshape(-1, LOW * LOW)
    bits = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).ravel()


# (cut of the one, cut of the other, how the one is turned).
_COMPARED: tuple[tuple[int, int, Turn], ...] = (
    *((0, 0, turn) for turn in TURNS),
    *((cut, 0, UPRIGHT) for cut in range(1, len(CUTS))),
    *((0, cut, UPRIGHT) for cut in range(1, len(CUTS))),
)


@dataclass(frozen=True)
class _View:
    """The pictures that can be compared, by their mean grey levels; `numbers` are their places in the split."""

    numbers: np.ndarray
    levels: np.ndarray
    hashes: np.ndarray
    small: np.ndarray


def _view(pictures: Pictures, cut: int, turn: Turn) -> _View:
    levels = pictures.small[:, cut].mean(axis=(1, 2))
    numbers = np.argsort(levels, kind="stable")
    numbers = numbers[pictures.plain[numbers]]
    low, small = pictures.low[numbers, cut], _turned(pictures.small[numbers, cut], turn)
    return _View(numbers, levels[numbers], perceptual_hash(_turned_waves(low, turn)), small)


def _alike(mine: _View, theirs: _View) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places of pictures that are nearly the same."""
    # Small copies whose means are further apart than MOST_LEVELS differ by more than that on average.
    firsts = np.searchsorted(theirs.levels, mine.levels - MOST_LEVELS)
    lasts = np.searchsorted(theirs.levels, mine.levels + MOST_LEVELS, side="right")
    for start in range(0, len(mine.numbers), _ROWS):
        rows = slice(start, start + _ROWS)
        end = lasts[rows][-1]
        for first in range(firsts[start], end, _COLUMNS):
            columns = slice(first, min(first + _COLUMNS, end))
            apart = np.bitwise_count(mine.hashes[rows, None] ^ theirs.hashes[columns])
            row, column = np.nonzero(apart <= MOST_BITS)
            if len(row):
                levels = mine.small[rows][row].astype(np.int16) - theirs.small[columns][column]
                same = np.abs(levels).mean(axis=(1, 2)) <= MOST_LEVELS
                yield mine.numbers[rows][row[same]], theirs.numbers[columns][column[same]]


def _turned(images: np.ndarray, turn: Turn) -> np.ndarray:
    """Images [n s s]."""
    exchanged, upside_down, mirrored = turn
    images = images.swapaxes(1, 2) if exchanged else images
    return images[:, :: -1 if upside_down else 1, :: -1 if mirrored else 1]


def _turned_waves(low: np.ndarray, turn: Turn) -> np.ndarray:
    """The low frequencies [n 8 8] of turned images: odd waves change their sign where their axis is turned about."""
    exchanged, upside_down, mirrored = turn
    low = low.swapaxes(1, 2) if exchanged else low
    odd = np.where(np.arange(LOW) % 2, -1, 1).astype(low.dtype)
    low = low * odd[:, None] if upside_down else low
    return low * odd if mirrored else low


def _means(cut: int) -> np.ndarray:
    """float32 [16 cut]: the mean of each sixteenth of `cut` pixels."""
    edges = np.linspace(0, cut, SMALL + 1)
    pixels = np.arange(cut)
    inside = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, None)
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
