"""`biomedgpt serve` as its users meet it: the official client, in parallel, with bad input, and a process that ends."""

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection

import jax
import numpy as np
import openai
import pytest

from biomedgpt_jax.data.rows import ImageBytes
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.eval.row_decode import GREEDY, Sampling
from biomedgpt_jax.verbs.assistant import Assistant, Manner, Request
from biomedgpt_jax.verbs.chat_requests import Terms, read_chat
from biomedgpt_jax.verbs.loaded_model import load_model
from biomedgpt_jax.verbs.med_reader import MedReader
from tests.command import ROOT, assert_refused, biomedgpt
from tests.compiler import xla_flags
from tests.serving import BOUNDS, NAME, picture, serving, text

MANNER = Manner(GREEDY, max_new_tokens=4, seeds=(0, 0))
SECRET = "Jane Roe"
ONE = [{"role": "user", "content": SECRET}]


@pytest.fixture(scope="module")
def assistant(tiny_run):
    """The tiny run with larger weights, which has something to say at once."""
    reader = copy.copy(MedReader(load_model(tiny_run.folder, None, "float32"), context=512))
    rng = np.random.default_rng(0)
    reader.params = jax.tree.map(
        lambda leaf: jax.device_put(0.3 * rng.standard_normal(leaf.shape, np.float32), leaf.sharding), reader.params
    )
    return Assistant(reader, rows=4)


@pytest.fixture(scope="module")
def served(assistant):
    with serving(assistant) as server:
        yield server


@pytest.fixture(scope="module")
def files(raw_data):
    return [raw_data / "images" / f"{n}.png" for n in range(3)]


def said(assistant, *turns, images=(), manner=MANNER):
    """What `generate` would say."""
    pictures = tuple(ImageBytes(file.read_bytes(), file.name) for file in images)
    request = Request("q", tuple(Turn(*turn) for turn in turns), pictures, manner)
    (answer,) = assistant.answer([assistant.prompt(request)])
    return answer


def test_the_official_client_gets_what_generate_says(served, assistant, files):
    expected = said(assistant, ("Is it red?", ""), images=files[:1])
    answer = served.ask(picture(files[0]), text("Is it red?"))
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (expected.text, "length") and expected.text
    assert answer.usage.completion_tokens == 4 and answer.usage.prompt_tokens > 49
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 4
    assert [model.id for model in served.client().models.list()] == [NAME] == [served.client().models.retrieve(NAME).id]

    stop = expected.text[1:3]
    cut = served.ask(picture(files[0]), text("Is it red?"), stop=stop).choices[0]
    assert cut.message.content == expected.text[: expected.text.index(stop)].rstrip() and cut.finish_reason == "stop"


def test_a_request_says_how_it_is_answered():
    terms = Terms(NAME, max_new_tokens=4, max_images=3, system=True)
    fields = {"temperature": 1.5, "top_p": 0.9, "top_k": -1, "seed": -7, "max_completion_tokens": 9, "stop": ["a", "b"]}
    chat = read_chat(json.dumps({"messages": ONE, "model": NAME, "stream": True, **fields}).encode(), "q", terms)
    assert chat.request.manner == Manner(Sampling(1.5, 0, 0.9), 9, (-7, 0), ("a", "b"))
    assert chat.stream and not chat.include_usage and chat.request.turns == (Turn(SECRET, ""),)
    plain = read_chat(json.dumps({"messages": ONE, "top_k": 40, "temperature": None}).encode(), "q", terms)
    assert plain.request.manner == Manner(Sampling(0.0, 40, 1.0), 4, (0, 0))


def test_a_conversation_with_pictures_streams_in_pieces(served, assistant, files):
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": [picture(files[0]), text("Is it red?")]},
        {"role": "assistant", "content": "It is.", "refusal": None, "tool_calls": None},
        {"role": "user", "content": [text("And"), picture(files[1]), text("this?")]},
    ]
    turns = (("<image>\nYou are terse.\nIs it red?", "It is."), ("And\n<image>\nthis?", ""))
    expected = said(assistant, *turns, images=files[:2])
    chunks = list(
        served.client().chat.completions.create(
            model=NAME, messages=messages, stream=True, stream_options={"include_usage": True}, user="a", n=1
        )
    )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == expected.text and len(pieces) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 4 and not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def test_parallel_requests_are_answered_together_as_they_would_be_alone(assistant, files):
    questions = [
        f"Is it {word}?" for word in ("red", "blue", "very large", "old", "in the left lung", "so", "he", "it")
    ]
    with serving(assistant, wait_s=0.5) as server, ThreadPoolExecutor(8) as threads:
        ask = lambda word: server.ask(picture(files[0]), text(word)).choices[0].message.content  # noqa: E731
        answers = list(threads.map(ask, questions))
        assert server.desk.batches < 5
    alone = [said(assistant, (question, ""), images=files[:1]).text for question in questions]
    assert answers == alone and len(set(alone)) > 1


