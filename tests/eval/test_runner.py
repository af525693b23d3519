import json
from dataclasses import replace

import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.eval import compare, runner
from biomedgpt_jax.eval.protocols import STRICT_V1
from biomedgpt_jax.eval.questions import Question, data_hash, to_question

TEXTS = ["", "yes", "no", "liver", "brain"]  # what a token id says


def ask(number, question, truth, answer_type, image):
    return Question(f"q{number}", question, truth, answer_type, "vqa_rad", image, (), image)


QUESTIONS = [
    ask(0, "Is there air?", "Yes", "closed", "a"),
    ask(1, "Is it big?", "No", "closed", "a"),
    ask(2, "Is it left?", "no", "closed", "b"),
    ask(3, "Which organ?", "Liver", "open", "b"),
    ask(4, "Which <organ>?", "Brain", "open", "c"),
]
TRAIN = [*QUESTIONS[:3], ask(5, "Which?", "liver", "open", "z")]
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


def evaluate(folder, **changes):
    arguments = {"batches": batches(), "questions": QUESTIONS, "progress": None} | changes
    return runner.evaluate(
        arguments["batches"],
        arguments["questions"],
        generate,
        to_text,
        STRICT_V1,
        train=TRAIN,
        train_source="train split",
        folder=str(folder),
        facts={"checkpoint": "step 7"},
        progress=arguments["progress"],
    )


def test_every_question_is_answered_in_order_and_written(tmp_path):
    seen = []
    summary, answered = evaluate(tmp_path / "new", progress=lambda *facts: seen.append(facts))
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
        "task": "vqa_rad",
        "cluster": "c",
        "truncated": False,
        "scores": {"accuracy": 0, "exact_match": 0, "f1": 0, "precision": 0, "recall": 0},
    }
    scores = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert scores["protocol"] == "strict/v1" and scores["facts"] == {"checkpoint": "step 7"}
    assert scores["n"] == 5 and scores["data_hash"] == data_hash(QUESTIONS) == summary.data_hash
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["predictions.jsonl", "scores.json"]


def test_summary_has_open_and_closed_apart_with_baselines(tmp_path):
    summary, _ = evaluate(tmp_path)
    closed, opened = summary.group("vqa_rad", "closed"), summary.group("vqa_rad", "open")
    assert (closed.n, closed.clusters, closed.truncated) == (3, 2, 2)
    assert closed.scores["accuracy"].mean == pytest.approx(2 / 3)
    assert closed.scores["accuracy"].low == pytest.approx(0.5) and closed.scores["accuracy"].high == 1
    assert (closed.baseline.answer, closed.baseline.source) == ("no", "train split")
    assert closed.baseline.scores["accuracy"] == pytest.approx(2 / 3)
    assert closed.baseline.margin.mean == pytest.approx(0)
    assert opened.scores["accuracy"].mean == 0.5 and opened.baseline.answer == "liver"
    assert summary.group("other", "open") is None


def test_a_group_unknown_to_training_has_no_baseline(tmp_path):
    questions = [replace(q, task="new" if q.id == "q3" else q.task) for q in QUESTIONS]
    summary, _ = evaluate(tmp_path, questions=questions)
    assert summary.group("new", "open").baseline is None
    assert summary.group("new", "open").scores["accuracy"].low is None  # one image: no interval


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((3, 0), (4, 1)), "1 of 5 questions were never asked, for example q2"),
        (((3, 0), (4, 3)), "q3 was asked twice"),
        (((3, 5),), "asks sample 5, but the split has 5"),
    ],
)
def test_a_question_asked_never_or_twice_is_refused(tmp_path, numbers, message):
    with pytest.raises(RunError, match=message):
        evaluate(tmp_path, batches=batches(numbers, [*ANSWERS, 1]))
    assert not list(tmp_path.iterdir())  # half an evaluation leaves no score behind


