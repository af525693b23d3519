"""journal.jsonl: what was sent and what came back, each line forced to the disk before anything follows from it.

    sent      a request is about to go out, with the most that it can cost in tokens
    answer    it was answered; the text, and what it cost
    unpaid    it was turned away before any work (busy, no connection), so it cost nothing
    lost      its answer did not arrive whole: it may have been paid
    failed    the endpoint will not take it; the next run asks once more, since the endpoint may be another
    batched   it stands in a batch file

A key that is sent and nothing else was in flight when the run was killed. It may have been paid as well.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from biomedgpt_jax.data.errors import DataError

FILE = "journal.jsonl"


class State(Enum):
    """The last that is known of a request."""

    NEW = "new"
    SENT = "sent"
    ANSWER = "answer"
    UNPAID = "unpaid"
    LOST = "lost"
    FAILED = "failed"
    BATCHED = "batched"


@dataclass(frozen=True)
class Reply:
    """A model's answer. `stop` is "end", "length" or "refusal"; `request_id` the provider's, `host` who answered."""

    text: str
    stop: str
    model: str
    request_id: str
    input_tokens: int
    output_tokens: int
    host: str
    at: str  # UTC


@dataclass
class Spent:
    """Tokens of answers, and the most that requests without a whole answer may have cost."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    doubtful: int = 0
    doubtful_input: int = 0
    doubtful_output: int = 0


class Journal:
    """Opens `folder/journal.jsonl` or begins it. Safe from several threads; one process at a time may hold it."""

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self.spent = Spent()
        self._lock = threading.Lock()
        self._states: dict[str, State] = {}
        self._places: dict[str, int] = {}  # of answers in the file: their texts would fill the memory
        self._reserved: dict[str, tuple[int, int]] = {}
        self._batches: dict[str, str] = {}
        self._size = _read(self.path, self._take) if self.path.exists() else 0
        for key in self.keys(State.FAILED):
            self._states[key] = State.UNPAID
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        self._file.truncate(self._size)  # the half of a line that a killed run left

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def state(self, key: str) -> State:
        return self._states.get(key, State.NEW)

    def reply(self, key: str) -> Reply:
        """The answer to a request whose state is ANSWER."""
        with self._lock:
            self._file.seek(self._places[key])
            line = json.loads(self._file.readline())
        return Reply(**line["reply"])

    def batch(self, key: str) -> str:
        """The batch file of a request whose state is BATCHED."""
        return self._batches[key]

    def keys(self, state: State) -> list[str]:
        return [key for key, each in self._states.items() if each is state]

    def sent(self, key: str, input_tokens: int, output_tokens: int) -> None:
        """With the most tokens that it can cost."""
        self._write({"what": "sent", "key": key, "most": [input_tokens, output_tokens]})

    def batched(self, most: Mapping[str, tuple[int, int]], file: str) -> None:
        """The most that each request of a batch file can cost."""
        self._write(*({"what": "batched", "key": key, "most": list(each), "file": file} for key, each in most.items()))

    def answer(self, key: str, reply: Reply) -> None:
        self.answers({key: reply})

    def answers(self, replies: Mapping[str, Reply]) -> None:
        self._write(*({"what": "answer", "key": key, "reply": vars(reply)} for key, reply in replies.items()))

    def unanswered(self, key: str, state: State, why: str, told: str = "") -> None:
        """UNPAID, LOST or FAILED; `told` are the endpoint's words."""
        self._write({"what": state.value, "key": key, "why": why, **({"told": told} if told else {})})

    def _write(self, *entries: dict[str, Any]) -> None:
        lines = [json.dumps({**entry, "at": now()}, ensure_ascii=False).encode() + b"\n" for entry in entries]
        with self._lock:
            self._file.seek(self._size)
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
            for entry, line in zip(entries, lines, strict=True):
                self._take(entry, self._size)
                self._size += len(line)

    def _take(self, entry: dict[str, Any], place: int) -> None:
        key, state, spent = entry["key"], State(entry["what"]), self.spent
        before = self.state(key)
        if before is State.ANSWER:
            return  # told twice, as by a batch's results that are read again
        if state in (State.SENT, State.BATCHED):
            if before is State.BATCHED:
                self._settle(key)
            most = self._reserved[key] = (int(entry["most"][0]), int(entry["most"][1]))
            self._doubt(most, 1)
            self._batches[key] = entry.get("file", "")
        elif state is not State.LOST:
            self._settle(key)
        if state is State.ANSWER:
            self._places[key] = place
            spent.answers += 1
            spent.input_tokens += int(entry["reply"]["input_tokens"])
            spent.output_tokens += int(entry["reply"]["output_tokens"])
        self._states[key] = state

    def _settle(self, key: str) -> None:
        """What was reserved for a request is no longer in doubt."""
        if most := self._reserved.pop(key, None):
            self._doubt(most, -1)

    def _doubt(self, most: tuple[int, int], sign: int) -> None:
        self.spent.doubtful += sign
        self.spent.doubtful_input += sign * most[0]
        self.spent.doubtful_output += sign * most[1]


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _read(path: Path, take: Any) -> int:
    """Calls take(entry, place) for each line; the number of bytes up to the last whole one."""
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                take(json.loads(line), place)
            except (ValueError, KeyError, TypeError) as reason:
                raise DataError(
                    f"{path} line {number} is damaged ({type(reason).__name__}). It holds answers that were paid for: "
                    "repair or remove that line, not the file"
                ) from reason
            place += len(line)
    return place
