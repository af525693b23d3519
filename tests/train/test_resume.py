"""A run that is killed again and again ends in the same bits as one that nobody disturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from biomedgpt_jax.checkpoint.run import RunCheckpoints
from tests.compiler import xla_flags
from tests.train.toy_run import packed_data, toy_run

TOTAL, SAVE_EVERY = 30, 4
PROGRAM = Path(__file__).parent / "toy_run.py"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A function that starts the training program in a workdir; all share a compilation cache."""
    cache = tmp_path_factory.mktemp("compilation_cache")
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(devices=1),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def run(workdir, seconds_per_step=0.0):
        arguments = [workdir, TOTAL, SAVE_EVERY, seconds_per_step, -1]
        return subprocess.Popen(
            [sys.executable, PROGRAM, *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def unbroken(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    assert _result(start(workdir)) == f"finished {TOTAL}"
    return workdir


def _result(process):
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output.strip()


def _lines(workdir):
    file = Path(workdir) / "metrics.jsonl"
    # A killed or running process may have written half of the last line.
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]] if file.exists() else []


def _signal_after(process, workdir, step, number, delay=0.0):
    """Sends the signal once the row of `step` is written, wherever the process then is."""
    deadline = time.monotonic() + 240
    while not any(row["step"] >= step for row in _lines(workdir)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(number)


def _final_state(workdir):
    _, run = toy_run(workdir, total_steps=TOTAL)
    with RunCheckpoints(workdir, keep=2, read_only=True) as checkpoints:
        assert checkpoints.latest() == TOTAL
        return jax.device_get(checkpoints.restore(TOTAL, run.abstract, packed_data())[0])


def _assert_same_run(workdir, unbroken):
    rows, expected = _lines(workdir), _lines(unbroken)
    assert [row["step"] for row in rows] == list(range(1, TOTAL + 1))
    timing = {"step_seconds", "tokens_per_second", "images_per_second", "data_wait_share", "mfu"}
    for row, other in zip(rows, expected, strict=True):
        for name in other.keys() - timing - {"first_step_seconds"}:
            assert row[name] == other[name], (row["step"], name)
    jax.tree.map(np.testing.assert_array_equal, _final_state(workdir), _final_state(unbroken))


def test_killed_at_random_steps_the_run_ends_in_the_same_bits(start, unbroken, tmp_path):
    chance = random.Random()
    killed_at = []
    for _ in range(3):
        done = max((row["step"] for row in _lines(tmp_path)), default=0)
        target = min(TOTAL - 3, done + chance.randint(1, 8))
        process = start(tmp_path, seconds_per_step=0.05)
        _signal_after(process, tmp_path, target, signal.SIGKILL, delay=chance.uniform(0, 0.06))
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        killed_at.append(max(row["step"] for row in _lines(tmp_path)))
    assert _result(start(tmp_path)) == f"finished {TOTAL}", killed_at
    _assert_same_run(tmp_path, unbroken)


def test_a_polite_signal_saves_that_step_and_the_same_command_goes_on(start, unbroken, tmp_path):
    for number, target in ((signal.SIGTERM, 6), (signal.SIGINT, 15)):
        process = start(tmp_path, seconds_per_step=0.1)
        _signal_after(process, tmp_path, target, number)
        word, step = _result(process).split()
        assert word == "stopped" and target <= int(step) < TOTAL
        assert (tmp_path / "checkpoints" / step).is_dir()
        assert max(row["step"] for row in _lines(tmp_path)) == int(step)
    assert _result(start(tmp_path)) == f"finished {TOTAL}"
    _assert_same_run(tmp_path, unbroken)
