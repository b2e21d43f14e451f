"""The errors of ``google-genai`` as ours. As in `ractogateway._kit.failures`, nothing of the original is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ractogateway._kit.failures import (
    before_sending,
    details_of,
    from_event,
    from_status,
    no_json,
    on_the_way,
    shown_code,
)
from ractogateway.errors import ProviderAuthenticationError, ProviderError, RactoGatewayError

__all__ = ["translate"]

_OK = 200
_BAD_KEYS = frozenset({"API_KEY_EXPIRED", "API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED"})
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s")


def translate(error: Exception, place: str) -> RactoGatewayError | None:
    """Our error for one of the SDK's; None for what is ours already or not the provider's doing."""
    if isinstance(error, (RactoGatewayError, StopIteration, StopAsyncIteration)):
        return None
    names = frozenset(kind.__name__ for kind in type(error).__mro__)
    if "APIError" in names:
        return _from_answer(error)
    if "UnknownApiResponseError" in names:
        return no_json(place)
    found: RactoGatewayError | None = on_the_way(error, place) or before_sending(error)
    if found is None and type(error).__module__.startswith("google."):
        found = ProviderError(f"the google-genai client failed: {type(error).__name__}")
    return found


def _from_answer(error: Any) -> ProviderError:
    code, response = shown_code(getattr(error, "status", None)), error.response
    headers: Mapping[str, str] = getattr(response, "headers", None) or {}
    request_id, said = headers.get("x-request-id"), details_of(getattr(error, "details", None))
    if getattr(response, "status_code", getattr(response, "status", None)) == _OK:
        return from_event(code, request_id=request_id, details=said)
    status = error.code if isinstance(error.code, int) else 0
    failure = from_status(status, code, headers=headers, request_id=request_id, details=said)
    for detail in _details(error):
        if detail.get("reason") in _BAD_KEYS:  # which Google finds a bad request
            failure = ProviderAuthenticationError(str(failure), status=status, request_id=request_id, details=said)
        wait = _DURATION.fullmatch(str(detail.get("retryDelay")))
        if wait is not None and failure.retry_after_seconds is None:
            failure.retry_after_seconds = float(wait[1])
    return failure


def _details(error: Any) -> Iterator[Mapping[str, Any]]:
    body = getattr(error, "details", None)
    inner = body.get("error") if isinstance(body, Mapping) else None
    details = inner.get("details") if isinstance(inner, Mapping) else None
    return (detail for detail in details if isinstance(detail, Mapping)) if isinstance(details, list) else iter(())
