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
from collections.abc import Callable, Mapping
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

__all__ = [
    "Translate",
    "before_sending",
    "construction_errors",
    "from_event",
    "from_status",
    "on_the_way",
    "provider_errors",
    "retry_after_seconds",
    "shown_code",
    "translate",
]

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{1,63}")
"""What an error code looks like; anything else in its place may be text."""

_HTTP_LIBRARIES = frozenset({"aiohttp", "anyio", "h11", "httpcore", "httpcore2", "httpx", "httpx2", "ssl"})
"""Whose errors the SDK lets through, some of them in the middle of a stream only."""

_LATE = "the provider did not answer in time"
_BROKEN = "the connection to the provider failed or broke"

_UNREACHED = frozenset(
    {"ClientConnectorError", "ConnectError", "ConnectTimeout", "ConnectionRefusedError", "PoolTimeout"}
)
"""Errors of the HTTP libraries before a request has left."""

_UNAUTHORISED = frozenset({401, 403})
_TOO_MANY_REQUESTS = 429
_BAD_REQUEST = 400
_SERVER_ERROR = 500


Translate = Callable[[Exception], RactoGatewayError | None]
"""Our error for one of an SDK's; None for what is ours already or not the provider's doing."""


class provider_errors:  # noqa: N801 - used like a function, as contextlib's classes are
    """A context in which whatever the SDK raises becomes one of our errors. For blocking and async code alike."""

    def __init__(self, translated: Translate) -> None:
        self._translated = translated

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


def construction_errors(package: str) -> provider_errors:
    """The same while a client is made: nothing was sent yet, so what fails is neither the request nor the provider."""

    def translated(error: Exception) -> RactoGatewayError | None:
        if isinstance(error, RactoGatewayError):
            return None
        failure = ProviderConnectionError(
            f"the {package} client could not be made ({type(error).__name__}); it reads the environment's proxies and "
            "certificates, such as HTTP_PROXY and SSL_CERT_FILE"
        )
        failure.may_have_billed = False
        return failure

    return provider_errors(translated)


def translate(error: Exception, package: str) -> RactoGatewayError | None:
    """`Translate` for the SDKs ``openai`` and ``anthropic``, which are built alike.

    Kinds are told by name: that needs neither the SDK, which may not be installed, nor its HTTP library, of which there
    have been two.
    """
    if isinstance(error, (RactoGatewayError, StopIteration, StopAsyncIteration)):
        return None
    names = frozenset(kind.__name__ for kind in type(error).__mro__)
    if "APIStatusError" in names:
        return _from_answer(error)
    if "APITimeoutError" in names:
        return _without_answer(ProviderTimeout(_LATE), error)
    if "APIConnectionError" in names:
        return _without_answer(ProviderConnectionError(_BROKEN), error)
    found = on_the_way(error)
    if found is None and "APIError" in names:
        found = from_event(_code(error))
    if found is None and type(error).__module__.partition(".")[0] == package:
        found = ProviderError(f"the {package} client failed: {type(error).__name__}")
    return found or before_sending(error)


def on_the_way(error: Exception) -> ProviderError | None:
    """What happens to any connection, whichever SDK let it through."""
    if isinstance(error, TimeoutError) or "TimeoutException" in {kind.__name__ for kind in type(error).__mro__}:
        return _without_answer(ProviderTimeout(_LATE), error)
    if type(error).__module__.partition(".")[0] in _HTTP_LIBRARIES or isinstance(error, OSError):
        return _without_answer(ProviderConnectionError(_BROKEN), error)
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return ProviderConnectionError("the provider's answer is not JSON")
    return None


def _without_answer(failure: ProviderConnectionError, error: BaseException) -> ProviderConnectionError:
    """``failure``, which knows whether the request can have arrived. (The last attempt's: nobody tells of others.)"""
    for cause in (error, error.__cause__):
        if cause is not None and _UNREACHED & {kind.__name__ for kind in type(cause).__mro__}:
            failure.may_have_billed = False
    return failure


def before_sending(error: Exception) -> InvalidValueError | None:
    """What the SDK, or the JSON encoder below it, says about arguments it cannot use."""
    if isinstance(error, UnicodeEncodeError):
        return InvalidValueError("the request holds text that cannot be encoded, such as half of a surrogate pair")
    if isinstance(error, (TypeError, ValueError, RecursionError)):
        kind = type(error).__name__
        return InvalidValueError(f"extra, tools, history or attachments hold what cannot be sent as JSON ({kind})")
    return None


def _from_answer(error: Any) -> ProviderError:
    status: int = error.status_code
    code, request_id = _code(error), getattr(error, "request_id", None)
    if status < _BAD_REQUEST:  # an event of a stream, as one of these SDKs tells it
        return from_event(code, request_id=request_id)
    return from_status(status, code, headers=error.response.headers, request_id=request_id)


def from_status(
    status: int, code: str = "", *, headers: Mapping[str, str], request_id: str | None = None
) -> ProviderError:
    """The error for an HTTP status. ``code`` is from `shown_code`."""
    return _kind_for(status)(
        f"the provider answered with HTTP status {status}{code}",
        status=status,
        request_id=request_id,
        retry_after_seconds=retry_after_seconds(headers),
    )


def _kind_for(status: int) -> type[ProviderError]:
    if status in _UNAUTHORISED:
        return ProviderAuthenticationError
    if status == _TOO_MANY_REQUESTS:
        return ProviderRateLimited
    if status >= _SERVER_ERROR:
        return ProviderUnavailable
    return ProviderRequestRejected if status >= _BAD_REQUEST else ProviderError


def from_event(code: str = "", *, request_id: str | None = None) -> ProviderError:
    """An error that came as an event of a stream: the HTTP status had been sent as 200 long before."""
    kind = ProviderRateLimited if "rate_limit" in code or "EXHAUSTED" in code else ProviderUnavailable
    failure = kind(f"the provider reported an error in the middle of its answer{code}", request_id=request_id)
    failure.may_have_billed = True
    return failure


def _code(error: Any) -> str:
    body = getattr(error, "body", None)
    inner = body.get("error") if isinstance(body, Mapping) else None  # where older versions of an SDK leave it
    told = inner.get("type") if isinstance(inner, Mapping) else None
    return shown_code(getattr(error, "code", None), getattr(error, "type", None), told)


def shown_code(*values: object) -> str:
    """The first of ``values`` that looks like an error code, as a message shows it; else ``""``."""
    for value in values:
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
