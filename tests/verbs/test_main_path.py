"""From raw files to an exported and re-imported model, each station by its command."""

import json

import pytest

from tests.command import assert_refused, biomedgpt, config, contents


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "tiny"
    return out, biomedgpt("export", f"--model={tiny_run.folder}", f"--out={out}")


def test_prepare_again_changes_nothing(raw_data, prepared_data):
    from tests.command import prepare_own

    before = contents(prepared_data)
    again = prepare_own(raw_data, prepared_data)
    assert again.code == 0 and "test" in again.out
    assert contents(prepared_data) == before


def test_train_says_what_it_did(tiny_run):
    assert "2 steps of 8 rows" in tiny_run.first.out
    assert "step 2/2" in tiny_run.first.out and f"Done: 2 steps in {tiny_run.folder}." in tiny_run.first.out
    steps = [json.loads(line)["step"] for line in (tiny_run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {1, 2} <= set(steps)
    assert (tiny_run.folder / "checkpoints" / "2").is_dir()
    scores = json.loads((tiny_run.folder / "eval" / "step_2" / "tiny_test" / "scores.json").read_text())
    assert [group["n"] for group in scores["groups"]] == [2]


def test_same_command_again_says_done_and_changes_nothing(tiny_run):
    before = contents(tiny_run.folder)
    again = biomedgpt(*tiny_run.arguments)
    assert again.code == 0 and f"Done: 2 steps in {tiny_run.folder}." in again.out
    assert "step 1/2" not in again.out
    after = contents(tiny_run.folder)
    # TensorBoard writes an empty file of its own for each call.
    assert {file: digest for file, digest in after.items() if file in before} == before
    assert all(file.startswith("tensorboard") for file in after.keys() - before.keys())


def test_generate_answers_and_greedy_is_the_same_each_time(tiny_run, raw_data):
    arguments = ("generate", f"--model={tiny_run.folder}", f"--image={raw_data}/images/0.png", "--question=Is it red?")
    first, second = (biomedgpt(*arguments, "--max_new_tokens=3") for _ in range(2))
    assert (first.code, first.err) == (0, "")
    assert first.out.endswith("\n") and first.out == second.out


def test_export_proves_that_it_is_the_same_model(exported):
    out, called = exported
    assert called.code == 0, called
    assert "38 arrays, 0 differ" in called.out and "greedy answers equal: True" in called.out
    assert json.loads((out / "parity.json").read_text())["passed"]


def test_export_into_a_taken_folder_leaves_it_alone(exported, tiny_run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    called = biomedgpt("export", f"--model={tiny_run.folder}", f"--out={tmp_path}")
    assert_refused(called, 2, f"{tmp_path} is not empty. Choose another folder")
    assert contents(tmp_path).keys() == {"notes.txt"}


def test_import_reads_the_export_back(exported, tmp_path):
    out, _ = exported
    called = biomedgpt("import", f"--from={out}", f"--out={tmp_path / 'weights'}")
    assert called.code == 0 and "llava (model)" in called.out and "with its tokenizer" in called.out
    table = json.loads((tmp_path / "weights" / "weights.json").read_text())
    assert len(table["leaves"]) == 38
    again = biomedgpt("import", f"--from={out}", f"--out={tmp_path / 'weights'}")
    assert_refused(again, 2, "is not empty; choose another folder or delete this one")


def test_report_of_the_run(tiny_run, exported, tmp_path):
    page = tmp_path / "page.html"
    called = biomedgpt("report", f"--runs={tiny_run.folder}", f"--export={exported[0]}", f"--out={page}")
    assert called.code == 0, called
    written = page.read_text()
    assert "Is it red?" in written and "data:image" in written
    assert "strict/v1" in written and "(checks: at start)" in written and "What lint found in the data" in written


@pytest.mark.parametrize(
    ("required", "code", "text"),
    [
        ("vqa:101", 1, "not reached: "),
        ("organ:20", 1, "no question of task 'organ' was scored; there are vqa."),
        ("organ", 2, "--require=organ: expected TASK:POINTS, like organ:20."),
    ],
)
def test_report_that_misses_what_is_required_fails(required, code, text, tiny_run, tmp_path):
    called = biomedgpt("report", f"--runs={tiny_run.folder}", f"--out={tmp_path / 'p.html'}", f"--require={required}")
    assert_refused(called, code, text)


def test_eval_and_compare(tiny_run, prepared_data, tmp_path):
    out = tmp_path / "eval"
    called = biomedgpt(
        "eval",
        config(f"eval.py:data={prepared_data}"),
        f"--model={tiny_run.folder}",
        f"--out={out}",
        "--config.max_new_tokens=2",
        "--config.batch_rows=8",
    )
    assert called.code == 0, called
    assert {"predictions.jsonl", "scores.json", "page.html"} <= contents(out).keys()
    inside = tiny_run.folder / "eval" / "step_2" / "tiny_test"
    same = biomedgpt("eval", f"--compare={inside},{out}")
    assert same.code == 0 and "+0.000" in same.out

    scores = json.loads((out / "scores.json").read_text())
    (out / "scores.json").write_text(json.dumps({**scores, "data_hash": "other"}))
    other = biomedgpt("eval", f"--compare={inside},{out}")
    assert_refused(other, 1, "cannot be compared: their data differ", "Score both on the same data")
