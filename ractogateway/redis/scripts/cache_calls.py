"""Every command that the exact cache sends, as a typed function: keys, arguments with their units, reply parser.

A parser turns what Redis answered into plain values and judges nothing. Replies come as bytes; integers as int.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ractogateway.redis.keys import CacheKeys
from ractogateway.redis.scripts.loading import load
from ractogateway.redis.scripts.values import nothing, optional
from ractogateway.redis.stamps import LONGEST_PREFIX
from ractogateway.redis.transport import Call, plain_call, script_call

_FEW = 16
"""Entries whose replies need no way of their own."""
_COUNTERS_LIFE_MS = 30 * 86_400_000


class Status(enum.IntEnum):
    """What a lookup found; explained in ``lookup.lua``."""

    HIT = 1
    STALE = 2
    WAIT = 3
    OWN = 4
    TELL = 5


class Found(NamedTuple):
    """The reply to a lookup; explained in ``lookup.lua``."""

    status: Status
    value: bytes
    left_ms: int
    stamp: bytes


# --- reading ---------------------------------------------------------------------------------------------------------


def read_entry(keys: CacheKeys, fingerprint: bytes) -> Call[list[bytes | None]]:
    """The generation and the entry. A plain command: it is served while writes are paused, and can be tracked."""
    return plain_call(b"MGET", (keys.generation, keys.entry(fingerprint)), (), list, replay_safe=True)


def read_entries(keys: CacheKeys, fingerprints: Sequence[bytes]) -> Call[list[bytes | None]]:
    """The generation and several entries of one bucket."""
    names = (keys.generation, *(keys.entry(fingerprint) for fingerprint in fingerprints))
    return plain_call(b"MGET", names, (), list, replay_safe=True, bulky=len(fingerprints) > _FEW)


def read_life(keys: CacheKeys, fingerprint: bytes) -> Call[int]:
    """Milliseconds until the key of an entry expires; -1: never, -2: there is none."""
    return plain_call(b"PTTL", (keys.entry(fingerprint),), (), int, replay_safe=True)


def read_versions(keys: CacheKeys, tag_ids: Sequence[bytes]) -> Call[list[bytes | None]]:
    """The versions of some tags."""
    return plain_call(b"MGET", tuple(keys.tag(tag_id) for tag_id in tag_ids), (), list, replay_safe=True)


def read_lease(keys: CacheKeys, fingerprint: bytes) -> Call[bytes | None]:
    """The lease as it stands. A plain command, so that the server tells a tracking connection when it changes."""
    return plain_call(b"GET", (keys.lease(fingerprint),), (), _maybe, replay_safe=True)


def look_up(
    keys: CacheKeys,
    fingerprint: bytes,
    *,
    token: bytes,
    lease_ms: int,
    life_ms: int | None,
    early: float | None,
    stale: bool,
    own_tags: Sequence[bytes],
    other_tags: Sequence[bytes],
    fresh: bytes,
) -> Call[Found]:
    """The entry, or whose lease there is, or this one's lease. Twice: the second reply names the first one's lease."""
    tags = (*own_tags, *other_tags)
    names = (keys.generation, keys.entry(fingerprint), keys.lease(fingerprint), *map(keys.tag, tags))
    sooner = b"" if early is None else b"%.6f" % early
    arguments = (
        token,
        lease_ms,
        fresh,
        optional(life_ms),
        sooner,
        b"1" if stale else b"",
        len(own_tags),
        b"".join(tags),
    )
    return script_call(load("cache/lookup"), names, arguments, _found, replay_safe=True)


# --- writing ---------------------------------------------------------------------------------------------------------


def store_answer(
    keys: CacheKeys,
    fingerprint: bytes,
    envelope: bytes,
    *,
    ttl_ms: int | None,
    grace_ms: int,
    head: bytes,
    tags: Sequence[bytes],
    fresh: bytes,
    claim: bytes = b"",
) -> Call[bool]:
    """Store an answer, with a ``claim`` only while that lease stands; whether it was stored.

    Twice is as good as once, but for the reply to the second one with a claim, which the first one has used up.
    """
    names = [keys.generation, keys.entry(fingerprint), keys.index, keys.lease(fingerprint)]
    for tag_id in tags:
        names += (keys.tag(tag_id), keys.tag_index(tag_id))
    arguments = (
        claim,
        optional(ttl_ms),
        grace_ms,
        fresh,
        keys.member(fingerprint),
        head,
        envelope,
        b"".join(tags),
    )
    return script_call(load("cache/store"), tuple(names), arguments, bool, replay_safe=True)


def renew_lease(
    keys: CacheKeys, fingerprint: bytes, *, claim: bytes, lease_ms: int, tags: Sequence[bytes]
) -> Call[bool]:
    """Let a lease live on; False when it is gone or overtaken."""
    names = (keys.generation, keys.lease(fingerprint), *map(keys.tag, tags))
    return script_call(load("cache/renew"), names, (claim, lease_ms, b"".join(tags)), bool, replay_safe=True)


def release_lease(keys: CacheKeys, fingerprint: bytes, token: bytes) -> Call[bool]:
    """Give a lease up; whether there was one."""
    return script_call(load("cache/release"), (keys.lease(fingerprint),), (token,), bool, replay_safe=True)


# --- forgetting ------------------------------------------------------------------------------------------------------


def forget_answer(keys: CacheKeys, fingerprint: bytes) -> Call[bytes]:
    """Delete an entry; its stamp if it was live (its tags apart). After a lost reply, that of the second try."""
    names = (keys.generation, keys.entry(fingerprint), keys.index, keys.lease(fingerprint))
    arguments = (keys.member(fingerprint), LONGEST_PREFIX)
    return script_call(load("cache/invalidate"), names, arguments, bytes, replay_safe=True)


def forget_all_answers(keys: CacheKeys) -> Call[None]:
    """Take the generation away: every entry becomes a miss at once and dies by its own time to live."""
    return plain_call(b"UNLINK", (keys.generation, keys.index), (), nothing, replay_safe=True)


def forget_tag(keys: CacheKeys, tag_id: bytes) -> Call[None]:
    """Take the version of a tag away: every entry that carries it becomes a miss at once."""
    return plain_call(b"UNLINK", (keys.tag(tag_id),), (), nothing, replay_safe=True)


def scan_tag(keys: CacheKeys, tag_id: bytes, cursor: int, count: int) -> Call[tuple[int, list[bytes]]]:
    """Some names of entries that carry a tag, and the cursor of the next ones; 0 at the end."""
    return plain_call(
        b"ZSCAN", (keys.tag_index(tag_id),), (cursor, b"COUNT", count), _scanned, replay_safe=True, bulky=True
    )


def bury(keys: CacheKeys, tag_id: bytes, members: Sequence[bytes]) -> Call[int]:
    """Delete the dead among these entries and count them no more; how many there were."""
    names = (keys.generation, keys.index, keys.tag_index(tag_id), keys.tag(tag_id), *map(keys.entry_of, members))
    return script_call(load("cache/bury"), names, (tag_id, LONGEST_PREFIX, *members), int, replay_safe=True)


# --- counting --------------------------------------------------------------------------------------------------------


def count_answers(keys: CacheKeys) -> Call[int]:
    """The number of live entries."""
    return script_call(load("cache/size", reads_only=True), (keys.index,), (), int, replay_safe=True)


def add_counts(counters: bytes, additions: Mapping[str, int]) -> Call[None]:
    """Add to the counters of the fleet. Not safe to send twice: it would count twice."""
    words = [word for name, number in additions.items() for word in (name.encode(), number)]
    return script_call(load("cache/tally"), (counters,), (_COUNTERS_LIFE_MS, *words), nothing, replay_safe=False)


def read_counts(counters: bytes) -> Call[dict[str, int]]:
    """The counters of the fleet."""
    return plain_call(b"HGETALL", (counters,), (), _counts, replay_safe=True)


def _maybe(reply: Any) -> bytes | None:
    return reply if reply is None else bytes(reply)


def _found(reply: Any) -> Found:
    status, value, left_ms, stamp = reply
    return Found(Status(status), value, left_ms, stamp)


def _scanned(reply: Any) -> tuple[int, list[bytes]]:
    # Names and scores in turn over RESP2; redis-py's own parsers may have made pairs of them.
    cursor, items = reply
    flat = [word for item in items for word in (item if isinstance(item, (list, tuple)) else (item,))]
    return int(cursor), [bytes(name) for name in flat[::2]]


def _counts(reply: Any) -> dict[str, int]:
    # A map over RESP3, names and numbers in turn over RESP2, or whatever redis-py made of either.
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return {_word(name): int(number) for name, number in pairs}


def _word(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
