"""Which answers may be stored, and for how long."""

from __future__ import annotations

import random

from ractogateway._checks import check_temperature, type_name
from ractogateway.errors import InvalidTypeError
from ractogateway.messages import FinishReason, LLMResponse

__all__ = ["is_storable"]

# The ones that may, not the ones that may not: a reason added later is not stored until somebody has thought about it.
_COMPLETE = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})


def is_storable(response: LLMResponse, *, temperature: float, max_temperature: float = 0.0) -> bool:
    """Whether ``response`` may answer the same request again.

    An answer is not stored if it was cut off at its token limit, stopped by a content filter, failed, or ended for an
    unknown reason, nor if it has neither text nor a tool call nor a parsed value (blank text and reasoning alone are no
    answer). Asking again may mend each of these; stored, it would fail every caller until it expires, not one.

    Above temperature 0 a caller asks for a sample, and a cache would hand the same sample to everybody, so by default
    only answers at temperature 0 are stored. Providers vary a little at 0 too, but there the caller asks them not to.

    Args:
        response: The answer as the provider gave it.
        temperature: The temperature of the request.
        max_temperature: The highest temperature whose answers may be stored.

    Raises:
        InvalidTypeError: An argument has the wrong type.
        InvalidValueError: A temperature is not finite.
    """
    if not isinstance(response, LLMResponse):
        raise InvalidTypeError(f"response must be an LLMResponse, not {type_name(response)}")
    asked, highest = check_temperature(temperature), check_temperature(max_temperature)
    return 0.0 <= asked <= highest and response.finish_reason in _COMPLETE and _says_something(response)


def _says_something(response: LLMResponse) -> bool:
    has_text = bool(response.content and response.content.strip())
    return has_text or bool(response.tool_calls) or response.parsed is not None


def jittered(ttl_seconds: float, jitter: float) -> float:
    """A time to live from ``ttl_seconds * (1 - jitter)`` to ``ttl_seconds``, each equally likely.

    Entries that were written together would otherwise be missed together. Never more than was asked for: what must be
    forgotten after an hour is.
    """
    return ttl_seconds * (1.0 - jitter * random.random()) if jitter else ttl_seconds  # noqa: S311 - not a secret
