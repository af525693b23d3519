"""Messages, and batches of them, through the official `anthropic` client."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from biomedgpt_jax.synth.asks import Ask, Settings, body
from biomedgpt_jax.synth.endpoint import Address, Busy
from biomedgpt_jax.synth.journal import Reply, now
from biomedgpt_jax.synth.opened import opened
from biomedgpt_jax.synth.status import translated

URL = "https://api.anthropic.com"
KEY_VARIABLE = "ANTHROPIC_API_KEY"
_STOPS = {"end_turn": "end", "stop_sequence": "end", "max_tokens": "length", "refusal": "refusal"}
_STOPS |= {"model_context_window_exceeded": "length"}


class AnthropicEndpoint:
    """Asks one request at a time; retries are the caller's."""

    def __init__(self, client: Any, address: Address, settings: Settings):
        self.client = client
        self._address = address
        self._settings = settings

    def send(self, ask: Ask) -> Reply:
        given = body(ask, self._settings)
        known = {name: given.pop(name) for name in ("model", "max_tokens", "system", "messages")}
        headers = {"Idempotency-Key": ask.key}
        with translated(importlib.import_module("anthropic"), self._address):
            if self._address.stream:
                with self.client.messages.stream(**known, extra_body=given, extra_headers=headers) as stream:
                    return message_reply(stream.get_final_message(), self._address.host, stream.request_id)
            message = self.client.messages.create(**known, extra_body=given, extra_headers=headers)
            return message_reply(message, self._address.host, getattr(message, "_request_id", None))


@contextmanager
def open_anthropic(address: Address, settings: Settings) -> Iterator[AnthropicEndpoint]:
    """Raises DataError where the package is missing."""
    with opened("anthropic", address) as client:
        yield AnthropicEndpoint(client, address, settings)


def message_reply(message: Any, host: str, request_id: str | None) -> Reply:
    """Raises Busy for what is no whole message."""
    try:
        stop = _STOPS.get(message.stop_reason)
        text = "".join(block.text for block in message.content if block.type == "text")
        usage = message.usage
        cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
        tokens = int(usage.input_tokens) + cached, int(usage.output_tokens)
    except (AttributeError, TypeError) as reason:
        raise Busy("an answer that is no message", paid=True) from reason
    if stop is None:
        raise Busy("a message without its end", paid=True)
    return Reply(text, stop, str(message.model), request_id or message.id, *tokens, host, now())
