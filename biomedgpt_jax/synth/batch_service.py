"""Batch files handed to a provider and fetched from it, through the official clients.

Beside batch-0001.jsonl lie batch-0001.sending while it is handed over, batch-0001.id with the provider's name for it,
and batch-0001.results.jsonl when it has ended.
"""

import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.synth.asks import Protocol
from biomedgpt_jax.synth.batch_files import CHAT_PATH
from biomedgpt_jax.synth.endpoint import Address, Busy
from biomedgpt_jax.synth.status import translated


@dataclass(frozen=True)
class Service:
    """A provider's batches: `client` is the official one, of `protocol`."""

    client: Any
    protocol: Protocol
    address: Address


def send_batches(service: Service, folder: Path) -> list[Path]:
    """Hands over all files that were not; each becomes one batch. The files that went.

    Raises DataError where an earlier call was killed while it handed one over: only the provider knows whether it has
    it. Busy, Unusable or Closed where the provider would not take one.
    """
    create = {Protocol.ANTHROPIC: _create_anthropic, Protocol.OPENAI: _create_openai}[service.protocol]
    went = []
    for file in sorted(folder.glob("batch-????.jsonl")):
        mark, name = file.with_suffix(".sending"), file.with_suffix(".id")
        if name.exists():
            continue
        if mark.exists():
            raise DataError(
                f"{mark}: an earlier call ended while it handed over {file.name}. Look into your account at "
                f"{service.address.host}: if the batch is there, write its id into {name}; then remove {mark.name}"
            )
        mark.write_text("")
        try:
            made = _call(service, lambda file=file: create(service.client, file))
        except Busy as error:
            if not error.paid:
                mark.unlink()
            raise
        except Exception:
            mark.unlink()  # it was refused
            raise
        _write(name, lambda out, made=made: out.write(made.encode()))
        mark.unlink()
        went.append(file)
    return went


def fetch_batches(service: Service, folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The result files of all batches that have ended, and the states of the others by file."""
    fetch = {Protocol.ANTHROPIC: _fetch_anthropic, Protocol.OPENAI: _fetch_openai}[service.protocol]
    ended, others = [], {}
    for name in sorted(folder.glob("batch-????.id")):
        results = name.with_suffix(".results.jsonl")
        if not results.exists():
            state = _call(service, lambda name=name, to=results: fetch(service.client, name.read_text().strip(), to))
            if state:
                others[name.with_suffix(".jsonl").name] = state
                continue
        ended.append(results)
    return ended, others


def _call(service: Service, call: Callable[[], Any]) -> Any:
    with translated(importlib.import_module(service.protocol.value), service.address):
        return call()


def _create_anthropic(client: Any, file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return client.messages.batches.create(requests=[json.loads(line) for line in lines]).id


def _create_openai(client: Any, file: Path) -> str:
    uploaded = client.files.create(file=file, purpose="batch")
    return client.batches.create(input_file_id=uploaded.id, endpoint=CHAT_PATH, completion_window="24h").id


def _fetch_anthropic(client: Any, name: str, to: Path) -> str:
    """Its state while it is worked on, "" when its results are in `to`."""
    batch = client.messages.batches.retrieve(name)
    if batch.processing_status != "ended":
        return batch.processing_status
    lines = client.messages.batches.results(name)
    _write(to, lambda out: out.writelines(each.to_json(indent=None).encode() + b"\n" for each in lines))
    return ""


def _fetch_openai(client: Any, name: str, to: Path) -> str:
    batch = client.batches.retrieve(name)
    files = [each for each in (batch.output_file_id, batch.error_file_id) if each]
    if batch.status not in ("completed", "expired", "cancelled") or not files:
        return batch.status
    texts = [client.files.content(each).content for each in files]
    _write(to, lambda out: out.writelines(text if text.endswith(b"\n") else text + b"\n" for text in texts if text))
    return ""


def _write(path: Path, fill: Callable[[Any], Any]) -> None:
    """Whole or absent."""
    part = path.with_name(f"{path.name}.new")
    with part.open("wb") as out:
        fill(out)
        out.flush()
        os.fsync(out.fileno())
    part.replace(path)
