import math

import numpy as np
import pytest

from biomedgpt_jax.eval import metrics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Chest X-ray.", "chest x ray"),
        ("The patient\u2019s LEFT lung", "patients left lung"),
        ("10,000 cells, 2.5 cm", "10000 cells 2.5 cm"),
        ("right/left", "right left"),
        ("one", "1"),
        ("Ten lesions", "10 lesions"),
        ("5%", "5 %"),
        ("< 5 cm", "< 5 cm"),
        ("5.", "5"),
        ("-5 HU", "-5 hu"),
        ("1-2 cm", "1 2 cm"),
        ("HER2- but ER+", "her2- but er+"),
        ("hepatitis A", "hepatitis a"),
        ("a fracture of an arm", "fracture of arm"),
        ("The", "the"),
        ("\ufb01brosis", "fibrosis"),
        ("\u5de6\u80ba \u00f6dem", "\u5de6\u80ba \u00f6dem"),
        (" \n\t...", ""),
    ],
)
def test_normalise(text, expected):
    assert metrics.normalise(text) == expected
    assert metrics.normalise(expected) == expected  # nothing is left to do


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("no", "no"),
        ("normal", None),
        ("unknown, noted", None),
        ("yesterday", None),
        ("There is no pneumothorax.", "no"),
        ("Yes, no effusion is seen", "yes"),
        ("No, yes would be wrong", "no"),
        ("yes or no", None),
        ("Yes/No", None),
        ("no and yes", None),
        ("yes yes", "yes"),
        ("It says yes and then no", None),
        ("", None),
    ],
)
def test_yes_no_reads_whole_words(text, expected):
    assert metrics.yes_no(text) == expected


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is this a CT or an MRI?", ("ct", "mri")),
        ("Are the dark areas grey or white matter?", ("grey", "white")),
        ("Are pleural opacities located on the left, right, or both sides?", ("left", "right", "both")),
        ("Is this a pneumonia vs. pleural effusion?", ("pneumonia", "pleural")),
        ("What is denser, the mass or the surrounding tissue?", ("mass", "surrounding")),
        ("Is this a contrast CT or a non-contrast CT?", ()),  # "ct" stands on both sides
        ("Is the heart enlarged?", ()),
        ("Or is it?", ()),
        ("", ()),
    ],
)
def test_stated_choices(question, expected):
    assert metrics.stated_choices(question) == expected


def test_chosen_takes_whole_words_and_the_longest_name():
    assert metrics.chosen("The left lung.", ("lung", "Left lung", "heart")) == ("left lung",)
    assert metrics.chosen("abnormal", ("normal", "abnormal")) == ("abnormal",)
    assert metrics.chosen("CT, not MRI", ("MRI", "CT")) == ("mri", "ct")
    assert metrics.chosen("left lung and the other lung", ("lung", "left lung")) == ("lung", "left lung")
    assert metrics.chosen("spine", ("head",)) == ()


def test_token_overlap_by_hand():
    # prediction words: image shows liver liver (4); truth words: liver lobe; shared: one liver
    overlap = metrics.token_overlap("the image shows liver, liver", "Liver lobe")
    assert overlap == (pytest.approx(2 * 0.25 * 0.5 / 0.75), 0.25, 0.5)
    assert metrics.token_overlap("", "liver") == (0, 0, 0)
    assert metrics.token_overlap("liver lobe", "lobe liver") == (1, 1, 1)
    assert metrics.exact_match("liver lobe", "lobe liver") == 0
    assert metrics.exact_match("Two cysts.", "2 cysts") == 1


def interval(values, clusters=None, seed=0):
    """Of the mean."""
    values = np.array(values)
    clusters = range(len(values)) if clusters is None else clusters
    return metrics.bootstrap_of(lambda weights: weights @ values / weights.sum(), clusters, len(values), seed=seed)


def test_the_bootstrap_covers_the_mean_and_is_seeded():
    values = [1.0] * 60 + [0.0] * 40
    low, high = interval(values)
    # the normal approximation of a proportion of 0.6 with n = 100: 0.6 -+ 1.96 * 0.049
    assert (low, high) == (pytest.approx(0.504, abs=0.015), pytest.approx(0.696, abs=0.015))
    assert interval(values) == (low, high)
    assert interval(values, seed=1) != (low, high)


def test_the_bootstrap_resamples_clusters():
    """Ten equal answers about each of ten images tell as much as ten answers."""
    values = [float(image < 6) for image in range(10) for _ in range(10)]
    images = [f"image {n // 10}" for n in range(100)]
    low, high = interval(values, images)
    assert (low, high) == interval(values[::10])
    assert high - low > 0.5  # 0.19 if the answers counted as independent


def test_the_bootstrap_weighs_clusters_by_size():
    low, high = interval([1.0] * 9 + [0.0], ["a"] * 9 + ["b"])
    assert (low, high) == (0.0, 1.0)  # draws are aa, ab, bb; ab has mean 0.9
    assert interval([1.0, 0.0], ["a", "a"]) is None
    with pytest.raises(ValueError, match="2 values but 1 cluster"):
        interval([1.0, 0.0], ["a"])


def test_draws_without_meaning_are_left_out():
    # Only draws that hold both have a meaning, and then it is 1.
    both = metrics.bootstrap_of(lambda weights: 1.0 if weights.all() else math.nan, "ab", 2)
    assert both == (1.0, 1.0)
    assert metrics.bootstrap_of(lambda weights: math.nan, "ab", 2) is None


def test_majority_answers_per_group():
    answers = [("closed", "No"), ("closed", "no."), ("closed", "yes"), ("open", "Liver"), ("open", "brain")]
    assert metrics.majority_answers(answers) == {"closed": "No", "open": "brain"}
    # Two spellings of one answer outweigh the other; the captions' protocols read marks, so a spelling is kept.
    said = ["An X-ray.", "an x-ray", "an x-ray", "CT", "CT"]
    assert metrics.majority_answers(("", text) for text in said) == {"": "an x-ray"}
