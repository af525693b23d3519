"""Chat completions through the official `openai` client, from OpenAI or any server that speaks its protocol."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from biomedgpt_jax.synth.asks import Ask, Settings, body
from biomedgpt_jax.synth.endpoint import Address, Busy
from biomedgpt_jax.synth.journal import Reply, now
from biomedgpt_jax.synth.opened import opened
from biomedgpt_jax.synth.status import translated

URL = "https://api.openai.com/v1"
OWN_HOST = "api.openai.com"
KEY_VARIABLE = "OPENAI_API_KEY"
_STOPS = {"stop": "end", "length": "length", "content_filter": "refusal"}


class OpenAiEndpoint:
    """Asks one request at a time; retries are the caller's."""

    def __init__(self, client: Any, address: Address, settings: Settings):
        self.client = client
        self._address = address
        self._settings = settings

    def send(self, ask: Ask) -> Reply:
        given = body(ask, self._settings)
        known = {name: given.pop(name) for name in ("model", "messages")}
        asked = {**known, "extra_body": given, "extra_headers": {"Idempotency-Key": ask.key}}
        with translated(importlib.import_module("openai"), self._address):
            if self._address.stream:
                with self.client.chat.completions.create(
                    **asked, stream=True, stream_options={"include_usage": True}
                ) as stream:
                    return _streamed_reply(stream, self._address.host)
            completion = self.client.chat.completions.create(**asked)
            return completion_reply(completion, self._address.host, getattr(completion, "_request_id", None))


@contextmanager
def open_openai(address: Address, settings: Settings) -> Iterator[OpenAiEndpoint]:
    """Raises DataError where the package is missing."""
    with opened("openai", address) as client:
        yield OpenAiEndpoint(client, address, settings)


def completion_reply(completion: Any, host: str, request_id: str | None) -> Reply:
    """Raises Busy for what is no whole completion. A server that counts no tokens is taken to use none."""
    try:
        choice = completion.choices[0]
        stop, text, refusal = choice.finish_reason, choice.message.content, choice.message.refusal
        name = completion.id
    except (AttributeError, TypeError, IndexError) as reason:
        raise Busy("an answer that is no chat completion", paid=True) from reason
    if stop not in _STOPS:
        raise Busy("a completion without its end", paid=True)
    stop = "refusal" if refusal else _STOPS[stop]
    return Reply(
        text or refusal or "", stop, str(completion.model), request_id or name, *_tokens(completion.usage), host, now()
    )


def _streamed_reply(stream: Any, host: str) -> Reply:
    parts: list[str] = []
    stop, refusal, usage, name, model = None, False, None, "", ""
    for chunk in stream:
        name, model, usage = chunk.id or name, chunk.model or model, chunk.usage or usage
        for choice in chunk.choices[:1]:
            parts.append(choice.delta.content or choice.delta.refusal or "")
            refusal = refusal or bool(choice.delta.refusal)
            stop = choice.finish_reason or stop
    if stop not in _STOPS:
        raise Busy("a stream that was cut", paid=True)
    request_id = stream.response.headers.get("x-request-id") or name
    return Reply(
        "".join(parts), "refusal" if refusal else _STOPS[stop], model, request_id, *_tokens(usage), host, now()
    )


def _tokens(usage: Any) -> tuple[int, int]:
    return (int(usage.prompt_tokens), int(usage.completion_tokens)) if usage is not None else (0, 0)
