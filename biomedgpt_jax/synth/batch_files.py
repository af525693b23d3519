"""Batches as files: requests as both providers read them, and results as both write them.

Anthropic: a line {"custom_id", "params"} per request; the same are the `requests` of its Message Batches. OpenAI: a
line {"custom_id", "method", "url", "body"}. A written request is asked by nobody else while its file is there.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.synth.anthropic_client import message_reply
from biomedgpt_jax.synth.asks import Ask, Protocol, Settings, Task, body
from biomedgpt_jax.synth.costs import Gauge, Purse
from biomedgpt_jax.synth.endpoint import Busy
from biomedgpt_jax.synth.journal import Journal, Reply, State
from biomedgpt_jax.synth.openai_client import completion_reply
from biomedgpt_jax.synth.opened import quiet
from biomedgpt_jax.synth.outcomes import Judge, Open

FOLDER = "batches"
# Requests and bytes of one file, as the providers state them.
LIMITS = {Protocol.ANTHROPIC: (100_000, 256 << 20), Protocol.OPENAI: (50_000, 200 << 20)}
CHAT_PATH = "/v1/chat/completions"


@dataclass
class Read:
    """What result files held: answers taken, those told before, requests to be asked again or never, and lines that
    are not results of this folder's requests, with their files and line numbers.
    """

    answers: int = 0
    known: int = 0
    unpaid: int = 0
    failed: int = 0
    strange: list[str] = field(default_factory=list)


def write_batches(
    tasks: Iterable[Task], judge: Judge, journal: Journal, purse: Purse, gauge: Gauge, folder: Path
) -> tuple[list[Path], bool]:
    """Files of the next request of each open task, and whether the budget ended it before all were written."""
    folder.mkdir(exist_ok=True)
    files: list[Path] = []
    batch: _Batch | None = None
    for task in tasks:
        outcome = judge.look(task)
        if not isinstance(outcome, Open):
            continue
        ask = task.ask(outcome.number, outcome.told)
        line = _line(ask, task.settings)
        if batch is not None and not batch.takes(line):
            files.append(batch.close(journal))
            batch = None
        most = gauge.most(ask.text_bytes, len(ask.messages), len(ask.images)), task.settings.max_tokens
        held = batch.sum if batch else (0, 0)
        if not purse.allows(most[0] + held[0], most[1] + held[1]):
            purse.empty = True
            break
        batch = batch or _Batch(folder, task.settings.protocol)
        batch.add(ask, line, most)
    files += [batch.close(journal)] if batch else []
    return files, purse.empty


def read_results(path: Path, host: str, protocol: Protocol, journal: Journal) -> Read:
    """Takes the results of a file into the journal; reading a file again changes nothing."""
    package = quiet(protocol.value)
    read = {Protocol.ANTHROPIC: _anthropic_result, Protocol.OPENAI: _openai_result}[protocol]
    found, replies = Read(), {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as reason:
        raise DataError(f"{path}: cannot be read ({reason.strerror})") from reason
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            key = str(content["custom_id"])
            result = read(package, content, host)
        except (ValueError, KeyError, TypeError, AttributeError) as reason:
            found.strange.append(f"{path.name} line {number}: no result ({type(reason).__name__})")
            continue
        if journal.state(key) is State.NEW:
            found.strange.append(f"{path.name} line {number}: custom_id {key[:64]!r} was not asked from this folder")
        elif journal.state(key) is State.ANSWER or key in replies:
            found.known += 1
        elif isinstance(result, Reply):
            replies[key] = result
            found.answers += 1
        else:
            found.failed += not result.again
            found.unpaid += result.again
            journal.unanswered(key, State.UNPAID if result.again else State.FAILED, result.why)
    journal.answers(replies)
    return found


@dataclass(frozen=True)
class _NoReply:
    why: str
    again: bool


class _Batch:
    """A file in the making. The journal knows of its requests before it has its name."""

    def __init__(self, folder: Path, protocol: Protocol):
        number = 1 + max((int(path.stem[-4:]) for path in folder.glob("batch-????.jsonl")), default=0)
        self.path = folder / f"batch-{number:04d}.jsonl"
        self.most: dict[str, tuple[int, int]] = {}
        self.sum = (0, 0)
        self._limits = LIMITS[protocol]
        self._bytes = 0
        self._part = self.path.with_suffix(".new")
        self._file = self._part.open("wb")

    def takes(self, line: bytes) -> bool:
        requests, size = self._limits
        return len(self.most) < requests and self._bytes + len(line) <= size

    def add(self, ask: Ask, line: bytes, most: tuple[int, int]) -> None:
        self.most[ask.key] = most
        self.sum = (self.sum[0] + most[0], self.sum[1] + most[1])
        self._bytes += len(line)
        self._file.write(line)

    def close(self, journal: Journal) -> Path:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        journal.batched(self.most, self.path.name)
        self._part.rename(self.path)
        return self.path


def _line(ask: Ask, settings: Settings) -> bytes:
    content = body(ask, settings)
    made: Mapping[Protocol, dict[str, Any]] = {
        Protocol.ANTHROPIC: {"custom_id": ask.key, "params": content},
        Protocol.OPENAI: {"custom_id": ask.key, "method": "POST", "url": CHAT_PATH, "body": content},
    }
    return json.dumps(made[settings.protocol], ensure_ascii=False).encode() + b"\n"


def _anthropic_result(package: Any, content: dict[str, Any], host: str) -> Reply | _NoReply:
    result = content["result"]
    if result["type"] == "succeeded":
        message = package.types.Message.model_validate(result["message"])
        try:
            return message_reply(message, host, None)
        except Busy as reason:
            return _NoReply(str(reason), again=True)
    kind = str(result["error"]["error"]["type"]) if result["type"] == "errored" else str(result["type"])
    return _NoReply(kind, again=kind != "invalid_request_error")


def _openai_result(package: Any, content: dict[str, Any], host: str) -> Reply | _NoReply:
    response = content.get("response")
    if response is None:
        return _NoReply(str((content.get("error") or {}).get("code", "no response")), again=True)
    status = int(response["status_code"])
    if status != 200:
        return _NoReply(f"HTTP {status}", again=status in (408, 409, 429) or status >= 500)
    try:
        completion = package.types.chat.ChatCompletion.model_validate(response["body"])
        return completion_reply(completion, host, response.get("request_id"))
    except Busy as reason:
        return _NoReply(str(reason), again=True)