def test_a_packed_row_is_refused():
    batch = {"tokens": np.ones((1, 1), np.int32), "samples": np.array([[0, 1]])}
    with pytest.raises(RunError, match="one prompt per row"):
        runner.answer_all([batch], QUESTIONS, generate, to_text, STRICT_V1)


def test_unscorable_data_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"q1 cannot be scored under strict/v1.*no word"):
        evaluate(tmp_path, questions=[replace(q, truth="?" if q.id == "q1" else q.truth) for q in QUESTIONS])
    with pytest.raises(RunError, match="5, 1 ids repeated"):
        evaluate(tmp_path, questions=[*QUESTIONS[:4], QUESTIONS[0]])


def test_compare_pairs_the_questions(tmp_path):
    evaluate(tmp_path / "a")
    evaluate(tmp_path / "b", batches=batches(answers=[1, 2, 2, 3, 3]))  # q1 is right now
    a, b = compare.load(str(tmp_path / "a")), compare.load(str(tmp_path / "b"))
    found = {(d.answer_type, d.score): d for d in compare.compare(a, b)}
    closed = found["closed", "accuracy"]
    assert (closed.n, closed.mean_a, closed.mean_b) == (3, pytest.approx(2 / 3), 1)
    assert closed.difference.mean == pytest.approx(1 / 3) and closed.difference.low == 0
    assert found["open", "f1"].difference.mean == 0


def test_compare_refuses_what_is_not_comparable(tmp_path):
    evaluate(tmp_path / "a")
    evaluate(tmp_path / "b", questions=[replace(q, truth="no" if q.id == "q0" else q.truth) for q in QUESTIONS])
    a, b = compare.load(str(tmp_path / "a")), compare.load(str(tmp_path / "b"))
    with pytest.raises(RunError, match="their data differ"):
        compare.compare(a, b)
    with pytest.raises(RunError, match=r"metric protocols differ \(strict/v1 and strict/v2\)"):
        compare.compare(a, replace(a, scores={**a.scores, "protocol": "strict/v2"}))
    with pytest.raises(RunError, match="1 samples are in one of them only, for example q4"):
        compare.compare(a, replace(a, rows={k: v for k, v in a.rows.items() if k != "q4"}))


def test_load_names_what_is_broken(tmp_path):
    with pytest.raises(RunError, match=r"cannot read .*scores\.json"):
        compare.load(str(tmp_path))
    evaluate(tmp_path)
    with (tmp_path / "predictions.jsonl").open("a") as rows:
        rows.write('{"id": "q9"\n')
    with pytest.raises(RunError, match=r"predictions\.jsonl, line 6: not JSON"):
        compare.load(str(tmp_path))


META = {"answer_type": "CLOSED", "task": "organ", "image_sha256": "ab"}
TURN = Turn("<image>\nWhat is shown?", "Chest")


def test_to_question_takes_what_scoring_needs():
    assert to_question(Sample("s1", (0,), (TURN,), META)) == Question(
        "s1", "What is shown?", "Chest", "closed", "organ", "ab", (), "ab"
    )
    assert to_question(Sample("s1", (0,), (TURN,), META | {"case": "c7"})).cluster == "c7"
    with pytest.raises(RunError, match="s1 has 2 turns"):
        to_question(Sample("s1", (0,), (TURN, TURN), META))
    with pytest.raises(RunError, match="s1 has no answer_type in its meta"):
        to_question(Sample("s1", (0,), (TURN,), {"task": "organ"}))


def test_data_hash_sees_content_not_order():
    assert data_hash(QUESTIONS[::-1]) == data_hash(QUESTIONS)
    assert data_hash([replace(QUESTIONS[0], cluster="x")]) == data_hash(QUESTIONS[:1])
    changed = [replace(QUESTIONS[0], image="other"), replace(QUESTIONS[0], choices=("yes", "no"))]
    assert len({data_hash([q]) for q in [QUESTIONS[0], *changed]}) == 3
