"""Every folder that can be asked gives the answers of the run it comes from, and training can go on from it."""

import json
import shutil

import pytest

from biomedgpt_jax.verbs import command_line, ledger
from biomedgpt_jax.verbs.model_spec import imported_spec
from biomedgpt_jax.verbs.train import checked_family
from tests.command import ROOT, TINY, assert_refused, biomedgpt, config


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exports") / "tiny"
    called = biomedgpt("export", f"--model={tiny_run.folder}", f"--out={out}")
    assert called.code == 0, called
    return out


@pytest.fixture(scope="module")
def imported(exported):
    out = exported.parent / "weights"
    called = biomedgpt("import", f"--from={exported}", f"--out={out}")
    assert called.code == 0, called
    return out


@pytest.fixture(scope="module")
def asked(prepared_data, tmp_path_factory):
    """A function: model folder, more flags -> the folder of its evaluation."""
    folders = tmp_path_factory.mktemp("evaluations")

    def ask(model, *more):
        out = folders / model.name
        arguments = (config(f"eval.py:data={prepared_data}"), f"--model={model}", f"--out={out}", *more)
        called = biomedgpt("eval", *arguments, "--config.max_new_tokens=2", "--config.batch_rows=8")
        assert called.code == 0, called
        return out

    return ask


def unsaid(folder, copy):
    """The same files without what our exports say about asking, as in any LLaVA folder."""
    shutil.copytree(folder, copy)
    (copy / "biomedgpt.json").unlink()
    return copy


def test_exported_and_imported_folders_answer_as_the_run_does(tiny_run, exported, imported, asked, tmp_path):
    within = tiny_run.folder / "eval" / "step_2" / "tiny_test"
    predictions, scores = (within / "predictions.jsonl").read_text(), json.loads((within / "scores.json").read_text())
    assert len(predictions.splitlines()) == 2
    weights = asked(unsaid(imported, tmp_path / "weights"), "--template=llama3", "--geometry=pad")
    hashes = set()
    for folder in (asked(exported), weights):
        assert (folder / "predictions.jsonl").read_text() == predictions
        found = json.loads((folder / "scores.json").read_text())
        assert found["groups"] == scores["groups"] and found["data_hash"] == scores["data_hash"]
        hashes.add(found["facts"]["model_hash"])
    assert len(hashes) == 1
    assert (imported / "biomedgpt.json").read_bytes() == (exported / "biomedgpt.json").read_bytes()


def test_geometry_and_template_change_what_is_asked(exported, tmp_path):
    arguments = ("generate", "--question=Is it red?", "--max_new_tokens=3")
    folder = unsaid(exported, tmp_path / "llava")
    neither = biomedgpt(*arguments, f"--model={folder}")
    assert_refused(neither, 2, "does not say its template", "--template=NAME", "align, align_eos, llama3, chatml")
    half = biomedgpt(*arguments, f"--model={folder}", "--template=llama3")
    assert_refused(half, 2, "does not say its geometry", "one of pad, resize, crop")
    (folder / "biomedgpt.json").write_text('{"template": "lama3", "geometry": "pad"}')
    assert_refused(
        biomedgpt(*arguments, f"--model={folder}"), 2, "template 'lama3' is none of", "Did you mean 'llama3'?"
    )
    (folder / "biomedgpt.json").write_text("[]")
    assert_refused(biomedgpt(*arguments, f"--model={folder}"), 1, "biomedgpt.json: expected a template and a geometry")
    assert_refused(biomedgpt(*arguments, f"--model={exported}", "--step=3"), 2, "so it has no steps")


def test_adapters_and_parts_are_refused(imported, tmp_path):
    ask = ("generate", "--question=Is it red?")
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "base_model_name_or_path": "my/base"}'
    )
    (tmp_path / "adapters" / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    called = biomedgpt(*ask, f"--model={tmp_path / 'adapters'}")
    assert_refused(called, 1, "holds adapters alone", '= "my/base"', "`biomedgpt import --base=FOLDER`")
    part = tmp_path / "part"
    shutil.copytree(imported, part)
    table = json.loads((part / "weights.json").read_text())
    table["meta"]["part"] = "decoder"
    (part / "weights.json").write_text(json.dumps(table))
    assert_refused(biomedgpt(*ask, f"--model={part}"), 1, "holds a decoder alone, and no whole model")
    assert_refused(biomedgpt(*ask, f"--model={tmp_path}"), 1, "holds no model: expected the workdir of a run")


def two_steps(data, workdir, *more):
    """As the tiny run, and the loss of its first batch before anything is learnt."""
    called = biomedgpt(
        "train",
        config(f"smoke.py:stage=1,data={data}"),
        *TINY,
        f"--workdir={workdir}",
        "--config.tokenizer.train_vocab_size=0",
        "--config.train.log_every=1",
        "--config.eval.paths=()",
        *more,
    )
    return called, workdir / "metrics.jsonl"


def test_training_starts_from_a_whole_imported_model(tiny_run, imported, prepared_data, tmp_path):
    other = two_steps(prepared_data, tmp_path / "run", f"--config.init.run={tiny_run.folder}")
    silent = (
        "--config.model.tower=",
        "--config.model.decoder=",
        "--config.model.connector=",
        "--config.model.scales=()",
    )
    whole = two_steps(prepared_data, tmp_path / "weights", f"--config.init.weights={imported}", *silent)
    losses = []
    for called, metrics in (other, whole):
        assert called.code == 0, called
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert len(losses[0]) == 2 and losses[0] == losses[1]
    printed = whole[0].out.replace("\n", "")
    assert f"tower: {imported}" in printed and f"connector: {imported}" in printed and "fresh" not in printed
    specs = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("run", "weights")]
    assert specs[0] == specs[1]


def test_a_recipe_takes_what_it_does_not_say_from_the_whole_model(imported, monkeypatch):
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    monkeypatch.syspath_prepend(str(ROOT / "configs"))
    found = command_line.parse(ledger, [config(f"llama3_med.py:stage=2,weights={imported}")]).config
    assert checked_family(found).spec(found).model == imported_spec(imported).model


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ("--config.model.decoder=tiny", "config.model.decoder = 'tiny'"),
        ("--config.model.tower=smoke-clip", "config.model.tower = 'smoke-clip'"),
        # ml_collections adds to the tuple that was given before.
        ("--config.model.scales=(112,)", "config.model.scales = (56, 112)"),
        ("--config.model.feature_layer=-2", "config.model.feature_layer = -2"),
        ("--config.model.connector=linear", "config.model.connector = 'linear'"),
    ],
)
def test_sizes_that_contradict_the_folder_are_refused(said, named, imported, prepared_data, tmp_path):
    called, _ = two_steps(prepared_data, tmp_path, f"--config.init.weights={imported}", said)
    assert_refused(called, 2, f"is another model than {named}. Its folder says the sizes")
