"""Scores of a corpus: against hand-worked values, and against the packages that define them."""

import math
import random

import numpy as np
import pytest

from biomedgpt_jax.eval import together
from biomedgpt_jax.eval.metrics import bootstrap_of
from biomedgpt_jax.eval.protocols import CLASSIFY_V1, REPORT_V1
from biomedgpt_jax.eval.questions import Question
from biomedgpt_jax.eval.summary import Answered, score, summarise

WORDS = ("lung", "heart", "the", "of", "is", "no", "effusion", "seen", "left", "right", "mild", "2")


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    rng = random.Random(0)
    made = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(80)]
    return made[:40], made[40:]


def test_f1_over_classes_by_hand():
    # cat: 1 right, 2 true, 1 said. dog: 1, 2, 3. fox: 0, 1, 0. The bird is no class.
    truths = ["cat", "cat", "dog", "dog", "fox", "fox"]
    scores = together.class_scores(["Cat", "dog", "dog.", "bird", "dog", "dog"], truths)
    ones = np.ones(6)
    each = [2 * 1 / 3, 2 * 1 / 6, 0.0]
    assert scores["macro_f1"](ones) == pytest.approx(np.mean(each))
    assert scores["weighted_f1"](ones) == pytest.approx(np.average(each, weights=[2, 2, 2]))
    drawn = np.array([1.0, 1, 2, 2, 0, 0])  # no fox: its class does not count
    assert scores["macro_f1"](drawn) == pytest.approx((2 / 3 + 2 * 2 / (4 + 3)) / 2)


def test_cider_d_and_bleu_are_those_of_pycocoevalcap(texts):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer", reason="the dev extra is not installed")
    cider = pytest.importorskip("pycocoevalcap.cider.cider_scorer", reason="the dev extra is not installed")
    said, true = texts
    theirs, corpus = cider.CiderScorer(n=4, sigma=6.0), bleu.BleuScorer(n=4)
    for answer, truth in zip(said, true, strict=True):
        theirs += (answer, [truth])
        corpus += (answer, [truth])
    _, each = theirs.compute_score()
    _, ours = together.cider([text.split() for text in said], [text.split() for text in true])
    np.testing.assert_allclose(ours, each / 10, atol=1e-12)
    scores = together.report_scores(said, true)
    assert scores["cider_d"](np.ones(40)) == pytest.approx(each.mean() / 10, abs=1e-12)
    found = [scores[f"bleu{n}"](np.ones(40)) for n in range(1, 5)]
    assert found == pytest.approx(corpus.compute_score(option="closest")[0], abs=1e-9)


def test_rouge_l_is_that_of_rouge_score(texts):
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="the dev extra is not installed")
    theirs = scorer.RougeScorer(["rougeL"])
    for answer, truth in zip(*texts, strict=True):
        assert together.rouge_l(answer, truth) == pytest.approx(theirs.score(truth, answer)["rougeL"].fmeasure)


def test_cider_by_hand():
    """Two references of one word each, both of rarity ln 2; the answers: the same, and the other's."""
    plain, clipped = together.cider([["lung"], ["lung"]], [["lung"], ["heart"]])
    # Only runs of one word exist: a quarter of 1.
    assert plain.tolist() == pytest.approx([0.25, 0.0])
    assert clipped.tolist() == pytest.approx([0.25, 0.0])
    # Twice the word: the same direction, but clipped, and one run of two words more.
    plain, clipped = together.cider([["lung", "lung"], ["heart"]], [["lung"], ["heart"]])
    assert plain[0] == pytest.approx(0.25)
    assert clipped[0] == pytest.approx(0.25 * math.exp(-1 / 72) / 2)


def test_one_text_has_no_cider():
    assert set(together.report_scores(["a b"], ["a b"])) == {"bleu1", "bleu2", "bleu3", "bleu4"}


def test_the_bootstrap_of_a_mean_is_that_of_any_statistic():
    values = np.random.default_rng(1).random(30)
    low, high = bootstrap_of(lambda weights: weights @ values / weights.sum(), [n // 3 for n in range(30)], 30)
    assert low < values.mean() < high
    spread = 2 * 1.96 * values.reshape(10, 3).mean(1).std(ddof=1) / math.sqrt(10)
    assert high - low == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize(
    ("protocol", "name", "expected", "baseline"),
    [(CLASSIFY_V1, "macro_f1", (2 / 3 + 0) / 2, (6 / 7 + 0) / 2), (REPORT_V1, "bleu1", 2 / 4, 3 / 4)],
)
def test_a_summary_holds_them_with_interval_and_baseline(protocol, name, expected, baseline):
    said, true = ["clear", "clear", "opaque", "clear"], ["clear", "opaque", "clear", "clear"]
    questions = [Question(str(n), "?", text, "closed", "view", str(n), (), "") for n, text in enumerate(true)]
    rows = [
        Answered(question, text, False, score(protocol, question, text))
        for question, text in zip(questions, said, strict=True)
    ]
    (group,) = summarise(protocol, rows, questions, "train").groups
    assert group.scores[name].mean == pytest.approx(expected)
    assert group.scores[name].low < expected < group.scores[name].high
    assert group.baseline.scores[name] == pytest.approx(baseline)
