"""Every example is worked by hand from the published rules; BLEU is compared with nltk, which they used."""

import warnings

import numpy as np
import pytest
from nltk.translate.bleu_score import sentence_bleu

from biomedgpt_jax.eval.llava_med import (
    LLAVA_MED_V1,
    bleu,
    candidate_accuracy,
    closed_accuracy,
    normalise,
    open_scores,
    with_candidates,
)
from biomedgpt_jax.eval.protocols import protocol


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("No.", "no"),
        ("chest x-ray", "chest x ray"),  # touches no space: a space
        ("chest x -ray", "chest x ray"),  # touches one: gone
        ("x-ray and CT - both", "xray and ct both"),  # one that touches a space takes the others with it
        ("10,000", "10000"),
        ("10,000 left/right", "10000 leftright"),  # a comma between digits deletes every mark
        ("right/left", "right left"),
        ("liver, spleen", "liver spleen"),
        ("liver,spleen", "liver spleen"),
        ("one", "1"),
        ("None", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("2.5 cm", "2.5 cm"),
        ("2. 5 cm", "2 5 cm"),
        ("U.S. scan", "us scan"),
        (".5", ".5"),
        ("5%", "5%"),
        ("time: 5", "time: 5"),
        ("the patient's liver", "patient's liver"),
        ("An A and a The", "and"),
        ("the", ""),
        ("It dont show whats there", "it don't show what's there"),
        (
            "couldntve couldnt've couldn'tve",
            "couldntve couldn't've couldn't've",
        ),  # one missing is put back, two are not
        ("Id've hell shell its lets im", "id've hell shell its lets im"),  # not in the table
        ("somebody'd", "somebodyd"),  # the wrong way round in the table
        ("yes  \n no", "yes no"),
        ("", ""),
        ("?", ""),
        ("." * 32 + "end", "end"),
        ("." * 35 + "end", "...end"),  # 32 is where it ends
        ("a." * 33 + "b", "a" * 33 + ".b"),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("prediction", "truth", "exact", "f1", "precision", "recall"),
    [
        ("the image shows a liver", "liver", 1 / 3, 1 / 2, 1 / 3, 1),
        ("Liver.", "liver", 1, 1, 1, 1),
        ("spleen", "liver", 0, 0, 0, 0),
        ("", "liver", 0, 0, 0, 0),
        ("liver", "the", 0, 0, 0, 0),  # a truth of articles alone is empty
        # Shared words count as often as the prediction says them: tp 3, fp 1, no fn.
        ("lung lung lung mass", "lung", 1 / 4, 6 / 7, 3 / 4, 1),
        # And once where the truth says them twice: tp 1, fn 0 (both "left" are shared), so recall is whole.
        ("left", "left left", 1, 1, 1, 1),
        # tp 2 (right, lobe), fp 1 (middle), fn 2 (lower, lung).
        ("right middle lobe", "right lower lobe of lung", 2 / 3, 4 / 8, 2 / 3, 2 / 5),
    ],
)
def test_open_overlap(prediction, truth, exact, f1, precision, recall):
    scores = open_scores(prediction, truth)
    found = [scores[name] for name in ("exact_match", "f1", "precision", "recall")]
    if prediction == "right middle lobe":
        f1 = 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5)
    assert found == pytest.approx([exact, f1, precision, recall])


def test_bleu_is_that_of_nltk():
    rng = np.random.default_rng(0)
    draws = [[list(rng.choice(list("abcde"), rng.integers(0, 9))) for _ in range(2)] for _ in range(300)]
    said, true = "mass in left upper lobe of left lung", "there is large mass in left upper lobe"
    sentences = [[said.split(), true.split()]]
    most = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns of each run length without a match
        for said, true in sentences + draws:
            found = open_scores(" ".join(said), " ".join(true))
            said, true = ([word for word in words if word != "a"] for words in (said, true))
            for name, weights in {
                "bleu": (0.25, 0.25, 0.25, 0.25),
                "bleu1": (1, 0, 0, 0),
                "bleu2": (0, 1, 0, 0),
                "bleu3": (0, 0, 1, 0),
            }.items():
                expected = sentence_bleu([true], said, weights=weights)
                assert found[name] == pytest.approx(expected, rel=1e-9), (said, true, name)
                most = max(most, expected if name == "bleu" else 0)
    assert most > 0.5


def test_bleu_without_a_match_of_a_length_is_the_smallest_number_not_zero():
    four = (0.25, 0.25, 0.25, 0.25)
    assert bleu(["liver"], ["liver"], four) == pytest.approx(1.821831989445342e-231)
    said, true = ["right", "lower", "lobe", "of", "lung"], ["right", "lower", "lobe"]
    assert bleu(said, true, four) == pytest.approx(6.86809206056511e-78)


@pytest.mark.parametrize(
    ("prediction", "truth", "hit"),
    [
        ("Yes, there is.", "Yes", 1),
        ("No.", "no", 1),
        ("yes", "no", 0),
        ("normal", "no", 1),  # n-o
        ("note the mass", "No", 1),
        ("unknown", "no", 1),
        ("The eyes are shown", "yes", 1),  # e-yes
        ("There is an abscess", "yes", 0),  # says neither
        ("yes and no", "yes", 1),  # both always hit
        ("yes and no", "no", 1),
        ("MRI", "MRI", 0),  # a choice, and neither yes nor no
        ("MRI, not CT", "MRI", 1),  # by the chance of "not"
        ("right", "right", 0),
        ("not on the left", "right", 0),
        ("", "no", 0),
        ("none", "no", 0),  # none is 0
    ],
)
def test_closed_hits(prediction, truth, hit):
    assert closed_accuracy(prediction, truth) == hit


def test_candidates_by_the_largest_share_and_the_first_among_equals():
    answers = ["liver", "left lung", "right lung"]
    assert candidate_accuracy("a mass in the left lung", "Left lung.", answers) == 1
    assert candidate_accuracy("lung", "right lung", answers) == 0  # half of both lungs: the first
    assert candidate_accuracy("lung", "left lung", answers) == 1
    assert candidate_accuracy("spleen", "liver", answers) == 1  # nothing matches: the first
    assert candidate_accuracy("kidney", "kidney", answers) == 0  # not among them


def test_protocol_scores_open_and_closed_apart():
    assert protocol("llava-med/v1") is LLAVA_MED_V1
    open_names = LLAVA_MED_V1.score("a liver", "liver", {"answer_type": "open"})
    assert list(open_names) == ["exact_match", "f1", "precision", "recall", "bleu", "bleu1", "bleu2", "bleu3"]
    assert LLAVA_MED_V1.score("normal", "no", {"answer_type": "closed"}) == {"accuracy": 1}
    assert LLAVA_MED_V1.headline == {"open": "recall", "closed": "accuracy"}
    with pytest.raises(ValueError, match="'OPEN'"):
        LLAVA_MED_V1.score("yes", "yes", {"answer_type": "OPEN"})


def test_candidates_change_the_version():
    one, other = with_candidates(["liver", "lung"]), with_candidates(["lung", "liver"])
    assert one.id.startswith("llava-med/v1+candidates-") and one.id != other.id
    assert one.score("lung", "lung", {"answer_type": "open"})["open_accuracy"] == 1
    assert one.score("spleen", "lung", {"answer_type": "open"})["open_accuracy"] == 0
    assert other.score("spleen", "lung", {"answer_type": "open"})["open_accuracy"] == 1
    assert one.score("yes", "yes", {"answer_type": "closed"}) == {"accuracy": 1}
