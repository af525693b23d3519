"""A language model's server on this machine that speaks both protocols, with batches, and with faults on request."""

import contextlib
import http.server
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """What happens to one request instead of a plain answer.

    `status` with `headers` and `error` (its type); `cut`: bytes of the body after which the connection closes; `text`:
    what the model says; `stop`: why it ended; `raw`: the body as it goes out; `seconds`: pause before.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: str = "api_error"
    cut: int | None = None
    text: str | None = None
    stop: str | None = None
    raw: bytes | None = None
    seconds: float = 0.0


@dataclass
class Model:
    """`faults` are used up by the requests in their order; `says(body)` is the text of a plain answer. `asked` keeps
    (key, path, headers, body) of all requests, `answered` counts whole answers by key.
    """

    says: Any = None
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    answered: Counter = field(default_factory=Counter)
    files: dict[str, bytes] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)


@contextlib.contextmanager
def serve(model: Model):
    """Yields the address of a running server."""
    handler = type("Handler", (_Handler,), {"model": model})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def caption_of(body: dict) -> str:
    """The caption of the last message."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    return re.search(r"<caption>\n(.*?)\n</caption>", text, re.DOTALL)[1]


def kind_of(body: dict) -> str:
    system = body.get("system") or body["messages"][0]["content"]
    return "conversation" if '"turns": [' in system else "reasoning" if '"reasoning": "' in system else "description"


def good(body: dict) -> str:
    """An answer that says what the caption says."""
    caption = caption_of(body)
    if kind_of(body) == "conversation":
        asked = ("What does the image show?", "Could you describe what is seen?", "How would you sum it up?")
        turns = [{"question": question, "answer": f"It is this: {caption}"} for question in asked]
        return json.dumps({"turns": turns})
    if kind_of(body) == "reasoning":
        steps = f"What is seen is this: {caption}"
        return json.dumps({"question": "What follows from it?", "reasoning": steps, "answer": f"So it is: {caption}"})
    return json.dumps({"question": "Please describe the image.", "answer": f"This is what the image shows: {caption}"})


class _Handler(http.server.BaseHTTPRequestHandler):
    model: Model
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/files"):
            return self._upload(data)
        body = json.loads(data)
        if self.path.endswith("/batches"):
            return self._create(body)
        key = self.headers.get("Idempotency-Key", "")
        with self.model.lock:
            self.model.asked.append((key, self.path, dict(self.headers), body))
            fault = self.model.faults.pop(0) if self.model.faults else Fault()
        time.sleep(fault.seconds or self.model.seconds)
        if fault.status != 200:
            message = f"{body} {dict(self.headers)}"
            error = {"type": "error", "error": {"type": fault.error, "code": fault.error, "message": message}}
            return self._send(json.dumps(error).encode(), fault.status, fault.headers)
        reply = _anthropic if self.path.endswith("/messages") else _openai
        text = (self.model.says or good)(body) if fault.text is None else fault.text
        out = fault.raw if fault.raw is not None else reply(text, fault.stop, body)
        kind = "text/event-stream" if body.get("stream") else "application/json"
        if fault.cut is None and fault.raw is None:
            with self.model.lock:
                self.model.answered[key] += 1
        self._send(
            out, 200, {"Content-Type": kind, "request-id": f"req-{key}", "x-request-id": f"req-{key}"}, fault.cut
        )

    def do_GET(self):
        name = self.path.split("/")
        if name[-1] in ("content", "results"):
            return self._send(self.model.files[name[-2]], 200, {"Content-Type": "application/x-jsonl"})
        if "messages" in name:
            batch = _anthropic_batch(name[-1], f"http://127.0.0.1:{self.server.server_port}{self.path}/results")
        else:
            batch = _openai_batch(name[-1])
        self._send(json.dumps(batch).encode())

    def _upload(self, data: bytes) -> None:
        lines = [line for line in data.splitlines() if line.startswith(b"{")]
        self.model.files["file-1"] = b"\n".join(lines)
        made = {"id": "file-1", "bytes": 1, "created_at": 1, "filename": "b", "object": "file", "purpose": "batch"}
        self._send(json.dumps({**made, "status": "processed"}).encode())

    def _create(self, body: dict) -> None:
        """Answers the whole batch at once, backwards."""
        given = body.get("requests") or [
            json.loads(line) for line in self.model.files[body["input_file_id"]].splitlines()
        ]
        lines = []
        for each in reversed(given):
            asked = each.get("params") or each["body"]
            self.model.answered[each["custom_id"]] += 1
            if "params" in each:
                message = json.loads(_anthropic(good(asked), None, asked))
                lines.append({"custom_id": each["custom_id"], "result": {"type": "succeeded", "message": message}})
            else:
                response = {
                    "status_code": 200,
                    "request_id": "r",
                    "body": json.loads(_openai(good(asked), None, asked)),
                }
                lines.append({"id": "b", "custom_id": each["custom_id"], "response": response, "error": None})
        self.model.files["batch-1"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        made = _anthropic_batch("batch-1", None) if "requests" in body else _openai_batch("batch-1")
        self._send(json.dumps(made).encode())

    def _send(self, data: bytes, status: int = 200, headers: dict | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        given = {"Content-Type": "application/json", **(headers or {}), "Content-Length": str(len(data))}
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True


def _anthropic(text: str, stop: str | None, body: dict) -> bytes:
    usage = {"input_tokens": len(json.dumps(body)) // 5, "output_tokens": len(text) // 4 + 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"] + "-snapshot"}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    stop = stop or "end_turn"
    if not body.get("stream"):
        return json.dumps({**message, "content": [{"type": "text", "text": text}], "stop_reason": stop}).encode()
    half = len(text) // 2
    events = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
            for part in (text[:half], text[half:])
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events).encode()


def _openai(text: str, stop: str | None, body: dict) -> bytes:
    asked, said = len(json.dumps(body)) // 5, len(text) // 4 + 1
    usage = {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}
    stop = stop or "stop"
    head = {"id": "chatcmpl-1", "created": 1, "model": body["model"] + "-snapshot"}
    if not body.get("stream"):
        choice = {"index": 0, "finish_reason": stop, "message": {"role": "assistant", "content": text}}
        return json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
    half = len(text) // 2
    deltas = [({"content": text[:half]}, None), ({"content": text[half:]}, None), ({}, stop)]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": end}]} for delta, end in deltas]
    chunks.append({"choices": [], "usage": usage})
    lines = [json.dumps({**head, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def _anthropic_batch(name: str, results: str | None) -> dict:
    counts = {"canceled": 0, "errored": 0, "expired": 0, "processing": 0, "succeeded": 1}
    times = {"created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z"}
    state = {"processing_status": "ended" if results else "in_progress", "results_url": results}
    return {"id": name, "type": "message_batch", "request_counts": counts, **times, **state}


def _openai_batch(name: str) -> dict:
    made = {"id": name, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return {**made, "created_at": 1, "input_file_id": "file-1", "status": "completed", "output_file_id": "batch-1"}
