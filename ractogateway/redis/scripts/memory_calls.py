"""Every command that the chat memory sends, as a typed function: keys, arguments with their units, reply parser.

A parser turns what Redis answered into plain values and judges nothing. Replies come as bytes; integers as int.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ractogateway.redis.keys import MemoryKeys
from ractogateway.redis.scripts.loading import load
from ractogateway.redis.scripts.values import optional
from ractogateway.redis.transport import Call, plain_call, script_call

MAX_PINNED = 64
"""System and developer messages that one conversation may hold: they are never trimmed."""

TOMBSTONE_MS = 24 * 3600 * 1000
"""How long at least a conversation's revision outlives its messages, so that a slow replica cannot bring them back."""


class MemoryReply(NamedTuple):
    """What the memory's scripts answer. ``conflict`` means that nothing was written and ``revision`` is the actual
    one.
    """

    conflict: bool
    revision: int
    dropped: int


def extend_conversation(
    keys: MemoryKeys,
    entries: Sequence[bytes],
    *,
    operation: bytes,
    max_turns: int,
    ttl_ms: int | None,
    expected_revision: int | None,
) -> Call[MemoryReply]:
    """Append entries, trim to whole turns and set the time to live, in one step."""
    arguments = (
        max_turns,
        optional(ttl_ms),
        operation,
        optional(expected_revision),
        MAX_PINNED,
        TOMBSTONE_MS,
        *entries,
    )
    return script_call(load("extend"), (keys.messages, keys.state), arguments, _memory, replay_safe=True)


def clear_conversation(
    keys: MemoryKeys, *, operation: bytes, ttl_ms: int | None, expected_revision: int | None
) -> Call[MemoryReply]:
    """Delete the messages and leave a tombstone with the next revision."""
    arguments = (optional(ttl_ms), operation, optional(expected_revision), TOMBSTONE_MS)
    return script_call(load("clear"), (keys.messages, keys.state), arguments, _memory, replay_safe=True)


def read_conversation(keys: MemoryKeys) -> Call[list[bytes]]:
    """All entries. A plain command: it is served while writes are paused, and it is one atomic read."""
    return plain_call(b"LRANGE", (keys.messages,), (0, -1), list, replay_safe=True, bulky=True)


def count_messages(keys: MemoryKeys) -> Call[int]:
    """The number of entries."""
    return plain_call(b"LLEN", (keys.messages,), (), int, replay_safe=True)


def _memory(reply: Any) -> MemoryReply:
    status, revision, dropped = reply[:3]
    return MemoryReply(status == 3, revision, dropped)  # noqa: PLR2004 - the statuses stand in extend.lua
