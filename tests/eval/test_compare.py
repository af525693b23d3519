from dataclasses import replace

import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval.compare import compare, load
from biomedgpt_jax.eval.protocols import CLASSIFY_V1, REPORT_V1, STRICT_V1
from biomedgpt_jax.eval.questions import Question
from biomedgpt_jax.eval.runner import write
from biomedgpt_jax.eval.summary import Answered, score, summarise


@pytest.fixture
def evaluation(tmp_path, answered, train):
    """A function: name, predictions -> an evaluation that was written and read again."""

    def make(name: str, *predictions: str, asked=None):
        rows = answered(*predictions, asked=asked)
        write(str(tmp_path / name), summarise(STRICT_V1, rows, train, "train"), rows, {})
        return load(str(tmp_path / name))

    return make


def test_compare_pairs_the_questions(evaluation):
    a = evaluation("a", "yes", "yes", "no", "liver", "liver")
    b = evaluation("b", "yes", "no", "no", "the liver", "liver")  # q1 is right now
    found = {(d.answer_type, d.score): d for d in compare(a, b)}
    closed = found["closed", "accuracy"]
    assert (closed.task, closed.n, closed.mean_a, closed.mean_b) == ("vqa", 3, pytest.approx(2 / 3), 1)
    # image a: +1 on 2 questions, image b: 0 on 1
    assert (closed.difference.low, closed.difference.high) == (0, 0.5)
    assert closed.difference.mean == pytest.approx(1 / 3)
    assert found["open", "f1"].difference.mean == 0
    back = {(d.answer_type, d.score): d for d in compare(b, a)}
    assert back["closed", "accuracy"].difference.mean == pytest.approx(-1 / 3)


def test_scores_of_a_group_are_compared_too(tmp_path):
    """AUC and F1 of the same ten questions, and CIDEr of two texts."""
    truths = ["yes", "no"] * 5
    questions = [Question(str(n), "?", t, "closed", "view", str(n), ("yes", "no"), "") for n, t in enumerate(truths)]

    def evaluation(name, sure, protocol=CLASSIFY_V1, questions=questions):
        chances = [{q.truth: -0.1, "no" if q.truth == "yes" else "yes": -2.4} for q in questions]
        rows = [
            Answered(
                q, q.truth if n < sure else "yes", False, score(protocol, q, q.truth if n < sure else "yes"), chance
            )
            for n, (q, chance) in enumerate(zip(questions, chances, strict=True))
        ]
        rows = [
            replace(row, class_scores={"yes": -0.7, "no": -0.7}) if n >= sure else row for n, row in enumerate(rows)
        ]
        write(str(tmp_path / name), summarise(protocol, rows, questions, "train"), rows, {})
        return load(str(tmp_path / name))

    better, worse = evaluation("better", 10), evaluation("worse", 4)
    found = {d.score: d for d in compare(worse, better)}
    assert set(found) == {"accuracy", "macro_f1", "weighted_f1", "auc"}
    # Of 5 * 5 pairs, those with one of the four that are sure are right, the other 3 * 3 are ties.
    assert found["auc"].mean_a == pytest.approx((25 - 9 / 2) / 25) and found["auc"].mean_b == 1
    assert found["auc"].difference.mean == pytest.approx(9 / 50)
    assert 0 <= found["auc"].difference.low < 9 / 50 < found["auc"].difference.high
    stored = {name: each["mean"] for name, each in worse.scores["groups"][0]["scores"].items()}
    assert {name: each.mean_a for name, each in found.items()} == pytest.approx(stored)
    texts = [evaluation(name, sure, REPORT_V1, questions[:2]) for name, sure in (("a", 1), ("b", 2))]
    assert {"cider", "cider_d", "bleu1"} < {d.score for d in compare(*texts)}


def test_what_is_not_comparable_is_refused(evaluation, questions):
    answers = ("yes", "yes", "no", "liver", "liver")
    a = evaluation("a", *answers)
    other = [replace(q, truth="no" if q.id == "q0" else q.truth) for q in questions]
    with pytest.raises(RunError, match="their data differ"):
        compare(a, evaluation("b", *answers, asked=other))
    with pytest.raises(RunError, match=r"metric protocols differ \(strict/v1 and strict/v2\)"):
        compare(a, replace(a, scores={**a.scores, "protocol": "strict/v2"}))
    with pytest.raises(RunError, match="1 samples are in one of them only, for example q4"):
        compare(a, replace(a, rows={k: v for k, v in a.rows.items() if k != "q4"}))


def test_load_names_what_is_broken(evaluation, tmp_path):
    with pytest.raises(RunError, match=r"cannot read .*scores\.json"):
        load(str(tmp_path))
    evaluation("a", "yes", "yes", "no", "liver", "liver")
    file = tmp_path / "a" / "predictions.jsonl"
    whole = file.read_text()
    for extra, message in (
        ('{"id": "q9"\n', "line 6: not JSON"),
        ('{"id": "q9"}\n', "line 6: a row needs id, task, answer_type, cluster, truth, prediction, scores"),
        (whole.splitlines()[0] + "\n", "line 6: sample q0 stands there twice"),
    ):
        file.write_text(whole + extra)
        with pytest.raises(RunError, match=rf"predictions\.jsonl, {message}"):
            load(str(tmp_path / "a"))
    (tmp_path / "a" / "scores.json").write_text("[]")
    with pytest.raises(RunError, match="has no protocol and data_hash"):
        load(str(tmp_path / "a"))
