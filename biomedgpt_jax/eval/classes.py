"""Answers that are classes: F1 over them, a row for each, AUC; and the protocols of classification."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from biomedgpt_jax.eval import metrics
from biomedgpt_jax.eval.auc import class_auc
from biomedgpt_jax.eval.protocol import Counted, GroupScores, Protocol, Said, Scores, Statistic

_TINY = 1e-15  # so that no fraction is of 0


def classify(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`classify/v1`: accuracy, 1.0 where prediction and truth are the same class, as `metrics.words` gives them.

    Of a group: macro_f1 and weighted_f1 over the classes that occur among its truths, and auc where the answers carry
    class probabilities.
    """
    if not metrics.words(truth):
        raise ValueError(f"the true class {truth!r} holds no word to compare with")
    return {"accuracy": metrics.exact_match(prediction, truth)}


def medmnist(prediction: str, truth: str, meta: Mapping[str, Any]) -> Scores:
    """`medmnist/v1`: accuracy and, of a group, auc as MedMNIST's evaluator defines them, beside macro and weighted F1.

    One class of several: 1.0 where prediction and truth are the same class. Any number of findings (`classes` of the
    meta): the share of the findings that are rightly named or rightly not named.
    """
    if not (classes := meta.get("classes")):
        return classify(prediction, truth, meta)
    said, true = set(metrics.chosen(prediction, classes)), set(metrics.chosen(truth, classes))
    return {"accuracy": 1 - len(said ^ true) / len(classes)}


def class_scores(
    predictions: Sequence[str], truths: Sequence[str], same: Callable[[str], str] = metrics.normalise
) -> Mapping[str, Statistic]:
    """macro_f1 and weighted_f1 over the classes that occur among the truths; an answer that is none of them is wrong.

    `same` gives equal texts for one class. A class without weight (a bootstrap may not draw it) is left out of the
    macro mean.
    """
    return _f1_scores(_one_each(predictions, truths, same))


def of_classes(said: Said) -> GroupScores:
    """macro_f1, weighted_f1 and auc of answers that are one class, or name any number of `said.classes`."""
    scores = _f1_scores(_labels(said))
    if any(said.classes):
        return GroupScores(scores, {"auc": "each answer names any number of findings, without their probabilities"})
    auc = class_auc(said.truths, said.class_scores)
    return GroupScores(scores, {"auc": auc}) if isinstance(auc, str) else GroupScores({**scores, "auc": auc}, {})


def class_rows(said: Said) -> tuple[Counted, ...]:
    """A row for each class that occurs among the truths, in the order of the alphabet."""
    labels = _labels(said)
    ones = np.ones(len(said.truths))
    true, called, right = labels.true(ones), labels.said(ones), labels.right(ones)
    return tuple(
        Counted(
            name,
            int(true[n]),
            int(called[n]),
            float(right[n] / max(called[n], _TINY)),
            float(right[n] / max(true[n], _TINY)),
            float(2 * right[n] / max(true[n] + called[n], _TINY)),
        )
        for n, name in sorted(enumerate(labels.names), key=lambda row: row[1])
        if true[n]
    )


@dataclass(frozen=True)
class _Labels:
    """Classes that answers have: each function gives the weight of each class from the weights of the answers."""

    names: tuple[str, ...]
    true: Callable[[np.ndarray], np.ndarray]
    said: Callable[[np.ndarray], np.ndarray]
    right: Callable[[np.ndarray], np.ndarray]


def _labels(said: Said) -> _Labels:
    if not any(said.classes):
        return _one_each(said.predictions, said.truths, metrics.normalise)
    names = tuple(dict.fromkeys(metrics.normalise(name) for classes in said.classes for name in classes))
    each = zip(said.predictions, said.truths, said.classes, strict=True)
    sets = [(set(metrics.chosen(text, names)), set(metrics.chosen(truth, names))) for text, truth, names in each]
    return _counted(names, [text for text, _ in sets], [truth for _, truth in sets])


def _one_each(predictions: Sequence[str], truths: Sequence[str], same: Callable[[str], str]) -> _Labels:
    true = [same(truth) for truth in truths]
    return _counted(tuple(dict.fromkeys(true)), [{same(text)} for text in predictions], [{name} for name in true])


def _counted(names: tuple[str, ...], said: Sequence[Set[str]], true: Sequence[Set[str]]) -> _Labels:
    number = {name: n for n, name in enumerate(names)}

    def counter(sets: Sequence[Set[str]]) -> Callable[[np.ndarray], np.ndarray]:
        found = [(row, number[name]) for row, each in enumerate(sets) for name in each if name in number]
        rows, columns = np.array(found, np.int64).reshape(-1, 2).T
        return lambda weights: np.bincount(columns, weights[rows], len(names))

    shared = [one & other for one, other in zip(said, true, strict=True)]
    return _Labels(names, counter(true), counter(said), counter(shared))


def _f1_scores(labels: _Labels) -> dict[str, Statistic]:
    def f1(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each class, with the weight of its truths."""
        true = labels.true(weights)
        return 2 * labels.right(weights) / np.maximum(true + labels.said(weights), _TINY), true

    def macro(weights: np.ndarray) -> float:
        each, true = f1(weights)
        return float(each[true > 0].mean()) if true.any() else float("nan")

    def weighted(weights: np.ndarray) -> float:
        each, true = f1(weights)
        return float(each @ true / true.sum()) if true.any() else float("nan")

    return {"macro_f1": macro, "weighted_f1": weighted}


CLASSIFY_V1 = Protocol(
    "classify",
    "v1",
    classify,
    {"open": "accuracy", "closed": "accuracy"},
    source="ours",
    faults=("An answer that says more than the class is wrong.",),
    together=of_classes,
    by_class=class_rows,
)
MEDMNIST_V1 = Protocol(
    "medmnist",
    "v1",
    medmnist,
    {"open": "accuracy", "closed": "accuracy"},
    source="the evaluator of MedMNIST (medmnist/evaluator.py, version 3.0)",
    faults=(
        "AUC needs the probabilities of the classes, which a model that answers in text does not give.",
        "A finding counts as said where its name is in the answer; MedMNIST asks for a probability above one half.",
        "Accuracy over many findings is high for naming none, since most pictures have few.",
    ),
    together=of_classes,
    by_class=class_rows,
)
