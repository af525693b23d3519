"""How fast requests may go out: so many requests and tokens in any minute, and pauses that an endpoint asks for."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

MINUTE = 60.0
LOOK_SECONDS = 0.5  # how often a waiting thread looks whether the run is to stop


@dataclass
class Rates:
    """Limits per minute; 0 means none. `stop` ends all waiting."""

    requests: int
    tokens: int
    stop: threading.Event
    _sent: deque[list[float]] = field(default_factory=deque)  # [time, tokens]
    _held: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, tokens: int) -> list[float] | None:
        """Blocks until a request of about `tokens` may go out; None when the run is to stop. A request of more tokens
        than a minute has goes out alone. Returns its entry, for `settle`.
        """
        while not self.stop.is_set():
            with self._lock:
                now = time.monotonic()
                pause = self._pause(now, tokens)
                if pause <= 0:
                    entry = [now, float(tokens)]
                    self._sent.append(entry)
                    return entry
            self.stop.wait(min(pause, LOOK_SECONDS))
        return None

    def settle(self, entry: list[float], tokens: int) -> None:
        """The tokens that it took in truth."""
        with self._lock:
            entry[1] = float(tokens)

    def hold(self, seconds: float) -> None:
        """Nothing goes out for so long."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)

    def _pause(self, now: float, tokens: int) -> float:
        while self._sent and self._sent[0][0] <= now - MINUTE:
            self._sent.popleft()
        pause = self._held - now
        if self.requests and len(self._sent) >= self.requests:
            pause = max(pause, self._sent[-self.requests][0] + MINUTE - now)
        if self.tokens and self._sent:
            over = sum(each[1] for each in self._sent) + tokens - self.tokens
            for when, size in self._sent:
                if over <= 0:
                    break
                over -= size
                pause = max(pause, when + MINUTE - now)
        return pause
