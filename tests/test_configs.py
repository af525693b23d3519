"""Every configuration: parsed, built at full size from shapes alone, and trained for two steps at tiny size."""

import json
import math

import pytest

from biomedgpt_jax.models.decoders import PRESETS
from biomedgpt_jax.verbs import command_line, ledger
from tests.command import ROOT, SHORT, TINY, biomedgpt, config

# Published: H-optimus-0 at three scales and Llama 3.1 8B; rank 128 on all linear layers of its blocks.
CONNECTOR, DECODER, ADAPTERS = 35_659_776, 8_030_261_248, 335_544_320
TOWER = 1_134_774_272
# Of a base in nf4, one for each output of those layers: q, k, v, attention's, gate and up, down.
SCALES = 32 * (4096 + 2 * 1024 + 4096 + 2 * 14_336 + 4096)
TRAINED = {
    "llama3_med.py:stage=1": CONNECTOR,
    "llama3_med.py:stage=2,tune=full": CONNECTOR + DECODER,
    "llama3_med.py:stage=2,tune=lora": CONNECTOR + ADAPTERS,
    "llama3_med.py:stage=2,tune=qlora": CONNECTOR + ADAPTERS,
}
PARTS = {"smoke.py:stage=1": {"tower", "connector", "decoder"}, "smoke.py:stage=2": {"connector", "decoder"}}
# DINOv2-small without its mask token, at two scales, and SmolLM2-135M; rank 32 on all linear layers of its 30 blocks.
PUBLISHED_SMALL = "tower=facebook/dinov2-small,decoder=smollm2-135m"
SMALL_CONNECTOR = (2 * 384 * 576 + 576) + (576 * 576 + 576)
SMALL_MODEL = 22_056_576 - 384 + 134_515_008 + SMALL_CONNECTOR
SMALL_ADAPTERS = 30 * 32 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
# Of all parameters, and of those that learn.
COUNTS = {
    "smoke.py:stage=1": (1_499_904, 1_499_264),
    "smoke.py:stage=2": (1_499_904, 803_968),
    f"vqa_rad_small.py:stage=1,{PUBLISHED_SMALL}": (SMALL_MODEL, SMALL_CONNECTOR),
    f"vqa_rad_small.py:stage=2,{PUBLISHED_SMALL}": (SMALL_MODEL + SMALL_ADAPTERS, SMALL_CONNECTOR + SMALL_ADAPTERS),
}
DATA = ("data/builtin.py", "data/dataset.py:name=slake", "data/own.py:layout=tsv", "data/vqa_rad.py")
# The last is trained in tests/benchmarks/test_vqa_rad_small.py.
TASKS = tuple(
    f"biomedgpt.py:task={task}" for task in ("pretrain", "vqa", "classify", "caption", "nli", "summarise", "instruct")
)
OTHERS = (
    "eval.py",
    "eval_suite.py",
    "synth.py",
    "mixture.py:data=a+b,eval=c",
    *DATA,
    "vqa_rad_small.py:stage=2",
    "smoke_biomedgpt.py",
    *TASKS,
)
RATES = {
    "llama3_med.py:stage=1": 1e-3,
    "llama3_med.py:stage=2,tune=full": 2e-5,
    "llama3_med.py:stage=2,tune=lora": 2e-4,
}
# Of BiomedGPT, from its scripts. Three numbers are those of tiny, medium and base.
SCRIPTS = {
    "pretrain": {"rate": 5e-5, "epochs": 20, "warmup": 0.01, "rows": (160,) * 3, "image": (256,) * 3, "clip": 5.0},
    "vqa": {"rate": 5e-5, "epochs": 100, "warmup": 0.04, "rows": (1024, 512, 256), "image": (256, 256, 384)},
    "classify": {"rate": 5e-5, "epochs": 5, "warmup": 0.6, "rows": (1536, 1536, 768), "image": (384,) * 3},
    "caption": {"rate": 1e-5, "epochs": 100, "warmup": 0.06, "rows": (128,) * 3, "image": (480,) * 3},
    "nli": {"rate": 7e-5, "epochs": 200, "warmup": 0.06, "rows": (576, 576, 288), "image": (0,) * 3},
    "summarise": {"rate": 1e-3, "epochs": 300, "warmup": 0.06, "rows": (320,) * 3, "image": (0,) * 3},
}
SMOOTHED = ("vqa", "classify", "caption", "summarise")
WITHOUT_EMBEDDINGS = ("vqa", "classify", "caption")
# Beams, length penalty, words in a row said once, tokens of an answer.
SEARCHED = {"caption": (10, 1.0, 3, 32), "summarise": (5, 0.7, 3, 128)}


def parsed(name):
    return command_line.parse(ledger, [config(name)]).config


def test_every_file_is_tested_here():
    files = {str(file.relative_to(ROOT / "configs")) for file in (ROOT / "configs").rglob("*.py")}
    assert files == {name.split(":")[0] for name in (*TRAINED, *PARTS, *OTHERS)}


@pytest.mark.parametrize("name", (*TRAINED, *PARTS, *OTHERS))
def test_it_parses_and_can_be_written_down(name, monkeypatch):
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    monkeypatch.syspath_prepend(str(ROOT / "configs"))
    found = parsed(name)
    assert json.loads(found.to_json()).keys() == set(found.keys())
    if name in RATES:
        assert found.optim.learning_rate == RATES[name]
        assert found.optim.warmup_ratio == 0.03 and found.optim.weight_decay == 0


