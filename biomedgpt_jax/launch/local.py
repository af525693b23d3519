"""Processes on this machine, started together and again where they ask for it. Every worker of a pod runs one so."""

import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from types import FrameType

from biomedgpt_jax.core.errors import EXIT_RESTART, UsageError
from biomedgpt_jax.launch.job import Job, check_many
from biomedgpt_jax.launch.plan import Command, Plan

_POLL = 0.1
_KILLED = 128  # plus the signal's number, as shells say it


@dataclass(frozen=True)
class Patience:
    """Seconds."""

    others: float  # that the rest of the processes get to end by themselves after the first one ended badly
    after_term: float  # from SIGTERM to SIGKILL
    again: float  # before the first new try after a failure; doubled for each further one


PATIENCE = Patience(others=150.0, after_term=60.0, again=5.0)


def local(job: Job, processes: int, port: int) -> Plan:
    """`processes` of the verb that find each other at `port` of this machine.

    Raises:
        UsageError: several processes of a verb that runs in one.
    """
    program = (sys.executable, "-m", "biomedgpt_jax", *job.verb)
    if processes == 1:
        return Plan((), (Command("The only process.", program),), ())
    check_many(job, shared=True)
    together = (f"--coordinator=127.0.0.1:{port}", f"--processes={processes}")
    commands = tuple(
        Command(f"Process {number} of {processes}; all run at once.", (*program, *together, f"--process={number}"))
        for number in range(processes)
    )
    return Plan((), commands, ())


def supervise(
    commands: Sequence[Sequence[str]], *, retries: int, say: Callable[[str], None], patience: Patience = PATIENCE
) -> int:
    """Runs all commands at once until they succeed, and gives the exit code of the last try.

    Preempted runs start again without limit. Failures start again `retries` times, wrong calls never. SIGTERM and
    SIGINT are passed on, and then nothing starts again.
    """
    failures = 0
    with _Signals() as signals:
        while True:
            code = _run_once(commands, signals, patience)
            if code == EXIT_RESTART and not signals.asked:
                say("Preempted; the same command again goes on from what it saved.")
                continue
            if code in (0, UsageError.exit_code) or signals.asked:
                return code
            failures += 1
            if failures > retries:
                say(f"Failed with exit code {code}; {retries} retries are used up.")
                return code
            pause = patience.again * 2 ** (failures - 1)
            say(f"Failed with exit code {code}; retry {failures} of {retries} in {pause:g} s.")
            signals.wait(pause)
            if signals.asked:
                return code


def _run_once(commands: Sequence[Sequence[str]], signals: "_Signals", patience: Patience) -> int:
    # In sessions of their own: Ctrl-C in a terminal would reach them twice.
    processes = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        signals.pass_on_to(processes)
        _wait(processes, math.inf, also=lambda: any(process.poll() for process in processes))
        # One ended badly: the rest wait for it, and find out by themselves or not at all.
        _wait(processes, patience.others)
        _send(processes, signal.SIGTERM)
        _wait(processes, patience.after_term)
    finally:
        _send(processes, signal.SIGKILL)
        for process in processes:
            process.wait()
    return _together([process.returncode for process in processes])


def _wait(
    processes: Sequence[subprocess.Popen[bytes]], seconds: float, also: Callable[[], bool] = lambda: False
) -> None:
    """Until all have ended, or `also` says so, or for so long."""
    end = monotonic() + seconds
    while monotonic() < end and any(process.poll() is None for process in processes) and not also():
        sleep(_POLL)


def _send(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        process.send_signal(number)  # does nothing to one that has ended


def _together(codes: Sequence[int]) -> int:
    """One exit code for all: a failure before a preemption, a failure of its own before a death by signal."""
    failed = [code for code in codes if code not in (0, EXIT_RESTART)]
    if failed:
        return next((code for code in failed if code > 0), _KILLED - failed[0])
    return EXIT_RESTART if EXIT_RESTART in codes else 0


class _Signals:
    """Passes SIGTERM and SIGINT on while it is entered."""

    def __init__(self) -> None:
        self.asked = 0  # the number of the last signal
        self._processes: Sequence[subprocess.Popen[bytes]] = ()
        self._event = threading.Event()

    def __enter__(self) -> "_Signals":
        self._former = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def pass_on_to(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes
        if self.asked:  # while they were started
            _send(processes, self.asked)

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.asked = number
        self._event.set()
        _send(self._processes, number)
