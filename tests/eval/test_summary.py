import json
from dataclasses import replace

import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval.protocols import CLASSIFY_V1, REPORT_V1, STRICT_V1
from biomedgpt_jax.eval.questions import Question
from biomedgpt_jax.eval.summary import Answered, score, summarise


def test_open_and_closed_apart_with_baselines(answered, train):
    rows = answered("yes", "yes", "no", "liver", "liver")
    rows[1] = replace(rows[1], truncated=True)
    summary = summarise(STRICT_V1, rows, train, "train split")
    closed, opened = summary.group("vqa", "closed"), summary.group("vqa", "open")
    assert (closed.n, closed.clusters, closed.truncated, closed.headline) == (3, 2, 1, "accuracy")
    assert closed.scores["accuracy"].mean == pytest.approx(2 / 3)
    # image a: 1 of 2 right, image b: 1 of 1
    assert closed.scores["accuracy"].low == pytest.approx(0.5) and closed.scores["accuracy"].high == 1
    assert (closed.baseline.answer, closed.baseline.source) == ("No", "train split")
    assert closed.baseline.scores["accuracy"] == pytest.approx(2 / 3)
    assert opened.scores["accuracy"].mean == 0.5 and opened.baseline.answer == "liver"
    assert summary.group("other", "open") is None


def test_the_margin_is_paired(answered, train):
    """Model and baseline agree on every question: the margin is exactly 0, without spread."""
    summary = summarise(STRICT_V1, answered("no", "no", "no", "liver", "brain"), train, "train")
    margin = summary.group("vqa", "closed").baseline.margin
    assert (margin.mean, margin.low, margin.high) == (0, 0, 0)
    margin = summary.group("vqa", "open").baseline.margin
    assert (margin.mean, margin.low, margin.high) == (0.5, 0, 1)


def test_a_group_unknown_to_training_has_no_baseline(answered, questions, train):
    other = [replace(q, task="new" if q.id == "q3" else q.task) for q in questions]
    rows = answered("yes", "yes", "no", "liver", "liver", asked=other)
    summary = summarise(STRICT_V1, rows, train, "train")
    assert summary.group("new", "open").baseline is None
    assert summary.group("new", "open").scores["accuracy"].low is None  # one image: no interval


def test_score_names_the_question(questions):
    with pytest.raises(RunError, match=r"q1 cannot be scored under strict/v1.*no word"):
        score(STRICT_V1, replace(questions[1], truth="?"), "yes")


def test_always_no_on_real_vqa_rad(shared_data):
    """The published figure: 133 of the 272 closed test questions are answered by "no"."""
    entries = json.loads((shared_data / "vqa_rad" / "VQA_RAD Dataset Public.json").read_text())
    parts = {True: [], False: []}
    for entry in entries:
        kind, image = entry["answer_type"].strip().lower(), entry["image_name"]
        row = Question(str(entry["qid"]), entry["question"], str(entry["answer"]), kind, "vqa", image, (), image)
        parts[entry["phrase_type"].startswith("test")].append(row)
    rows = [Answered(q, "no", False, score(STRICT_V1, q, "no")) for q in parts[True]]
    summary = summarise(STRICT_V1, rows, parts[False], "official train split")
    closed = summary.group("vqa", "closed")
    assert (closed.n, summary.n) == (272, 451)
    assert closed.scores["accuracy"].mean == pytest.approx(133 / 272)
    # wider than the binomial 0.430..0.549: several questions share an image
    assert closed.scores["accuracy"].low < 0.43 and closed.scores["accuracy"].high > 0.55
    assert closed.baseline.answer == "No" and closed.baseline.margin.mean == 0


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


def test_a_table_by_question_type_and_one_by_class():
    asked = [("size", "large"), ("size", "small"), ("organ", "liver"), ("", "liver")]
    questions = [
        Question(str(n), "?", text, "open", "vqa", str(n), (), "", kind) for n, (kind, text) in enumerate(asked)
    ]
    rows = [Answered(q, "Large", False, score(CLASSIFY_V1, q, "Large")) for q in questions]
    (group,) = summarise(CLASSIFY_V1, rows, [], "").groups
    found = [(part.question_type, part.n, part.headline.mean, part.scores) for part in group.question_types]
    assert found == [
        ("not stated", 1, 0, {"accuracy": 0}),
        ("organ", 1, 0, {"accuracy": 0}),
        ("size", 2, 0.5, {"accuracy": 0.5}),
    ]
    assert (group.question_types[2].headline.low, group.question_types[2].headline.high) == (0, 1)
    classes = {row.name: (row.n, row.said, row.precision, row.recall) for row in group.classes}
    assert classes == {"large": (1, 4, 0.25, 1), "liver": (2, 0, 0, 0), "small": (1, 0, 0, 0)}
    assert group.left_out["auc"].startswith("the answers carry no class probabilities")
    (only,) = summarise(CLASSIFY_V1, rows[:2], [], "").groups
    assert only.question_types == ()  # one type is what the group shows already
