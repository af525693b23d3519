"""Scores of texts by their runs of words: BLEU of a corpus, CIDEr and CIDEr-D of each text.

Texts come as lists of words, with one reference for each answer. CIDEr-D (Vedantam et al. 2015, arXiv 1411.5726) and
BLEU (Papineni et al. 2002) give the numbers of pycocoevalcap on the same words.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from biomedgpt_jax.eval.protocol import Statistic

_LONGEST = 4  # words of an n-gram
_SIGMA = 6.0  # of CIDEr-D's penalty for another length
# What pycocoevalcap adds so that no fraction is 0 or of 0.
_TINY, _SMALL = 1e-15, 1e-9


def ngram_scores(said: Sequence[list[str]], true: Sequence[list[str]]) -> dict[str, Statistic]:
    """bleu1 to bleu4 of the corpus, and the means of cider and cider_d (a tenth of the usual scale, so up to 1).

    One text alone has no CIDEr, because nothing in it is rarer than anything else.
    """
    counts = np.array([_bleu_counts(a, b) for a, b in zip(said, true, strict=True)], np.float64)
    scores: dict[str, Statistic] = {
        f"bleu{n}": lambda weights, n=n: _bleu(weights @ counts, n) for n in range(1, _LONGEST + 1)
    }
    if len(true) > 1:
        plain, clipped = cider(said, true)
        scores["cider"] = lambda weights: float(weights @ plain / weights.sum())
        scores["cider_d"] = lambda weights: float(weights @ clipped / weights.sum())
    return scores


def cider(said: Sequence[list[str]], true: Sequence[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """CIDEr and CIDEr-D of each answer, 0..1; rare n-grams of the references weigh more."""
    references = [_grams(words) for words in true]
    documents = Counter(gram for grams in references for gram in grams)
    rarity = {gram: math.log(len(true) / count) for gram, count in documents.items()}
    unseen = math.log(len(true))
    plain, clipped = np.zeros(len(said)), np.zeros(len(said))
    for row, (words, reference) in enumerate(zip(said, references, strict=True)):
        answer = _grams(words)
        ours, theirs = _vectors(answer, rarity, unseen), _vectors(reference, rarity, unseen)
        change = _pairs(answer) - _pairs(reference)
        closeness = math.exp(-(change**2) / (2 * _SIGMA**2))
        for mine, its in zip(ours, theirs, strict=True):
            size = math.hypot(*mine.values()) * math.hypot(*its.values())
            shared = mine.keys() & its.keys()
            if size:
                plain[row] += sum(mine[gram] * its[gram] for gram in shared) / size / _LONGEST
                held = sum(min(mine[gram], its[gram]) * its[gram] for gram in shared)
                clipped[row] += closeness * held / size / _LONGEST
    return plain, clipped


def _grams(words: list[str]) -> Counter[tuple[str, ...]]:
    """All runs of 1 to 4 words."""
    return Counter(
        tuple(words[start : start + n]) for n in range(1, _LONGEST + 1) for start in range(len(words) - n + 1)
    )


def _vectors(
    grams: Counter[tuple[str, ...]], rarity: Mapping[tuple[str, ...], float], unseen: float
) -> list[dict[tuple[str, ...], float]]:
    """Counts times rarity, by length."""
    vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(_LONGEST)]
    for gram, count in grams.items():
        vectors[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
    return vectors


def _pairs(grams: Counter[tuple[str, ...]]) -> int:
    """What pycocoevalcap takes for the length: the runs of two words."""
    return sum(count for gram, count in grams.items() if len(gram) == 2)


def _bleu_counts(said: list[str], true: list[str]) -> list[int]:
    """Words of answer and reference, then n-grams of the answer and how many of them the reference holds."""
    ours, theirs = _grams(said), _grams(true)
    shared = ours & theirs
    row = [len(said), len(true)]
    for n in range(1, _LONGEST + 1):
        row += [max(0, len(said) - n + 1), sum(count for gram, count in shared.items() if len(gram) == n)]
    return row


def _bleu(totals: np.ndarray, longest: int) -> float:
    said, true = totals[:2]
    logs = [math.log((totals[2 * n + 1] + _TINY) / (totals[2 * n] + _SMALL)) for n in range(1, longest + 1)]
    ratio = (said + _TINY) / (true + _SMALL)
    return math.exp(sum(logs) / longest + min(0.0, 1 - 1 / ratio))
