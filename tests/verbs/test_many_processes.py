"""`biomedgpt train` as several real processes over gloo: the same losses, saved by two, resumed by one and by four."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.command import TINY, config

SECONDS = 240
# Long enough that a signal always comes in the middle; saved only when asked.
LONG = ("--config.train.epochs=200", "--config.train.log_every=1", "--config.eval.paths=()")


class Cluster:
    """`count` processes of one training, with `8 // count` devices each."""

    def __init__(self, count: int, cache: Path, *arguments: str):
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        flags = f"--xla_force_host_platform_device_count={8 // count}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        several = [f"--coordinator=localhost:{port}", f"--processes={count}"] if count > 1 else []
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "biomedgpt_jax", "train", *arguments, *several, *_number(count, process)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for process in range(count)
        ]

    def end(self) -> list[tuple[int, str]]:
        """Exit code and output of each, once all have ended."""
        outputs = [process.communicate(timeout=SECONDS)[0] for process in self.processes]
        return [(process.returncode, output) for process, output in zip(self.processes, outputs, strict=True)]

    def signal_at(self, number: int, process: int, workdir: Path, step: int) -> None:
        """Sends a signal to one process once the row of `step` is written."""
        deadline = time.monotonic() + SECONDS
        while not any(row["step"] >= step for row in rows(workdir)):
            assert all(each.poll() is None for each in self.processes), self.end()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.processes[process].send_signal(number)


def _number(count: int, process: int) -> list[str]:
    return [f"--process={process}"] if count > 1 else []


def rows(workdir: Path) -> list[dict]:
    file = workdir / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def losses(workdir: Path, first: int, last: int) -> list[float]:
    found = {row["step"]: row["loss"] for row in rows(workdir) if "loss" in row}
    return [found[step] for step in range(first, last + 1)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compilation_cache")


@pytest.fixture(scope="module")
def arguments(prepared_data) -> tuple[str, ...]:
    return config(f"smoke.py:stage=1,data={prepared_data}"), *TINY


def test_two_processes_train_and_answer_as_one_does(tiny_run, arguments, cache, tmp_path):
    ended = Cluster(2, cache, *arguments, f"--workdir={tmp_path}").end()
    assert [code for code, _ in ended] == [0, 0], ended
    assert "Done: 2 steps" in ended[0][1] and "Done" not in ended[1][1]  # one of them is heard
    np.testing.assert_allclose(losses(tmp_path, 1, 2), losses(tiny_run.folder, 1, 2), rtol=1e-5)
    # Two questions in a batch of eight rows: all of the second process's are empty.
    (answers,) = tmp_path.glob("eval/step_2/*/predictions.jsonl")
    expected = tiny_run.folder / answers.relative_to(tmp_path)
    assert len(answers.read_text().splitlines()) == 2
    assert answers.read_text() == expected.read_text()


def test_stopped_by_one_resumed_by_any_number_and_ended_when_one_dies(arguments, cache, tmp_path):
    two, one, four = tmp_path / "two", tmp_path / "one", tmp_path / "four"
    cluster = Cluster(2, cache, *arguments, *LONG, f"--workdir={two}")
    cluster.signal_at(signal.SIGTERM, 1, two, 2)
    ended = cluster.end()
    assert [code for code, _ in ended] == [75, 75], ended
    (saved,) = [int(folder.name) for folder in (two / "checkpoints").iterdir()]
    assert f"Stopped at step {saved}" in ended[0][1]
    for copy in (one, four):
        shutil.copytree(two, copy)

    alone = Cluster(1, cache, *arguments, *LONG, f"--workdir={one}")
    alone.signal_at(signal.SIGTERM, 0, one, saved + 3)
    assert [code for code, _ in alone.end()] == [75]

    cluster = Cluster(4, cache, *arguments, *LONG, f"--workdir={four}")
    cluster.signal_at(signal.SIGKILL, 2, four, saved + 3)
    begun = time.monotonic()
    ended = cluster.end()
    assert time.monotonic() - begun < 100
    assert [code for code, _ in ended] == [75, 75, -signal.SIGKILL, 75], ended
    assert all("Process 2 is gone without a word" in ended[process][1] for process in (0, 1, 3)), ended
    np.testing.assert_allclose(losses(four, 1, saved + 3), losses(one, 1, saved + 3), rtol=1e-5)
    assert losses(four, 1, saved) == losses(two, 1, saved)
