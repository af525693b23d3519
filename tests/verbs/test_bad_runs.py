"""Runs that cannot be gone on with as asked: named, refused, and left as they are."""

import json
import shutil
import subprocess
import sys

import pytest

from biomedgpt_jax.core.errors import EXIT_RESTART
from biomedgpt_jax.models.decoders import PRESETS
from tests.command import ROOT, assert_refused, biomedgpt, config, contents, prepare_own, write_raw


def elsewhere(run, workdir):
    """The arguments of a run with another workdir."""
    return [*(each for each in run.arguments if not each.startswith("--workdir")), f"--workdir={workdir}"]


def without_logs(folder):
    """TensorBoard writes a file of its own for each call that gets so far."""
    return {
        file: digest for file, digest in contents(folder).items() if not file.startswith(("tensorboard", "encoded"))
    }


OTHER_SETTINGS = {
    "another decoder": (
        ["--config.model.decoder=tiny"],
        2,
        f"decoder/depth: expected {PRESETS['smoke'].depth}, found 2",
    ),
    "another tower": (
        ["--config.model.tower=tiny-dinov2"],
        2,
        "model/vision/tower/act: expected 'quick_gelu', found 'gelu'",
    ),
    "scales": (["--config.model.scales=112"], 2, "model/vision/s2/scales: expected [56], found [56, 112]"),
    "lora": (["--config.tune.decoder=lora", "--config.lora.rank=2"], 2, "lora"),
    "frozen decoder": (["--config.tune.decoder=frozen"], 1, "keys are not expected, first optimizer/"),
    "more epochs": (["--config.train.epochs=3"], 1, "the saved place in the data"),
    "batch": (["--config.train.batch_rows=16"], 1, "row or batch size, epochs or seed differ"),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_resume_with_other_settings_is_refused(name, tiny_run):
    overrides, code, text = OTHER_SETTINGS[name]
    before = without_logs(tiny_run.folder)
    called = biomedgpt(*tiny_run.arguments, *overrides)
    assert_refused(called, code, text)
    assert without_logs(tiny_run.folder) == before


def test_unfinished_checkpoint_is_ignored(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    unfinished = run / "checkpoints" / "3.orbax-checkpoint-tmp-1"
    shutil.copytree(run / "checkpoints" / "2", unfinished)
    called = biomedgpt("generate", f"--model={run}", "--question=Is it red?", "--max_new_tokens=1")
    assert called.code == 0, called
    again = biomedgpt(*elsewhere(tiny_run, run))
    assert again.code == 0 and "Done: 2 steps" in again.out
    assert not unfinished.exists()


def test_step_that_is_not_there(tiny_run):
    called = biomedgpt("generate", f"--model={tiny_run.folder}", "--question=Is it red?", "--step=7")
    assert_refused(called, 1, "checkpoints: expected step 7, found 2")


def test_run_without_a_checkpoint(tiny_run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copyfile(tiny_run.folder / "model.json", tmp_path / "model.json")
    called = biomedgpt("generate", f"--model={tmp_path}", "--question=Is it red?")
    assert_refused(called, 1, "expected a finished step, found none")
    called = biomedgpt("report", f"--runs={tmp_path}", f"--out={tmp_path / 'page.html'}")
    assert_refused(called, 1, "metrics.jsonl has no training step yet")


def test_damaged_base_is_found(tiny_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run)
    (base,) = (run / "base").iterdir()
    (base / "weights.json").unlink()
    called = biomedgpt("generate", f"--model={run}", "--question=Is it red?")
    assert_refused(called, 1, f"{base}/weights.json", "unfinished")


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGED = {
    "arrays": (
        lambda run: [cut(file) for file in run.glob("checkpoints/2/trainable/ocdbt.process_0/d/*")],
        ("checkpoints/2/trainable: cannot be read", "The checkpoint is damaged: take an earlier step"),
    ),
    "no arrays": (lambda run: shutil.rmtree(run / "checkpoints/2/trainable"), ("2/trainable: cannot be read",)),
    "no record": (lambda run: shutil.rmtree(run / "checkpoints/2/record"), ("checkpoints/2/record: cannot be read",)),
    "torn record": (lambda run: cut(run / "checkpoints/2/record/metadata"), ("checkpoints/2/record: cannot be read",)),
    "other record": (
        lambda run: (run / "checkpoints/2/record/metadata").write_text("[]"),
        ("checkpoints/2/record: cannot be read (ValueError: expected the keys config, base and leaves)",),
    ),
    "no tokenizer": (lambda run: shutil.rmtree(run / "tokenizer"), ("/tokenizer does not exist",)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_run_is_named(name, tiny_run, prepared_data, tmp_path):
    spoil, texts = DAMAGED[name]
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run, ignore=shutil.ignore_patterns("tensorboard", "eval"))
    spoil(run)
    before = contents(run)
    ask = ("generate", f"--model={run}", "--question=Is it red?", "--max_new_tokens=1")
    assert_refused(biomedgpt(*ask), 1, f"{run}", *texts)
    score = ("eval", config(f"eval.py:data={prepared_data}"), f"--model={run}", f"--out={tmp_path / 'eval'}")
    assert_refused(biomedgpt(*score), 1, f"{run}", *texts)
    # The type checks of the tests read an array before export does, and hide what that says.
    if "arrays" not in name:
        assert_refused(biomedgpt("export", f"--model={run}", f"--out={tmp_path / 'out'}"), 1, f"{run}", *texts)
    assert not (tmp_path / "eval").exists() and not (tmp_path / "out" / "config.json").exists()
    assert contents(run) == before


def test_tokenizer_that_is_larger_than_the_embedding(tiny_run, prepared_data, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(tiny_run.folder, run, ignore=shutil.ignore_patterns("tensorboard", "eval"))
    content = json.loads((run / "model.json").read_text())
    content["model"]["decoder"]["vocab_size"] = 100
    (run / "model.json").write_text(json.dumps(content))
    score = ("eval", config(f"eval.py:data={prepared_data}"), f"--model={run}", f"--out={tmp_path / 'eval'}")
    for call in (("generate", f"--model={run}", "--question=Is it red?"), score):
        assert_refused(biomedgpt(*call), 1, f"{run / 'tokenizer'}: the tokenizer has 290 tokens", "embedding 100 rows")
    export = biomedgpt("export", f"--model={run}", f"--out={tmp_path / 'out'}")
    assert_refused(export, 1, "the tensors do not fit the model")


def test_model_json_of_another_version(tiny_run, tmp_path):
    (tmp_path / "model.json").write_text('{"type": "ModelSpec"}')
    called = biomedgpt("generate", f"--model={tmp_path}", "--question=Is it red?")
    assert_refused(called, 1, f"{tmp_path}/model.json: expected a ModelSpec with the fields", "another version")
    (tmp_path / "model.json").write_text("{")
    called = biomedgpt("generate", f"--model={tmp_path}", "--question=Is it red?")
    assert_refused(called, 1, f"{tmp_path}/model.json")


def test_generate_with_a_broken_image(tiny_run, tmp_path):
    picture = tmp_path / "scan.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    ask = ("generate", f"--model={tiny_run.folder}", "--question=Is it red?")
    called = biomedgpt(*ask, f"--image={picture}")
    assert_refused(called, 1, f"{picture}")
    assert called.out == ""
    called = biomedgpt(*ask, f"--image={tmp_path / 'none.png'}")
    assert_refused(called, 2, f"there is no file {tmp_path / 'none.png'}")


def test_eval_of_data_without_answer_types(tiny_run, tmp_path):
    data = tmp_path / "data"
    assert prepare_own(write_raw(tmp_path / "raw", scored=False), data).code == 0
    called = biomedgpt(
        "eval", config(f"eval.py:data={data}"), f"--model={tiny_run.folder}", f"--out={tmp_path / 'eval'}"
    )
    assert_refused(called, 1, "sample t0 (test.json row 1) has no answer_type nor task")
    assert not (tmp_path / "eval").exists()


def test_next_stage_from_a_run_of_another_size(tiny_run, tmp_path):
    called = biomedgpt(
        *elsewhere(tiny_run, tmp_path / "stage2"),
        f"--config.init.run={tiny_run.folder}",
        "--config.model.connector=linear",
    )
    assert_refused(called, 1, f"{tiny_run.folder}", "connector/linears/1")
    assert not (tmp_path / "stage2" / "checkpoints" / "0").exists()


def test_workdir_that_is_a_file(tiny_run, tmp_path):
    (tmp_path / "run").write_text("")
    called = biomedgpt(*elsewhere(tiny_run, tmp_path / "run"))
    assert_refused(called, 2, f"{tmp_path / 'run'} is a file")


def test_two_trainings_do_not_share_a_workdir(tmp_path):
    hold = "import sys; from pathlib import Path; from biomedgpt_jax.train.only_one import only_one\n"
    hold += "with only_one(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path)]
    arguments = ("train", config("smoke.py:stage=1,data=nowhere"), f"--workdir={tmp_path}")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert_refused(biomedgpt(*arguments), 1, f"another training writes here (process {other.pid} on ")
        (tmp_path / "running.lock").write_text("process 1 on another-machine")
        assert_refused(biomedgpt(*arguments), EXIT_RESTART, "process 1 on another-machine", "choose another --workdir")
        other.kill()
    # What a killed one left does not block, and nothing of the next one stays.
    assert_refused(biomedgpt(*arguments), 1, "nowhere holds no manifest.json")
    assert not any(tmp_path.iterdir())


def test_runs_where_something_else_belongs(tiny_run, prepared_data, tmp_path):
    called = biomedgpt("import", f"--from={tiny_run.folder}", f"--out={tmp_path / 'weights'}")
    assert_refused(called, 2, "is the workdir of a run. It needs no import")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.json").write_text('{"type": "BiomedGptSpec"}')
    called = biomedgpt(*elsewhere(tiny_run, tmp_path / "run"), f"--config.init.run={other}")
    assert_refused(called, 1, "expected a ModelSpec, found a BiomedGptSpec, which is of another family")
    assert not any((tmp_path / "run").iterdir())


def test_a_run_whose_configuration_names_no_family_is_reported(tiny_run, tmp_path):
    """As those of the first versions; model.json tells which it is."""
    run, out = tmp_path / "run", tmp_path / "page.html"
    shutil.copytree(tiny_run.folder, run, ignore=shutil.ignore_patterns("checkpoints", "base"))
    content = json.loads((run / "config.json").read_text())
    del content["family"]
    (run / "config.json").write_text(json.dumps(content))
    assert biomedgpt("report", f"--runs={run}", f"--out={out}").code == 0
    assert "Llama3-Med, trained, scored and exported" in out.read_text()
    spec = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps({**spec, "type": "OtherSpec"}))
    called = biomedgpt("report", f"--runs={run}", f"--out={out}")
    assert_refused(called, 1, "model.json: the type is 'OtherSpec', expected one of ModelSpec, BiomedGptSpec")
