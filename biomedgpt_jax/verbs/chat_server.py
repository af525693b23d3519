"""OpenAI's chat interface over HTTP: who may ask, how much, how long, and how many at once.

Nothing that a client or the model says is logged, and no error shows where in the program it arose.
"""

import asyncio
import hashlib
import hmac
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.loopback import is_loopback
from biomedgpt_jax.verbs import chat_replies
from biomedgpt_jax.verbs.answer_desk import AnswerDesk, Job
from biomedgpt_jax.verbs.assistant import Assistant, ContextFull, Prompt, Said
from biomedgpt_jax.verbs.chat_replies import Reply, error_body, event
from biomedgpt_jax.verbs.chat_requests import Chat, Refused, Terms, read_chat
from biomedgpt_jax.verbs.listening import note

BODY_SECONDS = 30.0  # for a request to arrive
RETRY_SECONDS = 1  # what a client is told that finds the queue full
READERS = 2  # threads that decode pictures
JSON = "application/json"


@dataclass(frozen=True)
class Bounds:
    """`waiting`: requests that may be under way at once; `seconds`: for each, from its arrival to its last word."""

    waiting: int
    body_bytes: int
    seconds: float


class ChatServer:
    """The application, and what its requests share. `key` None: whoever reaches the server may ask."""

    def __init__(self, assistant: Assistant, desk: AnswerDesk, terms: Terms, bounds: Bounds, key: str | None):
        self._assistant, self._desk, self._terms, self._bounds = assistant, desk, terms, bounds
        self._key = None if key is None else _digest(key)
        self._under_way = 0
        self._created = int(time.time())
        self._readers = anyio.CapacityLimiter(READERS)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._guarded(self._health, open=True), methods=["GET"]),
                Route("/v1/models", self._guarded(self._models), methods=["GET"]),
                Route("/v1/models/{name:path}", self._guarded(self._model), methods=["GET"]),
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
            ],
            exception_handlers={HTTPException: _no_such_route},
        )

    def _guarded(
        self, endpoint: Callable[[Request], Awaitable[Response]], open: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            start = time.monotonic()
            try:
                self._check_caller(request, open)
                return await endpoint(request)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it
            except Exception as error:
                refused = as_refused(error)
                taken = 1000 * (time.monotonic() - start)
                note(f"{request.method} {request.scope['route'].path} {refused.status} in {taken:.0f} ms")
                return error_response(refused)

        return guarded

    def _check_caller(self, request: Request, open: bool) -> None:
        if self._key is None:
            # Else a page in a browser could reach a server that listens on this machine alone, under a name of its own.
            if not is_loopback(request.url.hostname or ""):
                raise Refused(403, "The host named in the request is not this machine.")
        elif not open:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), self._key):
                raise Refused(401, "Give the key of this server as a bearer token.", code="invalid_api_key")

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        return JSONResponse(chat_replies.models(self._terms.model, self._created))

    async def _model(self, request: Request) -> Response:
        if request.path_params["name"] != self._terms.model:
            raise Refused(404, f"This server has {self._terms.model!r} alone.", "model", "model_not_found")
        return JSONResponse(chat_replies.model(self._terms.model, self._created))

    async def _chat(self, request: Request) -> Response:
        exchange = Exchange(self, f"chatcmpl-{uuid.uuid4().hex}")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise Refused(415, f"Send the request as content-type {JSON}.")
        if self._under_way >= self._bounds.waiting:
            raise Refused(429, "The queue is full; try again in a moment.", code="rate_limit_exceeded")
        self._under_way += 1
        try:
            body = await _body(request, self._bounds.body_bytes)
            chat, prompt = await anyio.to_thread.run_sync(self._read, body, exchange.id, limiter=self._readers)
            exchange.begin(prompt, chat)
            if chat.stream:
                return EventStream(exchange, self._leave)
            said = await exchange.follow(request.receive, _unheard)
            exchange.note(200)
            response = JSONResponse(exchange.reply.whole(said))
        except BaseException:
            self._leave()
            raise
        self._leave()
        return response

    def _read(self, body: bytes, id: str) -> tuple[Chat, Prompt]:
        chat = read_chat(body, id, self._terms)
        return chat, self._assistant.prompt(chat.request)

    def _leave(self) -> None:
        self._under_way -= 1


