"""ROUGE: hand-worked, and against the packages that define it."""

import random

import pytest

from biomedgpt_jax.eval.protocols import SUMMARY_V1
from biomedgpt_jax.eval.rouge import rouge_l, rouge_n, rouge_words

WORDS = ("lung", "heart", "the", "of", "X-ray", "No.", "2.5cm", "effusion", "\u00b5m", "mild")


def made(seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(40)]


def test_summaries_are_scored_as_by_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for answer, truth in zip(made(0), made(1), strict=True):
        expected = {name.lower(): each.fmeasure for name, each in theirs.score(truth, answer).items()}
        found = SUMMARY_V1.score(answer, truth, {})
        assert [found["rouge1"], found["rouge2"], found["rouge_l"]] == pytest.approx(
            [expected["rouge1"], expected["rouge2"], expected["rougel"]], abs=1e-6
        )


def test_rouge_l_of_captions_is_that_of_pycocoevalcap():
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge", reason="pycocoevalcap is not installed")
    for answer, truth in zip(made(2), made(3), strict=True):
        expected = rouge.Rouge().calc_score([answer], [truth])
        assert rouge_l(answer.split(" "), truth.split(" "), beta=1.2) == pytest.approx(expected, abs=1e-6)


def test_rouge_by_hand():
    said, true = rouge_words("No pleural EFFUSION, no mass"), rouge_words("No mass; no effusion")
    # Shared: no, no, effusion, mass of 5 and 4 words; the pair "no mass" of 4 and 3; in order "no effusion".
    assert rouge_n(said, true, 1) == pytest.approx(2 * 4 / 9)
    assert rouge_n(said, true, 2) == pytest.approx(2 * 1 / 7)
    assert rouge_l(said, true) == pytest.approx(2 * 2 / 9)
    precision, recall = 2 / 5, 2 / 4
    assert rouge_l(said, true, beta=1.2) == pytest.approx(2.44 * precision * recall / (recall + 1.44 * precision))
    assert rouge_n(["a"], ["a"], 2) == rouge_l([], ["a"]) == 0


def test_a_reference_without_words_is_refused():
    with pytest.raises(ValueError, match="no word of a to z"):
        SUMMARY_V1.score("lung", "\u80ba", {})
