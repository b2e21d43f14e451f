"""How a message is kept in Redis: an entry of a list.

An entry is a header in ASCII and a payload::

    version 1   1U{"role":"user","content":"Hello!"}     the message as compact UTF-8 JSON
    version 2   2U17|{"role":"user","content":"Hello!"}  the same with its number of tokens
    version 3   3U17|…                                   the same, the JSON encrypted
                |`- tokens, and '|'
                `-- kind: P pinned, U starts a turn, M any other message

The header stays in the clear, so that a script tells turns apart and adds tokens up without reading any JSON. An entry
of version 1 says nothing about tokens: it is taken for one token in four bytes, rounded up, header included.

What every future version keeps: the kind is the second character, and from version 2 on the tokens follow in decimal,
ended by ``|``. A release that cannot read an entry can then still trim its conversation in whole turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from ractogateway.redis.turns import Kind, kind_of, to_json

__all__ = [
    "MAX_ENTRY_TOKENS",
    "SEALED",
    "decode_entry",
    "decode_payload",
    "encode_entry",
    "entry_kind",
    "estimate_tokens",
    "is_for_others",
    "split_entry",
]

SEALED: Final = 3
"""The version whose payload is encrypted."""

MAX_ENTRY_TOKENS: Final = 10**15 - 1
"""The most that a header can say: sums of them stay exact in Lua, whose numbers are doubles."""

_PLAIN, _COUNTED = 1, 2
_VERSIONS = frozenset("123456789")
_KINDS: dict[str, Kind] = {"P": "P", "U": "U", "M": "M"}
_BYTES_A_TOKEN = 4
_HEADER = re.compile(rb"[2-9][PUM][0-9]{1,15}\|")  # not \d: that would take other scripts' digits in a str


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def encode_entry(message: Mapping[str, Any], *, tokens: int | None = None) -> bytes:
    """The entry of a message that `check_message` has passed: of version 2 with ``tokens``, else of version 1.

    Keys and values come out of `decode_entry` equal and in the same order. Text is stored as UTF-8. A lone surrogate,
    which UTF-8 cannot spell, is escaped; two that form a pair come out as the one character they stand for.

    Raises:
        InvalidTypeError: something in the message is not JSON.
        InvalidValueError: a number is not finite, or the nesting is too deep.
    """
    header = f"{_PLAIN}{kind_of(message)}" if tokens is None else f"{_COUNTED}{kind_of(message)}{tokens}|"
    return f"{header}{to_json(message)}".encode("utf-8", "backslashreplace")


def decode_entry(entry: bytes | str) -> dict[str, Any] | None:
    """The message of an entry; None where it is encrypted, corrupt, or of a format that this release does not know.

    Never raises, whatever the bytes are: one bad entry must not make a conversation unreadable.
    """
    data = entry if isinstance(entry, bytes) else entry.encode("utf-8", "surrogatepass")
    split = split_entry(data)
    return None if split is None or split[0] == SEALED else decode_payload(split[2])


def decode_payload(payload: bytes) -> dict[str, Any] | None:
    """The message that this JSON is, None where it is none."""
    try:
        message = _decoder.decode(payload.decode("utf-8"))
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        return None
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return None
    return message


def split_entry(entry: bytes) -> tuple[int, bytes, bytes] | None:
    """Version, header (as it stands) and payload of an entry of a version known here, else None."""
    if entry[:2] in _PLAIN_HEADERS:
        return _PLAIN, entry[:2], entry[2:]
    header = _HEADER.match(entry)
    if header is None or (version := entry[0] - _ZERO) > SEALED:
        return None
    return version, header[0], entry[header.end() :]


_PLAIN_HEADERS = frozenset({b"1P", b"1U", b"1M"})
_ZERO = ord("0")


def entry_kind(entry: bytes | str) -> Kind | None:
    """The kind of an entry of any known or future version; None where there is no header.

    Reads two characters: no JSON is parsed. `scripts/conversation.lua` applies the same rule.
    """
    header = entry[:2] if isinstance(entry, str) else entry[:2].decode("latin-1")
    if header[:1] not in _VERSIONS:
        return None
    return _KINDS.get(header[1:])


def is_for_others(entry: bytes) -> bool:
    """Whether somebody else may read an entry that cannot be read here: it is encrypted, or of a later release."""
    split = split_entry(entry)
    return entry_kind(entry) is not None and (split is None or split[0] == SEALED)


def estimate_tokens(entry: bytes) -> int:
    """What an entry of version 1 is taken for."""
    return -(-len(entry) // _BYTES_A_TOKEN)
