"""What requests cost: by the user's own prices, before and while they are sent. No price is known here."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from biomedgpt_jax.synth.journal import Journal, Spent

MILLION = 1_000_000
# Beside the text: roles and marks of a message, as templates of all makers have them.
MESSAGE_TOKENS = 16
# English has about four bytes a token; only an estimate that is shown uses it.
BYTES_PER_TOKEN = 4.0
MARGIN = 1.1


@dataclass(frozen=True)
class Prices:
    """Of a million tokens, in `currency`, as the user gave them."""

    input: float
    output: float
    currency: str

    def of(self, input_tokens: int, output_tokens: int) -> float:
        return (input_tokens * self.input + output_tokens * self.output) / MILLION


@dataclass
class Gauge:
    """The most tokens that a text can be: no more than its bytes, and later what answers have shown, with a margin.

    `image_tokens` is what the user says that an image costs.
    """

    image_tokens: int
    _most: float = 0.0  # tokens per byte
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def most(self, text_bytes: int, messages: int, images: int) -> int:
        share = min(1.0, self._most * MARGIN) if self._seen else 1.0
        return int(text_bytes * share) + 1 + MESSAGE_TOKENS * (messages + 1) + self.image_tokens * images

    def learn(self, text_bytes: int, images: int, input_tokens: int) -> None:
        with self._lock:
            told = max(0, input_tokens - self.image_tokens * images)
            self._most = max(self._most, told / text_bytes)
            self._seen += 1


class Purse:
    """Lets a request out only if all that was spent, may have been spent and can be spent by those in flight stays
    within the budget (None: no limit).
    """

    def __init__(self, journal: Journal, prices: Prices | None, budget: float | None):
        self.prices = prices
        self.budget = budget
        self.empty = False
        self._journal = journal
        self._open = 0
        self._change = threading.Condition()

    def send(self, input_tokens: int, output_tokens: int, write: Callable[[], None]) -> bool:
        """Calls `write`, which puts a request of at most so many tokens into the journal; waits while those in flight
        may leave enough. False: the budget does not allow it.
        """
        with self._change:
            while not self.allows(input_tokens, output_tokens):
                if not self._open or self.empty:
                    self.empty = True
                    self._change.notify_all()
                    return False
                self._change.wait()
            write()
            self._open += 1
            return True

    def ended(self) -> None:
        """A request has ended, and the journal knows how."""
        with self._change:
            self._open -= 1
            self._change.notify_all()

    def allows(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether requests of at most so many tokens fit, beside what the journal knows."""
        if self.prices is None or self.budget is None:
            return True
        if self.empty:
            return False
        cost = self.prices.of(input_tokens, output_tokens)
        return money(self._journal.spent, self.prices) + cost <= self.budget


def money(spent: Spent, prices: Prices) -> float:
    """The most that it can have cost."""
    return prices.of(spent.input_tokens + spent.doubtful_input, spent.output_tokens + spent.doubtful_output)
