"""From per-sample scores to a table: groups, means, intervals, majority baselines."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval import metrics
from biomedgpt_jax.eval.protocols import Protocol, Scores
from biomedgpt_jax.eval.questions import Question, data_hash
from biomedgpt_jax.eval.together import Statistic

INTERVAL = "95% percentile bootstrap, 2000 resamples of the images (or cases) with seed 0"


@dataclass(frozen=True)
class Answered:
    """One question with what the model said. `truncated`: the token limit ended the answer.

    `class_scores`: the log-probability of each of the question's choices among the answers that the model could give;
    None where it was not asked for them.
    """

    question: Question
    prediction: str
    truncated: bool
    scores: Scores
    class_scores: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval; None where fewer than two images or cases were asked about."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Baseline:
    """Always the answer that is most frequent in the training split, under the same protocol."""

    answer: str
    source: str
    scores: Scores  # means
    margin: Estimate  # model minus baseline on the headline score, question by question


@dataclass(frozen=True)
class Group:
    """The scores of one task's open or closed questions, in 0..1."""

    task: str
    answer_type: str
    n: int
    clusters: int  # distinct images or cases
    truncated: int
    headline: str  # the score to show where only one is shown
    scores: dict[str, Estimate]
    baseline: Baseline | None  # None: the training split has no question of this group


@dataclass(frozen=True)
class Summary:
    """All groups of one evaluation, and what must be equal for another to be comparable."""

    protocol: str
    data_hash: str
    n: int
    interval: str
    groups: tuple[Group, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def group(self, task: str, answer_type: str) -> Group | None:
        return next((g for g in self.groups if (g.task, g.answer_type) == (task, answer_type)), None)


def score(protocol: Protocol, question: Question, prediction: str) -> Scores:
    """The protocol's scores of one answer; RunError names the question that cannot be scored."""
    try:
        return protocol.score(prediction, question.truth, question.meta)
    except ValueError as error:
        raise RunError(f"sample {question.id} cannot be scored under {protocol.id}: {error}") from error


def summarise(
    protocol: Protocol,
    answered: Sequence[Answered],
    train: Iterable[Question],
    train_source: str,
) -> Summary:
    """Group by task and answer type. `train` gives the majority answers; `train_source` says what it is."""
    majority = metrics.majority_answers((question.group, question.truth) for question in train)
    grouped: defaultdict[tuple[str, str], list[Answered]] = defaultdict(list)
    for row in answered:
        grouped[row.question.group].append(row)
    groups = tuple(
        _group(protocol, key, rows, majority.get(key), train_source) for key, rows in sorted(grouped.items())
    )
    digest = data_hash(row.question for row in answered)
    return Summary(protocol.id, digest, len(answered), INTERVAL, groups)


def estimate(values: Sequence[float], clusters: Sequence[str] | None) -> Estimate:
    """The mean and its bootstrap interval; `clusters` as `cluster_labels` gives them."""
    low, high = metrics.bootstrap_interval(values, clusters) or (None, None)
    return Estimate(float(np.mean(values)), low, high)


def estimate_of(statistic: Statistic, clusters: Sequence[str]) -> Estimate:
    """The same for a score that answers have together."""
    low, high = metrics.bootstrap_of(statistic, clusters, len(clusters)) or (None, None)
    return Estimate(statistic(np.ones(len(clusters))), low, high)


def cluster_labels(questions: Sequence[Question]) -> list[str]:
    """What is resampled together; a question without image or case stands alone."""
    return [q.cluster if q.cluster is not None else f"question {q.id}" for q in questions]


def _group(
    protocol: Protocol, key: tuple[str, str], rows: Sequence[Answered], majority: str | None, source: str
) -> Group:
    clusters = cluster_labels([row.question for row in rows])
    headline = protocol.headline[key[1]]
    values = {name: [row.scores[name] for row in rows] for name in rows[0].scores}
    together = _together(protocol, rows, [row.prediction for row in rows])
    baseline = None
    if majority is not None:
        always = [score(protocol, row.question, majority) for row in rows]
        differences = np.subtract(values[headline], [s[headline] for s in always])
        means = {name: float(np.mean([s[name] for s in always])) for name in values}
        means |= {
            name: statistic(np.ones(len(rows)))
            for name, statistic in _together(protocol, rows, [majority] * len(rows)).items()
        }
        baseline = Baseline(majority, source, means, estimate(differences.tolist(), clusters))
    return Group(
        task=key[0],
        answer_type=key[1],
        n=len(rows),
        clusters=len(set(clusters)),
        truncated=sum(row.truncated for row in rows),
        headline=headline,
        scores={name: estimate(column, clusters) for name, column in values.items()}
        | {name: estimate_of(statistic, clusters) for name, statistic in together.items()},
        baseline=baseline,
    )


def _together(protocol: Protocol, rows: Sequence[Answered], predictions: Sequence[str]) -> Mapping[str, Statistic]:
    if protocol.together is None:
        return {}
    return protocol.together(predictions, [row.question.truth for row in rows])
