"""`biomedgpt eval --config=configs/eval_suite.py`: all data sets that are there, in one table, whatever breaks off."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.command import assert_refused, biomedgpt, config, contents, prepare_own, talk

FILES = ("suite.md", "suite.json", "suite.html", "suite.tex")
MANY = 96  # questions of the second set: a dozen batches


@pytest.fixture(scope="module")
def root(prepared_data, raw_data, tmp_path_factory):
    """Two prepared sets, one that cannot be scored, and a folder that is none."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(prepared_data, folder / "tiny")
    facts = {"answer_type": "closed", "task": "vqa"}
    raw = folder.parent / "many_raw"
    shutil.copytree(raw_data / "images", raw / "images")
    for split, rows in (
        ("test", [{"id": f"m{n}", "conversations": talk(f"Is {n} more than 3?", "yes"), **facts} for n in range(MANY)]),
        ("learned", [{"id": "l0", "conversations": talk("Is it?", "yes")}]),
    ):
        (raw / f"{split}.json").write_text(json.dumps(rows))
    # Questions without pictures and without a training split.
    for name, files in (("words", "test=test.json"), ("learned", "train=learned.json")):
        called = prepare_own(raw, folder / name, files=files)
        assert called.code == 0, called
    (folder / "broken").mkdir()
    (folder / "broken" / "manifest.json").write_text("{")
    return folder


def arguments(root, run, out, *more):
    return (
        "eval",
        config(f"eval_suite.py:root={root}"),
        f"--model={run.folder}",
        f"--out={out}",
        "--config.batch_rows=8",
        "--config.tasks.other.max_new_tokens=2",
        "--config.tasks.other.protocols=('llava-med/v1',)",
        *more,
    )


def predictions(folder):
    return [json.loads(line)["prediction"] for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(root, tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("suites") / "whole"
    called = biomedgpt(*arguments(root, tiny_run, out))
    assert called.code == 0, called
    return out


def test_every_set_has_its_results_and_its_rows(finished, tiny_run):
    table = json.loads((finished / "suite.json").read_text())
    rows = {(row["results"], row["questions"]): row for row in table["scores"] if row["headline"]}
    assert {key: row["n"] for key, row in rows.items()} == {
        ("tiny_test/strict_v1", "closed"): 2,
        ("tiny_test/llava-med_v1", "closed"): 2,
        ("words_test/strict_v1", "closed"): MANY,
        ("words_test/llava-med_v1", "closed"): MANY,
    }
    # As the evaluation of the run itself answered.
    own = tiny_run.folder / "eval" / "step_2" / "tiny_test"
    for place, protocol in (("strict_v1", "strict/v1"), ("llava-med_v1", "llava-med/v1")):
        folder = finished / "tiny_test" / place
        assert (folder / "page.html").stat().st_size > 1000
        scores = json.loads((folder / "scores.json").read_text())
        assert scores["protocol"] == protocol
        assert scores["data_hash"] == json.loads((own / "scores.json").read_text())["data_hash"]
        assert predictions(folder) == predictions(own)
    assert rows["tiny_test/strict_v1", "closed"]["baseline"] == 0.5
    assert rows["words_test/strict_v1", "closed"]["baseline"] is None  # it has no training split
    why = {each["name"]: each["why"] for each in table["not_scored"]}
    assert "is not readable JSON" in why["broken"] and "none of the splits test" in why["learned"]
    assert {row["data"] for row in table["scores"]} == {"tiny", "words"}
    assert "slake" in table["absent"] and "pubmedvision" not in table["absent"]
    assert table["published"] == []  # nobody publishes about these sets
    markdown = (finished / "suite.md").read_text()
    assert f"| {MANY} | strict/v1 | accuracy |" in markdown and table["model"]["model_hash"] in markdown
    assert r"words\_test/strict\_v1" in (finished / "suite.tex").read_text()
    assert "words_test/strict_v1" in (finished / "suite.html").read_text()
    assert not list(finished.rglob("unfinished"))


def test_what_is_answered_is_not_asked_again(finished, root, tiny_run):
    before = contents(finished)
    called = biomedgpt(*arguments(root, tiny_run, finished))
    assert called.code == 0 and called.out.count("answered before") == 2, called
    assert contents(finished) == before


def test_a_killed_suite_goes_on_to_the_same_table(finished, root, tiny_run, tmp_path):
    out = tmp_path / "killed"
    called = arguments(root, tiny_run, out)
    process = subprocess.Popen(
        [sys.executable, "-m", "biomedgpt_jax", *map(str, called)],
        env=os.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    answers = out / "words_test" / "unfinished"
    until = time.monotonic() + 200
    while process.poll() is None and not list(answers.glob("000001-*.npz")) and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sorted(answers.glob("*.npz"))
    assert 2 <= len(kept) < MANY // 8 and not (out / "suite.md").exists()
    assert (out / "tiny_test" / "strict_v1" / "scores.json").exists()
    resumed = biomedgpt(*called)
    assert resumed.code == 0 and resumed.out.count("answered before") == 1, resumed
    for name in FILES:
        assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_other_answers_are_refused_or_asked_again(finished, root, tiny_run, tmp_path):
    out = tmp_path / "other"
    shutil.copytree(finished, out)
    limited = arguments(root, tiny_run, out, "--config.sets=('tiny',)", "--config.limit=1")
    assert_refused(biomedgpt(*limited), 2, "tiny_test was answered otherwise (limit differ", "--config.redo=True")
    assert contents(out) == contents(finished)
    called = biomedgpt(*limited, "--config.redo=True")
    assert called.code == 0, called
    table = json.loads((out / "suite.json").read_text())
    assert {(row["data"], row["n"], row["part"]) for row in table["scores"]} == {("tiny", 1, True)}
    assert contents(out / "words_test") == contents(finished / "words_test")


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        ("--config.sets=('slake',)", 2, "names 'slake', which is not prepared in"),
        ("--config.sets=('word',)", 2, "Did you mean 'words'?"),
        ("--config.sets=('learned',)", 1, "has none of the splits test, test_clean, validation"),
        ("--config.sets=('tiny:held_out',)", 1, "has no split 'held_out'"),
        ("--config.tasks.other.protocols=('strict/v2',)", 2, "unknown metric protocol 'strict/v2'"),
        ("--config.root=nowhere", 2, "there is no such folder"),
        ("--config.instruct=9", 2, "config.instruct='9'"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is(change, code, told, root, tiny_run, tmp_path):
    called = biomedgpt(*arguments(root, tiny_run, tmp_path / "out", change))
    assert_refused(called, code, told)
    assert not (tmp_path / "out").exists()
