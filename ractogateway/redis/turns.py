"""What a message may be, and where a turn starts.

A **turn** starts at a message of role user that carries no tool result. Anthropic and Gemini return a tool's result
under the role user, alone or beside a text: cutting there would leave a result whose call is gone, which every provider
refuses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any, Literal

from ractogateway._checks import check_role, type_name
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import Message

__all__ = ["Kind", "check_message", "kind_of", "takes_part_in_tool_use", "to_json"]

Kind = Literal["P", "U", "M"]
"""P: pinned (system, developer). U: starts a turn. M: any other message, part of the turn it stands in."""

_PINNED_ROLES = frozenset({"system", "developer"})
_RESULT_ROLES = frozenset({"tool", "function"})
_ANTHROPIC_TOOL_USE = ("tool_use", "tool_result")
_GEMINI_RESULT = ("functionResponse", "function_response")  # as in its JSON, as in its Python package
_GEMINI_TOOL_USE = ("functionCall", "function_call", *_GEMINI_RESULT)

_MAX_DEPTH = 100
"""Levels of nesting. Far above any provider's shape, far below what Python's JSON parser can come back from."""

_MAX_INT_BITS = 2048
"""Python turns integers of at least 640 digits (2126 bits) into text, whatever limit the process has set."""

_MAX_SHOWN_KEY = 40

_PLAIN_FIELDS = ("role", "content")
_PLAIN_OVERHEAD = 64
"""More than a plain message's JSON takes beside its text."""


_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def kind_of(message: Mapping[str, Any]) -> Kind:
    """How a message takes part in trimming."""
    role = message["role"]
    if role in _PINNED_ROLES:
        return "P"
    return "U" if role == "user" and not _carries_a_tool_result(message) else "M"


def takes_part_in_tool_use(message: Mapping[str, Any]) -> bool:
    """Whether a message calls a tool or carries a result, in the shape of any provider: one is refused without the
    other.
    """
    if message["role"] in _RESULT_ROLES or message.get("tool_calls") or message.get("function_call"):
        return True
    content, parts = message.get("content"), message.get("parts")
    return any(
        isinstance(part, dict)
        and (part.get("type") in _ANTHROPIC_TOOL_USE or any(part.get(key) is not None for key in _GEMINI_TOOL_USE))
        for listed in (content, parts)
        if isinstance(listed, list)
        for part in listed
    )


def _carries_a_tool_result(message: Mapping[str, Any]) -> bool:
    content, parts = message.get("content"), message.get("parts")
    return any(
        isinstance(part, dict)
        # A part dumped from Gemini's own class names every possible field and sets the unused ones to None.
        and (part.get("type") == "tool_result" or any(part.get(key) is not None for key in _GEMINI_RESULT))
        for listed in (content, parts)
        if isinstance(listed, list)
        for part in listed
    )


def check_message(message: Mapping[str, Any] | Message, *, max_message_bytes: int) -> dict[str, Any]:
    """The message as a dict that can be stored, its role a plain ``str``; nested values are shared, not copied.

    A plain message stays exactly ``{"role", "content"}``; fields of a provider (``tool_calls``, ``parts``, ``name`` …)
    are kept as they are. ``max_message_bytes`` bounds the message as compact UTF-8 JSON.

    Raises:
        InvalidTypeError: not a mapping or `Message`; content that is no str, list of dicts or None; a value that JSON
            would not give back equal, such as bytes, a tuple or a key that is no str. Names the path, never the value.
        InvalidValueError: an unknown role, a number that is not finite, a message that is too large or too deep.
    """
    fields = _fields_of(message)
    fields["role"] = check_role(fields.get("role"))
    if len(fields) == len(_PLAIN_FIELDS) and isinstance(content := fields.get("content"), str):
        at_most = 6 * len(content) + _PLAIN_OVERHEAD  # most messages are plain: nothing in them has to be looked for
    else:
        _check_content(fields)
        at_most = _bytes_at_most(fields, ())
    if at_most > max_message_bytes:
        size = len(to_json(fields).encode("utf-8", "backslashreplace"))
        if size > max_message_bytes:
            raise InvalidValueError(
                f"a message may take {max_message_bytes} bytes as JSON (max_message_bytes), this one takes {size}"
            )
    return fields


