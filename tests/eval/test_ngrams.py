"""BLEU and CIDEr: hand-worked, and against the packages that define them."""

import math
import random

import numpy as np
import pytest

from biomedgpt_jax.eval import ngrams

WORDS = ("lung", "heart", "the", "of", "is", "no", "effusion", "seen", "left", "right", "mild", "2")


@pytest.fixture(scope="module")
def texts() -> tuple[list[str], list[str]]:
    rng = random.Random(0)
    made = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(80)]
    return made[:40], made[40:]


def test_cider_d_and_bleu_are_those_of_pycocoevalcap(texts):
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu_scorer", reason="the dev extra is not installed")
    cider = pytest.importorskip("pycocoevalcap.cider.cider_scorer", reason="the dev extra is not installed")
    said, true = texts
    theirs, corpus = cider.CiderScorer(n=4, sigma=6.0), bleu.BleuScorer(n=4)
    for answer, truth in zip(said, true, strict=True):
        theirs += (answer, [truth])
        corpus += (answer, [truth])
    _, each = theirs.compute_score()
    _, ours = ngrams.cider([text.split() for text in said], [text.split() for text in true])
    np.testing.assert_allclose(ours, each / 10, atol=1e-12)
    scores = ngrams.ngram_scores([text.split() for text in said], [text.split() for text in true])
    assert scores["cider_d"](np.ones(40)) == pytest.approx(each.mean() / 10, abs=1e-12)
    found = [scores[f"bleu{n}"](np.ones(40)) for n in range(1, 5)]
    assert found == pytest.approx(corpus.compute_score(option="closest")[0], abs=1e-9)


def test_bleu_is_that_of_sacrebleu(texts):
    sacrebleu = pytest.importorskip("sacrebleu", reason="the dev extra is not installed")
    said, true = texts
    theirs = sacrebleu.corpus_bleu(said, [true], smooth_method="none", tokenize="none", force=True)
    scores = ngrams.ngram_scores([text.split() for text in said], [text.split() for text in true])
    assert scores["bleu4"](np.ones(40)) == pytest.approx(theirs.score / 100, abs=1e-6)


def test_cider_by_hand():
    """Two references of one word each, both of rarity ln 2; the answers: the same, and the other's."""
    plain, clipped = ngrams.cider([["lung"], ["lung"]], [["lung"], ["heart"]])
    # Only runs of one word exist: a quarter of 1.
    assert plain.tolist() == pytest.approx([0.25, 0.0])
    assert clipped.tolist() == pytest.approx([0.25, 0.0])
    # Twice the word: the same direction, but clipped, and one run of two words more.
    plain, clipped = ngrams.cider([["lung", "lung"], ["heart"]], [["lung"], ["heart"]])
    assert plain[0] == pytest.approx(0.25)
    assert clipped[0] == pytest.approx(0.25 * math.exp(-1 / 72) / 2)


def test_one_text_has_no_cider():
    assert set(ngrams.ngram_scores([["a", "b"]], [["a", "b"]])) == {"bleu1", "bleu2", "bleu3", "bleu4"}
