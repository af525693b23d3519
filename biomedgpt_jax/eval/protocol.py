"""What a metric protocol is: how one answer is scored, and how all answers of a group are scored together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Scores = dict[str, float]
ClassScores = Mapping[str, float]  # the log-probability of each choice
Statistic = Callable[[np.ndarray], float]  # float weights [n] of the answers -> the score; NaN where it has no meaning


@dataclass(frozen=True)
class Said:
    """The answers of a group, column by column."""

    predictions: Sequence[str]
    truths: Sequence[str]
    class_scores: Sequence[ClassScores | None]  # None where the model was not asked for them
    classes: Sequence[Sequence[str]]  # what an answer may name any number of; () for any other question


@dataclass(frozen=True)
class GroupScores:
    """Scores that answers have together. Weights of one give the score, those of a bootstrap its interval."""

    statistics: Mapping[str, Statistic]
    left_out: Mapping[str, str]  # score -> why it cannot be had here


@dataclass(frozen=True)
class Counted:
    """One class of a group: how many answers are it in truth and were said to be, and what follows, each 0..1."""

    name: str
    n: int
    said: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Protocol:
    """How one prediction is scored against one truth, and all of a group together. A published one never changes.

    `source` says where its rules are from, `faults` what is known to be wrong with them, one sentence each.
    """

    name: str
    version: str
    score: Callable[[str, str, Mapping[str, Any]], Scores]  # (prediction, truth, meta) -> each score in 0..1
    headline: Mapping[str, str]  # answer type -> the score of `score` that stands for its questions in a table
    source: str
    faults: tuple[str, ...]
    together: Callable[[Said], GroupScores] | None = None
    by_class: Callable[[Said], tuple[Counted, ...]] | None = None

    @property
    def id(self) -> str:
        return f"{self.name}/{self.version}"
