"""Who is missing is named, in seconds; threads stand for processes, the sockets are real."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from biomedgpt_jax.core.errors import RunError, UsageError
from biomedgpt_jax.core.roll_call import roll_call, split_address


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _call(port, numbers, processes, seconds=10.0):
    """What each of `numbers` gets from the roll call: None, or its error."""

    def one(number):
        try:
            roll_call(f"localhost:{port}", processes, number, seconds)
        except RunError as error:
            return error
        return None

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, numbers))


def test_all_are_there_whoever_comes_first(port):
    assert _call(port, [3, 1, 0, 2], 4) == [None] * 4


def test_who_is_missing_is_named_to_everybody(port):
    begun = time.monotonic()
    first, second = _call(port, [0, 2], 5, seconds=1.0)
    assert time.monotonic() - begun < 5
    assert "Processes 1, 3, 4 of 5 did not call within 1 s" in str(first)
    assert "Process 0 gave up: Processes 1, 3, 4 of 5" in str(second)


def test_a_coordinator_that_is_not_there_is_named(port):
    (error,) = _call(port, [1], 2, seconds=0.6)
    assert f"Process 0 did not answer at localhost:{port} within 1 s (Connection refused)" in str(error)


def test_two_processes_of_one_number_are_refused(port):
    results = _call(port, [0, 1, 1], 3)
    assert all("calls itself 1 of 3; expected 1 to 2 of 3, each once" in str(error) for error in results)
    assert isinstance(results[0], UsageError)


def test_strangers_at_the_port_are_ignored(port):
    def stranger():
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"\n", b"[1]\n"):
            while True:
                try:
                    with socket.create_connection(("localhost", port), timeout=1) as line:
                        line.sendall(said)
                        break
                except OSError:
                    time.sleep(0.02)

    thread = threading.Thread(target=stranger)
    thread.start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_call, port, [0], 2)
        thread.join()
        assert _call(port, [1], 2) == [None]
        assert waiting.result() == [None]


def test_a_taken_port_is_said():
    with socket.create_server(("", 0)) as taken:
        (error,) = _call(taken.getsockname()[1], [0], 2)
    assert "can't be taken here (Address already in use)" in str(error)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":8476", "localhost:0", "localhost:http", "a:99999"])
def test_an_address_has_a_host_and_a_port(address):
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        split_address(address)
