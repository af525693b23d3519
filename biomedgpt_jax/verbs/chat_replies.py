"""Answers and errors as OpenAI's clients read them."""

import json
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.verbs.assistant import Said
from biomedgpt_jax.verbs.chat_requests import Refused

DONE = b"data: [DONE]\n\n"
KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Reply:
    """What all messages about one request say."""

    id: str
    created: int  # seconds
    model: str
    prompt_tokens: int

    def whole(self, said: Said) -> dict[str, Any]:
        """The answer in one piece."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": said.text, "refusal": None},
            "logprobs": None,
            "finish_reason": said.end.value if said.end else None,
        }
        return self._about("chat.completion", [choice]) | {"usage": self._usage(said)}

    def first(self) -> dict[str, Any]:
        """The beginning of a stream."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text}, None)

    def last(self, said: Said) -> dict[str, Any]:
        return self._chunk({}, said.end.value if said.end else None)

    def usage(self, said: Said) -> dict[str, Any]:
        """What a stream ends with where it was asked for."""
        return self._about("chat.completion.chunk", []) | {"usage": self._usage(said)}

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._about("chat.completion.chunk", [choice])

    def _about(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    def _usage(self, said: Said) -> dict[str, int]:
        total = self.prompt_tokens + said.tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": said.tokens, "total_tokens": total}


def event(content: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def error_body(refused: Refused) -> dict[str, Any]:
    kind = KINDS.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": str(refused), "type": kind, "param": refused.param, "code": refused.code}}


def models(name: str, created: int) -> dict[str, Any]:
    return {"object": "list", "data": [model(name, created)]}


def model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "biomedgpt"}