BAD = {
    "temperature: expected a number from 0 to 2, found 3": {"temperature": 3},
    "temperature: expected a number from 0 to 2, found a text": {"temperature": SECRET},
    "top_p": {"top_p": 0},
    "max_tokens: expected a whole number from 1, found 0": {"max_tokens": 0},
    "max_tokens: expected a whole number from 1, found a number": {"max_tokens": 1.5},
    "'n' is supported with the value 1 alone": {"n": 2},
    "'response_format' is supported": {"response_format": {"type": "json_object"}},
    "'tools' is supported": {"tools": [{"type": "function"}]},
    "'fancy' is not known": {"fancy": 1},
    "stop: expected a text or a list": {"stop": [""]},
    "stream: expected true or false": {"stream": "yes"},
    "stream_options": {"stream_options": {"include_usage": True}},
    "messages: expected a list": {"messages": []},
    "messages[0].role": {"messages": [{"role": SECRET, "content": "a"}]},
    "messages[0]: a message of this role cannot": {"messages": [{"role": "assistant", "content": "a"}]},
    "messages[1]: a message of this role cannot": {"messages": [*ONE, *ONE]},
    "the last message must be": {"messages": [*ONE, {"role": "assistant", "content": "a"}]},
    "there is no question": {"messages": [{"role": "user", "content": " "}]},
    "contains a NUL": {"messages": [{"role": "user", "content": "a\0"}]},
    "1 <image> in its text, but 0 images": {"messages": [{"role": "user", "content": "<image> a?"}]},
    "messages[0]: the field 'tool_calls'": {"messages": [{**ONE[0], "tool_calls": [1]}]},
    "the context is full": {"max_tokens": 600},
}
PARTS = {
    "This server fetches nothing": {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}},
    "is no base64": {"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}},
    "messages[0].content[0]: not a readable image": {"type": "image_url", "image_url": {"url": "data:;base64,AAAA"}},
    "expected a part of type text": {"type": "input_audio", "input_audio": {}},
}


