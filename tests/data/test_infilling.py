"""What is hidden, how much of it, and that nothing else changes."""

import numpy as np
import pytest

from biomedgpt_jax.data.infilling import infill

MASK = -1


def words(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Words of 1, 2, 3, 1, .. tokens; token = 10 * word + place."""
    ids = np.array([10 * word + place for word in range(count) for place in range(1 + word % 3)], np.int32)
    return ids, ids % 10 == 0


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.3, 1.0])
@pytest.mark.parametrize("count", [1, 7, 60])
def test_whole_words_are_hidden(count: int, ratio: float) -> None:
    ids, starts = words(count)
    for seed in range(20):
        made = infill(ids, starts, ratio, MASK, np.random.default_rng(seed))
        kept = made[made != MASK]
        whole = {int(word): (kept // 10 == word).sum() for word in np.unique(kept // 10)}
        assert all(tokens == 1 + word % 3 for word, tokens in whole.items())
        assert len(whole) == count - int(np.ceil(count * ratio))
        assert (np.diff(kept) > 0).all()
        assert len(made) <= len(ids) + 8
        assert np.array_equal(made, infill(ids, starts, ratio, MASK, np.random.default_rng(seed)))


def test_lengths_of_stretches() -> None:
    ids, starts = words(3000)
    made = infill(ids, starts, 0.3, MASK, np.random.default_rng(0))
    masks = int((made == MASK).sum())
    # 900 words at 3 each: 300 stretches, of which exp(-3) = 5% are empty ones.
    assert 270 < masks < 335
    gaps = np.diff(np.unique(made[made != MASK] // 10)) - 1
    assert gaps.max() >= 5 and (gaps > 0).sum() > 150


def test_empty_stretches_are_masks_between_words() -> None:
    ids, starts = words(200)
    runs = [infill(ids, starts, 0.3, MASK, np.random.default_rng(seed)) for seed in range(20)]
    between = 0
    for made in runs:
        where = np.flatnonzero(made[1:-1] == MASK) + 1
        left, right = made[where - 1] // 10, made[where + 1] // 10
        between += int(((right - left == 1) & (made[where - 1] != MASK) & (made[where + 1] != MASK)).sum())
    assert between > 5
