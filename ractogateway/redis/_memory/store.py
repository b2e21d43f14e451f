"""What the rooms of the chat memory share: settings, keys, and the two ends (codec and port)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from ractogateway._checks import check_id, milliseconds
from ractogateway.redis._memory.codec import Codec
from ractogateway.redis._memory.counters import Counters
from ractogateway.redis.config import ChatMemoryConfig
from ractogateway.redis.encryption import Encryption
from ractogateway.redis.keys import MemoryKeys, operation_id
from ractogateway.redis.scripts.memory_calls import EVICTED_MS, TOMBSTONE_MS, Guard, WriteTerms
from ractogateway.redis.transport import Port

_KEPT_SECONDS = 10.0
_NAMED_KEPT_SECONDS = 3600.0

CLIENTS_OWN_SECONDS = 30.0
"""What a call over a given client is taken to last at most, its retries included: only the client knows."""


@dataclass(frozen=True, slots=True)
class Place:
    """One conversation: its id and its keys."""

    id: str
    keys: MemoryKeys


@lru_cache(maxsize=1024)  # a conversation is read, then written, again and again: its keys are spelled once
def _place(prefix: str, namespace: str, conversation_id: str) -> Place:
    return Place(conversation_id, MemoryKeys.of(prefix, namespace, conversation_id))


class Store:
    """One memory's settings, and what it works with."""

    def __init__(
        self,
        port: Port,
        config: ChatMemoryConfig,
        encryption: Encryption | None,
        namespace: str,
        timeout_seconds: float,
    ) -> None:
        self.port = port
        self.config = config
        self.codec = Codec(config, encryption, port, Counters())
        self.namespace = namespace
        ttl_ms = None if config.ttl_seconds is None else milliseconds(config.ttl_seconds)
        hooked_ms = None if config.on_evict is None else max(ttl_ms or 0, EVICTED_MS)
        self.terms = WriteTerms(
            max_turns=config.max_turns,
            max_tokens=config.max_tokens,
            ttl_ms=ttl_ms,
            tombstone_ms=hooked_ms or TOMBSTONE_MS,
            hooked_ms=hooked_ms,
        )
        self._keep_ms = milliseconds(max(_KEPT_SECONDS, 2 * timeout_seconds))
        self._keep_named_ms = milliseconds(max(_NAMED_KEPT_SECONDS, 2 * timeout_seconds))

    def place(self, conversation_id: str, name: str = "conversation_id") -> Place:
        """Where a conversation is; the id is checked."""
        return _place(self.config.key_prefix, self.namespace, check_id(name, conversation_id))

    def user_tag(self, user_id: str | None) -> bytes:
        """What stands for a user, empty for None; the id is checked."""
        if user_id is None:
            return b""
        return MemoryKeys.user_tag(self.config.key_prefix, self.namespace, check_id("user_id", user_id))

    def index(self, user_tag: bytes) -> bytes:
        """The key of a user's index."""
        return MemoryKeys.index(self.config.key_prefix, user_tag)

    def guard(self, request_id: str | None = None, expected_revision: int | None = None) -> Guard:
        """How one write is told from another: by the caller's own id, else by a random one."""
        if request_id is None:
            return Guard(os.urandom(16), self._keep_ms, expected_revision)
        return Guard(operation_id(check_id("request_id", request_id)), self._keep_named_ms, expected_revision)

    @property
    def counters(self) -> Counters:
        """What this memory counts."""
        return self.codec.counters

    def share_counters(self, other: Store) -> None:
        """Count together with another memory."""
        self.codec.counters = other.counters
