"""The client of either provider's package."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.loopback import is_loopback
from biomedgpt_jax.synth.endpoint import Address

# They would print whole requests, with the texts of patients, where ANTHROPIC_LOG or OPENAI_LOG asks for it.
_LOGGERS = ("anthropic", "openai", "httpx", "httpx2", "httpcore", "httpcore2")


@contextmanager
def opened(name: str, address: Address) -> Iterator[Any]:
    """A client of `address`. It follows no redirects, and takes no proxy to this machine.

    Raises DataError where the package is missing.
    """
    package = quiet(name)
    with package.DefaultHttpxClient(follow_redirects=False, trust_env=not is_loopback(address.host)) as http:
        yield package.Client(
            api_key=address.key, base_url=address.url, timeout=address.timeout, max_retries=0, http_client=http
        )


def quiet(name: str) -> ModuleType:
    """The client's package, without its log. Raises DataError where it is not installed."""
    try:
        package = importlib.import_module(name)
    except ImportError as reason:
        raise DataError(f"the package {name} is not installed: pip install 'biomedgpt-jax[synth]'") from reason
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.WARNING)
    return package
