"""Texts that are mostly made of another's: shares of their runs of eight words."""

import zlib
from collections.abc import Sequence

import numpy as np

from biomedgpt_jax.data.lint.material import documents, words
from biomedgpt_jax.data.source import Sample

RUN = 8  # words
MOSTLY = 0.7  # of the runs of a text
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def own_text(sample: Sample) -> str:
    """What is a sample's own: with an image its answers (questions to images repeat), else what it asks and reads."""
    turns = [turn.answer if sample.images else turn.question for turn in sample.turns]
    return "\n".join([*turns, *documents(sample)])


def runs(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all runs of all texts, uint64 [r], and where those of each text begin, int64 [n + 1].

    A text of fewer words has none.
    """
    hashed: list[np.ndarray] = [np.zeros(0, np.uint64)]
    known: dict[str, int] = {}
    for text in texts:
        codes = [known.get(word) or known.setdefault(word, zlib.crc32(word.encode()) + 1) for word in words(text)]
        hashed.append(_hashes(np.array(codes, np.uint64)))
    starts = np.cumsum([len(each) for each in hashed])
    return np.concatenate(hashed), starts


def covered(found: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Texts most of whose runs are `found` (bool [r]), bool [n]."""
    sums = np.concatenate([[0], np.cumsum(found)])
    sizes = np.diff(starts)
    return (sizes > 0) & (np.diff(sums[starts]) >= MOSTLY * sizes)


def seen_earlier(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Which runs stand in an earlier text too, bool [r]."""
    owners = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    _, first, back = np.unique(hashes, return_index=True, return_inverse=True)
    return owners[first][back] < owners


def _hashes(codes: np.ndarray) -> np.ndarray:
    if len(codes) < RUN:
        return np.zeros(0, np.uint64)
    total = np.zeros(len(codes) - RUN + 1, np.uint64)
    for place in range(RUN):
        total = (total ^ codes[place : place + len(total)]) * _FACTOR
        total ^= total >> np.uint64(29)
    return total
