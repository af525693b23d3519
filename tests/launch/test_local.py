"""Processes of this machine: real ones, from small scripts that count how often they were started."""

import os
import signal
import sys
import threading
from pathlib import Path
from time import monotonic, sleep

import pytest

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.launch.job import Job
from biomedgpt_jax.launch.local import Patience, local, supervise

QUICK = Patience(others=0.5, after_term=0.5, again=0.01)
# Each start adds a line to its file, and ends with the code that the list has for it.
COUNTED = """
import sys, time
file, codes = sys.argv[1], [int(code) for code in sys.argv[2].split(",")]
with open(file, "a") as log:
    log.write("started\\n")
sys.exit(codes[len(open(file).readlines()) - 1])
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
# As a run does: it ends as preempted when it is asked to.
WILLING = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
open(sys.argv[1], "w").close()
time.sleep(60)
"""


def counted(file: Path, *codes: int) -> list[str]:
    return [sys.executable, "-S", "-c", COUNTED, str(file), ",".join(map(str, codes))]


def starts(file: Path) -> int:
    return len(file.read_text().splitlines())


@pytest.mark.parametrize(
    ("codes", "retries", "expected", "started"),
    [
        ((0,), 3, 0, 1),
        ((75, 75, 75, 0), 0, 0, 4),  # preemptions are not counted
        ((1, 75, 1, 0), 2, 0, 4),
        ((1, 1, 1, 0), 2, 1, 3),
        ((2, 0), 3, 2, 1),  # a wrong call stays wrong
    ],
    ids=["done", "preempted", "failed and preempted", "failed too often", "wrong call"],
)
def test_what_is_started_again(tmp_path, codes, retries, expected, started):
    said = []
    code = supervise([counted(tmp_path / "log", *codes)], retries=retries, say=said.append, patience=QUICK)
    assert (code, starts(tmp_path / "log")) == (expected, started)
    assert len(said) == started - (expected != 1)


def test_all_start_again_together(tmp_path):
    """One is preempted, the other done: the next try runs both."""
    commands = [counted(tmp_path / "a", 75, 0), counted(tmp_path / "b", 0, 0)]
    assert supervise(commands, retries=0, say=lambda _: None, patience=QUICK) == 0
    assert (starts(tmp_path / "a"), starts(tmp_path / "b")) == (2, 2)


def test_one_failure_ends_those_that_hang(tmp_path):
    begun = monotonic()
    commands = [counted(tmp_path / "log", 3), [sys.executable, "-S", "-c", DEAF]]
    assert supervise(commands, retries=0, say=lambda _: None, patience=QUICK) == 3
    assert 1 <= monotonic() - begun < 10


def test_sigterm_is_passed_on_and_nothing_starts_again(tmp_path):
    ready = [tmp_path / "a", tmp_path / "b"]

    def ask() -> None:
        while not all(file.exists() for file in ready):
            sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    commands = [[sys.executable, "-S", "-c", WILLING, str(file)] for file in ready]
    begun, former = monotonic(), signal.getsignal(signal.SIGTERM)
    assert supervise(commands, retries=3, say=lambda _: None, patience=QUICK) == 75
    assert monotonic() - begun < 10
    assert signal.getsignal(signal.SIGTERM) == former


def test_each_process_is_told_which_it_is():
    plan = local(Job("a", ("train", "--workdir=runs/a"), 3), processes=2, port=1234)
    together = ("biomedgpt_jax", "train", "--workdir=runs/a", "--coordinator=127.0.0.1:1234", "--processes=2")
    assert [command.words[2:] for command in plan.commands] == [(*together, "--process=0"), (*together, "--process=1")]
    alone = local(Job("a", ("prepare", "--out=x"), 3), processes=1, port=1234)
    assert alone.commands[0].words[2:] == ("biomedgpt_jax", "prepare", "--out=x")


def test_a_verb_of_one_process_is_refused_on_two():
    with pytest.raises(UsageError, match="`export` runs in one process"):
        local(Job("a", ("export",), 3), processes=2, port=1)
    with pytest.raises(UsageError, match="--process=1: the launcher sets this"):
        local(Job("a", ("train", "--process=1"), 3), processes=2, port=1)
