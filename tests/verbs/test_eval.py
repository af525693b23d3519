"""One evaluation under several protocols, its page, and what may be compared. No model is asked here."""

import json
import shutil

import pytest

from tests.command import assert_refused, biomedgpt, config


@pytest.fixture(scope="module")
def evaluation(tiny_run, tmp_path_factory):
    """The tiny run's own, with answers that the protocols judge differently."""
    folder = tmp_path_factory.mktemp("evaluations") / "said"
    shutil.copytree(tiny_run.folder / "eval" / "step_2" / "tiny_test", folder)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["truth"] for row in rows] == ["no", "yes"]
    rows[0]["prediction"], rows[1]["prediction"] = "normal", "It is not, yes."
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rescore(evaluation, data, out, protocol, *more):
    return biomedgpt(
        "eval", config(f"eval.py:data={data},protocol={protocol}"), f"--rescore={evaluation}", f"--out={out}", *more
    )


def closed_accuracy(folder):
    (group,) = json.loads((folder / "scores.json").read_text())["groups"]
    return group["scores"]["accuracy"]["mean"]


def test_one_set_of_answers_under_two_protocols(evaluation, prepared_data, tmp_path):
    for name in ("strict", "llava-med"):
        called = rescore(evaluation, prepared_data, tmp_path / name, f"{name}/v1")
        assert called.code == 0, called
    assert closed_accuracy(tmp_path / "strict") == 0.5  # "normal" says neither
    assert closed_accuracy(tmp_path / "llava-med") == 1
    scores = json.loads((tmp_path / "llava-med" / "scores.json").read_text())
    assert scores["protocol"] == "llava-med/v1" and scores["n"] == 2
    assert scores["facts"]["rescored"] == str(evaluation)
    assert scores["facts"]["decoding"] == {"method": "greedy", "max_new_tokens": 2}
    before = [json.loads(line)["prediction"] for line in (evaluation / "predictions.jsonl").read_text().splitlines()]
    after = (tmp_path / "llava-med" / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["prediction"] for line in after] == before == ["normal", "It is not, yes."]

    refused = biomedgpt("eval", "--compare", tmp_path / "strict", tmp_path / "llava-med")
    assert_refused(refused, 1, "their metric protocols differ (strict/v1 and llava-med/v1)")


def test_page_shows_n_interval_baseline_and_protocol(evaluation, prepared_data, tmp_path):
    called = rescore(evaluation, prepared_data, tmp_path, "llava-med/v1")
    assert called.code == 0 and "100.0%" in called.out, called
    page = (tmp_path / "page.html").read_text()
    scores = json.loads((tmp_path / "scores.json").read_text())
    (group,) = scores["groups"]
    assert group["baseline"]["answer"] == "no" and group["n"] == 2  # a tie in training; the first in the alphabet
    # Always "no" is right for one of the two under this protocol.
    assert group["baseline"]["scores"]["accuracy"] == 0.5
    for text in ("llava-med/v1", "bootstrap", "100.0% to 100.0%", "50.0%", scores["data_hash"], "Llama3-Med with"):
        assert text in page, text


def test_what_is_known_of_a_protocol_is_said_and_what_is_left_out(evaluation, prepared_data, tmp_path):
    called = rescore(evaluation, prepared_data, tmp_path, "classify/v1")
    assert called.code == 0, called
    for text in ("By class", "Scores left out", "auc", "no class probabilities"):
        assert text in called.out, called.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["source"] == "ours" and len(scores["faults"]) == 1
    (group,) = scores["groups"]
    assert [(row["name"], row["n"], row["said"]) for row in group["classes"]] == [("no", 1, 0), ("yes", 1, 0)]
    page = (tmp_path / "page.html").read_text()
    for text in ("its known faults", scores["faults"][0], "By class", "Scores left out", "no class probabilities"):
        assert text in page, text
    facts = scores["facts"]
    assert {"model", "model_hash", "decoding", "lint", "lint_allowed", "dtype", "rescored"} <= facts.keys()


@pytest.mark.parametrize("form", [lambda a, b: [f"--compare={a},{b}"], lambda a, b: ["--compare", a, b]])
def test_compare_in_both_forms(form, evaluation, prepared_data, tmp_path):
    said = tmp_path / "said"
    shutil.copytree(evaluation, said)
    rows = [json.loads(line) for line in (said / "predictions.jsonl").read_text().splitlines()]
    rows[0]["prediction"] = "no"
    (said / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, out in ((evaluation, tmp_path / "a"), (said, tmp_path / "b")):
        assert rescore(source, prepared_data, out, "strict/v1").code == 0
    called = biomedgpt("eval", *form(tmp_path / "a", tmp_path / "b"))
    assert called.code == 0 and "+0.500" in called.out and "strict/v1" in called.out.replace("\n", ""), called


def test_candidates_make_a_protocol_of_their_own(evaluation, prepared_data, tmp_path):
    answers = tmp_path / "answers.json"
    answers.write_text('["liver", "lung"]')
    called = rescore(evaluation, prepared_data, tmp_path / "o", "llava-med/v1", f"--config.candidates={answers}")
    assert called.code == 0, called
    assert json.loads((tmp_path / "o" / "scores.json").read_text())["protocol"].startswith("llava-med/v1+candidates-")
    wrong = rescore(evaluation, prepared_data, tmp_path / "p", "strict/v1", f"--config.candidates={answers}")
    assert_refused(wrong, 2, "config.candidates belongs to the protocol llava-med/v1, not to strict/v1")
    answers.write_text('{"0": []}')
    broken = rescore(evaluation, prepared_data, tmp_path / "p", "llava-med/v1", f"--config.candidates={answers}")
    assert_refused(broken, 2, "expected a JSON list of answers")


def test_rescoring_refuses_other_data_and_incomplete_answers(evaluation, prepared_data, tmp_path):
    trained = rescore(evaluation, prepared_data, tmp_path / "o", "strict/v1", "--config.split=train")
    assert_refused(trained, 1, "was answered on other data: its data hash is", "that of the questions")
    lines = (evaluation / "predictions.jsonl").read_text().splitlines()
    half = tmp_path / "half"
    shutil.copytree(evaluation, half)
    (half / "predictions.jsonl").write_text(lines[0] + "\n")
    short = rescore(half, prepared_data, tmp_path / "o", "strict/v1")
    assert_refused(short, 1, "1 of 2 questions have no prediction, for example t1")
    assert_refused(rescore(half, prepared_data, half, "strict/v1"), 2, "--rescore and --out are one folder")
    both = rescore(evaluation, prepared_data, tmp_path / "o", "strict/v1", "--model=x")
    assert_refused(both, 2, "leave --model out")
    assert_refused(rescore(evaluation, prepared_data, tmp_path / "o", "strict"), 2, "known: strict/v1, llava-med/v1")
    assert not (tmp_path / "o").exists()
