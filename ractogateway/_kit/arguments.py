"""Checks of what a kit is given that every provider shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ractogateway._checks import check_text
from ractogateway._kit.request import flatten_extra
from ractogateway.errors import InvalidTypeError, InvalidValueError

__all__ = ["PER_CALL", "check_extra", "check_seconds", "check_texts"]

PER_CALL = ("extra_headers", "extra_query", "timeout")
"""Keys of ``extra`` that are arguments of an SDK's call and no part of the request's body."""

_LONGEST_SECONDS = 86_400.0
_LARGEST_SHOWN = 2**64


def check_extra(extra: Mapping[str, Any], *, reserved: Sequence[str]) -> None:
    """Refuse an ``extra`` that would replace what the kit itself decides, or that has no place in a call."""
    _check_mapping(extra, "extra_body")
    flat = flatten_extra(extra)
    for name in ("extra_headers", "extra_query"):
        _check_mapping(flat, name)
    _check_headers(flat.get("extra_headers") or {})
    timeout = flat.get("timeout")
    # The HTTP library's own Timeout is told by its name: there have been two of these libraries.
    if timeout is not None and type(timeout).__name__ != "Timeout":
        check_seconds("extra['timeout']", timeout)
    taken = [name for name in reserved if name in flat]
    if taken:
        raise InvalidValueError(f"extra must not set {' or '.join(taken)}: the kit and the ChatConfig do")


def _check_mapping(extra: Mapping[str, Any], name: str) -> None:
    if not isinstance(extra.get(name, {}), (Mapping, type(None))):
        raise InvalidTypeError(f"extra[{name!r}] must be a mapping, not {type(extra[name]).__name__}")


def _check_headers(headers: Mapping[Any, Any]) -> None:
    for name, value in headers.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"extra['extra_headers'] must have keys of type str, not {type(name).__name__}")
        # The HTTP library notices too, but as an error of the connection. Values may also be the SDK's own markers.
        if any(character in text for text in (name, value) if isinstance(text, str) for character in "\r\n\0"):
            raise InvalidValueError("extra['extra_headers'] must not hold line breaks or NUL")


def check_seconds(name: str, value: object) -> float:
    """How long to wait: more than nothing and at most a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value <= _LONGEST_SECONDS:
        # Python refuses to write very large ints in decimal.
        huge = isinstance(value, int) and abs(value) > _LARGEST_SHOWN
        shown = f"an int of {int(value).bit_length()} bits" if huge else repr(value)
        raise InvalidValueError(f"{name} must be positive and finite, at most 86400 seconds, not {shown}")
    return float(value)


def check_texts(texts: object) -> list[str]:
    """Texts to embed: a single one, or a sequence of them."""
    if not isinstance(texts, str) and (not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray))):
        raise InvalidTypeError(f"texts must be a str or a sequence of str, not {type(texts).__name__}")
    items = [texts] if isinstance(texts, str) else [check_text("each of texts", text) for text in texts]
    if not items:
        raise InvalidValueError("texts must not be empty")
    return items
