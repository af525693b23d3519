"""`biomedgpt doctor` on one process, on two that the launcher starts, and where a process is missing."""

import os
import subprocess
import sys
from time import monotonic

from tests.command import TINY, biomedgpt, config
from tests.compiler import xla_flags


def words(text: str) -> str:
    """Without the lines of the table, in whose cells words wrap."""
    return " ".join(text.replace("│", " ").split())


CONFIG = (config("smoke.py:stage=1,data=nothing"), *TINY)


def test_one_process_needs_no_coordinator(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    called = biomedgpt("doctor", f"--workdir={tmp_path / 'run'}", *CONFIG)
    assert called.code == 0, called
    assert "A run can start." in called.out
    for text in ("8 cpu, 8 in each of 1 processes", "mesh data=1 fsdp=8 tensor=1 context=1", "checkpoints take about"):
        assert text in words(called.out)
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


def test_what_would_fail_is_exit_code_1(tmp_path):
    (tmp_path / "file").write_text("")
    called = biomedgpt("doctor", f"--workdir={tmp_path / 'file' / 'run'}", *CONFIG, "--config.mesh.fsdp=3")
    assert called.code == 1
    assert "A run would fail: 2 of" in called.out
    assert "NotADirectoryError" in called.out
    assert "Mesh fsdp=3 does not fit 8 devices" in words(called.out)


def test_a_missing_process_is_said_in_seconds():
    begun = monotonic()
    arguments = ("--coordinator=127.0.0.1:1", "--processes=2", "--process=1", "--wait=1")
    called = biomedgpt("doctor", *arguments)
    assert called.code == 1
    assert "Process 0 did not answer at 127.0.0.1:1 within 1 s" in words(called.out)
    assert "JAX_COORDINATOR_PORT=8476" in called.out
    assert monotonic() - begun < 30
    assert biomedgpt("doctor", "--processes=2", "--process=1").code == 2


def test_two_processes_of_the_launcher(tmp_path):
    """What they say together: their devices, one folder, one clock; only process 0 prints."""
    environment = {**os.environ, "XLA_FLAGS": xla_flags(devices=2)}
    launch = (
        "launch",
        "--target=local",
        "--processes=2",
        "--retries=0",
        "--",
        "doctor",
        f"--workdir={tmp_path / 'run'}",
    )
    done = subprocess.run(
        [sys.executable, "-m", "biomedgpt_jax", *launch], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done
    out = words(done.stdout)
    for text in ("all processes met", "4 cpu, 2 in each of 2 processes", "is the same on 2 processes", "clocks"):
        assert text in out
    assert out.count("A run can start.") == 1
    assert not (tmp_path / "run").exists()
