"""Two ways to do the same work, timed in turn: only the ratio of neighbours holds on a shared machine."""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """Seconds per call (medians), and theirs / ours of each round: above 1 we are faster."""

    ours: float
    theirs: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        """The ratio and its range over the rounds: "1.42x (1.31-1.55)"."""
        return f"{self.ratio:.2f}x ({min(self.ratios):.2f}-{max(self.ratios):.2f})"


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], *, rounds: int, calls: int = 1, warmup: int = 1
) -> Comparison:
    """Times `calls` calls of each function per round, ours and theirs in turn, after `warmup` calls of each.

    The functions must wait for their result (`jax.block_until_ready`).
    """
    for function in (ours, theirs):
        for _ in range(warmup):
            function()
    pairs = [(_seconds(ours, calls), _seconds(theirs, calls)) for _ in range(rounds)]
    our_times, their_times = zip(*pairs, strict=True)
    return Comparison(
        ours=statistics.median(our_times),
        theirs=statistics.median(their_times),
        ratios=tuple(their / our for our, their in pairs),
    )


def software(*packages: str) -> str:
    """Their versions, to print above the figures."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def machine() -> str:
    """Cores this process may use and the load of the last minute, to print above the figures."""
    return f"{len(os.sched_getaffinity(0))} CPU cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d %H:%M')}"


def chosen(shapes: Mapping[str, T]) -> dict[str, T]:
    """The shapes that the command line names, or all; ends the program where there is no such shape."""
    names = sys.argv[1:] or list(shapes)
    unknown = [name for name in names if name not in shapes]
    if unknown:
        sys.exit(f"No shape is called {', '.join(unknown)}. There are: {', '.join(shapes)}.")
    return {name: shapes[name] for name in names}


def _seconds(function: Callable[[], object], calls: int) -> float:
    begun = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - begun) / calls
