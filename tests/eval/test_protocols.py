import numpy as np
import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.datasets import ALL as DATASETS
from biomedgpt_jax.eval.pmc_vqa import most_similar
from biomedgpt_jax.eval.protocol import Said
from biomedgpt_jax.eval.protocols import (
    ALL,
    BIOMEDGPT_SUMMARY_V1,
    BIOMEDGPT_V1,
    PMC_VQA_V1,
    PROTOCOLS,
    STRICT_V1,
    SUMMARY_V1,
    protocol,
)
from tests.command import ROOT

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


@pytest.mark.parametrize(
    ("prediction", "truth", "accuracy", "exact_case"),
    [
        ("Left lung", "left lung", 1, 0),
        ("left lung ", "left lung", 1, 1),
        ("left lung.", "left lung", 0, 0),  # one string must be the other
        ("the left lung", "left lung", 0, 0),
        ("xray", "x-ray", 0, 0),
    ],
)
def test_biomedgpt_compares_whole_texts(prediction, truth, accuracy, exact_case):
    assert BIOMEDGPT_V1.score(prediction, truth, {}) == {"accuracy": accuracy, "exact_case": exact_case}


def test_biomedgpt_takes_each_answer_for_a_class():
    found = BIOMEDGPT_V1.together(Said(["CT", "mri", "ct"], ["ct", "MRI", "MRI"], [None] * 3, [()] * 3))
    # ct: 1 right, 1 true, 2 said. mri: 1, 2, 1.
    assert found.statistics["weighted_f1"](np.ones(3)) == pytest.approx((1 * 2 / 3 + 2 * 2 / 3) / 3)


def test_biomedgpt_summaries_lose_every_1_of_an_answer():
    assert SUMMARY_V1.score("grade 1 tumour", "Grade 1 tumour", {})["rouge1"] == 1
    found = BIOMEDGPT_SUMMARY_V1.score("grade 1 tumour", "Grade 1 tumour", {})
    assert found["rouge1"] == pytest.approx(2 * 2 / 5)  # "#" is no word at all


def test_pmc_vqa_takes_the_choice_that_is_spelled_most_alike():
    choices = ("Computed tomography", "X-ray", "MRI", "Ultrasound")
    # "ra" and then "x" at most: 2 * 3 of 10 letters; of "MRI" nothing.
    assert most_similar(choices, "x-ray") == 1 and most_similar(choices, "zzz") is None
    assert most_similar(("ab", "ba"), "ab ba") == 0  # equal shares: the first
    meta = {"choices": choices}
    assert PMC_VQA_V1.score("It is an X-ray of the chest", "X-ray", meta)["accuracy"] == 1
    assert PMC_VQA_V1.score("a sound of the ultra kind", "Ultrasound", meta)["accuracy"] == 1  # as letters go
    assert PMC_VQA_V1.score("", "X-ray", meta)["accuracy"] == 0
    with pytest.raises(ValueError, match="needs the choices"):
        PMC_VQA_V1.score("x", "y", {})


def test_every_protocol_says_its_source_and_is_in_the_docs():
    page = " ".join((ROOT / "docs" / "protocols.md").read_text().split())
    for each in ALL:
        assert each.source and f"`{each.id}`" in page, each.id
        assert set(each.headline) == {"open", "closed"}
        for fault in each.faults:
            assert fault in page, f"{each.id}: {fault}"


def test_the_row_of_each_data_set_names_a_protocol():
    named = {spec.name: spec.protocol for spec in DATASETS}
    assert set(filter(None, named.values())) <= set(PROTOCOLS)
    assert {spec.task for spec in DATASETS if spec.protocol is None} == {"instruction"}
    assert named["vqa_rad"] == "strict/v1" and named["meqsum"] == "summary/v1" and named["iu_xray"] == "caption/v1"
