"""The command line in this process, tiny raw data for it, and one tiny run that all its tests share."""

import hashlib
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NUM_IMAGES = 6
# Two steps of the tiny data, at the smallest sizes that still go through every station.
SHORT = (
    "--config.data.row_tokens=160",
    "--config.data.image_slots=1",
    "--config.data.pack=False",
    "--config.data.workers=0",
    "--config.train.batch_rows=8",
    "--config.train.epochs=2",
    "--config.train.loss_chunk=64",
    "--config.tokenizer.train_vocab_size=290",
    "--config.eval.batch_rows=8",
    "--config.eval.max_new_tokens=2",
    "--config.log.tensorboard=False",
)
TINY = (*SHORT, "--config.model.tower=tiny-clip", "--config.model.scales=(56,)", "--config.model.decoder=smoke")


@dataclass(frozen=True)
class Called:
    """What a call of the command line left."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class TinyRun:
    """A finished run of two steps, the arguments that made it, and what it printed."""

    folder: Path
    arguments: tuple[str, ...]
    first: Called


def biomedgpt(*arguments: object) -> Called:
    """`biomedgpt ARGUMENTS` without a new process, which would import jax again."""
    from biomedgpt_jax.__main__ import main

    argv, path, hook = sys.argv, list(sys.path), sys.unraisablehook
    sys.argv = ["biomedgpt", *map(str, arguments)]
    sys.modules.pop("config_config", None)  # the module that ml_collections made of the last configuration file
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main()
    finally:
        sys.argv, sys.path[:], sys.unraisablehook = argv, path, hook
    return Called(code, out.getvalue(), err.getvalue())


def config(name: str) -> str:
    return f"--config={ROOT}/configs/{name}"


def assert_refused(called: Called, code: int, *texts: str) -> None:
    """The call failed with `code` and one clear message, which holds all `texts`."""
    assert called.code == code, called
    for text in texts:
        assert text in called.err, f"expected {text!r} in: {called.err}"
    assert "Traceback" not in called.err
    assert "unexpected" not in called.err, called.err
    assert called.err.count("biomedgpt ") >= 1


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder, by its path inside."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_raw(folder: Path, *, scored: bool = True) -> Path:
    """LLaVA-style train.json (8 rows, 4 images) and test.json (2 rows, 2 other images) beside images/."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for number in range(NUM_IMAGES):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(folder / "images" / f"{number}.png")
    facts = {"answer_type": "closed", "task": "vqa"} if scored else {}
    rows = [
        {"id": f"s{n}", "image": f"{n % 4}.png", "conversations": talk("Is it red?", ("no", "yes")[n % 2]), **facts}
        for n in range(8)
    ]
    held_out = [{**rows[n], "id": f"t{n}", "image": f"{4 + n}.png", "choices": ["no", "yes"]} for n in range(2)]
    (folder / "train.json").write_text(json.dumps(rows))
    (folder / "test.json").write_text(json.dumps(held_out))
    return folder


def prepare_own(raw: Path, out: Path, *options: str, files: str = "train=train.json,test=test.json") -> Called:
    return biomedgpt(
        "prepare",
        config(f"data/own.py:name=tiny,{files}"),
        f"--config.source={raw}",
        "--config.own.images=images",
        "--config.workers=1",
        f"--out={out}",
        *options,
    )


@pytest.fixture(scope="session")
def raw_data(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw") / "tiny")


@pytest.fixture(scope="session")
def prepared_data(raw_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "tiny"
    called = prepare_own(raw_data, out)
    assert called.code == 0, called
    return out


@pytest.fixture(scope="session")
def tiny_run(prepared_data, tmp_path_factory) -> TinyRun:
    """configs/smoke.py, stage 1, for two steps. Tests leave the folder as it is."""
    folder = tmp_path_factory.mktemp("runs") / "stage1"
    arguments = (
        "train",
        config(f"smoke.py:stage=1,data={prepared_data}"),
        *TINY,
        "--config.log.tensorboard=True",
        f"--workdir={folder}",
    )
    called = biomedgpt(*arguments)
    assert called.code == 0, called
    return TinyRun(folder, arguments, called)
