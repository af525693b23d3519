"""OpenAI's chat requests as requests to an assistant. What a model cannot do is refused by name, never passed over.

Messages name fields and sizes, never what a text or a picture says.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.prompts import IMAGE
from biomedgpt_jax.data.rows import MAX_QUOTED, ImageBytes, check_text
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.eval.row_decode import Sampling
from biomedgpt_jax.verbs.assistant import Manner, Request

# They say who asks, or what another server may do for speed.
IGNORED = ("user", "metadata", "service_tier", "store", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
# They ask for something else than is done here, unless they have one of these values (or null).
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
# Of an answer that a client sends back as it got it.
EMPTY_IN_MESSAGES = ("refusal", "annotations", "audio", "function_call", "tool_calls")
READ = (
    *("model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
    *("temperature", "top_p", "top_k", "stop", "seed"),
)
MOST_STOPS, LONGEST_STOP = 16, 256
DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w.+=-]+)*;base64,", re.ASCII)


class Refused(Exception):
    """A request that gets an error in OpenAI's form. `param` is the field to blame."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclass(frozen=True)
class Terms:
    """What a server grants. `system`: whether the model reads what stands before the first question."""

    model: str  # its name
    max_new_tokens: int  # where a request does not say
    max_images: int
    system: bool


@dataclass(frozen=True)
class Chat:
    """A parsed request."""

    request: Request
    stream: bool
    include_usage: bool  # in a stream


def read_chat(body: bytes, id: str, terms: Terms) -> Chat:
    """Raises Refused."""
    fields = _fields(body)
    model = fields.get("model")
    if model is not None and model != terms.model:
        raise Refused(404, f"There is no such model here; this server has {terms.model!r}.", "model", "model_not_found")
    turns, images = _conversation(fields.get("messages"), terms)
    stream = _boolean(fields, "stream")
    return Chat(Request(id, turns, images, _manner(fields, terms)), stream, _usage(fields, stream))


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        place = f" (at character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise Refused(400, f"The body is no valid JSON{place}.") from None
    if not isinstance(fields, dict):
        raise Refused(400, f"The body is {_kind(fields)}, expected an object.")
    for name, value in fields.items():
        if value is None or name in READ or name in IGNORED:
            continue
        shown = ascii(name[:MAX_QUOTED])
        if name not in NEUTRAL:
            raise Refused(400, f"The field {shown} is not known to this server.", name[:MAX_QUOTED])
        if value not in NEUTRAL[name]:
            allowed = " or ".join(json.dumps(each) for each in NEUTRAL[name])
            raise Refused(400, f"The field {shown} is supported with the value {allowed} alone.", name)
    return fields


def _manner(fields: dict[str, Any], terms: Terms) -> Manner:
    most = _number(fields, "max_completion_tokens", 1, math.inf, whole=True)
    most = most or _number(fields, "max_tokens", 1, math.inf, whole=True) or terms.max_new_tokens
    top_k = _number(fields, "top_k", -1, math.inf, whole=True) or 0
    top_p = _number(fields, "top_p", 0, 1)
    try:
        sampling = Sampling(
            temperature=float(_number(fields, "temperature", 0, 2) or 0),
            top_k=max(0, min(int(top_k), 2**31 - 1)),
            top_p=1.0 if top_p is None else float(top_p),
        )
    except RunError as error:
        raise Refused(400, f"{error}.", "top_p") from None
    seed = _number(fields, "seed", -math.inf, math.inf, whole=True) or 0
    return Manner(sampling, int(most), (int(seed), 0), _stop(fields.get("stop")))


def _stop(value: Any) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
        raise Refused(400, "stop: expected a text or a list of texts, none of them empty.", "stop")
    if len(texts) > MOST_STOPS or any(len(each) > LONGEST_STOP for each in texts):
        raise Refused(400, f"stop: at most {MOST_STOPS} texts of at most {LONGEST_STOP} characters.", "stop")
    return tuple(texts)


def _usage(fields: dict[str, Any], stream: bool) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not stream or not isinstance(options, dict) or set(options) - {"include_usage", "include_obfuscation"}:
        raise Refused(400, 'stream_options: expected {"include_usage": ...}, and only with stream.', "stream_options")
    return _boolean(options, "include_usage")


