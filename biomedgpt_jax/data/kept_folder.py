"""A folder that is whole or absent: made beside its place, then renamed."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def make_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Has `fill` write the contents, unless the folder is there; of several processes the first one wins."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        fill(part)
        _publish(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _publish(part: Path, folder: Path) -> None:
    try:
        part.rename(folder)
    except OSError:
        # Another process finished the same folder first; its contents are equal.
        if not folder.is_dir():
            raise
