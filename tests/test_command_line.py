"""Wrong calls of the command line: one clear message, the exit code, and nothing done."""

import os
import subprocess
import sys

import pytest

from biomedgpt_jax.__main__ import VERBS
from tests.command import ROOT, TINY, assert_refused, biomedgpt, config


def process(*arguments):
    command = [sys.executable, "-m", "biomedgpt_jax", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)


def test_process_without_debug_gives_a_message_and_with_it_the_traceback(tmp_path):
    arguments = ("export", f"--model={tmp_path / 'none'}", f"--out={tmp_path / 'out'}")
    plain = process(*arguments)
    assert (plain.returncode, plain.stdout) == (1, "")
    assert plain.stderr == f"biomedgpt export: {tmp_path / 'none'} is not the workdir of a run: it has no model.json.\n"
    full = process(*arguments, "--debug")
    assert full.returncode == 1
    assert "Traceback (most recent call last)" in full.stderr and "read_spec" in full.stderr
    assert full.stderr.endswith(plain.stderr)


def test_process_without_a_verb_shows_all_of_them():
    shown = process()
    assert shown.returncode == 2
    assert all(f"\n  {verb} " in shown.stderr for verb in VERBS)


def test_unknown_verb_suggests_the_right_one():
    assert_refused(biomedgpt("trian"), 2, "There is no verb 'trian'. Did you mean 'train'?", "usage:")


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_and_every_flag(verb):
    called = biomedgpt(verb, "--help")
    assert (called.code, called.err) == (0, "")
    assert f"biomedgpt {verb} --" in called.out
    assert all(flag in called.out for flag in {"train": ("--config: ", "--workdir: ")}.get(verb, ("--",)))


