"""F1 over classes, rows of classes and AUC: hand-worked, and against scikit-learn, which defines them."""

import math

import numpy as np
import pytest

from biomedgpt_jax.eval import auc, classes
from biomedgpt_jax.eval.protocol import Said
from biomedgpt_jax.eval.protocols import CLASSIFY_V1, MEDMNIST_V1

FINDINGS = ("mass", "nodule", "pleural thickening")


def said(predictions, truths, class_scores=None, named=()):
    count = len(truths)
    return Said(predictions, truths, class_scores or [None] * count, [named] * count)


def test_f1_over_classes_by_hand():
    # cat: 1 right, 2 true, 1 said. dog: 1, 2, 3. fox: 0, 1, 0. The bird is no class.
    truths = ["cat", "cat", "dog", "dog", "fox", "fox"]
    scores = classes.class_scores(["Cat", "dog", "dog.", "bird", "dog", "dog"], truths)
    ones = np.ones(6)
    each = [2 * 1 / 3, 2 * 1 / 6, 0.0]
    assert scores["macro_f1"](ones) == pytest.approx(np.mean(each))
    assert scores["weighted_f1"](ones) == pytest.approx(np.average(each, weights=[2, 2, 2]))
    drawn = np.array([1.0, 1, 2, 2, 0, 0])  # no fox: its class does not count
    assert scores["macro_f1"](drawn) == pytest.approx((2 / 3 + 2 * 2 / (4 + 3)) / 2)


def test_f1_and_rows_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="the dev extra is not installed")
    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c", "d"])
    true, answers = names[rng.integers(0, 3, 200)], names[rng.integers(0, 4, 200)]  # nothing is d
    found = CLASSIFY_V1.together(said(list(answers), list(true))).statistics
    for kind in ("macro", "weighted"):
        theirs = metrics.f1_score(true, answers, average=kind, labels=["a", "b", "c"])
        assert found[f"{kind}_f1"](np.ones(200)) == pytest.approx(theirs, abs=1e-6)
    rows = CLASSIFY_V1.by_class(said(list(answers), list(true)))
    theirs = np.array(metrics.precision_recall_fscore_support(true, answers, labels=["a", "b", "c"])).T
    assert [row.name for row in rows] == ["a", "b", "c"]
    ours = [(row.precision, row.recall, row.f1, row.n) for row in rows]
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert [row.said for row in rows] == [np.sum(answers == name) for name in "abc"]


def chances(scores, names):
    return [dict(zip(names, map(float, row), strict=True)) for row in scores]


@pytest.mark.parametrize("count", [2, 4])
def test_auc_is_that_of_scikit_learn(count):
    metrics = pytest.importorskip("sklearn.metrics", reason="the dev extra is not installed")
    rng = np.random.default_rng(1)
    names = ["normal", "mass", "fracture", "effusion"][:count]
    true = rng.integers(0, count, 120)
    # Few distinct values, so that there are ties.
    logs = np.log(rng.dirichlet(np.ones(count), 12)[rng.integers(0, 12, 120)])
    found = auc.class_auc([names[n] for n in true], chances(logs - 3, names))  # any share of the whole list
    chance = np.exp(logs)
    theirs = (
        metrics.roc_auc_score(true, chance[:, 1])
        if count == 2
        else metrics.roc_auc_score(true, chance, multi_class="ovr")
    )
    assert found(np.ones(120)) == pytest.approx(theirs, abs=1e-6)
    weights = rng.integers(0, 4, 120).astype(float)
    one = metrics.roc_auc_score(true == 0, chance[:, 0], sample_weight=weights)
    rest = [metrics.roc_auc_score(true == n, chance[:, n], sample_weight=weights) for n in range(1, count)]
    assert found(weights) == pytest.approx(np.mean([one, *rest]), abs=1e-6)


def test_auc_of_several_labels_is_the_mean_of_their_own():
    metrics = pytest.importorskip("sklearn.metrics", reason="the dev extra is not installed")
    rng = np.random.default_rng(2)
    scores, labels = rng.random((50, 3)), rng.random((50, 3)) < 0.3
    theirs = metrics.roc_auc_score(labels, scores, average="macro")
    assert auc.macro_auc(scores, labels)(np.ones(50)) == pytest.approx(theirs, abs=1e-6)


def test_auc_by_hand():
    # Of the pairs (true, false) 0.9-0.5, 0.9-0.1, 0.5-0.5 (half), 0.5-0.1: 3.5 of 4.
    scores, labels = np.array([[0.9], [0.5], [0.5], [0.1]]), np.array([[True], [True], [False], [False]])
    found = auc.macro_auc(scores, labels)
    assert found(np.ones(4)) == pytest.approx(3.5 / 4)
    assert found(np.array([1.0, 3, 2, 1])) == pytest.approx((1 * 3 + 3 * (2 / 2 + 1)) / (4 * 3))
    assert math.isnan(found(np.array([1.0, 1, 0, 0])))  # nothing false was drawn


@pytest.mark.parametrize(
    ("truths", "scores", "reason"),
    [
        (["a", "b"], [{"a": 0.0, "b": -1.0}, None], "no class probabilities"),
        (["a", "b"], [{"a": 0.0, "b": -1.0}, {"a": 0.0, "c": -1.0}], "the same choices"),
        (["a", "c"], [{"a": 0.0, "b": -1.0}] * 2, "none of the choices"),
        (["a", "A."], [{"a": 0.0, "b": -1.0}] * 2, "of one class"),
    ],
)
def test_where_there_is_no_auc_there_is_a_reason(truths, scores, reason):
    found = MEDMNIST_V1.together(said(["a", "a"], truths, scores))
    assert "auc" not in found.statistics and reason in found.left_out["auc"]


def test_medmnist_scores_pictures_with_many_findings():
    meta = {"classes": FINDINGS}
    # mass is missed, thickening is rightly named, nodule is rightly not.
    assert MEDMNIST_V1.score("Pleural thickening", "mass, pleural thickening", meta)["accuracy"] == pytest.approx(2 / 3)
    assert MEDMNIST_V1.score("no finding", "no finding", meta)["accuracy"] == 1
    assert MEDMNIST_V1.score("Heart", "heart", {"classes": ()})["accuracy"] == 1
    answers = said(["mass", "mass, nodule", "no finding"], ["mass", "nodule", "mass"], named=FINDINGS)
    rows = {row.name: (row.n, row.said, row.precision, row.recall) for row in MEDMNIST_V1.by_class(answers)}
    assert rows == {"mass": (2, 2, 0.5, 0.5), "nodule": (1, 1, 1, 1)}
    found = MEDMNIST_V1.together(answers)
    assert found.statistics["macro_f1"](np.ones(3)) == pytest.approx(0.75)
    assert "any number of findings" in found.left_out["auc"]
