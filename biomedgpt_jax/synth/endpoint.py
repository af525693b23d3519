"""Where requests go: what an endpoint may answer, which errors it may meet, and whether data may go there at all."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.loopback import is_loopback
from biomedgpt_jax.data.manifest import Manifest
from biomedgpt_jax.data.spec import Access
from biomedgpt_jax.synth.asks import Ask
from biomedgpt_jax.synth.journal import Reply


class Trouble(Exception):
    """What an endpoint met. Its text shows nothing of the data; `told` are the endpoint's own words, which may."""

    def __init__(self, why: str, told: str = ""):
        super().__init__(why)
        self.told = told


class Busy(Trouble):
    """Ask again later. `seconds`: when, if the endpoint said so; `paid`: whether the answer may have been made."""

    def __init__(self, why: str, told: str = "", *, seconds: float | None = None, paid: bool = False):
        super().__init__(why, told)
        self.seconds = seconds
        self.paid = paid


class Unusable(Trouble):
    """The endpoint will not take this request, whenever it is asked; others it may."""


class Closed(Trouble):
    """The endpoint takes no request of ours: a wrong key, model or address, or no money."""


@dataclass(frozen=True)
class Address:
    """`url` is the base of the protocol's paths; `key_variable` names the variable of the environment with the key."""

    url: str
    key: str
    key_variable: str
    timeout: float  # seconds without a byte
    stream: bool

    @property
    def host(self) -> str:
        return host_of(self.url)


@runtime_checkable
class Endpoint(Protocol):
    """`send` returns a whole answer or raises Busy, Unusable or Closed. Called from several threads."""

    def send(self, ask: Ask) -> Reply: ...


Opened = AbstractContextManager[Endpoint]


def host_of(url: str) -> str:
    """Raises DataError for what is no address of HTTP."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError(f"{url}: expected an address like http://127.0.0.1:8000/v1")
    return parts.hostname


def refuse_third_party(manifests: Iterable[Manifest], host: str, allowed: str) -> None:
    """Raises DataError where credentialed data would leave this machine for a host that is not `allowed` by name."""
    if is_loopback(host):
        return
    for manifest in manifests:
        if manifest.access == Access.CREDENTIALED.value and host != allowed:
            raise DataError(
                f"{manifest.name} is credentialed: its terms forbid to hand it to third parties, and {host} is one "
                "unless you hold an agreement with it that the data's owner accepts. Use a model on this machine "
                f"(--config.endpoint.url=http://127.0.0.1:8000/v1), or state --config.endpoint.credentialed_host={host}"
            )


def restricted(manifests: Iterable[Manifest], host: str) -> list[str]:
    """Data sets that are neither open nor the user's own and would leave this machine: their terms may forbid it."""
    free = (Access.OPEN.value, Access.LOCAL.value)
    return [] if is_loopback(host) else [each.name for each in manifests if each.access not in free]
