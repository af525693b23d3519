"""BiomedGPT's pre-training by the command line: pairs, texts, image codes and objects in one mixture."""

import base64
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.command import ROOT, biomedgpt, config
from tests.compiler import xla_flags

# A square of codes for the hidden middle; published ones are 16 x 16.
CODES, SIDE = 8, 4
SMALL = (
    "--config.model.image_size=32",
    "--config.model.vocab_size=340",
    "--config.model.compute_dtype=float32",
    "--config.model.remat.layers=full",  # one layer to compile, not each
    "--config.data.source_tokens=96",
    "--config.data.target_tokens=40",
    "--config.data.workers=0",
    "--config.data.patches_kept=3",
    "--config.init.random=True",
    "--config.tokenizer.train_words=270",
    f"--config.tokenizer.codes={CODES}",
    "--config.tokenizer.bins=50",
    "--config.train.epochs=1",
    "--config.log.tensorboard=False",
)


def picture(number):
    stream = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), 20 * number, np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def pairs(number):
    kind = ("caption", "qa")[number % 2]
    answer = f"1|!+{('yes', 'no')[number // 2 % 2]}" if kind == "qa" else ""
    caption, question = ("small effusion", "") if kind == "caption" else ("", "is it clear?")
    return (number, picture(number), caption, question, answer, "effusion", "made", kind)


CODED = " ".join(str(place % CODES) for place in range(SIDE * SIDE))
TABLES = {
    "vision_language": [pairs(number) for number in range(8)],
    "text": [(number, "no small effusion is seen") for number in range(2)],
    "image": [(0, picture(0), CODED)],
    "detection": [(0, picture(1), "2,3,20,15,1,nodule")],
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folders of the four."""
    folder = tmp_path_factory.mktemp("pretraining")
    for table, rows in TABLES.items():
        (folder / f"{table}.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
        called = biomedgpt(
            "prepare",
            config(f"data/own.py:layout=biomedgpt-{table},train={table}.tsv"),
            f"--config.source={folder}",
            "--config.workers=1",
            f"--out={folder / table}",
        )
        assert called.code == 0, called
    return [folder / table for table in TABLES]


def test_the_mixture_trains(prepared, tmp_path):
    """In a process with one device: the program of eight takes three times as long to compile."""
    command = (
        *(sys.executable, "-m", "biomedgpt_jax", "train", config("biomedgpt.py:task=pretrain,size=smoke,rows=20")),
        f"--config.data.paths={tuple(map(str, prepared))}",
        "--config.data.weights=(8.0,2.0,1.0,1.0)",
        *SMALL,
        f"--workdir={tmp_path}",
    )
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices=1)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    # Two examples of each of 8 pairs, 2 texts, and one each of codes and objects.
    assert row["images"] == 18
    # The mean over pairs and twice the mean over the rest, each about the logarithm of the vocabulary.
    assert row["loss"] == pytest.approx(3 * np.log(340), rel=0.1)
    assert row["source_tokens"] + row["target_tokens"] == row["tokens"]
