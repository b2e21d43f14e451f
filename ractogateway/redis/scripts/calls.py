"""Every command that a core sends, as a typed function: keys, arguments with their units, reply parser.

A parser turns what Redis answered into plain values and judges nothing. Replies come as bytes; integers as int.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ractogateway.redis.keys import CacheKeys, LimiterKeys, MemoryKeys
from ractogateway.redis.scripts.loading import load
from ractogateway.redis.transport import Call, plain_call, script_call

# --- exact cache -----------------------------------------------------------------------------------------------------


def read_answer(keys: CacheKeys, fingerprint: bytes) -> Call[bytes | None]:
    """The envelope of a live entry, or None. A plain command: it is served while writes are paused."""
    names = (keys.generation, keys.entry(fingerprint))
    return plain_call(b"MGET", names, (), _live_envelope, replay_safe=True)


def _live_envelope(reply: Any) -> bytes | None:
    generation, entry = reply
    if generation is None or entry is None or not entry.startswith(generation):
        return None
    return bytes(entry[len(generation) :])


def store_answer(
    keys: CacheKeys, fingerprint: bytes, envelope: bytes, *, ttl_ms: int | None, fresh_generation: bytes
) -> Call[None]:
    """Store an answer. Twice is as good as once."""
    names = (keys.generation, keys.entry(fingerprint), keys.index)
    arguments = (fresh_generation, _or_none(ttl_ms), keys.member(fingerprint), envelope)
    return script_call(load("store"), names, arguments, _nothing, replay_safe=True)


def forget_answer(keys: CacheKeys, fingerprint: bytes) -> Call[bool]:
    """Delete an entry; whether it was live. After a lost reply, the answer is that of the second try."""
    names = (keys.generation, keys.entry(fingerprint), keys.index)
    return script_call(load("invalidate"), names, (keys.member(fingerprint),), bool, replay_safe=True)


def forget_all_answers(keys: CacheKeys) -> Call[None]:
    """Take the generation away: every entry becomes a miss at once and dies by its own time to live."""
    return plain_call(b"UNLINK", (keys.generation, keys.index), (), _nothing, replay_safe=True)


def count_answers(keys: CacheKeys) -> Call[int]:
    """The number of live entries."""
    return script_call(load("size"), (keys.index,), (), int, replay_safe=True)


# --- rate limiter ----------------------------------------------------------------------------------------------------

LOG_ENTRIES = 120
"""Entries of a user's log before neighbours are merged: so the string stays below 4 KB, its allocation included."""


class BudgetReply(NamedTuple):
    """What the limiter's scripts answer. ``retry_after_ms`` is -1 where the cost can never pass."""

    admitted: bool
    remaining: int
    retry_after_ms: int
    reset_after_ms: int


def charge(
    keys: LimiterKeys, *, operation: bytes, limit: int, window_ms: int, cost: int, operation_ttl_ms: int
) -> Call[BudgetReply]:
    """Charge ``cost`` tokens if the budget allows. The operation id makes a second sending harmless."""
    names = (keys.log, keys.operation(operation))
    arguments = (limit, window_ms, cost, operation_ttl_ms, LOG_ENTRIES, b"")
    return script_call(load("consume"), names, arguments, _budget, replay_safe=True)


def read_budget(keys: LimiterKeys, *, limit: int, window_ms: int, cost: int) -> Call[BudgetReply]:
    """What `charge` would answer, without charging."""
    return script_call(load("peek"), (keys.log,), (limit, window_ms, cost, b""), _budget, replay_safe=True)


def forget_charges(keys: LimiterKeys) -> Call[None]:
    """Give a user the whole budget back."""
    return plain_call(b"UNLINK", (keys.log,), (), _nothing, replay_safe=True)


def _budget(reply: Any) -> BudgetReply:
    admitted, remaining, retry_after_ms, reset_after_ms = reply
    return BudgetReply(admitted == 1, remaining, retry_after_ms, reset_after_ms)


# --- chat memory -----------------------------------------------------------------------------------------------------

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
        _or_none(ttl_ms),
        operation,
        _or_none(expected_revision),
        MAX_PINNED,
        TOMBSTONE_MS,
        *entries,
    )
    return script_call(load("extend"), (keys.messages, keys.state), arguments, _memory, replay_safe=True)


def clear_conversation(
    keys: MemoryKeys, *, operation: bytes, ttl_ms: int | None, expected_revision: int | None
) -> Call[MemoryReply]:
    """Delete the messages and leave a tombstone with the next revision."""
    arguments = (_or_none(ttl_ms), operation, _or_none(expected_revision), TOMBSTONE_MS)
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


# --- shared ----------------------------------------------------------------------------------------------------------


def _or_none(number: int | None) -> int | bytes:
    """An optional number as the scripts take it: '' for none."""
    return b"" if number is None else number


def _nothing(_reply: Any) -> None:
    return None
