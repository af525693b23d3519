"""Progress with an ETA: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from biomedgpt_jax.core.processes import is_leader

LOG_SECONDS = 10.0
Advance = Callable[[str, int, int | None], None]  # (what, done, total if known)


@runtime_checkable
class NotedAdvance(Protocol):
    """An Advance that also takes a note, shown at its end."""

    def __call__(self, what: str, done: int, total: int | None, note: str = "") -> None: ...


@contextmanager
def progress(console: Console | None = None) -> Iterator[NotedAdvance]:
    """Yields `advance(what, done, total)`; each new `what` gets a bar of its own."""
    console = console or Console(stderr=True)
    if not is_leader():
        yield lambda what, done, total, note="": None
        return
    if not console.is_terminal:
        yield _LogLines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int | None, note: str = "") -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note=note)
            bars.update(tasks[what], completed=done, total=total, note=note)

        yield advance


class _LogLines:
    """At most one line in LOG_SECONDS for each task, and one at its end."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}
        self.printed: dict[str, float] = {}
        self.ended: set[str] = set()

    def __call__(self, what: str, done: int, total: int | None, note: str = "") -> None:
        now = time.monotonic()
        finished = total is not None and done >= total
        if finished and what in self.ended:
            return
        if not finished and what in self.ended:  # the same task once more
            self.ended.remove(what)
            del self.started[what], self.printed[what]
        start = self.started.setdefault(what, now)
        if not finished and now - self.printed.setdefault(what, now) < LOG_SECONDS:
            return
        self.printed[what] = now
        if finished:
            self.ended.add(what)
        eta = f", ETA {(now - start) / done * (total - done):.0f} s" if done and total and not finished else ""
        said = f", {note}" if note else ""
        print(f"{what}: {done}{f'/{total}' if total else ''} in {now - start:.0f} s{eta}{said}", file=sys.stderr)
