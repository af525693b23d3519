"""No process waits for one that is gone: open lines between them, a beat on each, and last words.

JAX's own service would end the others too, later and with a page of C++.
"""

import json
import os
import selectors
import socket
import sys
import threading
import time

from biomedgpt_jax.core.errors import EXIT_RESTART, LostProcess, RunError
from biomedgpt_jax.core.roll_call import tell

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # after which a process counts as hanging
_GRACE_SECONDS = 2.0  # for the others to hear of an end before process 0, which holds JAX's service, goes too


class Watch(threading.Thread):
    """Ends this process when another one does, and tells the others; lies on the lines of `roll_call`."""

    def __init__(self, process: int, lines: dict[int, socket.socket]):
        super().__init__(daemon=True, name="watch")
        self._process, self._lines = process, lines
        self._heard = dict.fromkeys(lines, time.monotonic())
        self._unread = dict.fromkeys(lines, b"")
        self._done: set[int] = set()  # those who may leave
        self._over = threading.Event()

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        for other, line in self._lines.items():
            line.setblocking(False)
            selector.register(line, selectors.EVENT_READ, other)
        next_beat = time.monotonic()
        while not self._over.is_set():
            if time.monotonic() >= next_beat:
                tell(self._lines.values(), {"beat": self._process})
                next_beat = time.monotonic() + BEAT_SECONDS
            for key, _ in selector.select(timeout=1.0):
                if error := self._read(key.data):
                    self._end(error)
            for other in self._lines.keys() - self._done:
                if time.monotonic() - self._heard[other] > SILENCE_SECONDS:
                    self._end(LostProcess(f"Process {other} has been silent for {SILENCE_SECONDS:.0f} s: it hangs."))

    def done(self) -> None:
        """Tells the others that this process has done its work and may leave."""
        tell(self._lines.values(), {"done": True})

    def stop(self) -> None:
        self._over.set()

    def last_words(self, code: int, message: str) -> None:
        """Tells the others that this process ends, and why."""
        self.stop()
        tell(self._lines.values(), {"process": self._process, "code": code, "ended": message})
        if self._process == 0:
            time.sleep(_GRACE_SECONDS)

    def _read(self, other: int) -> RunError | None:
        """What came from another process; an error where it ended, or says that a third one did."""
        try:
            came = self._lines[other].recv(1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            came = b""
        if self._over.is_set() or (not came and other in self._done):
            return None
        if not came:
            return LostProcess(f"Process {other} is gone without a word. Look at its log.")
        self._heard[other] = time.monotonic()
        *whole, self._unread[other] = (self._unread[other] + came).split(b"\n")
        for said in map(json.loads, whole):
            if "done" in said:
                self._done.add(other)
            if "ended" in said:
                kind = LostProcess if said["code"] == EXIT_RESTART else RunError
                return kind(f"Process {said['process']} ended: {said['ended']}")
        return None

    def _end(self, error: RunError) -> None:
        print(f"biomedgpt: {error} This process ends too.", file=sys.stderr, flush=True)
        if self._process == 0:
            self.last_words(error.exit_code, str(error))
        os._exit(error.exit_code)