def _boolean(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{name}: expected true or false, found {_kind(value)}.", name)
    return bool(value)


def _number(
    fields: dict[str, Any], name: str, low: float | int, high: float | int, whole: bool = False
) -> float | int | None:
    value = fields.get(name)
    if value is None:
        return None
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        between = "" if math.isinf(low) else f" from {low}" + ("" if math.isinf(high) else f" to {high}")
        raise Refused(400, f"{name}: expected {kind}{between}, found {value if right else _kind(value)}.", name)
    return value


def _conversation(messages: Any, terms: Terms) -> tuple[tuple[Turn, ...], tuple[ImageBytes, ...]]:
    """The turns, the last of which has no answer yet, and the pictures in their order."""
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages: expected a list with at least one message.", "messages")
    turns: list[Turn] = []
    images: list[ImageBytes] = []
    system = ""
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role, parts = _message(message, where)
        match role:
            case "system" | "developer" if terms.system and not turns and not system:
                system = _text_alone(parts, where)
            case "user" if not turns or turns[-1].answer:
                question, shown = _question(parts, where, system if not turns else "")
                turns.append(Turn(question, ""))
                images += shown
            case "assistant" if turns and not turns[-1].answer:
                answer = _text_alone(parts, where).strip()
                if not answer or IMAGE in answer:
                    raise Refused(400, f"{where}: an answer is empty, or holds {IMAGE}.", where)
                turns[-1] = Turn(turns[-1].question, answer)
            case "system" | "developer" | "user" | "assistant":
                order = "At most one system message, then user and assistant in turn, with user at the end"
                single = "This model answers single questions: one user message"
                raise Refused(400, f"{where}: a message of this role cannot stand here. "
                              f"{order if terms.system else single}.", where)  # fmt: skip
            case _:
                raise Refused(400, f"{where}.role: expected system, user or assistant.", f"{where}.role")
    if not turns or turns[-1].answer:
        raise Refused(400, "messages: the last message must be the user's.", "messages")
    if len(turns) > 1 and not terms.system:
        raise Refused(400, "messages: this model answers single questions; send one user message.", "messages")
    if len(images) > terms.max_images:
        raise Refused(400, f"messages: {len(images)} images, more than the {terms.max_images} allowed.", "messages")
    return tuple(turns), tuple(images)


def _message(message: Any, where: str) -> tuple[str, list[Any]]:
    """The role and the parts of the content."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Refused(400, f"{where}: expected an object with role and content.", where)
    for name, value in message.items():
        if name not in ("role", "content", "name") and (name not in EMPTY_IN_MESSAGES or value):
            name = name[:MAX_QUOTED]
            raise Refused(400, f"{where}: the field {name!a} is not supported.", f"{where}.{name}")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Refused(400, f"{where}.content: expected a text or a list of parts.", f"{where}.content")
    return message["role"], content


def _question(parts: list[Any], where: str, system: str) -> tuple[str, list[ImageBytes]]:
    """The text with `<image>` where a picture stands, unless it says so itself; and the pictures."""
    pieces: list[str] = []
    images: list[ImageBytes] = []
    told = not system
    for number, part in enumerate(parts):
        here = f"{where}.content[{number}]"
        if isinstance(part, dict) and part.get("type") == "image_url":
            images.append(_image(part, here))
            pieces.append(IMAGE)
        else:
            pieces += [_text(part, here)] if told else [system, _text(part, here)]
            told = True
    texts = [piece for piece in pieces if piece != IMAGE] if images else pieces
    if not "".join(texts).replace(IMAGE, "").strip():
        raise Refused(400, f"{where}.content: there is no question in it.", f"{where}.content")
    placed = sum(piece.count(IMAGE) for piece in texts)
    if placed and placed != len(images):
        raise Refused(400, f"{where}.content: {placed} {IMAGE} in its text, but {len(images)} images.", where)
    return "\n".join(texts if placed else pieces), images


def _text_alone(parts: list[Any], where: str) -> str:
    return "\n".join(_text(part, f"{where}.content[{number}]") for number, part in enumerate(parts))


def _text(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise Refused(400, f"{where}: expected a part of type text, or in a user's message image_url.", where)
    try:
        check_text(part.get("text"), f"{where}.text")
    except DataError as error:
        raise Refused(400, f"{error}.", where) from None
    return part["text"]


def _image(part: dict[str, Any], where: str) -> ImageBytes:
    """The bytes of a picture; whether they are one is seen when it is read."""
    holder = part.get("image_url")
    url = holder.get("url") if isinstance(holder, dict) else holder
    if not isinstance(url, str):
        raise Refused(400, f"{where}.image_url.url: expected a text.", where)
    found = DATA_URL.match(url)
    if found is None:
        raise Refused(
            400, f"{where}.image_url.url: expected data:image/...;base64,... This server fetches nothing.", where
        )
    try:
        return ImageBytes(base64.b64decode(url[found.end() :], validate=True), where)
    except (binascii.Error, ValueError):
        raise Refused(400, f"{where}.image_url.url: what follows base64, is no base64.", where) from None


def _kind(value: Any) -> str:
    """What a JSON value is, without what it says."""
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
