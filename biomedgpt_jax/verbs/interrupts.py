"""Ctrl-C that is never lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def sure_ctrl_c() -> Iterator[Callable[[], None]]:
    """Inside, SIGINT raises KeyboardInterrupt as ever, and the function that is yielded raises it once more.

    Python drops what a signal raises while it collects garbage, which it may do in the midst of JAX; a loop that calls
    the function hears of the signal all the same.
    """
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    former = signal.signal(signal.SIGINT, ask)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, former)
