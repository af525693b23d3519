"""Correct is one thing and in form another: answers to instructed questions, by hand."""

import json
from dataclasses import replace

import pytest

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.reword import instructions_for, reword
from biomedgpt_jax.data.sets.wording import closed
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.eval import runner
from biomedgpt_jax.eval.alignment import alignment
from biomedgpt_jax.eval.protocols import CLASSIFY_V1, STRICT_V1
from biomedgpt_jax.eval.questions import Instruction, data_hash, to_question
from biomedgpt_jax.eval.summary import Answered, score, summarise

ORGANS = ("liver", "left lung", "heart")
FORMS = {
    "letter": Form(Kind.LETTER, ORGANS),
    "class": Form(Kind.CLASS, ORGANS),
    "json": Form(Kind.CLASS, ORGANS, json="organ"),
}


@pytest.fixture
def asked(questions):
    """Three closed questions about two images, whose right answer is "left lung"."""
    return [
        replace(q, truth="left lung", choices=ORGANS, instruction=Instruction(f"t/{name}", "Which?", form))
        for q, (name, form) in zip(questions, FORMS.items(), strict=False)
    ]


@pytest.mark.parametrize(
    "kind, said, right, obeyed",
    [
        ("letter", "B", 1, 1),
        ("letter", "B. left lung", 1, 0),
        ("letter", "left lung", 1, 0),
        ("letter", "A", 0, 1),
        ("class", "left lung", 1, 1),
        ("class", "It is the left lung.", 1, 0),
        ("class", "heart", 0, 1),
        ("json", '{"organ": "left lung"}', 1, 1),
        ("json", 'Sure: {"organ": "left lung"}', 1, 0),
        ("json", "left lung", 1, 0),
        ("json", '{"organ": "heart"}', 0, 1),
        ("json", '{"organ": "spleen"}', 0, 0),
    ],
)
def test_right_and_aligned_are_scored_apart(asked, kind, said, right, obeyed):
    found = score(STRICT_V1, asked[list(FORMS).index(kind)], said)
    assert (found["accuracy"], found["aligned"]) == (right, obeyed)


def answers(asked, *said):
    return [Answered(q, text, False, score(STRICT_V1, q, text)) for q, text in zip(asked, said, strict=True)]


def test_shares_by_type_with_intervals(asked):
    rows = answers(asked, "B", "the left lung", '{"organ": "heart"}')
    found = {row.type: row for row in alignment(rows)}
    assert list(found) == ["JSON", "option letter", "valid class", "all"]
    assert [found[name].aligned.mean for name in found] == [1, 1, 0, pytest.approx(2 / 3)]
    assert (found["all"].n, found["all"].aligned.low) == (3, 0.5)  # image a: one of two, image b: one of one
    assert found["JSON"].aligned.low is None  # one image
    assert [row.type for row in alignment(rows[:1])] == ["option letter"]
    assert alignment([replace(row, question=replace(row.question, instruction=None)) for row in rows]) == []


def test_scores_of_a_group_see_the_answer_without_its_form(asked, train):
    rows = [replace(row, scores=score(CLASSIFY_V1, row.question, row.prediction))
            for row in answers(asked, "B", "left lung", '{"organ": "left lung"}')]  # fmt: skip
    (group,) = summarise(CLASSIFY_V1, rows, train, "train").groups
    assert group.scores["macro_f1"].mean == group.scores["accuracy"].mean == group.scores["aligned"].mean == 1
    assert group.baseline.scores["aligned"] == 0  # "no" is none of the organs


def test_what_is_written(asked, train, tmp_path):
    rows = answers(asked, "B", "liver", '{"organ": "heart"}')
    runner.write(str(tmp_path), summarise(STRICT_V1, rows, train, "train"), rows, {"model": "m"})
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == ["B", "liver", '{"organ": "heart"}']
    assert [line["answer"] for line in lines] == ["left lung", "liver", "heart"]
    assert lines[0]["instruction"] == "t/letter" and lines[0]["prompt"] == "Which?" and lines[2]["form"] == "JSON"
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["facts"] == {"model": "m", "instructions": ["t/class", "t/json", "t/letter"]}
    assert [row["n"] for row in scores["alignment"]] == [1, 1, 1, 3]


def test_a_reworded_sample_keeps_its_question_and_truth(questions):
    plain = Sample("s", (0,), (Turn("Is it CT or MR?", "MR"),), closed("modality", ("CT", "MR"), image_sha256="a"))
    made = reword(plain, instructions_for(plain), 3)
    question = to_question(made)
    assert made.turns[0].answer == "B"
    assert (question.question, question.truth) == ("Is it CT or MR?", "MR")
    assert question.instruction.name == "classification/letter" and "B. MR" in question.instruction.prompt
    others = [to_question(plain), question, to_question(reword(plain, instructions_for(plain), 1))]
    assert len({data_hash([each]) for each in others}) == 3
