"""Every command that the chat memory sends, as a typed function: keys, arguments with their units, reply parser.

A parser turns what Redis answered into plain values and judges nothing. Replies come as bytes; integers as int.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from ractogateway.redis.keys import MemoryKeys
from ractogateway.redis.scripts.loading import load
from ractogateway.redis.scripts.values import optional
from ractogateway.redis.transport import Call, plain_call, script_call

MAX_PINNED = 64
"""System and developer messages that one conversation may hold: they are never trimmed."""

_DAY_MS = 24 * 3600 * 1000

TOMBSTONE_MS = _DAY_MS
"""How long at least a conversation's revision outlives its messages, so that a slow replica cannot bring them back."""

EVICTED_MS = 7 * _DAY_MS
"""How long at least what was trimmed waits for its hook."""

LEASE_MS = 30_000
"""How long nobody else delivers what a hook was given, after the process that called it was last heard of."""

ENLISTED_MS = 3600 * 1000
"""The age at which an entry of a user's index may be judged by its conversation: the write it was made for is over."""

Mode = Literal["append", "replace", "fill"]


class Status(IntEnum):
    """What became of a write; the numbers stand in conversation.lua."""

    APPLIED = 1
    REPLAYED = 2
    CONFLICT = 3
    UNINDEXED = 4
    FOREIGN = 5
    OCCUPIED = 6


class WriteReply(NamedTuple):
    """What the writing scripts answer, see conversation.lua. ``turns`` and ``tokens`` are -1 unless it was applied."""

    status: Status
    revision: int
    dropped: int
    entries: int
    turns: int
    tokens: int
    waiting: bool
    user_tag: bytes


class Window(NamedTuple):
    """What `read_window` answers. ``position`` is that of the first entry; ``entries`` are the oldest first."""

    revision: int
    length: int
    tokens: int
    position: int
    earlier: bool
    pinned: list[bytes]
    entries: list[bytes]


class Delta(NamedTuple):
    """What `read_changes` answers. ``anew``: the entries are all there are."""

    revision: int
    anew: bool
    left: int
    entries: list[bytes]


class Glance(NamedTuple):
    """What a look at the state says: the revision, and the number of entries that it holds for (None: unknown)."""

    revision: int
    counted_for: int | None


@dataclass(frozen=True, slots=True)
class WriteTerms:
    """What is the same for every write of one memory. Times in ms; None: no end, no bound, nobody wants the evicted."""

    max_turns: int
    max_tokens: int | None
    ttl_ms: int | None
    tombstone_ms: int
    hooked_ms: int | None


class Guard(NamedTuple):
    """Which write this is, how long that is remembered (ms), and the revision that it expects."""

    operation: bytes
    keep_ms: int
    expected_revision: int | None = None


def extend_conversation(
    keys: MemoryKeys,
    entries: Sequence[bytes],
    terms: WriteTerms,
    guard: Guard,
    *,
    mode: Mode = "append",
    user_tag: bytes = b"",
    indexed_at: int | None = None,
) -> Call[WriteReply]:
    """Append or replace entries, trim to whole turns and set the time to live, in one step."""
    arguments = (
        mode.encode(),
        terms.max_turns,
        optional(terms.max_tokens),
        optional(terms.ttl_ms),
        optional(guard.expected_revision),
        guard.keep_ms,
        terms.tombstone_ms,
        MAX_PINNED,
        user_tag,
        optional(indexed_at),
        optional(terms.hooked_ms),
        *entries,
    )
    touched = (keys.messages, keys.state, keys.operation(guard.operation), keys.evicted)
    return script_call(load("memory/extend"), touched, arguments, _write, replay_safe=True)


def clear_conversation(keys: MemoryKeys, terms: WriteTerms, guard: Guard) -> Call[WriteReply]:
    """Delete the messages and leave a tombstone with the next revision."""
    return script_call(load("memory/clear"), _written(keys, guard), _guarded(terms, guard), _write, replay_safe=True)


def pop_entries(keys: MemoryKeys, tail: Sequence[bytes], terms: WriteTerms, guard: Guard) -> Call[WriteReply]:
    """Take these entries off the end, if they are what stands there."""
    arguments = (*_guarded(terms, guard), *tail)
    return script_call(load("memory/pop"), _written(keys, guard), arguments, _write, replay_safe=True)


def erase_conversation(keys: MemoryKeys, terms: WriteTerms, guard: Guard, *, user_tag: bytes) -> Call[WriteReply]:
    """Delete the messages, the evicted ones and the owner. ``tokens`` of the reply is the number of evicted ones."""
    touched = (*_written(keys, guard), keys.evicted, keys.delivering, keys.lease)
    arguments = (guard.keep_ms, terms.tombstone_ms, user_tag, optional(guard.expected_revision))
    return script_call(load("memory/erase"), touched, arguments, _write, replay_safe=True)


def made_by(keys: MemoryKeys, guard: Guard) -> Call[int | None]:
    """The revision that a write made, for as long as it is remembered."""
    return plain_call(
        b"GET", (keys.operation(guard.operation),), (), lambda reply: reply and int(reply), replay_safe=True
    )


def read_conversation(keys: MemoryKeys) -> Call[list[bytes]]:
    """All entries. A plain command: it is served while writes are paused, and it is one atomic read."""
    return read_list(keys.messages)


def read_list(key: bytes) -> Call[list[bytes]]:
    """All items of a list."""
    return plain_call(b"LRANGE", (key,), (0, -1), list, replay_safe=True, bulky=True)


def read_tail(keys: MemoryKeys, count: int) -> Call[list[bytes]]:
    """The last entries."""
    return plain_call(b"LRANGE", (keys.messages,), (-count, -1), list, replay_safe=True, bulky=True)


