import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.eval.protocols import STRICT_V1, protocol

CT = "Is this a CT or an MRI image?"


@pytest.mark.parametrize(
    ("answer_type", "question", "truth", "prediction", "accuracy"),
    [
        ("closed", "Is there effusion?", "Yes", "yes, a small one", 1),
        ("closed", "Is there effusion?", "No", "normal", 0),  # holds "no" as letters only
        ("closed", "Is there effusion?", "No", "There is no effusion", 1),
        ("closed", "Is there effusion?", "No", "yes or no", 0),
        ("closed", CT, "MRI", "It is an MRI.", 1),
        ("closed", CT, "MRI", "CT or MRI", 0),
        ("closed", CT, "MRI", "x-ray", 0),
        ("closed", "On the left or right side?", "Left side", "left", 1),
        ("closed", "On the left or right side?", "Left side", "right side", 0),
        (
            "closed",
            "Was oral or IV contrast used?",
            "Both",
            "both",
            1,
        ),  # truth is no stated choice: exact match
        ("closed", "Was oral or IV contrast used?", "Both", "oral", 0),
        ("closed", "Is this an infectious process?", "Maybe", "maybe", 1),
        ("open", "Which organ?", "Liver", "the liver", 1),
        ("open", "Which organ?", "Liver", "the image shows a liver", 0),
    ],
)
def test_strict_accuracy(answer_type, question, truth, prediction, accuracy):
    scores = STRICT_V1.score(prediction, truth, {"answer_type": answer_type, "question": question})
    assert scores["accuracy"] == accuracy


def test_strict_uses_the_choices_of_the_data_set():
    meta = {"answer_type": "closed", "question": "What is shown?", "choices": ("head", "chest", "abdomen")}
    assert STRICT_V1.score("the chest wall", "CHEST", meta)["accuracy"] == 1
    assert STRICT_V1.score("head and chest", "CHEST", meta)["accuracy"] == 0
    assert STRICT_V1.score("the chest wall", "CHEST", meta)["exact_match"] == 0


def test_strict_gives_all_scores():
    scores = STRICT_V1.score("the image shows a liver", "liver", {"answer_type": "open", "question": "?"})
    assert scores == {
        "accuracy": 0,
        "exact_match": 0,
        "f1": pytest.approx(0.5),
        "precision": pytest.approx(1 / 3),
        "recall": 1,
    }


def test_strict_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="'CLOSED'"):
        STRICT_V1.score("yes", "yes", {"answer_type": "CLOSED", "question": ""})
    with pytest.raises(ValueError, match="no word"):
        STRICT_V1.score("yes", "...", {"answer_type": "open", "question": ""})


def test_protocols_are_found_by_name_and_version():
    assert protocol("strict/v1") is STRICT_V1
    with pytest.raises(UsageError, match="strict/v1"):
        protocol("strict")