@pytest.mark.parametrize("task", SCRIPTS)
def test_a_task_of_biomedgpt_is_learned_as_its_script_says(task, monkeypatch):
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    monkeypatch.syspath_prepend(str(ROOT / "configs"))
    said = SCRIPTS[task]
    # The two largest have no scripts: they take those of base.
    for column, size in enumerate(("tiny", "medium", "base", "large", "huge")):
        found, column = parsed(f"biomedgpt.py:task={task},size={size}"), min(column, 2)
        optim, train = found.optim, found.train
        assert (optim.learning_rate, train.epochs, optim.warmup_ratio) == (said["rate"], said["epochs"], said["warmup"])
        assert (optim.b1, optim.b2, optim.eps, optim.weight_decay) == (0.9, 0.999, 1e-8, 0.01)
        assert optim.rate_decay == "linear" and optim.decay_vectors and optim.clip_norm == said.get("clip", 1.0)
        assert train.batch_rows == said["rows"][column]
        assert (found.model.image_size if found.data.pictures else 0) == said["image"][column]
        assert (found.model.dropout, found.model.drop_path, found.model.batch_norm) == (0.1, 0.1, "local")
        assert found.model.pixels == ("imagenet" if task == "classify" else "half")
        assert found.loss.label_smoothing == (0.1 if task in SMOOTHED else 0.0)
        assert (found.loss.drop_worst, found.loss.drop_after) == (0.2 if task == "caption" else 0.0, 600)
        assert found.data.answer_tokens == (40 if task == "vqa" else 0)
        assert found.data.noise == (0.2 if task == "summarise" else 0.0)
        assert found.data.patches_kept == (196 if task == "pretrain" else 0)
        assert train.average_decay == (0.9999 if task == "vqa" else 0.0)
        assert found.tune.embeddings == (task not in WITHOUT_EMBEDDINGS)
        answers = (found.eval.beams, found.eval.length_penalty, found.eval.no_repeat, found.eval.max_new_tokens)
        assert found.eval.min_length == 1
        assert answers == SEARCHED.get(task, (1, 0.0, 0, 32))
        assert found.data.hint == ""  # the script of VQA tells one, at test time too


@pytest.mark.parametrize("name", TRAINED)
def test_published_sizes_build_from_shapes(name):
    called = biomedgpt("ledger", config(name))
    assert called.code == 0, called
    assert f"{TRAINED[name]:,} trainable" in called.out
    total = TOWER + DECODER + CONNECTOR + (ADAPTERS if "lora" in name else 0) + (SCALES if "qlora" in name else 0)
    assert f"{total:,} parameters" in called.out


@pytest.mark.parametrize("name", COUNTS)
def test_small_sizes_have_so_many_parameters(name):
    called = biomedgpt("ledger", config(name))
    assert called.code == 0, called
    total, trained = COUNTS[name]
    assert f"{total:,} parameters, {trained:,} trainable" in called.out


@pytest.mark.parametrize("name", PARTS)
def test_small_sizes_build_from_shapes(name):
    called = biomedgpt("ledger", config(name))
    assert called.code == 0, called
    rows = [line.split("│") for line in called.out.splitlines() if line.startswith("│")]
    assert {row[1].strip().split("/")[0] for row in rows if row[3].strip() == "yes"} == PARTS[name]
    assert PRESETS["smoke"].vocab_size >= parsed_vocabulary(name)


def parsed_vocabulary(name):
    return parsed(name).tokenizer.train_vocab_size


@pytest.fixture(scope="module")
def align(prepared_data, tmp_path_factory):
    """Stage 1 of configs/llama3_med.py with an H-optimus at two scales, all at tiny size."""
    folder = tmp_path_factory.mktemp("align") / "run"
    return folder, two_steps(folder, "stage=1", prepared_data, "--config.init.random=('tower','connector','decoder')")


def two_steps(folder, arguments, data, *options):
    sizes = "tower=tiny-h-optimus,scales=56+112,decoder=smoke"
    name = config(f"llama3_med.py:{arguments},{sizes},data={data}")
    return biomedgpt("train", name, *SHORT, "--config.lora.rank=2", f"--workdir={folder}", *options)


def assert_trained(called, folder, parts):
    assert called.code == 0, called
    assert f"Done: 2 steps in {folder}." in called.out
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert losses.keys() == {1, 2} and all(math.isfinite(loss) for loss in losses.values())
    stored = json.loads((folder / "ledger.json").read_text())
    assert 0 < stored["fill"]["token_share"] <= 1 and 0 < stored["fill"]["image_share"] <= 1
    trained = {row["module"] for row in stored["rows"] if row["trainable"]}
    assert {module.split("/")[0] for module in trained} == parts


def test_align_trains(align):
    folder, called = align
    assert_trained(called, folder, {"connector"})
    assert "loss" in called.out


@pytest.mark.parametrize("tune", ["full", "lora", "qlora"])
def test_instruct_trains_from_align(tune, align, prepared_data, tmp_path):
    folder = tmp_path / "run"
    called = two_steps(folder, f"stage=2,tune={tune}", prepared_data, f"--config.init.run={align[0]}")
    assert_trained(called, folder, {"connector", "decoder"})
    assert f"connector: {align[0]} step 2 (4 arrays)" in called.out


def test_smoke_stage_2_trains_from_stage_1(tiny_run, prepared_data, tmp_path):
    arguments = ("train", config(f"smoke.py:stage=2,data={prepared_data}"), *TINY, f"--workdir={tmp_path / 'run'}")
    called = biomedgpt(*arguments, f"--config.init.run={tiny_run.folder}", "--config.eval.paths=()")
    assert_trained(called, tmp_path / "run", {"connector", "decoder"})
