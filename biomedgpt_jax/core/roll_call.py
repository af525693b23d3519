"""Before anything waits for all processes: are they all there? Who is not is named, within a time limit.

Process 0 listens at the coordinator's address, which JAX's own service takes over afterwards; each of the others says
its number and waits for the answer. One line of JSON each way. The connections stay open: see watch.py.
"""

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from biomedgpt_jax.core.errors import RunError, UsageError

_LINE_BYTES = 4096
_PAUSE = 0.2  # seconds between attempts to reach process 0


def roll_call(address: str, processes: int, process: int, seconds: float) -> dict[int, socket.socket]:
    """The open lines to the others, when all `processes` have called at `address` ("host:port").

    Process 0 has a line to each of the others, each of them has one to process 0.

    Raises:
        UsageError: two processes say that they have one number, or another count. RunError: some have not called
            within `seconds`; names them.
    """
    host, port = split_address(address)
    if process == 0:
        return _listen(port, processes, time.monotonic() + seconds, seconds)
    said = {"process": process, "processes": processes, "host": socket.gethostname()}
    return {0: _answer(host, port, said, seconds)}


def tell(lines: Iterable[socket.socket], said: Mapping[str, Any]) -> None:
    for line in lines:
        try:
            line.sendall(json.dumps(said).encode() + b"\n")
        except OSError:  # it has left; its own log says why
            continue


def split_address(address: str) -> tuple[str, int]:
    """Raises UsageError for what is not HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"Coordinator {address!r}: expected HOST:PORT, for example 10.0.0.2:8476.")
    return host.strip("[]"), int(port)


def _listen(port: int, processes: int, deadline: float, seconds: float) -> dict[int, socket.socket]:
    here: dict[int, socket.socket] = {}
    with _server(port) as server:
        while len(here) < processes - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                caller, _ = server.accept()
            except TimeoutError:
                missing = sorted(set(range(1, processes)) - here.keys())
                refusal = (
                    f"{_named(missing)} of {processes} did not call within {seconds:.0f} s. "
                    "Look at their logs: did they start, with the same coordinator, and can they reach this port?"
                )
                tell(here.values(), {"refused": refusal})
                raise RunError(refusal) from None
            if said := _heard(caller):
                _admit(said, caller, here, processes)
    tell(here.values(), {"go": True})
    return here


def _server(port: int) -> socket.socket:
    try:
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise RunError(
            f"Port {port}, where the coordinator listens, can't be taken here ({os.strerror(error.errno or 0)}). "
            "Is an earlier run still there? Stop it or choose another port."
        ) from error


def _admit(said: Mapping[str, Any], caller: socket.socket, here: dict[int, socket.socket], processes: int) -> None:
    number, count = said.get("process"), said.get("processes")
    if count != processes or not isinstance(number, int) or not 0 < number < processes or number in here:
        refusal = (
            f"A process on {said.get('host')} calls itself {number} of {count}; expected 1 to {processes - 1} of "
            f"{processes}, each once. Give every process its own --process and the same --processes."
        )
        tell([*here.values(), caller], {"refused": refusal})
        raise UsageError(refusal)
    here[number] = caller


def _answer(host: str, port: int, said: Mapping[str, Any], seconds: float) -> socket.socket:
    deadline = time.monotonic() + seconds
    reason = "no answer"
    while time.monotonic() < deadline:
        try:
            line = socket.create_connection((host, port), timeout=max(0.01, deadline - time.monotonic()))
            tell([line], said)
            # Process 0 may wait for others as long as this one waits for it.
            line.settimeout(2 * seconds)
            answer = _heard(line)
            if answer and "refused" in answer:
                raise RunError(f"Process 0 gave up: {answer['refused']}")
            if answer:
                return line
            line.close()
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(_PAUSE)
    raise RunError(
        f"Process 0 did not answer at {host}:{port} within {seconds:.0f} s ({reason}). Look at its log: did it start? "
        "If it runs, its address or a firewall is wrong."
    )


def _heard(line: socket.socket) -> dict[str, Any] | None:
    """One JSON object, or None from somebody who does not speak this language."""
    if line.gettimeout() is None:
        line.settimeout(10)
    try:
        said = json.loads(line.makefile("rb").readline(_LINE_BYTES))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def _named(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:8])) + (f" and {len(processes) - 8} more" if len(processes) > 8 else "")
    return f"Process {shown}" if len(processes) == 1 else f"Processes {shown}"
