"""What the exact cache makes of its arguments, or says is wrong with them, before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ractogateway._checks import check_id, check_jitter, check_ttl, milliseconds
from ractogateway.cache.protocol import CacheRequest
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import LLMResponse
from ractogateway.redis._cache.store import Life
from ractogateway.redis.keys import cache_tag_id
from ractogateway.redis.stamps import MAX_TAGS

_MAX_STALE_SECONDS = 30 * 86_400.0
_MAX_WAIT_SECONDS = 86_400.0
_MAX_STRENGTH = 1000.0


def life_of(ttl_seconds: object, stale_seconds: object, ttl_jitter: object) -> Life:
    """How long the entries of a cache live."""
    ttl = check_ttl("ttl_seconds", ttl_seconds)
    grace = check_number("stale_seconds", stale_seconds, 0.0, _MAX_STALE_SECONDS)
    jitter = check_jitter("ttl_jitter", ttl_jitter)
    return Life(None if ttl is None else milliseconds(ttl), milliseconds(grace) if grace else 0, jitter)


def life_with(life: Life, ttl_seconds: object) -> Life:
    """The same, but for an entry with a time to live of its own."""
    ttl = check_ttl("ttl_seconds", ttl_seconds)
    return life if ttl is None else replace(life, ttl_ms=milliseconds(ttl))


def check_strength(name: str, value: object) -> float | None:
    """The ``beta`` of an early refresh."""
    return check_number(name, value, 0.0, _MAX_STRENGTH)


def check_wait(name: str, value: object) -> float:
    """How long to wait for somebody, in seconds."""
    seconds = check_number(name, value, 0.0, _MAX_WAIT_SECONDS)
    if seconds is None:
        raise InvalidTypeError(f"{name} must be a number of seconds, not None")
    return seconds


def check_number(name: str, value: object, least: float, most: float) -> float | None:
    """A finite number from ``least`` to ``most``, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number, not {type(value).__name__}")
    if not least <= value <= most:  # NaN fails both comparisons
        shown = repr(value) if isinstance(value, float) and math.isfinite(value) else "this one"
        raise InvalidValueError(f"{name} must be from {least:g} to {most:g}, not {shown}")
    return float(value)


def tag_id_of(tag: object) -> bytes:
    """Sixteen bytes that stand for a tag."""
    return cache_tag_id(check_id("tag", tag))


def tag_ids_of(tags: object) -> tuple[bytes, ...]:
    """The ids of an entry's tags, each once, in an order of their own."""
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise InvalidTypeError(f"tags must be an iterable of str, not {type(tags).__name__}")
    if not tags:
        return ()
    ids = sorted({tag_id_of(tag) for tag in tags})
    if len(ids) > MAX_TAGS:
        raise InvalidValueError(f"tags must be {MAX_TAGS} at most, not {len(ids)}")
    return tuple(ids)


def checked_requests(requests: object) -> list[CacheRequest]:
    """Several requests."""
    if isinstance(requests, (str, bytes)) or not isinstance(requests, Iterable):
        raise InvalidTypeError(f"requests must be an iterable of CacheRequest, not {type(requests).__name__}")
    return [_checked_request(request) for request in requests]


def checked_items(items: object) -> list[tuple[CacheRequest, LLMResponse]]:
    """Several requests, each with its answer."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InvalidTypeError(f"items must be an iterable of (request, response), not {type(items).__name__}")
    return [_checked_item(item) for item in items]


def _checked_request(request: Any) -> CacheRequest:
    if isinstance(request, CacheRequest):
        return request
    if not isinstance(request, tuple):
        raise InvalidTypeError(f"a request must be a CacheRequest or a tuple like one, not {type(request).__name__}")
    if len(request) not in (5, 6):
        raise InvalidValueError(f"a request must have five fields and perhaps a context, not {len(request)} items")
    return CacheRequest(*request)


def _checked_item(item: Any) -> tuple[CacheRequest, LLMResponse]:
    if not isinstance(item, tuple):
        raise InvalidTypeError(f"an item must be a tuple of request and response, not {type(item).__name__}")
    if len(item) != 2:  # noqa: PLR2004 - a pair
        raise InvalidValueError(f"an item must be a request and its response, not {len(item)} things")
    request, response = item
    return _checked_request(request), response
