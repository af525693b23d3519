"""Many processes, one program: joining them, meeting with a time limit, and never waiting for one that is gone."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax._src import distributed  # the coordination service's client, which JAX does not export
from jax._src.clusters import ClusterEnv

from biomedgpt_jax.core.errors import EXIT_RESTART, LostProcess, RunError, UsageError
from biomedgpt_jax.core.roll_call import roll_call

START_SECONDS = 300  # until all processes have started
SILENCE_SECONDS = 60  # after which a process counts as gone
MEET_SECONDS = 600
_BEAT_SECONDS = 5
_ALIVE, _ENDED = "biomedgpt/alive/", "biomedgpt/ended/"


def join(coordinator: str, processes: int | None, process: int | None, *, seconds: float = START_SECONDS) -> None:
    """Makes this process one of several; call it before anything asks JAX for its devices.

    Args:
        coordinator: "HOST:PORT" of process 0, or "auto": as the cluster says (TPU pod, GKE, Slurm).
        processes: how many there are. process: the number of this one. Both None with "auto".
        seconds: how long to wait for all of them.

    Raises:
        UsageError: the call does not say enough. RunError: a process is missing; names it.
    """
    address, count, number = _place(coordinator, processes, process, seconds)
    if count > 1:
        roll_call(address, count, number, seconds)
    # JAX ends a process with a page of C++ when another is silent; the watch below says it in a sentence, sooner.
    jax.distributed.initialize(
        address, count, number, initialization_timeout=int(seconds), heartbeat_timeout_seconds=2 * SILENCE_SECONDS
    )
    threading.Thread(target=_watch, args=(count, number), daemon=True, name="watch").start()


def is_leader() -> bool:
    """Whether this process is the one that prints, and writes what is written once."""
    return distributed.global_state.process_id == 0


def meet(name: str, seconds: float = MEET_SECONDS) -> None:
    """Waits until all processes are here; `name` must be new.

    Raises:
        RunError: some did not come in time; names them.
    """
    if jax.process_count() == 1:
        return
    try:
        _client().wait_at_barrier(name, int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise who_is_missing(error) or RunError(f"{name}: {error}") from error


@contextmanager
def leader_first(name: str) -> Iterator[None]:
    """Process 0 goes through the body alone, then the others; for files that it makes and they find."""
    if not is_leader():
        meet(name, seconds=24 * 3600)  # the watch ends this wait if process 0 does
    yield
    if is_leader():
        meet(name, seconds=24 * 3600)


def leave(code: int, message: str) -> None:
    """Ends a process of several that cannot go on, at once: a normal exit would wait for the others.

    Says first why, to the other processes too. Returns where there is only one process.
    """
    if distributed.global_state.client is None or jax.process_count() == 1:
        return
    try:
        _client().key_value_set(f"{_ENDED}{jax.process_index()}", f"{code} {message}"[:1000], allow_overwrite=True)
        # The watch of the others reads it before they can miss this process, and with it its service.
        time.sleep(3 * _BEAT_SECONDS if is_leader() and code != EXIT_RESTART else 0)
    except jax.errors.JaxRuntimeError:
        pass  # the service is gone, and so is everybody else
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def who_is_missing(error: BaseException) -> RunError | None:
    """What to say where JAX complains of other processes, None where it complains of something else."""
    text = str(error)
    if late := re.search(r"timed out\. Id: (.+?)(?:::\d+)?\. .*task names:\n([\d,\s]+)", text, re.DOTALL):
        return LostProcess(
            f"Process {', '.join(late[2].split())} did not come to {late[1]!r} in time. Look at its log."
        )
    if re.search("Gloo|NCCL|[Cc]onnection (closed|reset)|[Hh]eartbeat|CoordinationService", text):
        return _lost()
    return None


def _lost() -> RunError:
    """Who ended, after an operation over all processes failed: what it said itself, else who is not there any more."""
    try:
        if said := _last_words():
            return said
        _client().wait_at_barrier("who is left", 1000 * 3 * _BEAT_SECONDS)
    except jax.errors.JaxRuntimeError as error:
        if gone := re.search(r"task names:\n([\d,\s]+)", str(error)):
            return LostProcess(f"Process {', '.join(gone[1].split())} is gone without a word. Look at its log.")
    return LostProcess("The connection to another process broke. Look at the logs of all.")


def _place(coordinator: str, processes: int | None, process: int | None, seconds: float) -> tuple[str, int, int]:
    if coordinator != "auto":
        if processes is None or process is None or not 0 <= process < processes:
            raise UsageError(
                f"--coordinator={coordinator} needs --processes=N and --process=0 to N - 1; found {processes} and "
                f"{process}. On a TPU pod, GKE or Slurm --coordinator=auto finds them."
            )
        return coordinator, processes, process
    try:
        address, count, number, _ = ClusterEnv.auto_detect_unset_distributed_params(
            None, processes, process, None, None, int(seconds)
        )
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise UsageError(f"--coordinator=auto: the cluster does not say who is in it ({error}).") from error
    if address is None or count is None or number is None:
        raise UsageError(
            "--coordinator=auto: this machine is in no cluster that JAX knows (TPU pod, GKE, Slurm, MPI). "
            "Give --coordinator=HOST:PORT --processes=N --process=I."
        )
    return address, count, number


def _client() -> Any:
    return distributed.global_state.client


def _watch(count: int, number: int) -> None:
    """Tells the others that this process lives, and ends it when one of them does not."""
    heard: dict[int, tuple[str, float]] = {}
    beat = 0
    while True:
        beat += 1
        try:
            _client().key_value_set(f"{_ALIVE}{number}", str(beat), allow_overwrite=True)
            said, pulses = _last_words(), _read(_ALIVE)
        except (jax.errors.JaxRuntimeError, AttributeError):
            return  # shut down in order; or process 0 is gone, which JAX itself then says
        if said:
            _end(said)
        now = time.monotonic()
        for other in range(count):
            pulse = pulses.get(other, "")
            if heard.get(other, (None, 0.0))[0] != pulse:
                heard[other] = pulse, now
        silent = [str(other) for other, (_, since) in heard.items() if now - since > SILENCE_SECONDS]
        if silent:
            _end(
                LostProcess(
                    f"Process {', '.join(silent)} has been silent for {SILENCE_SECONDS} s: it hangs or is gone."
                )
            )
        time.sleep(_BEAT_SECONDS)


def _last_words() -> RunError | None:
    ended = {process: words for process, words in _read(_ENDED).items() if process != jax.process_index()}
    if not ended:
        return None
    process, words = min(ended.items())
    code, _, message = words.partition(" ")
    kind = LostProcess if int(code) == EXIT_RESTART else RunError
    return kind(f"Process {process} ended ({message}).")


def _read(folder: str) -> dict[int, str]:
    return {int(key.rsplit("/", 1)[1]): value for key, value in _client().key_value_dir_get(folder)}


def _end(error: RunError) -> None:
    print(f"biomedgpt: {error} This process ends too.", file=sys.stderr, flush=True)
    os._exit(error.exit_code)
