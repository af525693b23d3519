"""One training at a time in a workdir: two would write over each other's checkpoints and mix their logs."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, lockf
from io import FileIO
from pathlib import Path

from biomedgpt_jax.core.errors import EXIT_RESTART, RunError
from biomedgpt_jax.core.processes import is_leader

FILE = "running.lock"


class HeldElsewhere(RunError):
    """By another machine: it may be gone, and the file server lets go of its lock after a while. Exit code 75."""

    exit_code = EXIT_RESTART


@contextmanager
def only_one(workdir: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder; the first process does it for all of its run.

    The lock is of this process (POSIX), so that a kill ends it at once and workers that outlive it do not keep it.
    Where a folder cannot be written the run says so itself; a file system without locks has none.

    Raises:
        RunError: another training is in the folder; names its machine and process. HeldElsewhere: from elsewhere.
    """
    try:
        file = (workdir / FILE).open("ab+", buffering=0) if is_leader() else None
    except OSError:
        file = None
    if file is None:
        yield
        return
    with file:
        _lock(file, workdir)
        try:
            yield
        finally:
            (workdir / FILE).unlink(missing_ok=True)


def _lock(file: FileIO, workdir: Path) -> None:
    try:
        lockf(file, LOCK_EX | LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        holder = file.read(200).decode(errors="replace").strip() or "it does not say which"
        error_type = RunError if holder.endswith(f" on {socket.gethostname()}") else HeldElsewhere
        raise error_type(
            f"{workdir}: another training writes here ({holder}). Wait until it ends, stop it, or choose another "
            "--workdir."
        ) from error
    except OSError:
        return
    with suppress(OSError):  # a full disk
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
