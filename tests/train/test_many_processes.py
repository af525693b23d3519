"""One run by several real processes over gloo: saved by two, resumed by one and by four, ended when one dies."""

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

from tests.compiler import xla_flags

PROGRAM = Path(__file__).parent / "toy_run.py"
SECONDS = 240


class Cluster:
    """`count` processes of one training, with `8 // count` devices each; steps last long enough to be interrupted."""

    def __init__(self, count: int, cache: Path, workdir: Path):
        with socket.create_server(("", 0)) as server:
            port = server.getsockname()[1]
        environment = os.environ | {
            "XLA_FLAGS": xla_flags(devices=8 // count),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        run = [sys.executable, PROGRAM, workdir, 1000, 1000, 0.2, -1]
        self.workdir = workdir
        self.processes = [
            subprocess.Popen(
                [*map(str, run), *([f"localhost:{port}", str(count), str(process)] if count > 1 else [])],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for process in range(count)
        ]

    def signal_at(self, step: int, number: int, process: int) -> list[tuple[int, str]]:
        """Signals one process once the row of `step` is written; exit code and output of each when all have ended."""
        deadline = time.monotonic() + SECONDS
        while not any(row["step"] >= step for row in rows(self.workdir)):
            assert all(each.poll() is None for each in self.processes), self.end()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.processes[process].send_signal(number)
        return self.end()

    def end(self) -> list[tuple[int, str]]:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in self.processes]
        return [(process.returncode, output) for process, output in zip(self.processes, outputs, strict=True)]


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
def two(cache, tmp_path_factory) -> tuple[Path, int]:
    """The workdir of two processes, of which the second was told to stop, and the step that both saved."""
    workdir = tmp_path_factory.mktemp("runs") / "two"
    ended = Cluster(2, cache, workdir).signal_at(3, signal.SIGTERM, process=1)
    (saved,) = [int(folder.name) for folder in (workdir / "checkpoints").iterdir()]
    assert [code for code, _ in ended] == [0, 0], ended
    assert all(f"stopped {saved}\n" in output for _, output in ended), ended
    return workdir, saved


@pytest.fixture(scope="module")
def alone(two, cache, tmp_path_factory) -> Path:
    """The same run from its first step to a few behind that one, by one process."""
    workdir = tmp_path_factory.mktemp("runs") / "alone"
    ended = Cluster(1, cache, workdir).signal_at(two[1] + 4, signal.SIGTERM, process=0)
    assert ended[0][0] == 0, ended
    return workdir


def resumed(two, cache, tmp_path, count: int, number: int, process: int) -> tuple[Path, list[tuple[int, str]]]:
    workdir = shutil.copytree(two[0], tmp_path / str(count))
    return workdir, Cluster(count, cache, workdir).signal_at(two[1] + 3, number, process)


def test_two_processes_lose_as_one_does(two, alone):
    workdir, saved = two
    np.testing.assert_allclose(losses(workdir, 1, saved), losses(alone, 1, saved), rtol=1e-5)


def test_what_two_saved_one_resumes(two, alone, cache, tmp_path):
    workdir, ended = resumed(two, cache, tmp_path, 1, signal.SIGTERM, process=0)
    assert ended[0][0] == 0, ended
    first, last = two[1] + 1, two[1] + 3
    np.testing.assert_allclose(losses(workdir, first, last), losses(alone, first, last), rtol=1e-5)


def test_what_two_saved_four_resume_and_all_end_when_one_is_killed(two, alone, cache, tmp_path):
    workdir, ended = resumed(two, cache, tmp_path, 4, signal.SIGKILL, process=2)
    first, last = two[1] + 1, two[1] + 3
    np.testing.assert_allclose(losses(workdir, first, last), losses(alone, first, last), rtol=1e-5)
    assert [code for code, _ in ended] == [75, 75, -signal.SIGKILL, 75], ended
    assert all("Process 2 is gone without a word" in ended[process][1] for process in (0, 1, 3)), ended
    # What was saved before is whole.
    assert (workdir / "checkpoints" / str(two[1])).is_dir()


def test_when_the_first_process_is_killed_the_others_end_too(two, cache, tmp_path):
    begun = time.monotonic()
    _, ended = resumed(two, cache, tmp_path, 2, signal.SIGKILL, process=0)
    assert time.monotonic() - begun < 120
    assert ended[0][0] == -signal.SIGKILL
    assert ended[1][0] == 75 and "Process 0 is gone without a word" in ended[1][1], ended