def post(port, body, **headers):
    """(status, headers, body) without a client that would repair what is sent."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/json", **headers}
    chunked = "transfer-encoding" in headers
    connection.request("POST", "/v1/chat/completions", body, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_bad_requests_are_refused_by_name_and_tell_nothing(served, files, capfd):
    cases = {words: {"messages": ONE, **fields} for words, fields in BAD.items()}
    cases |= {words: {"messages": [{"role": "user", "content": [part, text(SECRET)]}]} for words, part in PARTS.items()}
    for words, fields in cases.items():
        status, _, body = post(served.port, json.dumps(fields))
        error = json.loads(body)["error"]
        assert status == 400 and words in error["message"], (words, error)
        assert (
            error["type"] == "invalid_request_error" and SECRET not in body.decode() and "Traceback" not in str(error)
        )
    for body in ("{", "[]", "[" * 100_000, '"a"', b"\xff\xfe", '{"messages": NaN}'):
        assert post(served.port, body)[0] == 400
    assert post(served.port, "{}", **{"content-type": "text/plain"})[0] == 415
    assert post(served.port, "{}", host="attacker.example")[0] == 403
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        served.client().chat.completions.create(model="gpt-5", messages=ONE)
    with pytest.raises(openai.NotFoundError, match="not served at this address"):
        served.client().completions.create(model=NAME, prompt="a")
    with pytest.raises(openai.BadRequestError, match="4 images, more than the 3 allowed") as refused:
        served.ask(*[picture(files[0])] * 4, text("a"))
    assert refused.value.param == "messages"
    assert SECRET not in capfd.readouterr().err


def test_limits_of_size_time_and_number(assistant, files):
    with serving(assistant, replace(BOUNDS, waiting=1, body_bytes=6000)) as server:
        assert post(server.port, b" " * 6001)[0] == 413
        assert post(server.port, iter([b" " * 4000] * 2), **{"transfer-encoding": "chunked"})[0] == 413
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         b"Content-Length: 9\r\n\r\n{")  # fmt: skip
            time.sleep(0.2)
            with pytest.raises(openai.RateLimitError, match="queue is full") as full:
                server.ask(picture(files[0]), text("a"))
            assert int(full.value.response.headers["retry-after"]) >= 1
        time.sleep(0.2)
        assert server.ask(picture(files[0]), text("a")).choices  # the one who went away holds no place
    with serving(assistant, replace(BOUNDS, seconds=0.001)) as server:
        with pytest.raises(openai.InternalServerError) as late:
            server.ask(picture(files[0]), text("a"))
        assert late.value.status_code == 504 and late.value.code == "timeout"


def test_a_key_is_demanded_where_there_is_one(assistant):
    with serving(assistant, key="0123456789abcdef") as server:
        for key in ("none", "0123456789abcdeF", "0123456789abcdef0"):
            with pytest.raises(openai.AuthenticationError):
                server.client(key).models.list()
        assert [model.id for model in server.client("0123456789abcdef").models.list()] == [NAME]
        connection = HTTPConnection("127.0.0.1", server.port)
        connection.request("GET", "/health")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}
        connection.close()


def test_a_client_that_goes_away_is_dropped(assistant, files, capfd):
    asked = picture(files[0]), text("Yes?")
    with serving(Assistant(assistant.reader, rows=1, room=256)) as server:
        assert server.ask(*asked).choices[0].message.content  # nothing is left to compile
        with server.ask(*asked, max_tokens=250, stream=True) as stream:
            next(iter(stream))
        start = time.monotonic()
        assert server.ask(*asked).choices[0].message.content
        assert time.monotonic() - start < 3  # 250 tokens take longer
    _, left, _ = capfd.readouterr().err.splitlines()
    assert " 499: 1 images" in left


def test_calls_that_cannot_serve_are_refused(tiny_run, tmp_path, monkeypatch):
    model, key = f"--model={tiny_run.folder}", tmp_path / "key"
    monkeypatch.delenv("BIOMEDGPT_API_KEY", raising=False)
    assert_refused(biomedgpt("serve", model, "--host=0.0.0.0"), 2, "--api_key_file=FILE or $BIOMEDGPT_API_KEY")
    assert_refused(biomedgpt("serve", model, f"--api_key_file={key}"), 2, "cannot be read (FileNotFoundError)")
    key.write_text("short\n")
    with_key = ("serve", model, f"--api_key_file={key}")
    assert_refused(biomedgpt(*with_key), 2, "at least 16 ASCII characters")
    key.write_text("0123456789abcdef\n")
    assert_refused(biomedgpt(*with_key, "--host=no.such.host.invalid"), 1, "no such address")
    assert_refused(biomedgpt("serve"), 2, "--model is missing")
    assert_refused(biomedgpt("serve", model, "--open"), 2, "--open: for a BiomedGPT")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(biomedgpt("serve", model, f"--port={port}"), 1, "cannot be had")
    monkeypatch.setattr("biomedgpt_jax.verbs.serve.PACKAGES", ("starlette", "no_such_package"))
    assert_refused(biomedgpt("serve", model), 2, "needs no_such_package: pip install 'biomedgpt-jax[serve]'")


def test_a_process_finishes_what_was_asked_and_ends_in_order(tiny_run):
    process = subprocess.Popen(
        [sys.executable, "-m", "biomedgpt_jax", "serve", f"--model={tiny_run.folder}", "--port=0", "--batch_rows=1"],
        cwd=ROOT,
        env={**os.environ, "BIOMEDGPT_API_KEY": "0123456789abcdef", "XLA_FLAGS": xla_flags(1)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        log = [next(process.stderr)]
        while "Ctrl-C ends" not in log[-1]:
            log.append(next(process.stderr))
        assert any("warm up: 2/2" in line for line in log)
        found = re.search(r"(\S+) at (http://127.0.0.1:\d+/v1), 1 requests in a batch, a key", log[-1])
        assert found is not None and found[1] == tiny_run.folder.name
        client = openai.OpenAI(base_url=found[2], api_key="0123456789abcdef", max_retries=0)
        messages = [{"role": "user", "content": SECRET}]
        stream = client.chat.completions.create(model=found[1], messages=messages, stream=True, max_tokens=200)
        chunks = [next(stream)]
        process.send_signal(signal.SIGTERM)
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest
        assert "SIGTERM: finishing what was asked" in rest and " 200: 0 images" in rest and SECRET not in rest
    finally:
        process.kill()
        process.communicate()
