"""`biomedgpt train` as two real processes over gloo trains and answers as one process does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np

from tests.command import TINY, config
from tests.compiler import xla_flags


def test_two_processes_train_and_answer_as_one_does(tiny_run, prepared_data, tmp_path):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    several = [f"--coordinator=localhost:{port}", "--processes=2"]
    train = ["train", config(f"smoke.py:stage=1,data={prepared_data}"), *TINY, f"--workdir={tmp_path}"]
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices=4)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "biomedgpt_jax", *train, *several, f"--process={number}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "Done: 2 steps" in outputs[0] and "Done" not in outputs[1]  # one of them is heard

    def losses(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows if "loss" in row]

    np.testing.assert_allclose(losses(tmp_path), losses(tiny_run.folder), rtol=1e-5)
    # Two questions in a batch of eight rows: all rows of the second process are empty.
    (answers,) = tmp_path.glob("eval/step_2/*/predictions.jsonl")
    assert len(answers.read_text().splitlines()) == 2
    assert answers.read_text() == (tiny_run.folder / answers.relative_to(tmp_path)).read_text()
