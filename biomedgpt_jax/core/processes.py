"""Many processes, one program: joining them, and meeting with a time limit."""

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax._src import distributed  # the coordination service's client, which JAX does not export
from jax._src.clusters import ClusterEnv

from biomedgpt_jax.core.errors import LostProcess, RunError, UsageError
from biomedgpt_jax.core.roll_call import roll_call
from biomedgpt_jax.core.watch import SILENCE_SECONDS, Watch

START_SECONDS = 300.0  # until all processes have started
MEET_SECONDS = 600.0
_FILES_SECONDS = 24 * 3600.0  # the watch ends this wait if process 0 ends
_watches: list[Watch] = []  # none, or one for the lifetime of the program, as JAX's service is


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
        watch = Watch(number, roll_call(address, count, number, seconds))
        watch.start()
        _watches.append(watch)
    jax.distributed.initialize(
        address, count, number, initialization_timeout=int(seconds), heartbeat_timeout_seconds=int(2 * SILENCE_SECONDS)
    )


def is_leader() -> bool:
    """Whether this process is the one that prints, and writes what is written once."""
    return distributed.global_state.process_id == 0


def meet(name: str, seconds: float = MEET_SECONDS) -> None:
    """Waits until all processes are here; `name` must be new.

    Raises:
        LostProcess: some did not come in time; names them.
    """
    client = distributed.global_state.client
    if client is None:
        return
    try:
        client.wait_at_barrier(name, int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise who_is_missing(error) or LostProcess(f"{name}: {error}") from error


@contextmanager
def leader_first(name: str) -> Iterator[None]:
    """Process 0 goes through the body alone, then the others; for files that it makes and they find."""
    if not is_leader():
        meet(name, _FILES_SECONDS)
    yield
    if is_leader():
        meet(name, _FILES_SECONDS)


def finish() -> None:
    """The work is done; waits for the others, as far as there are some."""
    for watch in _watches:
        watch.done()
        jax.distributed.shutdown()
        watch.stop()


def leave(code: int, message: str) -> None:
    """Ends a process of several that cannot go on, at once, and says why to the others; else returns.

    A normal exit would wait for them, who may never come.
    """
    for watch in _watches:
        watch.last_words(code, message)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def who_is_missing(error: BaseException) -> RunError | None:
    """What to say where JAX complains of other processes, None where it complains of something else."""
    if not _watches:  # alone: a connection that broke was another one
        return None
    text = str(error)
    if late := re.search(r"timed out\. Id: (.+?)(?:::\d+)?\. .*task names:\n([\d,\s]+)", text, re.DOTALL):
        return LostProcess(
            f"Process {', '.join(late[2].split())} did not come to {late[1]!r} in time. Look at its log."
        )
    if re.search("Gloo|NCCL|[Cc]onnection (closed|reset)|[Hh]eartbeat|CoordinationService", text):
        time.sleep(2.0)  # the watch knows more, and ends this process when it has said it
        reason = text.splitlines()[0][:300]
        return LostProcess(f"The connection to another process broke ({reason}). Look at the logs of all.")
    return None


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