def _fields_of(message: object) -> dict[str, Any]:
    if isinstance(message, (Mapping, Message)):
        # Iterating over a Message yields its fields as they are; model_dump would turn bytes and tuples into JSON.
        fields = dict(message)
        if isinstance(message, Message) and "content" not in message.model_fields_set:
            fields.pop("content", None)  # Gemini's messages have none: they go back as they came
        return fields
    raise InvalidTypeError(f"a message must be a mapping or a Message, not {type_name(message)}{_hint(message)}")


def _hint(value: object) -> str:
    """What to do with an object of a provider's package."""
    return ": pass its model_dump()" if hasattr(type(value), "model_dump") else ""


def _check_content(fields: dict[str, Any]) -> None:
    content = fields.get("content")
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidTypeError(
            f"message.content must be a str, a list of content parts or None, not {type(content).__name__}"
        )
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise InvalidTypeError(f"message.content[{index}] must be a dict, not {type(part).__name__}{_hint(part)}")


def to_json(message: Mapping[str, Any]) -> str:
    """Compact JSON, keys in their order, text unescaped (escaping doubles Chinese or Japanese).

    Raises:
        InvalidTypeError: something in the message is not JSON.
        InvalidValueError: a number is not finite, or the nesting is too deep.
    """
    if tuple(message) == _PLAIN_FIELDS and type(content := message["content"]) is str:
        # Most messages: the same text as below, in a third of the time.
        return f'{{"role":{encode_basestring(message["role"])},"content":{encode_basestring(content)}}}'
    try:
        return _encoder.encode(message if isinstance(message, dict) else dict(message))
    except (TypeError, ValueError, RecursionError):
        # The encoder's own error does not say where, and may show the value.
        _bytes_at_most(dict(message), ())
        raise InvalidTypeError("message is not JSON") from None


def _bytes_at_most(value: object, path: tuple[str | int, ...]) -> int:
    """An upper bound of a value's size as UTF-8 JSON, which spares most messages a second encoding.

    Raises where JSON would not give the value back equal: the encoder itself takes tuples and keys that are numbers.
    """
    if isinstance(value, str):
        return 6 * len(value) + 2  # "\u0000" is the longest spelling of a character
    if value is None or isinstance(value, bool):
        return 5
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            raise InvalidValueError(f"{_spell(path)} must be an int of at most {_MAX_INT_BITS} bits")
        return value.bit_length() // 3 + 3
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValueError(f"{_spell(path)} must be a finite number")
        return 32
    if len(path) >= _MAX_DEPTH and isinstance(value, (list, dict)):
        raise InvalidValueError(f"a message may be nested {_MAX_DEPTH} levels deep, this one is deeper or circular")
    if isinstance(value, list):
        return 2 + sum(_bytes_at_most(item, (*path, index)) + 1 for index, item in enumerate(value))
    if isinstance(value, dict):
        return 2 + sum(_member_bytes_at_most(key, item, path) for key, item in value.items())
    raise InvalidTypeError(
        f"{_spell(path)} must be a dict, list, str, int, float, bool or None, not {type(value).__name__}{_hint(value)}"
    )


def _member_bytes_at_most(key: object, value: object, path: tuple[str | int, ...]) -> int:
    if not isinstance(key, str):
        raise InvalidTypeError(f"the keys of {_spell(path)} must be str, one is {type(key).__name__}")
    return 6 * len(key) + 4 + _bytes_at_most(value, (*path, key))


def _spell(path: tuple[str | int, ...]) -> str:
    """``message.content[0].text``; a key that may itself be text of the conversation is not shown."""
    return "message" + "".join(
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if step.isidentifier() and step.isascii() and len(step) <= _MAX_SHOWN_KEY
        else ".<key>"
        for step in path
    )