def count_messages(keys: MemoryKeys) -> Call[int]:
    """The number of entries."""
    return plain_call(b"LLEN", (keys.messages,), (), int, replay_safe=True)


def glance_at(keys: MemoryKeys) -> Call[Glance]:
    """The revision, in a few bytes. A plain command: it is served while writes are paused."""
    return plain_call(b"HMGET", (keys.state,), (b"c",), _glance, replay_safe=True)


def owner_of(keys: MemoryKeys) -> Call[bytes]:
    """The tag of the user whom a conversation belongs to, empty for none."""
    return plain_call(b"HMGET", (keys.state,), (b"u",), lambda reply: reply[0] or b"", replay_safe=True)


def read_window(keys: MemoryKeys, *, last: int, before: int | None) -> Call[Window]:
    """The pinned entries, and the last others (before a position), in whole turns."""
    arguments = (last, optional(before))
    names = (keys.messages, keys.state)
    return script_call(load("memory/window", reads_only=True), names, arguments, _window, replay_safe=True, bulky=True)


def read_changes(keys: MemoryKeys, *, since: int) -> Call[Delta]:
    """What happened after a revision."""
    names = (keys.messages, keys.state)
    return script_call(load("memory/changes", reads_only=True), names, (since,), _delta, replay_safe=True, bulky=True)


def claim_evicted(keys: MemoryKeys, terms: WriteTerms, *, token: bytes) -> Call[list[bytes]]:
    """The evicted entries, to be given to the hook; none where somebody else is at it."""
    touched = (keys.evicted, keys.delivering, keys.lease)
    arguments = (token, LEASE_MS, terms.hooked_ms or EVICTED_MS)
    return script_call(load("memory/claim"), touched, arguments, list, replay_safe=True)


def renew_claim(keys: MemoryKeys, *, token: bytes) -> Call[bool]:
    """Prolong a claim; False if it has run out."""
    return script_call(load("memory/renew"), (keys.lease,), (token, LEASE_MS), bool, replay_safe=True)


def settle_evicted(keys: MemoryKeys, *, token: bytes, delivered: bool, others: Sequence[bytes] = ()) -> Call[bool]:
    """End a claim; whether there are more to deliver. ``others`` of the entries wait on for who can read them."""
    touched = (keys.evicted, keys.delivering, keys.lease, keys.state)
    return script_call(load("memory/settle"), touched, (token, int(delivered), *others), bool, replay_safe=True)


def enlist_conversation(index: bytes, member: bytes, terms: WriteTerms) -> Call[list[bytes]]:
    """Make a conversation known to its user's index; up to two members that may be stale.

    The index outlives every conversation in it: one that was enlisted now enlists again before max(ttl, tombstone) is
    over, and then lives for at most so long.
    """
    life = None if terms.ttl_ms is None else 3 * max(terms.ttl_ms, terms.tombstone_ms)
    # Enlisting twice changes a score that says nothing but "not the same as before".
    return script_call(load("memory/enlist"), (index,), (member, optional(life), ENLISTED_MS), list, replay_safe=True)


def delist_conversation(index: bytes, member: bytes, score: float, *, is_over: bool) -> Call[bool]:
    """Take a conversation out of the index, unless it was enlisted again since it had this score.

    ``is_over``: a write that it was enlisted for, and that is still under way, will find the revision advanced and
    enlist again. Otherwise only entries are taken that are too old for such a write.
    """
    arguments = (member, int(score), 0 if is_over else ENLISTED_MS)
    return script_call(load("memory/delist"), (index,), arguments, bool, replay_safe=True)


def enlisted(index: bytes) -> Call[list[bytes]]:
    """The members of a user's index, the longest not enlisted first."""
    return plain_call(b"ZRANGE", (index,), (0, -1), list, replay_safe=True, bulky=True)


def score_of(index: bytes, member: bytes) -> Call[float | None]:
    """When a member was last enlisted, in µs; None where it is not there."""
    return plain_call(b"ZSCORE", (index,), (member,), lambda reply: reply and float(reply), replay_safe=True)


def discard_list(key: bytes, items: Sequence[bytes]) -> Call[bool]:
    """Delete a list that still holds exactly these items. (Sent again it says that there was none.)"""
    return script_call(load("memory/discard"), (key,), items, bool, replay_safe=True)


def _written(keys: MemoryKeys, guard: Guard) -> tuple[bytes, bytes, bytes]:
    return keys.messages, keys.state, keys.operation(guard.operation)


def _guarded(terms: WriteTerms, guard: Guard) -> tuple[bytes | int, ...]:
    return optional(terms.ttl_ms), optional(guard.expected_revision), guard.keep_ms, terms.tombstone_ms


_STATUS = {status.value: status for status in Status}


def _write(reply: Any) -> WriteReply:
    status, revision, dropped, entries, turns, tokens, waiting, user_tag = reply
    return WriteReply(_STATUS[status], revision, dropped, entries, turns, tokens, bool(waiting), user_tag)


def _window(reply: Any) -> Window:
    revision, length, tokens, position, earlier, pinned, newest_first = reply
    return Window(revision, length, tokens, position, bool(earlier), pinned, newest_first[::-1])


def _delta(reply: Any) -> Delta:
    revision, how, left, entries = reply
    return Delta(revision, how == 2, left, entries)  # noqa: PLR2004 - the numbers stand in changes.lua


def _glance(reply: Any) -> Glance:
    words = (reply[0] or b"").split(b" ", 2)
    if len(words) < 3 or not (words[0].isdigit() and words[1].isdigit()):  # noqa: PLR2004 - see conversation.lua
        return Glance(0, None)
    return Glance(int(words[0]), int(words[1]))
