"""A server on loopback in a thread of this process, and the official client for it."""

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from biomedgpt_jax.verbs.answer_desk import AnswerDesk
from biomedgpt_jax.verbs.assistant import Assistant
from biomedgpt_jax.verbs.chat_requests import Terms
from biomedgpt_jax.verbs.chat_server import Bounds, ChatServer
from biomedgpt_jax.verbs.http_server import HttpServer
from biomedgpt_jax.verbs.listening import bound_socket

NAME = "tiny"
BOUNDS = Bounds(waiting=16, body_bytes=1 << 20, seconds=60.0)


@dataclass(frozen=True)
class Served:
    port: int
    desk: AnswerDesk

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0)

    def ask(self, *parts: Any, **settings: Any) -> Any:
        """One user's message to the only model."""
        messages: Any = [{"role": "user", "content": list(parts)}]
        return self.client().chat.completions.create(model=NAME, messages=messages, **settings)


@contextmanager
def serving(
    assistant: Assistant, bounds: Bounds = BOUNDS, key: str | None = None, wait_s: float = 0.0
) -> Iterator[Served]:
    desk = AnswerDesk(assistant, wait_s)
    terms = Terms(NAME, 4, 3, assistant.reader.remembers)
    server = HttpServer(ChatServer(assistant, desk, terms, bounds, key).app(), connections=64, drain_s=5.0)
    with bound_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        desk.open()
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Served(port, desk)
        finally:
            server.should_exit = True
            thread.join()
            desk.close()


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def picture(file: Path, kind: str = "image/png") -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"},
    }
