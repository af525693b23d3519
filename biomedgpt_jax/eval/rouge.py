"""ROUGE (Lin 2004): how much of a reference text an answer holds, by words, pairs of words, or words in order."""

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+")


def rouge_words(text: str) -> list[str]:
    """The words of Google's rouge-score without stemming: runs of a to z and 0 to 9, lower case."""
    return _WORD.findall(text.lower())


def rouge_n(said: Sequence[str], true: Sequence[str], n: int) -> float:
    """F1 of the runs of `n` words, 0..1, as rouge-score's rouge1 and rouge2 on the same words."""
    ours, theirs = (Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for words in (said, true))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def rouge_l(said: Sequence[str], true: Sequence[str], beta: float = 1.0) -> float:
    """F of the longest common subsequence of words, 0..1; recall counts beta**2 times as much as precision.

    As rouge-score's rougeL with 1, as pycocoevalcap's Rouge with 1.2.
    """
    common = _common_subsequence(said, true)
    return (1 + beta**2) * common / (len(said) + beta**2 * len(true)) if common else 0.0


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for word in a:
        before = 0
        for n, other in enumerate(b, 1):
            before, row[n] = row[n], before + 1 if word == other else max(row[n], row[n - 1])
    return row[-1]
