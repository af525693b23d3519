"""Text infilling as BART learns it: whole words are hidden behind one mask per stretch."""

import numpy as np

STRETCH = 3.0  # mean words of a stretch, Poisson
MOST_EMPTY = 8  # stretches of no words; more of them in one text are next to impossible


def infill(ids: np.ndarray, starts: np.ndarray, ratio: float, mask_id: int, rng: np.random.Generator) -> np.ndarray:
    """`ids` int32 [n] with a share `ratio` of its words (rounded up) replaced; `starts` bool [n]: a word begins here.

    Lengths of stretches are drawn from a Poisson distribution until enough words are hidden, the last one is cut to
    fit; a stretch of no words puts a mask between two words. The result has MOST_EMPTY tokens more than `ids` at most.
    """
    first = np.flatnonzero(starts | (np.arange(len(ids)) == 0))
    words = np.split(ids, first[1:])
    hidden = int(np.ceil(len(words) * ratio))
    stretches, inserted = _stretches(hidden, rng)
    # Kept words and stretches in a random order that keeps each kind in its own: stretches never overlap.
    items = len(words) - hidden + len(stretches)
    is_stretch = np.zeros(items, bool)
    is_stretch[rng.choice(items, len(stretches), replace=False)] = True
    pieces: list[np.ndarray] = []
    mask, word, lengths = np.array([mask_id], ids.dtype), 0, iter(stretches)
    for hides in is_stretch.tolist():
        pieces.append(mask if hides else words[word])
        word += next(lengths) if hides else 1
    for place in sorted(rng.integers(0, len(pieces) + 1, inserted).tolist(), reverse=True):
        pieces.insert(place, mask)
    return np.concatenate(pieces)


def _stretches(hidden: int, rng: np.random.Generator) -> tuple[list[int], int]:
    """Lengths that add up to `hidden`, and how many had no words."""
    lengths: list[int] = []
    inserted = 0
    while (left := hidden - sum(lengths)) > 0:
        length = int(rng.poisson(STRETCH))
        if length:
            lengths.append(min(length, left))
        else:
            inserted += inserted < MOST_EMPTY
    return lengths, inserted
