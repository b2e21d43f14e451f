"""What stands in front of an answer in Redis: what it must agree with to be alive, and what its readers want to know.

::

    entry   <stamp><head><envelope>
    stamp   generation, 16 bytes; number of tags, 1 byte; for each tag its id, 16 bytes, and its version, 8 bytes
    head    compute_ms and grace_ms, 8 hexadecimal digits each; CRC-32 of these, 4 bytes
    lease   token, 16 bytes; <stamp>

The scripts read the same bytes (``scripts/stamps.lua``); the envelope is nobody's business but `envelope`'s. A stamp is
alive while the keys of the generation and of each tag hold what it says. All of those are random, so what was cleared,
invalidated or evicted once is never alive again.
"""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

GENERATION_BYTES: Final = 16
TOKEN_BYTES: Final = 16
FRESH_BYTES: Final = 24
"""Random bytes out of which a script makes a generation and versions where there are none."""

MAX_TAGS: Final = 64
"""Tags of one entry."""
MAX_HEAD_MS: Final = 0xFFFF_FFFF

_TAGS_AT = GENERATION_BYTES + 1
_ID_BYTES, _VERSION_BYTES = 16, 8
_TAG_BYTES = _ID_BYTES + _VERSION_BYTES
_NUMBERS_BYTES = 16
_HEAD_BYTES = _NUMBERS_BYTES + 4

LONGEST_PREFIX: Final = _TAGS_AT + MAX_TAGS * _TAG_BYTES + _HEAD_BYTES
"""Bytes of a stamp and a head at most."""


class Entry(NamedTuple):
    """A stored answer, taken apart.

    Attributes:
        envelope: the sealed answer.
        compute_ms: how long it took to make; 0 where nobody knows.
        grace_ms: how long before its key expires it stops being fresh.
        tags: for each tag its id and the version that it must have.
    """

    envelope: bytes
    compute_ms: int
    grace_ms: int
    tags: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def of(cls, value: bytes, generation: bytes | None = None) -> Entry | None:
        """Take a value apart; None if it is nothing that was stored, or (where one is given) not of this generation."""
        if generation is not None and not value.startswith(generation):
            return None
        if value.startswith(_PLAINEST, GENERATION_BYTES):  # nearly always
            return cls(value[_TAGS_AT + _HEAD_BYTES :], 0, 0, ())
        tags = tags_of(value)
        if tags is None:
            return None
        at = _TAGS_AT + len(tags) * _TAG_BYTES
        numbers = value[at : at + _NUMBERS_BYTES]
        if value[at + _NUMBERS_BYTES : at + _HEAD_BYTES] != _checksum(numbers):
            return None
        if numbers.translate(None, _DIGITS):  # int() takes more, or raises
            return None
        compute_ms, grace_ms = int(numbers[:8], 16), int(numbers[8:], 16)
        return cls(value[at + _HEAD_BYTES :], compute_ms, grace_ms, tags)


def tags_of(stamp: bytes) -> tuple[tuple[bytes, bytes], ...] | None:
    """Ids and versions of the tags in a stamp, whatever follows it; None if it is none."""
    if len(stamp) < _TAGS_AT:
        return None
    count = stamp[GENERATION_BYTES]
    if not count:
        return ()
    end = _TAGS_AT + count * _TAG_BYTES
    if len(stamp) < end:
        return None
    places = range(_TAGS_AT, end, _TAG_BYTES)
    return tuple((stamp[at : at + _ID_BYTES], stamp[at + _ID_BYTES : at + _TAG_BYTES]) for at in places)


def head(compute_ms: int, grace_ms: int) -> bytes:
    """The head of an entry."""
    numbers = b"%08x%08x" % (min(compute_ms, MAX_HEAD_MS), min(grace_ms, MAX_HEAD_MS))
    return numbers + _checksum(numbers)


def _checksum(numbers: bytes) -> bytes:
    return zlib.crc32(numbers).to_bytes(4, "big")


_DIGITS: Final = b"0123456789abcdef"
_PLAINEST: Final = b"\0" + head(0, 0)
"""No tags, no time of grace, and nobody knows how long it took."""
