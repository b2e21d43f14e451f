"""The SDK's errors as ours.

The SDK's messages quote what the provider said, which may quote the request, and its error objects hold the request
with the key in its headers. So of an error only its kind, its status, the provider's own error code and the request id
are shown, and the classes of what failed below it; what the provider said is kept where only who asks for it finds it
(`ProviderDetails`). The original is not chained: not as ``__cause__``, and not as ``__context__`` either, which error
reporters walk even where a traceback hides it.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

from ractogateway.errors import (
    InvalidValueError,
    ProviderAuthenticationError,
    ProviderConnectionError,
    ProviderDetails,
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
    "details_of",
    "from_event",
    "from_status",
    "no_json",
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

_UNREACHED = frozenset(
    {"ClientConnectorError", "ConnectError", "ConnectTimeout", "ConnectionRefusedError", "PoolTimeout"}
)
"""Errors of the HTTP libraries before a request has left."""

_MOST_CAUSES = 16
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


def translate(error: Exception, package: str, place: str) -> RactoGatewayError | None:
    """`Translate` for the SDKs ``openai`` and ``anthropic``, which are built alike. ``place`` is `host_and_port`.

    Kinds are told by name: that needs neither the SDK, which may not be installed, nor its HTTP library, of which there
    have been two.
    """
    if isinstance(error, (RactoGatewayError, StopIteration, StopAsyncIteration)):
        return None
    names = frozenset(kind.__name__ for kind in type(error).__mro__)
    if "APIStatusError" in names:
        return _from_answer(error)
    if "APITimeoutError" in names:
        return _late(error, place)
    if "APIConnectionError" in names:
        return _broken(error, place)
    found = on_the_way(error, place)
    if found is None and "APIError" in names:
        found = from_event(_code(error), details=details_of(error.body))  # type: ignore[attr-defined]
    if found is None and type(error).__module__.partition(".")[0] == package:
        found = ProviderError(f"the {package} client failed: {type(error).__name__}")
    return found or before_sending(error)


def on_the_way(error: Exception, place: str) -> ProviderError | None:
    """What happens to any connection, whichever SDK let it through."""
    if isinstance(error, TimeoutError) or "TimeoutException" in {kind.__name__ for kind in type(error).__mro__}:
        return _late(error, place)
    if _is_of_connections(error):
        return _broken(error, place)
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return no_json(place)
    return None


def no_json(place: str) -> ProviderConnectionError:
    """For an answer that cannot be read."""
    return ProviderConnectionError(f"the answer of the provider at {place} is not JSON")


def _late(error: Exception, place: str) -> ProviderConnectionError:
    text = f"the provider at {place} did not answer in time ({_kinds(error)})"
    return _without_answer(ProviderTimeout(text), error)


def _broken(error: Exception, place: str) -> ProviderConnectionError:
    text = f"the connection to the provider at {place} failed or broke ({_kinds(error)})"
    return _without_answer(ProviderConnectionError(text), error)


def _kinds(error: BaseException) -> str:
    """The HTTP library's class of error and that of its first cause, such as ``ConnectError/gaierror``."""
    chain = [error, *_causes(error)]
    names = [type(each).__name__ for each in chain if _is_of_connections(each)] or [type(error).__name__]
    return names[0] if names[0] == names[-1] else f"{names[0]}/{names[-1]}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    for _ in range(_MOST_CAUSES):
        below = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        # httpcore's errors have theirs as an argument. Not __context__: a caller of a kit may be handling it.
        found = below or next((each for each in error.args if isinstance(each, Exception)), None)
        if found is None:
            return
        error = found
        yield error


def _is_of_connections(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in _HTTP_LIBRARIES or isinstance(error, OSError)


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
    details = details_of(getattr(error, "body", None))
    if status < _BAD_REQUEST:  # an event of a stream, as one of these SDKs tells it
        return from_event(code, request_id=request_id, details=details)
    return from_status(status, code, headers=error.response.headers, request_id=request_id, details=details)


def from_status(
    status: int,
    code: str = "",
    *,
    headers: Mapping[str, str],
    request_id: str | None = None,
    details: ProviderDetails | None = None,
) -> ProviderError:
    """The error for an HTTP status. ``code`` is from `shown_code`."""
    return _kind_for(status)(
        f"the provider answered with HTTP status {status}{code}",
        status=status,
        request_id=request_id,
        retry_after_seconds=retry_after_seconds(headers),
        details=details,
    )


def _kind_for(status: int) -> type[ProviderError]:
    if status in _UNAUTHORISED:
        return ProviderAuthenticationError
    if status == _TOO_MANY_REQUESTS:
        return ProviderRateLimited
    if status >= _SERVER_ERROR:
        return ProviderUnavailable
    return ProviderRequestRejected if status >= _BAD_REQUEST else ProviderError


def from_event(
    code: str = "", *, request_id: str | None = None, details: ProviderDetails | None = None
) -> ProviderError:
    """An error that came as an event of a stream: the HTTP status had been sent as 200 long before."""
    kind = ProviderRateLimited if "rate_limit" in code or "EXHAUSTED" in code else ProviderUnavailable
    text = f"the provider reported an error in the middle of its answer{code}"
    failure = kind(text, request_id=request_id, details=details)
    failure.may_have_billed = True
    return failure


def details_of(body: object) -> ProviderDetails | None:
    """What an error's body says; the SDKs hand out either all of it, or what stands under ``error``."""
    if body is None or body == "":
        return None
    inner = body.get("error") if isinstance(body, Mapping) else None
    told: Mapping[str, Any] = inner if isinstance(inner, Mapping) else body if isinstance(body, Mapping) else {}
    code = told.get("code")
    return ProviderDetails(
        message=_text(told.get("message")),
        type=_text(told.get("type")) or _text(told.get("status")),
        code=code if isinstance(code, (str, int)) else None,
        param=_text(told.get("param")) or _field(told.get("details")),
        body=body,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _field(details: object) -> str | None:
    """The first field that Google finds at fault."""
    for detail in details if isinstance(details, list) else []:
        violations = detail.get("fieldViolations") if isinstance(detail, Mapping) else None
        for violation in violations if isinstance(violations, list) else []:
            if isinstance(violation, Mapping) and isinstance(violation.get("field"), str):
                return str(violation["field"])
    return None


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
