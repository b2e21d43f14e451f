"""The SDK's errors as ours.

The SDK's messages quote what the provider said, which may quote the request, and its error objects hold the request
with the key in its headers. So of an error only its kind, its status, the provider's own error code and the request id
are taken over, and the original is not chained: not as ``__cause__``, and not as ``__context__`` either, which error
reporters walk even where a traceback hides it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

from ractogateway.errors import (
    InvalidValueError,
    ProviderAuthenticationError,
    ProviderConnectionError,
    ProviderError,
    ProviderRateLimited,
    ProviderRequestRejected,
    ProviderTimeout,
    ProviderUnavailable,
    RactoGatewayError,
)

__all__ = ["construction_errors", "provider_errors", "retry_after_seconds", "translate"]

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{1,63}")
"""What an error code looks like; anything else in its place may be text."""

_HTTP_LIBRARIES = frozenset({"anyio", "h11", "httpcore", "httpcore2", "httpx", "httpx2", "ssl"})
"""Whose errors the SDK lets through, some of them in the middle of a stream only."""

_UNAUTHORISED = frozenset({401, 403})
_TOO_MANY_REQUESTS = 429
_BAD_REQUEST = 400
_SERVER_ERROR = 500


class provider_errors:  # noqa: N801 - used like a function, as contextlib's classes are
    """A context in which whatever the SDK raises becomes one of our errors. For blocking and async code alike."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = self._translated(error) if isinstance(error, Exception) else None
        if failure is None:
            return
        try:
            raise failure
        finally:
            failure.__context__ = None  # set by the very `raise` above

    @staticmethod
    def _translated(error: Exception) -> RactoGatewayError | None:
        return translate(error)


class construction_errors(provider_errors):  # noqa: N801 - as above
    """The same while a client is made: nothing was sent yet, so what fails is neither the request nor the provider."""

    @staticmethod
    def _translated(error: Exception) -> RactoGatewayError | None:
        if isinstance(error, RactoGatewayError):
            return None
        return ProviderConnectionError(
            f"the openai client could not be made ({type(error).__name__}); it reads the environment's proxies and "
            "certificates, such as HTTP_PROXY and SSL_CERT_FILE"
        )


def translate(error: Exception) -> RactoGatewayError | None:
    """Our error for one of the SDK's; None for what is ours already or not the provider's doing.

    Kinds are told by name: that needs neither the SDK, which may not be installed, nor its HTTP library, of which there
    have been two.
    """
    if isinstance(error, (RactoGatewayError, StopIteration, StopAsyncIteration)):
        return None
    names = frozenset(kind.__name__ for kind in type(error).__mro__)
    if "APIStatusError" in names:
        return _from_status(error)
    if names & {"APITimeoutError", "TimeoutException"}:
        return ProviderTimeout("the provider did not answer in time")
    return _on_the_way(error, names) or _before_sending(error)


def _on_the_way(error: Exception, names: frozenset[str]) -> ProviderError | None:
    library = type(error).__module__.partition(".")[0]
    if "APIConnectionError" in names or library in _HTTP_LIBRARIES or isinstance(error, OSError):
        return ProviderConnectionError("the connection to the provider failed or broke")
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return ProviderConnectionError("the provider's answer is not JSON")
    if "APIError" in names:
        return _from_event(error)
    return ProviderError(f"the openai client failed: {type(error).__name__}") if library == "openai" else None


def _before_sending(error: Exception) -> InvalidValueError | None:
    """What the SDK, or the JSON encoder below it, says about arguments it cannot use."""
    if isinstance(error, UnicodeEncodeError):
        return InvalidValueError("the request holds text that cannot be encoded, such as half of a surrogate pair")
    if isinstance(error, (TypeError, ValueError, RecursionError)):
        kind = type(error).__name__
        return InvalidValueError(f"extra, tools, history or attachments hold what cannot be sent as JSON ({kind})")
    return None


def _from_status(error: Any) -> ProviderError:
    status: int = error.status_code
    return _kind_for(status)(
        f"the provider answered with HTTP status {status}{_code(error)}",
        status=status,
        request_id=getattr(error, "request_id", None),
        retry_after_seconds=retry_after_seconds(error.response.headers),
    )


def _kind_for(status: int) -> type[ProviderError]:
    if status in _UNAUTHORISED:
        return ProviderAuthenticationError
    if status == _TOO_MANY_REQUESTS:
        return ProviderRateLimited
    if status >= _SERVER_ERROR:
        return ProviderUnavailable
    return ProviderRequestRejected if status >= _BAD_REQUEST else ProviderError


def _from_event(error: Any) -> ProviderError:
    """An error that came as an event of a stream: the HTTP status had been sent as 200 long before."""
    code = _code(error)
    kind = ProviderRateLimited if "rate_limit" in code else ProviderUnavailable
    return kind(f"the provider reported an error in the middle of its answer{code}")


def _code(error: Any) -> str:
    for value in (getattr(error, "code", None), getattr(error, "type", None)):
        if isinstance(value, str) and _CODE.fullmatch(value):
            return f" ({value})"
    return ""


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """How long the provider asks to wait, from ``retry-after-ms`` or ``retry-after`` (seconds, or an HTTP date).

    None when it does not ask, or not intelligibly; 0.0 when the moment has passed.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
