import json
from dataclasses import replace

import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval import runner
from biomedgpt_jax.eval.candidates import Chosen
from biomedgpt_jax.eval.compare import load
from biomedgpt_jax.eval.protocols import STRICT_V1
from biomedgpt_jax.eval.questions import data_hash
from biomedgpt_jax.eval.rescore import rescored

TEXTS = ["", "yes", "no", "liver", "brain"]  # what a token id says


ANSWERS = [1, 1, 2, 3, 3]  # token ids: right, wrong, right, right, wrong


def batches(numbers=((3, 0), (4, 1), (2, -1)), answers=ANSWERS):
    """Each row's prompt is the answer that the model will give."""
    for rows in numbers:
        tokens = np.array([[answers[n]] if n >= 0 else [0] for n in rows], np.int32)
        yield {"tokens": tokens, "samples": np.array(rows, np.int32)[:, None]}


def generate(batch):
    assert "samples" not in batch  # host data never reaches the device
    return np.concatenate([batch["tokens"], np.zeros_like(batch["tokens"])], 1), np.array([1, 2])


def to_text(ids):
    return " " + " ".join(TEXTS[i] for i in ids) + "\n"


def evaluate(folder, questions, batches, progress=None):
    return runner.evaluate(
        batches,
        questions,
        generate,
        to_text,
        STRICT_V1,
        train=questions[:3],
        train_source="train split",
        folder=str(folder),
        facts={"checkpoint": "step 7"},
        progress=progress,
    )


def test_every_question_is_answered_in_order_and_written(tmp_path, questions):
    seen = []
    summary, answered = evaluate(tmp_path / "new", questions, batches(), progress=lambda *facts: seen.append(facts))
    assert [row.prediction for row in answered] == ["yes", "yes", "no", "liver", "liver"]
    assert [row.truncated for row in answered] == [True, True, False, False, False]
    assert [(done, total) for done, total, _ in seen] == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert seen[0][2] is None and seen[1][2] > 0 and seen[-1][2] == 0

    rows = [json.loads(line) for line in (tmp_path / "new" / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["q0", "q1", "q2", "q3", "q4"]
    assert rows[4] == {
        "id": "q4",
        "question": "Which <organ>?",
        "truth": "Brain",
        "prediction": "liver",
        "answer_type": "open",
        "task": "vqa",
        "cluster": "c",
        "truncated": False,
        "scores": {"accuracy": 0, "exact_match": 0, "f1": 0, "precision": 0, "recall": 0},
    }
    scores = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert scores["protocol"] == "strict/v1" and scores["facts"] == {"checkpoint": "step 7"}
    assert scores["n"] == 5 and scores["data_hash"] == data_hash(questions) == summary.data_hash
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["predictions.jsonl", "scores.json"]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((3, 0), (4, 1)), "1 of 5 questions were never asked, for example q2"),
        (((3, 0), (4, 3)), "q3 was asked twice"),
        (((3, 5),), "asks sample 5, but the split has 5"),
    ],
)
def test_a_question_asked_never_or_twice_is_refused(tmp_path, questions, numbers, message):
    with pytest.raises(RunError, match=message):
        evaluate(tmp_path, questions, batches(numbers, [*ANSWERS, 1]))
    assert not list(tmp_path.iterdir())  # half an evaluation leaves no score behind


def test_a_packed_row_is_refused(questions):
    batch = {"tokens": np.ones((1, 1), np.int32), "samples": np.array([[0, 1]])}
    with pytest.raises(RunError, match="one prompt per row"):
        runner.answer_all([batch], questions, generate, to_text, STRICT_V1)


def test_probabilities_of_the_choices_are_kept_written_and_read_again(tmp_path, questions):
    questions = [replace(questions[0], choices=("Yes", "No")), replace(questions[1], choices=("yes", "maybe"))]
    texts = ["", "no", "yes", "yes."]  # two spellings of one answer
    log_probs = np.log(np.array([[0.5, 0.2, 0.3], [0.9, 0.05, 0.05]], np.float32))

    def choose(batch):
        return Chosen(np.array([[1], [1]]), np.array([1, 1]), ((1,), (2,), (3,)), log_probs[batch["tokens"][:, 0]])

    batch = {"tokens": np.array([[1], [0]]), "samples": np.array([[1], [0]])}
    _, answered = runner.evaluate(
        [batch], questions, choose, lambda ids: texts[ids[0]], STRICT_V1,
        train=questions, train_source="", folder=str(tmp_path), facts={},
    )  # fmt: skip
    assert answered[0].class_scores == pytest.approx({"Yes": np.log(0.5), "No": np.log(0.5)})
    assert answered[1].class_scores is None  # maybe is not in the list
    again = rescored(load(str(tmp_path)), questions, STRICT_V1)
    assert [row.class_scores for row in again] == [row.class_scores for row in answered]


def test_a_split_to_score_has_distinct_questions(tmp_path, questions):
    with pytest.raises(RunError, match="5, 1 ids repeated"):
        evaluate(tmp_path, [*questions[:4], questions[0]], batches())
    with pytest.raises(RunError, match="found 0"):
        evaluate(tmp_path, [], [])
