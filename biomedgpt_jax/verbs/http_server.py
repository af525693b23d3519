"""uvicorn as this package wants it: silent, without extras, and ending in order."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from biomedgpt_jax.verbs.listening import note


class HttpServer(uvicorn.Server):
    """The first SIGINT or SIGTERM lets requests under way finish, for `drain_s` seconds; a second SIGINT does not."""

    def __init__(self, app: Starlette, *, connections: int, drain_s: float):
        # Its tracebacks might hold what a client said.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=connections,
                timeout_graceful_shutdown=int(drain_s),
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal once more when all is done, which would make an orderly end a failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = "" if self.should_exit else ": finishing what was asked. Ctrl-C stops at once"
        note(f"{signal.Signals(sig).name}{again}.")
        super().handle_exit(sig, frame)
