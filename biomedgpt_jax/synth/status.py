"""What an endpoint's errors mean for a request, alike for both clients."""

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from biomedgpt_jax.synth.endpoint import Address, Busy, Closed, Trouble, Unusable

# Whatever is asked, the answer will be the same: the key, the account, the model or the path is wrong.
_CLOSED = (401, 402, 403, 404, 405)
_BUSY = (408, 409, 423, 425, 429)
_NO_MONEY = ("insufficient_quota", "billing_error", "billing_hard_limit_reached")
LONGEST = 2000  # characters of an endpoint's own words that are kept
# Errors of the HTTP library before anything went out.
_NOT_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError", "ProxyError")


@contextmanager
def translated(package: Any, address: Address) -> Iterator[None]:
    """Turns the client's errors into Trouble."""
    try:
        yield
    except package.APIStatusError as error:
        raise _of_status(error, address) from None
    except package.APIConnectionError as error:
        raise _of_connection(error) from None
    except package.APIError:  # an error told within a stream, or a body that is no answer
        raise Busy("an answer that broke off", paid=True) from None
    except Trouble:
        raise
    except Exception as error:
        # A body that is no answer makes the clients fail in many ways; what is read after the head of a stream raises
        # the errors of the HTTP library itself.
        raise Busy(f"an answer that cannot be read ({type(error).__name__})", paid=True) from None


def _of_status(error: Any, address: Address) -> Trouble:
    status = int(error.status_code)
    kind = _kind(error)
    why = f"HTTP {status}{f' {kind}' if kind else ''}"
    told = str(error.body)[:LONGEST]
    told = told.replace(address.key, "[key]") if address.key else told
    if kind in _NO_MONEY:
        return Closed(f"{address.host} answers {why}: the account has no money or quota left", told)
    if 300 <= status < 400:
        return Closed(f"{address.host} answers {why}, a way to another address; give that one as endpoint.url", told)
    if status in _CLOSED:
        wrong = f"is {address.key_variable} right?" if status in (401, 403) else "are endpoint.url and model right?"
        return Closed(f"{address.host} answers {why}; {wrong}", told)
    if status in _BUSY or status >= 500:
        return Busy(why, told, seconds=_retry_after(error.response.headers))
    return Unusable(why, told)


def _of_connection(error: Exception) -> Busy:
    """No connection costs nothing; one that breaks later may have been paid."""
    cause = type(error.__cause__).__name__
    made = cause not in _NOT_SENT
    return Busy(f"a connection that broke off ({cause})" if made else f"no connection ({cause})", paid=made)


def _kind(error: Any) -> str:
    """The type or code of an error, a word; free text is left out."""
    content = error.body if isinstance(error.body, dict) else {}
    inner = content.get("error", content)
    told = [inner.get(name) for name in ("code", "type")] if isinstance(inner, dict) else []
    words = [each for each in told if isinstance(each, str) and each.replace("_", "").isalnum() and len(each) < 64]
    return words[0] if words else ""


def _retry_after(headers: Any) -> float | None:
    """Seconds, from either header and either form of it."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        if "retry-after" in headers:
            return max(0.0, float(headers["retry-after"]))
    except ValueError:
        return _until(headers.get("retry-after", ""))
    return None


def _until(date: str) -> float | None:
    try:
        when = parsedate_to_datetime(date)
        return max(0.0, (when - when.now(when.tzinfo)).total_seconds())
    except (ValueError, TypeError):
        return None