SMOKE = config("smoke.py:stage=1,data=nowhere")
WRONG_CALLS = [
    # What must be there.
    (["train"], 2, "--config is missing. For example: biomedgpt train --workdir="),
    (["train", SMOKE], 2, "--workdir is missing"),
    (["prepare", config("data/vqa_rad.py")], 2, "--out is missing"),
    (["eval", config("eval.py:data=x"), "--out={tmp}/o"], 2, "--model is missing"),
    (["eval", config("eval.py"), "--model=x", "--out={tmp}/o"], 2, "config.data is empty"),
    (["generate", "--model=x"], 2, "--question is missing"),
    (["import", "--out={tmp}/o"], 2, "--from is missing"),
    (["export", "--model=x"], 2, "--out is missing"),
    (["report", "--out={tmp}/o"], 2, "--runs is missing"),
    (["ledger"], 2, "--config is missing"),
    # Flags.
    (["train", "--wrokdir=x"], 2, "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
    (["train", SMOKE, "stray"], 2, "Not a flag: 'stray'. Flags are written --name=value."),
    (["generate", "--model=x", "--question=y", "--max_new_tokens=0"], 2, "--max_new_tokens=0"),
    (["generate", "--model=x", "--question=y", "--dtype=f32"], 2, "--dtype=f32: value should be one of <float32|"),
    (["eval", "--compare=a"], 2, "--compare takes two folders, A B; found 1."),
    # The configuration file.
    (["train", "--config=configs/nope.py"], 2, "--config=configs/nope.py: no such configuration file"),
    (["train", "--config={tmp}"], 2, "no such configuration file"),
    (["train", "--config={tmp}/broken.py"], 2, "broken.py: the file failed: SyntaxError"),
    (["train", "--config={tmp}/imports.py"], 2, "imports.py: the file failed: ModuleNotFoundError"),
    (["train", "--config={tmp}/empty.py"], 2, "empty.py: the file failed: AttributeError"),
    (["train", config("eval.py")], 2, "not a configuration for this verb: it has no family, model, init"),
    (["eval", SMOKE, "--model=x"], 2, "not a configuration for this verb: it has no split"),
    (["prepare", config("eval.py")], 2, "not a configuration for this verb: it has no dataset"),
    # Its arguments.
    (["ledger", config("llama3_med.py:stage=3")], 2, "llama3_med.py:stage=3: stage='3': expected one of 1, 2."),
    (["ledger", config("llama3_med.py:stage=two")], 2, "stage='two': expected int, like 1."),
    (["ledger", config("llama3_med.py:stage")], 2, "Argument 'stage' has no value; write stage=VALUE."),
    (["ledger", config("llama3_med.py:stage=2,tun=lora")], 2, "Unknown argument 'tun'; known: stage, tune"),
    (["ledger", config("llama3_med.py:stage=2,tun=lora")], 2, "Did you mean 'tune'?"),
    (["ledger", config("llama3_med.py:tune=lorra")], 2, "expected one of full, lora, qlora. Did you mean 'lora'?"),
    (["ledger", config("llama3_med.py:scales=224+big")], 2, "scales='224+big'"),
    # Its keys.
    (["ledger", SMOKE, "--config.train.epoch=2"], 2, "--config.train.epoch: there is no such configuration key."),
    (["ledger", SMOKE, "--config.train.epoch=2"], 2, "Did you mean 'epochs'?"),
    (["ledger", SMOKE, "--config.trian.epochs=2"], 2, "--config.trian.epochs: there is no such configuration key."),
    (["ledger", SMOKE, "--config.seed.x=2"], 2, "--config.seed.x: there is no such configuration key."),
    (["ledger", SMOKE, "--config.train.epochs"], 2, "Missing value for flag --config.train.epochs"),
    # Its values.
    (["ledger", SMOKE, "--config.train.epochs=two"], 2, "flag --config.train.epochs=two: invalid literal for int()"),
    (["ledger", SMOKE, "--config.data.pack=maybe"], 2, "flag --config.data.pack=maybe"),
    (["ledger", SMOKE, "--config.train=5"], 2, "flag --config.train=5"),
    (["ledger", SMOKE, "--config.model.tower=tiny-clipp"], 2, "Did you mean 'tiny-clip'?"),
    (["ledger", SMOKE, "--config.model.decoder=llama-3.1-8"], 2, "Did you mean 'llama-3.1-8b'?"),
    (["ledger", SMOKE, "--config.model.decoder={tmp}"], 1, "weights.json: no such file"),
    (["ledger", SMOKE, "--config.model.connector=mpl2x_gelu"], 2, 'Connector "mpl2x_gelu" is unknown'),
    (["ledger", SMOKE, "--config.model.scales=(56, 100)"], 2, "scale 100 does not tile by 56"),
    (["ledger", SMOKE, "--config.model.tower=tiny-clip", "--config.model.scales=(112,)"], 2, "smallest must be 56"),
    (["ledger", SMOKE, "--config.model.compute_dtype=float16"], 2, "expected one of float32, bfloat16"),
    (["ledger", SMOKE, "--config.model.remat.tower=some"], 2, "config.model.remat.tower = 'some': expected one of"),
    (["ledger", SMOKE, "--config.data.geometry=padd"], 2, "Did you mean 'pad'?"),
    (["ledger", SMOKE, "--config.data.template=lama3"], 2, "Did you mean 'llama3'?"),
    (["ledger", SMOKE, "--config.tune.decoder=half"], 2, "expected one of full, lora, frozen"),
    (["ledger", SMOKE, "--config.mesh.fsdp=3"], 2, "Mesh fsdp=3 does not fit 8 devices"),
    (["ledger", SMOKE, "--config.mesh.data=-1"], 2, "at most one axis may be -1"),
    # Data sets.
    (["prepare", config("data/dataset.py:name=slak"), "--out={tmp}/o"], 2, "No data set 'slak'"),
    (["prepare", config("data/vqa_rad.py:split=oficial"), "--out={tmp}/o"], 2, "Did you mean 'official'?"),
    (["prepare", config("data/own.py:train=x"), "--out={tmp}/o"], 2, "Own files need --config.source=FOLDER."),
    (
        ["prepare", config("data/own.py:layout=llav"), "--out={tmp}/o", "--config.source={tmp}"],
        2,
        "table, tfds. Did you mean 'llava'?",
    ),
    # Numbers and places of an evaluation.
    (
        ["eval", config("eval.py:data=x"), "--model=x", "--out={tmp}/o", "--config.batch_rows=0"],
        2,
        "config.batch_rows = 0",
    ),
    (["eval", config("eval.py:data=x"), "--model=x", "--out={tmp}/o", "--config.limit=-1"], 2, "expected 0 or more"),
    (
        ["eval", config("eval.py:data=x"), "--model=x", "--out={tmp}/empty.py"],
        2,
        "empty.py is a file, expected a folder",
    ),
    # Folders that are not there, or hold nothing.
    (["generate", "--model={tmp}/no", "--question=y"], 1, "holds no model: expected the workdir of a run"),
    (["generate", "--model={tmp}/empty", "--question=y"], 1, "found none of these files"),
    (["eval", config("eval.py:data={tmp}/empty"), "--model=x", "--out={tmp}/o"], 1, "holds no manifest.json"),
    (["generate", "--model=x", "--question=y", "--image={tmp}/no.png"], 2, "--image: there is no file"),
    (["report", "--runs={tmp}/no", "--out={tmp}/o"], 1, "metrics.jsonl has no training step yet; run `biomedgpt train"),
    (["eval", "--compare={tmp}/no,{tmp}/empty"], 1, "Name the folder that `biomedgpt eval` wrote"),
    (["import", "--from={tmp}/no", "--out={tmp}/o"], 1, "no/config.json: not there (no such folder)"),
    (
        ["import", "--from={tmp}/empty", "--out={tmp}/o"],
        1,
        "not there (found an empty folder), expected a Hugging Face",
    ),
]


@pytest.mark.parametrize(("arguments", "code", "text"), WRONG_CALLS, ids=lambda value: str(value)[-60:])
def test_wrong_call(arguments, code, text, tmp_path):
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    (tmp_path / "imports.py").write_text("import no_such_module\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "empty").mkdir()
    assert_refused(biomedgpt(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments)), code, text)
    assert not (tmp_path / "o").exists()


WRONG_FILES = [
    ("del config.train.save_every", 2, "config.train lacks the key 'save_every'"),
    ("del config.tune.decoder", 2, "lacks the key 'decoder' in the section that holds connector, tower"),
    ("del config.mesh.context", 2, "config.mesh: it lacks context; expected context, data, fsdp, tensor"),
    ("config.optim.momentum = 0.9", 2, "config.optim: it has the unknown momentum; expected b1, b2, clip_norm"),
    ("config.train.batch_rows = 'ten'", 2, "Could not override field 'batch_rows'"),
    ("config.model.scales = ()", 2, "config.model.scales is empty"),
]


@pytest.mark.parametrize(("line", "code", "text"), WRONG_FILES, ids=lambda value: str(value)[-60:])
def test_configuration_file_that_is_not_whole(line, code, text, tmp_path):
    change = f"    config = smoke.get_config('data=nowhere')\n    {line}\n    return config\n"
    (tmp_path / "mine.py").write_text(
        f"import sys\n\nsys.path.insert(0, '{ROOT}/configs')\nimport smoke\n\n\ndef get_config():\n{change}"
    )
    called = biomedgpt("train", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path / 'run'}")
    assert_refused(called, code, text)
    assert not (tmp_path / "run" / "model.json").exists()


UNPRINTABLE = [
    (["generate", "--model=a\0b", "--question=q"], "'--model' holds a NUL character or bytes that are not UTF-8"),
    (["generate", "--model=x", "--question=a\udcffb"], "'--question' holds a NUL character"),
    (["generate", "--model=x", "--question=q", "--image=a\0.png"], "'--image' holds a NUL character"),
    (["train", "--config=a\0.py", "--workdir=x"], "'--config' holds a NUL character"),
    (["prepare", config("data/vqa_rad.py"), "--out=a\0b"], "'--out' holds a NUL character"),
]


@pytest.mark.parametrize(("arguments", "text"), UNPRINTABLE, ids=lambda value: ascii(value)[-40:])
def test_nul_and_broken_unicode_in_flags(arguments, text):
    called = biomedgpt(*arguments)
    assert_refused(called, 2, text)
    assert "a\0b" not in called.err


WRONG_TRAININGS = [
    (["--config.data.paths=()"], 2, "config.data.paths is empty"),
    (["--config.data.paths=('{tmp}/no',)"], 1, "no holds no manifest.json: not a prepared data set"),
    (["--config.data.split=valid"], 1, "has no split 'valid'; it has test, train"),
    (["--config.data.weights=(1.0, 2.0)"], 2, "config.data.weights has 2 numbers for 1 config.data.paths"),
    (["--config.data.on_overflow=cut"], 2, "config.data.on_overflow = 'cut': expected one of error, skip, truncate"),
    (["--config.data.row_tokens=64"], 1, "tiny:train s0 (train.json row 1): "),
    (["--config.data.row_tokens=64"], 1, "tokens and 1 images, but a row holds 64 and 1; 8 of 8 samples are too large"),
    (["--config.data.image_slots=0"], 1, "1 images, but a row holds 160 and 0"),
    (["--config.train.batch_rows=12"], 2, "batch_rows = 12 does not divide by 8, mesh data=1 * fsdp=8"),
    (["--config.train.accumulate=3"], 2, "by 24, mesh data=1 * fsdp=8 * train.accumulate=3; nearest that fit: 24."),
    (["--config.mesh.context=8", "--config.data.row_tokens=100"], 2, "context=8; nearest that fit: 96, 104."),
    (["--config.mesh.tensor=3"], 2, "Mesh tensor=3 does not fit 8 devices"),
    (["--config.mesh.tensor=8"], 2, "Mesh tensor=8 does not divide the 4 kv_heads of decoder/"),
    (["--config.train.batch_rows=0"], 2, "config.train.batch_rows = 0: expected 1 or more"),
    (["--config.train.epochs=0"], 2, "config.train.epochs = 0: expected 1 or more"),
    (["--config.train.save_every=0"], 2, "config.train.save_every = 0: expected 1 or more"),
    (["--config.train.epochs=-1"], 2, "config.train.epochs = -1: expected 1 or more"),
    (["--config.train.log_every=0"], 2, "config.train.log_every = 0: expected 1 or more"),
    (["--config.train.keep=-1"], 2, "config.train.keep = -1: expected 1 or more"),
    (["--config.optim.learning_rate=nan"], 2, "config.optim.learning_rate = nan: expected 0 or more"),
    (["--config.optim.learning_rate=-0.1"], 2, "config.optim.learning_rate = -0.1: expected 0 or more"),
    (["--config.optim.warmup_ratio=2.0"], 2, "config.optim.warmup_ratio = 2.0: expected from 0 to 1"),
    (["--config.optim.b2=1.0"], 2, "config.optim.b2 = 1.0: expected from 0 to below 1"),
    (["--config.optim.clip_norm=inf"], 2, "config.optim.clip_norm = inf: expected more than 0"),
    (["--config.data.workers=-1"], 2, "config.data.workers = -1: expected 0 or more"),
    (["--config.data.weights=(-1.0,)"], 2, "config.data.weights = -1.0: expected numbers more than 0"),
    (["--config.data.weights=('a',)"], 2, "config.data.weights = 'a': expected numbers more than 0"),
    (["--config.model.scales=(-56,)"], 2, "scales"),
    (["--config.seed=-1"], 2, "config.seed = -1: expected 0 or more"),
    (["--config.mesh.fsdp=16"], 2, "does not fit 8 devices"),
    (["--config.tokenizer.path={tmp}/no"], 1, "tokenizer {tmp}/no does not exist"),
    (["--config.tokenizer.path={tmp}"], 1, "{tmp} holds no tokenizer: looked for tokenizer.json"),
    (["--config.tokenizer.train_vocab_size=0"], 2, "There is no tokenizer: set config.tokenizer.path"),
    (["--config.tokenizer.train_vocab_size=5000"], 1, "config.tokenizer.train_vocab_size"),
    (["--config.model.decoder=tiny"], 2, "The tokenizer has 290 tokens, the decoder's embedding 64 rows"),
    (["--config.init.random=()"], 2, "No weights for tower, connector, decoder. A name says sizes alone: tower"),
    (["--config.init.random=('tower',)"], 2, "--config.init.random=\"('tower', 'connector', 'decoder')\""),
    (["--config.init.random=('tower','decoder')"], 2, "No weights for connector."),
    (["--config.init.random=('towr',)"], 2, "config.init.random = 'towr': expected one of tower"),
    (["--config.init.run={tmp}/no"], 1, "{tmp}/no is not the workdir of a run"),
    (["--config.eval.paths=('{tmp}/no',)"], 1, "not a prepared data set; run `biomedgpt prepare`"),
    (["--config.eval.protocol=strict/v9"], 2, "unknown metric protocol 'strict/v9'; known: strict/v1"),
    (["--config.eval.split=tset"], 1, "has no split 'tset'; it has test, train"),
    (
        ["--config.tune.tower=False", "--config.tune.connector=False", "--config.tune.decoder=frozen"],
        2,
        "config.tune freezes everything",
    ),
]


@pytest.mark.parametrize(("overrides", "code", "text"), WRONG_TRAININGS, ids=lambda value: str(value)[-60:])
def test_wrong_training_is_refused_before_it_starts(overrides, code, text, prepared_data, tmp_path):
    workdir = tmp_path / "run"
    arguments = ("train", config(f"smoke.py:stage=1,data={prepared_data}"), *TINY, f"--workdir={workdir}")
    called = biomedgpt(*arguments, *(each.replace("{tmp}", str(tmp_path)) for each in overrides))
    assert_refused(called, code, text.replace("{tmp}", str(tmp_path)))
    assert not any((workdir / name).exists() for name in ("model.json", "config.json", "checkpoints", "base"))
