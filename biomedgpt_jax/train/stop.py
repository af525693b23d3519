"""A request to stop, made by SIGINT or SIGTERM and granted at a step boundary."""

import signal
import sys
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Listens while it is entered. The first signal asks, a second one ends the process at once.

    With several processes the notice of one must reach all at the same step: there JAX's own
    preemption service listens to SIGTERM.

    Attributes:
        preempted: the request was not of a person at the keyboard, so the run should be started again.
    """

    def __init__(self) -> None:
        self._asked = self.preempted = False
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._former = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._listen_no_more()

    def requested(self, step: int) -> bool:
        """Whether to save and stop at this step; every process gets the same answer."""
        if jax.process_count() > 1:
            self.preempted = multihost_utils.reached_preemption_sync_point(step)
            return self.preempted
        return self._asked

    def _ask(self, number: int, _: FrameType | None) -> None:
        self._asked, self.preempted = True, number == signal.SIGTERM
        self._listen_no_more()
        name = signal.Signals(number).name
        print(f"{name}: saving after this step, then stopping. A second signal stops at once.", file=sys.stderr)

    def _listen_no_more(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}
