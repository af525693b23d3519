"""The area under the ROC curve: how often a true one is ranked above a false one, ties counting half.

Of several classes it is the plain mean over them, each against the rest, as scikit-learn's `roc_auc_score` (ovr, macro)
and MedMNIST's evaluator define it; of several labels that a picture may have at once it is the same mean. A class that
is never true, or always, has none and is left out of the mean.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from biomedgpt_jax.eval.metrics import normalise
from biomedgpt_jax.eval.protocol import ClassScores, Statistic


def class_auc(truths: Sequence[str], class_scores: Sequence[ClassScores | None]) -> Statistic | str:
    """Of answers whose choices have log-probabilities, or the reason why there is none.

    Probabilities are those among the choices, so that of two classes either gives the same.
    """
    if None in class_scores:
        return "the answers carry no class probabilities; a BiomedGPT gives them with --config.pairs.method=candidates"
    known = [{normalise(name): score for name, score in each.items()} for each in class_scores if each is not None]
    classes = list(known[0])
    if any(each.keys() != known[0].keys() for each in known):
        return "the questions do not all have the same choices"
    true = [normalise(truth) for truth in truths]
    if not set(true) <= set(classes):
        return "a true answer is none of the choices"
    if len(set(true)) < 2:
        return "all true answers are of one class"
    logs = np.array([[each[name] for name in classes] for each in known], np.float64)
    chances = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
    return macro_auc(chances, np.array([[truth == name for name in classes] for truth in true]))


def macro_auc(scores: np.ndarray, positive: np.ndarray) -> Statistic:
    """The mean over columns: scores float [n c], positive bool [n c]."""
    columns = [_column(*column) for column in zip(scores.T, positive.T, strict=True)]

    def mean(weights: np.ndarray) -> float:
        found = [area for column in columns if not math.isnan(area := column(weights))]
        return sum(found) / len(found) if found else math.nan

    return mean


def _column(scores: np.ndarray, positive: np.ndarray) -> Callable[[np.ndarray], float]:
    order = np.argsort(scores, kind="stable")
    rises = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # where a score differs from that before
    positive = positive[order]

    def area(weights: np.ndarray) -> float:
        drawn = weights[order]
        true = np.add.reduceat(np.where(positive, drawn, 0), rises)
        false = np.add.reduceat(np.where(positive, 0, drawn), rises)
        pairs = true.sum() * false.sum()
        below = np.cumsum(false) - false / 2
        return float(true @ below / pairs) if pairs else math.nan

    return area
