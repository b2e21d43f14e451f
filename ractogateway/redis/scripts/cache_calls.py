"""Every command that the exact cache sends, as a typed function: keys, arguments with their units, reply parser.

A parser turns what Redis answered into plain values and judges nothing. Replies come as bytes; integers as int.
"""

from __future__ import annotations

from typing import Any

from ractogateway.redis.keys import CacheKeys
from ractogateway.redis.scripts.loading import load
from ractogateway.redis.scripts.values import nothing, optional
from ractogateway.redis.transport import Call, plain_call, script_call


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
    arguments = (fresh_generation, optional(ttl_ms), keys.member(fingerprint), envelope)
    return script_call(load("store"), names, arguments, nothing, replay_safe=True)


def forget_answer(keys: CacheKeys, fingerprint: bytes) -> Call[bool]:
    """Delete an entry; whether it was live. After a lost reply, the answer is that of the second try."""
    names = (keys.generation, keys.entry(fingerprint), keys.index)
    return script_call(load("invalidate"), names, (keys.member(fingerprint),), bool, replay_safe=True)


def forget_all_answers(keys: CacheKeys) -> Call[None]:
    """Take the generation away: every entry becomes a miss at once and dies by its own time to live."""
    return plain_call(b"UNLINK", (keys.generation, keys.index), (), nothing, replay_safe=True)


def count_answers(keys: CacheKeys) -> Call[int]:
    """The number of live entries."""
    return script_call(load("size"), (keys.index,), (), int, replay_safe=True)
