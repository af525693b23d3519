"""A small disk of its own for tests of full and read-only disks."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[Callable]:
    """A file system of so many kilobytes at `folder`; yields `resize(kilobytes, *mount options)`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")

    def resize(kilobytes: int, *options: str) -> None:
        wanted = ",".join(["remount", f"size={kilobytes}k", *options])
        subprocess.run(["mount", "-o", wanted, str(folder)], check=True)

    try:
        yield resize
    finally:
        # Lazily: libraries keep the files of a failed write open.
        subprocess.run(["umount", "-l", str(folder)], check=True)
