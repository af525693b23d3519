"""Requests per second of `biomedgpt serve`, batched against one at a time: python benchmarks/serve.py MODEL

MODEL is the workdir of a run or another folder that `biomedgpt serve` takes. CLIENTS clients ask over loopback, each
one request after the other, about pictures, for the likeliest words; both servers run in this process, in turn.
"""

import base64
import io
import json
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from time import sleep

import numpy as np
from PIL import Image
from rich.console import Console
from timing import compare, machine, software

from biomedgpt_jax.verbs.answer_desk import AnswerDesk
from biomedgpt_jax.verbs.assistant import Assistant, Reader
from biomedgpt_jax.verbs.biomedgpt_spec import holds_biomedgpt
from biomedgpt_jax.verbs.chat_requests import Terms
from biomedgpt_jax.verbs.chat_server import Bounds, ChatServer
from biomedgpt_jax.verbs.http_server import HttpServer
from biomedgpt_jax.verbs.listening import bound_socket
from biomedgpt_jax.verbs.loaded_model import load_model
from biomedgpt_jax.verbs.loaded_pairs import load_pairs
from biomedgpt_jax.verbs.med_reader import MedReader
from biomedgpt_jax.verbs.pair_reader import PairReader

CLIENTS, NEW, EACH, ROUNDS = 8, 32, 1, 3


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("python benchmarks/serve.py MODEL")
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (the servers' log)
    folder, console = Path(sys.argv[1]), Console()
    reader = (
        PairReader(load_pairs(folder, None, "float32", {}, ""), open=True)
        if holds_biomedgpt(folder)
        else MedReader(load_model(folder, None, "float32"), context=2048)
    )
    batched, single = (start(reader, rows) for rows in (CLIENTS, 1))
    figures = compare(lambda: ask_all(batched), lambda: ask_all(single), rounds=ROUNDS)
    count = CLIENTS * EACH
    console.print(f"{software('jax', 'starlette', 'uvicorn')}; {machine()}")
    tokens = ask_all(batched) / count
    console.print(
        f"{CLIENTS} clients, a picture and {tokens:.1f} tokens per request: {count / figures.ours:.2f} requests/s in "
        f"batches of {CLIENTS}, {count / figures.theirs:.2f} one at a time: {figures.spread}"
    )


def start(reader: Reader, rows: int) -> int:
    """A server that lives as long as this process; its port."""
    desk = AnswerDesk(Assistant(reader, rows, NEW), wait_s=0.02)
    app = ChatServer(
        Assistant(reader, rows, NEW), desk, Terms("m", NEW, 1, True), Bounds(64, 1 << 20, 600.0), None
    ).app()
    server, listener = HttpServer(app, connections=64, drain_s=5.0), bound_socket("127.0.0.1", 0)
    desk.open()
    Thread(target=server.run, args=([listener],), daemon=True).start()
    while not server.started:
        sleep(0.01)
    return listener.getsockname()[1]


def ask_all(port: int) -> int:
    with ThreadPoolExecutor(CLIENTS) as threads:
        return sum(threads.map(lambda number: ask(port, number), range(CLIENTS * EACH)))


def ask(port: int, number: int) -> int:
    """Tokens of the answer."""
    pixels = np.random.default_rng(number).integers(0, 255, (256, 256, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is shown here?"}]
    fields = {"messages": [{"role": "user", "content": content}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        json.dumps(fields).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["usage"]["completion_tokens"]


if __name__ == "__main__":
    main()
