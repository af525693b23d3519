"""Sends what is open, from several threads: paced, within the budget, journalled, and asked again where that helps."""

import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from biomedgpt_jax.synth.asks import Ask, Task
from biomedgpt_jax.synth.costs import Gauge, Purse
from biomedgpt_jax.synth.endpoint import Busy, Closed, Endpoint, Trouble, Unusable
from biomedgpt_jax.synth.journal import Journal, State
from biomedgpt_jax.synth.outcomes import Judge, Open
from biomedgpt_jax.synth.rates import Rates

PATIENCE = 10  # tasks in a row without an answer, after which the endpoint is taken to be down
LONG_SECONDS = 10.0  # a pause that is worth a word
Advance = Callable[[int], None]  # tasks that are done, of those in this call


@dataclass(frozen=True)
class Retry:
    """Of a request that met Busy: how often it is sent, and the pauses between, doubled each time up to the longest."""

    attempts: int
    first_seconds: float
    longest_seconds: float

    def pause(self, attempt: int) -> float:
        return random.uniform(0.5, 1.0) * min(self.longest_seconds, self.first_seconds * 2**attempt)


@dataclass
class Asker:
    """`ended` says why it stopped before all was asked; "" where it did not."""

    endpoint: Endpoint
    journal: Journal
    judge: Judge
    purse: Purse
    rates: Rates
    gauge: Gauge
    retry: Retry
    concurrency: int
    say: Callable[[str], None]
    ended: str = ""
    met: dict[str, int] = field(default_factory=dict)  # what Busy and Unusable said, and how often
    _done: int = 0
    _silent: int = 0  # requests in a row without an answer
    _unanswered: int = 0
    _answered: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask_all(self, tasks: Iterable[Task], advance: Advance) -> None:
        """Asks until each task is accepted or rejected, or the run has to end. A second Ctrl-C does not wait for the
        requests in flight.
        """
        pending: set[Future[None]] = set()
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                for task in tasks:
                    while len(pending) >= 2 * self.concurrency and not self.rates.stop.is_set():
                        pending = self._collect(pending)
                    if self.rates.stop.is_set():
                        break
                    pending.add(pool.submit(self._finish, task, advance))
                while pending:
                    pending = self._collect(pending)
                if self._unanswered and not self.ended:
                    self.ended = f"{self._unanswered} requests had no answer"
            except BaseException:
                self._stop("interrupted")
                for each in pending:
                    each.cancel()
                raise

    def _collect(self, pending: set[Future[None]]) -> set[Future[None]]:
        done, rest = wait(pending, return_when=FIRST_COMPLETED)
        for each in done:
            each.result()
        return rest

    def _finish(self, task: Task, advance: Advance) -> None:
        while isinstance(outcome := self.judge.look(task), Open):
            ask = task.ask(outcome.number, outcome.told)
            if self.rates.stop.is_set() or not self._request(ask, task.settings.max_tokens):
                return
        with self._lock:
            self._done += 1
            advance(self._done)

    def _request(self, ask: Ask, max_tokens: int) -> bool:
        """Whether the journal knows more of this request; False also where the run ends."""
        most = self.gauge.most(ask.text_bytes, len(ask.messages), len(ask.images))
        for attempt in range(self.retry.attempts):
            entry = self.rates.wait(most + max_tokens)
            if entry is None:
                return False
            if not self.purse.send(most, max_tokens, lambda: self.journal.sent(ask.key, most, max_tokens)):
                self._stop("the budget allows no other request")
                return False
            try:
                if (used := self._send(ask)) is not None:
                    self.rates.settle(entry, used)
                return True
            except Busy as error:
                pause = self.retry.pause(attempt) if error.seconds is None else error.seconds
                if error.paid and not self.judge.resend:
                    return True
                if error.seconds is not None:
                    self.rates.hold(error.seconds)
                    if error.seconds > LONG_SECONDS:
                        self.say(f"{error}: the endpoint asks for a pause of {error.seconds:.0f} s")
                if attempt + 1 < self.retry.attempts:
                    self.rates.stop.wait(pause)
            finally:
                self.purse.ended()
        with self._lock:
            self._unanswered += 1
        self._no_answer("the endpoint did not answer")
        return False

    def _send(self, ask: Ask) -> int | None:
        """The tokens used, None where the request was refused for good. Raises Busy, with the journal written."""
        try:
            reply = self.endpoint.send(ask)
        except Busy as error:
            self._met(ask, error, State.LOST if error.paid else State.UNPAID)
            raise
        except Unusable as error:
            self._met(ask, error, State.FAILED)
            if not self._answered:  # else it is this row's own fault
                self._no_answer(str(error))
            return None
        except Closed as error:
            self._met(ask, error, State.UNPAID)
            self._stop(str(error))
            return None
        except BaseException:
            self.journal.unanswered(ask.key, State.LOST, "an error of this program")
            raise
        self.journal.answer(ask.key, reply)
        self._silent, self._answered = 0, True
        if self.purse.budget is not None and not reply.input_tokens:
            self._stop("the endpoint does not say how many tokens it used, so that no budget can be kept")
        self.gauge.learn(ask.text_bytes, len(ask.images), reply.input_tokens)
        return reply.input_tokens + reply.output_tokens

    def _met(self, ask: Ask, error: Trouble, state: State) -> None:
        self.journal.unanswered(ask.key, state, str(error), error.told)
        with self._lock:
            self.met[str(error)] = self.met.get(str(error), 0) + 1

    def _no_answer(self, why: str) -> None:
        with self._lock:
            self._silent += 1
        if self._silent >= PATIENCE:
            self._stop(f"{PATIENCE} requests in a row had no answer, the last: {why}")

    def _stop(self, why: str) -> None:
        with self._lock:
            self.ended = self.ended or why
        self.rates.stop.set()
