"""Serves a model behind OpenAI's chat interface, for its clients and for evaluations that ask over HTTP.

    biomedgpt serve --model=runs/instruct
    biomedgpt serve --model=exports/instruct --host=0.0.0.0 --port=8000 --api_key_file=key.txt

The address is http://HOST:PORT/v1. Text and images (data: URLs), streaming, several requests in one batch. Only this
machine can reach it unless --host says otherwise, and then a key is demanded: --api_key_file or $BIOMEDGPT_API_KEY.
Ctrl-C or SIGTERM finishes what was asked and ends. docs/serve.md tells more.
"""

import importlib.util
import io
import os
import socket
from pathlib import Path

from absl import flags
from PIL import Image

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.loopback import is_loopback
from biomedgpt_jax.data.rows import ImageBytes
from biomedgpt_jax.data.source import Turn
from biomedgpt_jax.eval.row_decode import GREEDY
from biomedgpt_jax.verbs.answer_desk import AnswerDesk
from biomedgpt_jax.verbs.assistant import Assistant, Manner, Request
from biomedgpt_jax.verbs.chat_requests import Terms
from biomedgpt_jax.verbs.command_line import require
from biomedgpt_jax.verbs.listening import bound_socket, note
from biomedgpt_jax.verbs.progress import Advance, progress
from biomedgpt_jax.verbs.reader_flags import define_reader, open_reader

EXAMPLE = "biomedgpt serve --model=runs/small"
KEY_VARIABLE = "BIOMEDGPT_API_KEY"
LEAST_KEY = 16  # characters
PACKAGES = ("starlette", "uvicorn")
DRAIN_SECONDS = 5  # for the last words to be sent, beyond the time of a request


def define(values: flags.FlagValues) -> None:
    define_reader(values)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.", flag_values=values)
    flags.DEFINE_integer("port", 8000, "0: any that is free.", lower_bound=0, upper_bound=65535, flag_values=values)
    flags.DEFINE_string("name", None, "Of the model for clients; its folder's if not set.", flag_values=values)
    flags.DEFINE_string("api_key_file", None, f"File with the key; else ${KEY_VARIABLE}.", flag_values=values)
    flags.DEFINE_integer(
        "max_new_tokens", 256, "Length limit of an answer that asks for none.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer("max_images", 8, "In one request.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("max_body_mb", 32, "Size of one request.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("queue", 64, "Requests under way at once; more get 429.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("wait_ms", 5.0, "A batch waits so long for others.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("timeout_s", 300.0, "For one request; more gets 504.", lower_bound=0.1, flag_values=values)


def run(values: flags.FlagValues) -> None:
    require(values, "model", EXAMPLE)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"Serving needs {' and '.join(missing)}: pip install 'biomedgpt-jax[serve]'.")
    key = _key(values)
    with bound_socket(values.host, values.port) as listener:
        assistant = Assistant(open_reader(values, EXAMPLE), values.batch_rows, values.max_new_tokens)
        with progress() as advance:
            warm_up(assistant, values.max_new_tokens, advance)
        _serve(assistant, values, listener, key)


def warm_up(assistant: Assistant, max_new_tokens: int, advance: Advance) -> None:
    """Compiles what a short question needs, without and with a picture, alone and in a batch.

    Raises:
        UsageError: a model that cannot be asked a question at all.
    """
    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    images = (ImageBytes(picture.getvalue(), "warm-up"),)
    sizes = sorted({1, assistant.rows})
    total = 2 * len(sizes)
    advance("warm up", 0, total)
    for number, (shown, rows) in enumerate([(shown, rows) for shown in ((), images) for rows in sizes], 1):
        manner = Manner(GREEDY, max_new_tokens, (0, 0))
        try:
            prompt = assistant.prompt(Request("warm-up", (Turn("What is shown?", ""),), shown, manner))
        except DataError as error:
            raise UsageError(f"This model cannot be asked by chat: {error}. Another --task may help.") from error
        underway = assistant.begin([prompt] * rows)
        underway.go_on(1)
        advance("warm up", number, total)


def _serve(assistant: Assistant, values: flags.FlagValues, listener: socket.socket, key: str | None) -> None:
    """Until a signal comes; then what was asked is finished."""
    # They need the extra.
    from biomedgpt_jax.verbs.chat_server import Bounds, ChatServer
    from biomedgpt_jax.verbs.http_server import HttpServer

    desk = AnswerDesk(assistant, values.wait_ms / 1000)
    terms = Terms(_name(values), values.max_new_tokens, values.max_images, assistant.reader.remembers)
    bounds = Bounds(values.queue, values.max_body_mb << 20, values.timeout_s)
    app = ChatServer(assistant, desk, terms, bounds, key).app()
    server = HttpServer(app, connections=4 * values.queue + 16, drain_s=values.timeout_s + DRAIN_SECONDS)
    desk.open()
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    note(f"{terms.model} at {address}, {assistant.rows} requests in a batch, {'a' if key else 'no'} key. Ctrl-C ends.")
    server.run([listener])
    desk.close(finish=not server.force_exit)
    if server.force_exit:
        raise RunError("stopped before everything was answered.")


def _name(values: flags.FlagValues) -> str:
    return values.name or Path(values.model).resolve().name


def _key(values: flags.FlagValues) -> str | None:
    """Raises UsageError where a key is demanded, or is none."""
    if values.api_key_file:
        try:
            key, where = Path(values.api_key_file).read_text().strip(), f"--api_key_file={values.api_key_file}"
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--api_key_file={values.api_key_file} cannot be read ({type(error).__name__})."
            ) from error
    else:
        key, where = os.environ.get(KEY_VARIABLE, "").strip(), f"${KEY_VARIABLE}"
        if not key:
            if is_loopback(values.host):
                return None
            raise UsageError(
                f"--host={values.host} lets other machines ask: give a key by --api_key_file=FILE or ${KEY_VARIABLE}."
            )
    if len(key) < LEAST_KEY or not key.isascii() or any(each.isspace() for each in key):
        raise UsageError(f"{where}: expected a key of at least {LEAST_KEY} ASCII characters without spaces.")
    return key
