"""From per-sample scores to a table: groups, means, intervals, majority baselines."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.instructions.form import obeys
from biomedgpt_jax.eval import metrics
from biomedgpt_jax.eval.protocol import ClassScores, Counted, GroupScores, Protocol, Said, Scores, Statistic
from biomedgpt_jax.eval.questions import Question, data_hash

ALIGNED = "aligned"
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
    class_scores: ClassScores | None = None


@dataclass(frozen=True)
class Estimate:
    """A score with its 95% interval; None where fewer than two images or cases were asked about."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Baseline:
    """Always the answer that is most frequent in the training split, under the same protocol."""

    answer: str
    source: str
    scores: Scores
    margin: Estimate  # model minus baseline on the headline score, question by question


@dataclass(frozen=True)
class Part:
    """The questions of one type: the headline score with its interval, and all scores of single answers."""

    question_type: str
    n: int
    headline: Estimate
    scores: Scores


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
    left_out: dict[str, str]  # score -> why it is not there
    baseline: Baseline | None  # None: the training split has no question of this group
    question_types: tuple[Part, ...]  # () where there is one type alone
    classes: tuple[Counted, ...]  # () where answers are no classes


@dataclass(frozen=True)
class Summary:
    """All groups of one evaluation, and what must be equal for another to be comparable."""

    protocol: str
    source: str  # of the protocol
    faults: tuple[str, ...]  # that the protocol is known to have
    data_hash: str
    n: int
    interval: str
    groups: tuple[Group, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def group(self, task: str, answer_type: str) -> Group | None:
        return next((g for g in self.groups if (g.task, g.answer_type) == (task, answer_type)), None)


def score(protocol: Protocol, question: Question, prediction: str) -> Scores:
    """The protocol's scores of one answer, and where it was instructed whether it has the form that was demanded.

    Raises RunError, which names the question that cannot be scored.
    """
    form = question.instruction.form if question.instruction else None
    aligned = {} if form is None else {ALIGNED: float(obeys(form, prediction))}
    try:
        return {**protocol.score(question.answer_in(prediction), question.truth, question.meta), **aligned}
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
    return Summary(protocol.id, protocol.source, protocol.faults, digest, len(answered), INTERVAL, groups)


def estimate(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """The mean of scores of single answers with its bootstrap interval; `clusters` as `cluster_labels` gives them."""
    return estimate_of(mean_of(values), clusters)


def estimate_of(statistic: Statistic, clusters: Sequence[str]) -> Estimate:
    """The same for any score."""
    low, high = metrics.bootstrap_of(statistic, clusters, len(clusters)) or (None, None)
    return Estimate(statistic(np.ones(len(clusters))), low, high)


def statistics(protocol: Protocol, each: Sequence[Scores], said: Said) -> GroupScores:
    """All scores of a group: the means of those that single answers have, and those of all together."""
    means = {name: mean_of([scores[name] for scores in each]) for name in each[0]}
    if protocol.together is None:
        return GroupScores(means, {})
    found = protocol.together(said)
    return GroupScores({**means, **found.statistics}, found.left_out)


def mean_of(values: Sequence[float]) -> Statistic:
    column = np.array(values, np.float64)
    return lambda weights: float(weights @ column / weights.sum())


def cluster_labels(questions: Sequence[Question]) -> list[str]:
    """What is resampled together; a question without image or case stands alone."""
    return [q.cluster if q.cluster is not None else f"question {q.id}" for q in questions]


def _group(
    protocol: Protocol, key: tuple[str, str], rows: Sequence[Answered], majority: str | None, source: str
) -> Group:
    clusters = cluster_labels([row.question for row in rows])
    headline = protocol.headline[key[1]]
    said = _said(rows)
    found = statistics(protocol, [row.scores for row in rows], said)
    return Group(
        task=key[0],
        answer_type=key[1],
        n=len(rows),
        clusters=len(set(clusters)),
        truncated=sum(row.truncated for row in rows),
        headline=headline,
        scores={name: estimate_of(statistic, clusters) for name, statistic in found.statistics.items()},
        left_out=dict(found.left_out),
        baseline=None
        if majority is None
        else _baseline(protocol, rows, majority, source, found.statistics[headline], clusters),
        question_types=_parts(rows, headline),
        classes=() if protocol.by_class is None else protocol.by_class(said),
    )


def _baseline(
    protocol: Protocol, rows: Sequence[Answered], answer: str, source: str, ours: Statistic, clusters: Sequence[str]
) -> Baseline:
    always = [Answered(row.question, answer, False, score(protocol, row.question, answer)) for row in rows]
    found = statistics(protocol, [row.scores for row in always], _said(always)).statistics
    theirs = found[protocol.headline[rows[0].question.answer_type]]
    margin = estimate_of(lambda weights: ours(weights) - theirs(weights), clusters)
    return Baseline(answer, source, {name: of(np.ones(len(rows))) for name, of in found.items()}, margin)


def _parts(rows: Sequence[Answered], headline: str) -> tuple[Part, ...]:
    by_type: defaultdict[str, list[Answered]] = defaultdict(list)
    for row in rows:
        by_type[row.question.question_type].append(row)
    if len(by_type) < 2:
        return ()
    return tuple(
        Part(
            question_type=name or "not stated",
            n=len(mine),
            headline=estimate([row.scores[headline] for row in mine], cluster_labels([row.question for row in mine])),
            scores={score: float(np.mean([row.scores[score] for row in mine])) for score in mine[0].scores},
        )
        for name, mine in sorted(by_type.items())
    )


def _said(rows: Sequence[Answered]) -> Said:
    return Said(
        [row.question.answer_in(row.prediction) for row in rows],
        [row.question.truth for row in rows],
        [row.class_scores for row in rows],
        [row.question.classes for row in rows],
    )