class Exchange:
    """One request on its way through the queue."""

    def __init__(self, server: ChatServer, id: str):
        self._server, self.id, self._start = server, id, time.monotonic()
        self._loop, self._heard = asyncio.get_running_loop(), asyncio.Queue[Said | Exception]()

    def begin(self, prompt: Prompt, chat: Chat) -> None:
        terms = self._server._terms
        self.chat, self._pictures, self._said = chat, len(prompt.pixels), 0
        self.reply = Reply(self.id, int(time.time()), terms.model, prompt.tokens)
        self._job = Job(prompt, self._tell, chat.stream)
        self._server._desk.ask(self._job)

    async def follow(self, receive: Receive, hear: Callable[[Said], Awaitable[None]]) -> Said:
        """Every word to `hear`; the whole in the end.

        Raises:
            ClientDisconnect: nobody listens any more. Refused: the time is over. Else what went wrong.
        """
        deadline = self._start + self._server._bounds.seconds
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            while True:
                heard = asyncio.ensure_future(self._heard.get())
                left = max(0.0, deadline - time.monotonic())
                done, _ = await asyncio.wait({heard, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if heard not in done:
                    heard.cancel()
                    if gone in done:
                        self.note(499)
                        raise ClientDisconnect
                    raise Refused(504, f"No whole answer in {self._server._bounds.seconds:g} s.", code="timeout")
                said = heard.result()
                if isinstance(said, Exception):
                    raise said
                self._said = said.tokens
                await hear(said)
                if said.end:
                    return said
        finally:
            gone.cancel()
            self._job.dropped = True

    def note(self, status: int) -> None:
        seconds = time.monotonic() - self._start
        note(
            f"{self.id} {status}: {self._pictures} images, {self.reply.prompt_tokens} + {self._said} tokens "
            f"in {1000 * seconds:.0f} ms"
        )

    def _tell(self, said: Said | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._heard.put_nowait, said)


class EventStream(Response):
    """An answer as server-sent events. An error before the first word has its own status, later one ends the stream."""

    def __init__(self, exchange: Exchange, leave: Callable[[], None]):
        super().__init__()
        self._exchange, self._leave = exchange, leave
        self._shown: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._stream(receive, send)
        except ClientDisconnect:
            pass
        except Exception as error:
            refused = as_refused(error)
            self._exchange.note(refused.status)
            if self._shown is None:
                await error_response(refused)(scope, receive, send)
            else:
                await send({"type": "http.response.body", "body": event(error_body(refused))})
        finally:
            self._leave()

    async def _stream(self, receive: Receive, send: Send) -> None:
        reply = self._exchange.reply

        async def put(body: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        async def hear(said: Said) -> None:
            if self._shown is None:
                headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                self._shown = ""
                await put(event(reply.first()))
            if len(said.text) > len(self._shown):
                await put(event(reply.piece(said.text[len(self._shown) :])))
                self._shown = said.text

        said = await self._exchange.follow(receive, hear)
        await put(event(reply.last(said)))
        if self._exchange.chat.include_usage:
            await put(event(reply.usage(said)))
        await put(chat_replies.DONE, more=False)
        self._exchange.note(200)


def as_refused(error: Exception) -> Refused:
    """What a client is told. Of a failure that nobody foresaw it hears that there was one."""
    match error:
        case Refused():
            return error
        case ContextFull():
            return Refused(400, f"{error}.", "messages", "context_length_exceeded")
        case DataError():
            return Refused(400, f"{error}.", "messages")
        case RunError():
            note(str(error))
            return Refused(500, "The model has no answer; see the server's log.")
        case _:
            note(f"unexpected {type(error).__name__}")
            return Refused(500, "The server failed.")


def error_response(refused: Refused) -> JSONResponse:
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": str(RETRY_SECONDS)}}.get(refused.status)
    if refused.status in (408, 413):
        headers = {"connection": "close"}  # the rest of the request is not read
    return JSONResponse(error_body(refused), refused.status, headers)


async def _body(request: Request, limit: int) -> bytes:
    too_large = Refused(413, f"The request is larger than {limit} bytes.")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"The request did not arrive whole in {BODY_SECONDS:g} s.") from None
    return b"".join(parts)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unheard(said: Said) -> None:
    pass


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return error_response(Refused(status, f"{request.method} is not served at this address."))


def _digest(key: str) -> bytes:
    """Of equal length for all keys, so that comparing tells nothing of them."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
