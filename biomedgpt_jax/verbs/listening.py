"""The address that a server listens on, and the lines that it logs."""

import socket
import sys
import time

from biomedgpt_jax.core.errors import RunError


def bound_socket(host: str, port: int) -> socket.socket:
    """Holds the address; nobody can connect until it listens. `port` 0 is any that is free.

    Raises:
        RunError: no such address here, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        held = socket.socket(family, kind, protocol)
    except OSError as error:
        raise RunError(f"--host={host}: no such address ({error.strerror}).") from error
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
    except OSError as error:
        held.close()
        raise RunError(f"--host={host} --port={port} cannot be had ({error.strerror}); choose another.") from error
    return held


def note(text: str) -> None:
    """One line of the log: identifiers, sizes and times."""
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}", file=sys.stderr, flush=True)
