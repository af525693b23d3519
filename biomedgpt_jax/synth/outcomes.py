"""How far a task is, read from the journal alone: judging costs nothing and can be repeated."""

from dataclasses import dataclass
from pathlib import Path

from biomedgpt_jax.synth.asks import Task, request_key
from biomedgpt_jax.synth.checks import FINAL, Fault, Turns, judge
from biomedgpt_jax.synth.grounding import Terms
from biomedgpt_jax.synth.journal import Journal, Reply, State


@dataclass(frozen=True)
class Accepted:
    """Answered and judged good, at try `number`."""

    turns: Turns
    reply: Reply
    number: int
    faults: tuple[Fault, ...]  # of the tries before


@dataclass(frozen=True)
class Rejected:
    """No try was good; `texts` are the answers. No answers: the endpoint would not take the request."""

    faults: tuple[Fault, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Waiting:
    """Nothing is to be done now: the request stands in a batch file, or was in flight and is to be left alone."""

    what: str


@dataclass(frozen=True)
class Open:
    """Try `number` is to be asked; `told` says what was wrong before."""

    number: int
    told: tuple[str, ...]


Outcome = Accepted | Rejected | Waiting | Open


@dataclass(frozen=True)
class Judge:
    """`tries`: how often a task is asked until an answer is good. `resend`: ask again what was in flight."""

    journal: Journal
    terms: Terms
    tries: int
    resend: bool
    batches: Path

    def look(self, task: Task) -> Outcome:
        faults: list[Fault] = []
        texts: list[str] = []
        last: tuple[Fault, ...] = ()
        for number in range(1, self.tries + 1):
            key = request_key(task.key, number)
            state = self.journal.state(key)
            if state is State.FAILED:
                return Rejected((*faults, Fault("endpoint")), tuple(texts))
            if state is not State.ANSWER:
                return self._waiting(key, state) or Open(number, tuple(fault.told() for fault in last))
            reply = self.journal.reply(key)
            verdict = judge(task, reply.text, reply.stop, self.terms)
            if not verdict.faults:
                return Accepted(verdict.turns, reply, number, tuple(faults))
            last = verdict.faults
            faults += last
            texts.append(reply.text)
            if any(fault.code in FINAL for fault in last):
                break
        return Rejected(tuple(faults), tuple(texts))

    def _waiting(self, key: str, state: State) -> Waiting | None:
        if state is State.BATCHED and (self.batches / self.journal.batch(key)).is_file():
            return Waiting("in a batch file")
        if state in (State.SENT, State.LOST) and not self.resend:
            return Waiting("may have been paid")
        return None
