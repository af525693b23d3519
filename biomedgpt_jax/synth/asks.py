"""What is asked: a task per source and prompt, its requests under lasting keys, and their bodies in both protocols."""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from PIL import Image

from biomedgpt_jax.data.images import decode_rgb
from biomedgpt_jax.synth.material import Source
from biomedgpt_jax.synth.prompts import Prompt

# Formats that both protocols take.
MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg"}


class Protocol(Enum):
    """How an endpoint is spoken to."""

    ANTHROPIC = "anthropic"
    OPENAI = "openai"


@dataclass(frozen=True)
class Form:
    """What an answer must be: bounds of turns of a conversation, of words of an answer by kind, and its language."""

    language: str
    turns: tuple[int, int]
    words: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Settings:
    """Which model, and how it is asked. `extra` are fields of the request's body; `token_field` is the name that an
    OpenAI-compatible endpoint has for `max_tokens`.
    """

    protocol: Protocol
    model: str
    max_tokens: int
    token_field: str
    extra: Mapping[str, Any]
    send_images: bool
    form: Form


@dataclass(frozen=True)
class Ask:
    """One request: messages are (role, text); the images go with the last of them."""

    key: str
    system: str
    messages: tuple[tuple[str, str], ...]
    images: tuple[bytes, ...]

    @property
    def text_bytes(self) -> int:
        return len(self.system.encode()) + sum(len(text.encode()) for _, text in self.messages)


@dataclass(frozen=True)
class Task:
    """One source under one prompt. `key` is the same in every run with the same source, prompt, model and settings."""

    source: Source
    prompt: Prompt
    settings: Settings

    @property
    def id(self) -> str:
        return f"{self.source.id}-{self.prompt.kind}"

    @cached_property
    def key(self) -> str:
        form = self.settings.form
        asked = [
            [self.source.id, self.source.told(), self.source.sample.meta.get("image_sha256", "")],
            [self.prompt.name, self.prompt.sha256, self.system()],
            [self.settings.protocol.value, self.settings.model, self.settings.max_tokens, self.settings.send_images],
            [dict(self.settings.extra), form.language],
        ]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def system(self) -> str:
        form = self.settings.form
        least, most = form.words[self.prompt.kind]
        words = {"min_turns": form.turns[0], "max_turns": form.turns[1], "min_words": least, "max_words": most}
        return self.prompt.system({"language": form.language, **words})

    def ask(self, number: int, faults: Sequence[str]) -> Ask:
        """The request of try `number` (from 1); `faults` say what was wrong with the answer before."""
        images = tuple(self.source.images()) if self.settings.send_images else ()
        return Ask(request_key(self.key, number), self.system(), self._messages(faults), images)

    def size(self, faults: Sequence[str]) -> tuple[int, int]:
        """Bytes of the text of that request, and its number of images, none of which is read."""
        images = len(self.source.sample.images) if self.settings.send_images else 0
        return Ask("", self.system(), self._messages(faults), ()).text_bytes, images

    def _messages(self, faults: Sequence[str]) -> tuple[tuple[str, str], ...]:
        told = self.source.told()
        if faults:
            told += "\n\nAn earlier answer could not be used: " + "; ".join(faults) + ". Write another one."
        examples = [each for given in self.prompt.examples for each in zip(("user", "assistant"), given, strict=True)]
        return (*examples, ("user", told))


def request_key(task_key: str, number: int) -> str:
    return f"{task_key}-{number}"


def body(ask: Ask, settings: Settings) -> dict[str, Any]:
    """The body of the request, as it goes over the line or into a batch file."""
    make = {Protocol.ANTHROPIC: _anthropic_body, Protocol.OPENAI: _openai_body}
    return {**make[settings.protocol](ask, settings), **settings.extra}


def _anthropic_body(ask: Ask, settings: Settings) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in ask.messages]
    if ask.images:
        pictures = [
            {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}
            for media, data in map(_encoded, ask.images)
        ]
        messages[-1]["content"] = [*pictures, {"type": "text", "text": ask.messages[-1][1]}]
    return {"model": settings.model, "max_tokens": settings.max_tokens, "system": ask.system, "messages": messages}


def _openai_body(ask: Ask, settings: Settings) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in ask.messages]
    if ask.images:
        pictures = [
            {"type": "image_url", "image_url": {"url": f"data:{media};base64,{data}"}}
            for media, data in map(_encoded, ask.images)
        ]
        messages[-1]["content"] = [*pictures, {"type": "text", "text": ask.messages[-1][1]}]
    system = {"role": "system", "content": ask.system}
    return {"model": settings.model, settings.token_field: settings.max_tokens, "messages": [system, *messages]}


def _encoded(image: bytes) -> tuple[str, str]:
    """(media type, base64) of an image; what is not of MEDIA, or deeper than 8 bits, goes as PNG of 8 bits."""
    with Image.open(io.BytesIO(image)) as opened:
        kind, mode = opened.format or "", opened.mode
    if kind not in MEDIA or mode.startswith(("I", "F")):
        out, kind = io.BytesIO(), "PNG"
        Image.fromarray(decode_rgb(image, (0, 0, 0))).save(out, kind)
        image = out.getvalue()
    return MEDIA[kind], base64.b64encode(image).decode()
