"""Answers in Redis, and copies of them in this process: reading, writing and forgetting, each in one round trip.

An answer that carries tags, or a time of grace, takes a second one where it is read by plain commands: which tags these
are is known only when it is there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ractogateway.cache.policy import jittered
from ractogateway.messages import LLMResponse
from ractogateway.redis._cache.answers import SealedAnswers
from ractogateway.redis._cache.counts import Counts
from ractogateway.redis._cache.near import Copy, NearCache, depends_on
from ractogateway.redis.envelope import BadEnvelope, Flaw
from ractogateway.redis.keys import CacheBuckets, CacheKeys
from ractogateway.redis.scripts import cache_calls as calls
from ractogateway.redis.stamps import FRESH_BYTES, Entry, head, tags_of
from ractogateway.redis.transport import Call, Fill, Port, own_write

_NO_END: Final = -1
_SLICE: Final = 500
"""Entries that one script looks at."""


@dataclass(frozen=True, slots=True)
class Life:
    """How long an entry lives: as a fresh answer (None: no end; ``jitter``: the part of it that chance may take away),
    and then as a stale one.
    """

    ttl_ms: int | None
    grace_ms: int
    jitter: float = 0.0

    def draw_ms(self) -> int | None:
        """The fresh life of one entry."""
        return None if self.ttl_ms is None else max(1, math.ceil(jittered(self.ttl_ms, self.jitter)))


class AnswerStore:
    """The answers of one cache. Methods raise `StoreError` as `Port.run` does."""

    def __init__(
        self, port: Port, buckets: CacheBuckets, answers: SealedAnswers, counts: Counts, near: NearCache | None
    ) -> None:
        self._port = port
        self._buckets = buckets
        self._answers = answers
        self._counts = counts
        self.near = near

    def count_in(self, counts: Counts) -> None:
        """Count there from now on."""
        self._counts = counts

    def seal(self, response: LLMResponse, fingerprint: bytes) -> bytes:
        """What is stored of an answer.

        Raises:
            InvalidTypeError: it is none, or holds something that cannot be stored.
        """
        return self._answers.seal(response, fingerprint)

    def open(self, envelope: bytes, fingerprint: bytes) -> LLMResponse | None:
        """A stored answer, marked as a hit; None, and counted, where it is none for this request."""
        try:
            return self._answers.open(envelope, fingerprint)
        except BadEnvelope as bad:
            self._counts.add_flaw(bad.flaw)
            return None

    def open_entry(self, value: bytes, fingerprint: bytes) -> LLMResponse | None:
        """The same for a whole entry, whose stamp is known to be alive."""
        entry = self._taken_apart(value)
        return None if entry is None else self.open(entry.envelope, fingerprint)

    def _entry(self, value: bytes | None, generation: bytes | None) -> Entry | None:
        """What is stored there under the current generation; None, and counted, where it is nothing of ours."""
        if value is None or generation is None or not value.startswith(generation):
            return None
        return self._taken_apart(value)

    def _taken_apart(self, value: bytes) -> Entry | None:
        entry = Entry.of(value)
        if entry is None:
            self._counts.add_flaw(Flaw.TORN)
        return entry

    # --- reading -----------------------------------------------------------------------------------------------------

    async def read(self, fingerprint: bytes, early: float = 0.0) -> LLMResponse | None:
        """A fresh answer, or None; for ``early`` see `NearCache.find`. Where copies are kept, this one is."""
        keys = self._buckets.of(fingerprint)
        if self.near is not None:
            return await self._read_and_keep(keys, fingerprint, self.near, early)
        generation, value = await self._port.run(calls.read_entry(keys, fingerprint))
        entry = self._entry(value, generation)
        if entry is None:
            return None
        if (entry.tags or entry.grace_ms) and await self._dead_among({fingerprint: entry}):
            return None
        return self.open(entry.envelope, fingerprint)

    async def _read_and_keep(
        self, keys: CacheKeys, fingerprint: bytes, near: NearCache, early: float
    ) -> LLMResponse | None:
        asked_at = self._port.now()
        # In this order: the time of an older entry makes a newer one end too soon at worst, and is then not kept.
        replies = await near.port.fetch_many([calls.read_life(keys, fingerprint), calls.read_entry(keys, fingerprint)])
        (left_ms, _), ((generation, value), fill) = replies
        entry = self._entry(value, generation)
        if entry is None:
            return None
        fills: list[Fill] = [fill]
        tag_ids = [tag_id for tag_id, _ in entry.tags]
        if entry.tags:
            versions, more = await near.port.fetch(calls.read_versions(keys, tag_ids))
            fills.append(more)
        else:
            versions = []
        if not _is_alive(entry, left_ms, versions):
            return None
        response = self.open(entry.envelope, fingerprint)
        if response is None:
            return None
        ends_at = asked_at + (left_ms - entry.grace_ms) / 1000 if left_ms != _NO_END else float("inf")
        changeable, compute_seconds = response.changeable_fields(), entry.compute_ms / 1000
        copy = Copy(response, changeable, ends_at, compute_seconds, keys.entry(fingerprint), depends_on(keys, tag_ids))
        near.keep(fingerprint, copy, fills)
        is_due = self._port.now() + early * compute_seconds >= ends_at
        return None if is_due else response.twin(changeable)

    async def read_many(self, fingerprints: Sequence[bytes]) -> list[LLMResponse | None]:
        """Fresh answers, or None, in order: one round trip, and a second one for those that carry tags or grace."""
        near = self.near
        found: dict[bytes, LLMResponse | None] = {}
        if near is not None:
            found = {each: copy for each in fingerprints if (copy := near.find(each)) is not None}
        by_bucket: dict[CacheKeys, list[bytes]] = {}
        for each in dict.fromkeys(fingerprints):
            if each not in found:
                by_bucket.setdefault(self._buckets.of(each), []).append(each)
        replies = await self._port.run_many([calls.read_entries(*share) for share in by_bucket.items()])
        entries: dict[bytes, Entry] = {}
        for share, (generation, *values) in zip(by_bucket.values(), replies, strict=True):
            for each, value in zip(share, values, strict=True):
                if (entry := self._entry(value, generation)) is not None:
                    entries[each] = entry
        dead = await self._dead_among({each: entry for each, entry in entries.items() if entry.tags or entry.grace_ms})
        for each in entries.keys() - dead:
            found[each] = self.open(entries[each].envelope, each)
        seen: set[bytes] = set()
        answers: list[LLMResponse | None] = []
        for each in fingerprints:
            response = found.get(each)
            answers.append(_another(response) if response is not None and each in seen else response)
            seen.add(each)
        return answers

    async def _dead_among(self, suspects: Mapping[bytes, Entry]) -> set[bytes]:
        """Of these entries, whose generation was the current one, those that have a dead tag or no time left.

        One with a time of grace is read once more, behind its time: that may belong to one that was put meanwhile.
        """
        proofs: list[Call[Any]] = []
        for fingerprint, entry in suspects.items():
            keys = self._buckets.of(fingerprint)
            if entry.grace_ms:
                proofs += (calls.read_life(keys, fingerprint), calls.read_entry(keys, fingerprint))
            if entry.tags:
                proofs.append(calls.read_versions(keys, [tag_id for tag_id, _ in entry.tags]))
        replies = iter(await self._port.run_many(proofs))
        dead = set()
        for fingerprint, entry in suspects.items():
            left_ms = _NO_END  # where there is no time of grace, what was read had not expired
            if entry.grace_ms:
                left_ms, (_, value) = next(replies), next(replies)
                if value is None or Entry.of(value) != entry:
                    left_ms = 0
            if not _is_alive(entry, left_ms, next(replies) if entry.tags else ()):
                dead.add(fingerprint)
        return dead

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(
        self,
        fingerprint: bytes,
        envelope: bytes,
        life: Life,
        tags: Sequence[bytes],
        *,
        compute_ms: int = 0,
        claim: bytes = b"",
    ) -> bool:
        """Store an answer; with a ``claim`` only while that lease stands. Whether it was stored."""
        with own_write(self._buckets.entry(fingerprint)):
            return await self._port.run(self._writing(fingerprint, envelope, life, tags, compute_ms, claim))

    async def write_many(self, envelopes: Mapping[bytes, bytes], life: Life, tags: Sequence[bytes]) -> None:
        """Store several answers by fingerprint: one round trip, one script for each."""
        with own_write(*map(self._buckets.entry, envelopes)):
            await self._port.run_many(
                [self._writing(fingerprint, envelope, life, tags) for fingerprint, envelope in envelopes.items()]
            )

    def _writing(
        self,
        fingerprint: bytes,
        envelope: bytes,
        life: Life,
        tags: Sequence[bytes],
        compute_ms: int = 0,
        claim: bytes = b"",
    ) -> Call[bool]:
        grace_ms = 0 if life.ttl_ms is None else life.grace_ms
        return calls.store_answer(
            self._buckets.of(fingerprint),
            fingerprint,
            envelope,
            ttl_ms=life.draw_ms(),
            grace_ms=grace_ms,
            head=head(compute_ms, grace_ms),
            tags=tags,
            fresh=os.urandom(FRESH_BYTES),
            claim=claim,
        )

    # --- forgetting --------------------------------------------------------------------------------------------------

    async def forget(self, fingerprint: bytes) -> bool:
        """Delete an entry, and the lease on computing it; whether it was live."""
        keys = self._buckets.of(fingerprint)
        with own_write(keys.entry(fingerprint)):
            stamp = await self._port.run(calls.forget_answer(keys, fingerprint))
        tags = tags_of(stamp)
        if not tags:
            return tags is not None
        members = [keys.member(fingerprint)]
        # Out of the tags' indexes too: those of entries without a time to live have no end of their own.
        buried = [calls.bury(keys, tag_id, members) for tag_id, _ in tags]
        read = calls.read_versions(keys, [tag_id for tag_id, _ in tags])
        versions, *_ = await self._port.run_many([read, *buried])
        return bool(versions == [version for _, version in tags])

    async def forget_all(self) -> None:
        """Make every entry a miss."""
        with own_write(*(keys.generation for keys in self._buckets.all)):
            await self._run_all([calls.forget_all_answers(keys) for keys in self._buckets.all])

    async def forget_tag(self, tag_id: bytes) -> None:
        """Make every entry that carries this tag a miss."""
        with own_write(*(keys.tag(tag_id) for keys in self._buckets.all)):
            await self._run_all([calls.forget_tag(keys, tag_id) for keys in self._buckets.all])

    async def bury_tagged(self, tag_id: bytes) -> None:
        """Delete what `forget_tag` has made unreachable, and count it no more."""
        scans = [(keys, 0) for keys in self._buckets.all]
        while scans:
            replies = await self._run_all([calls.scan_tag(keys, tag_id, cursor, _SLICE) for keys, cursor in scans])
            for (keys, _), (_, members) in zip(scans, replies, strict=True):
                for start in range(0, len(members), _SLICE):
                    await self._port.run(calls.bury(keys, tag_id, members[start : start + _SLICE]))
            scans = [(keys, cursor) for (keys, _), (cursor, _) in zip(scans, replies, strict=True) if cursor]

    async def size(self) -> int:
        """The number of live entries."""
        return sum(await self._run_all([calls.count_answers(keys) for keys in self._buckets.all]))

    async def _run_all(self, some: list[Call[Any]]) -> list[Any]:
        return await self._port.run_many(some) if len(some) > 1 else [await self._port.run(some[0])]

    # --- counting ----------------------------------------------------------------------------------------------------

    async def add_counts(self, additions: Mapping[str, int]) -> None:
        """Tell the fleet."""
        await self._port.run(calls.add_counts(self._buckets.counters, additions))

    async def read_counts(self) -> dict[str, int]:
        """What the fleet has counted."""
        return await self._port.run(calls.read_counts(self._buckets.counters))


def _is_alive(entry: Entry, left_ms: int, versions: Sequence[bytes | None]) -> bool:
    if any(current != version for current, (_, version) in zip(versions, entry.tags, strict=True)):
        return False
    return left_ms == _NO_END or left_ms > entry.grace_ms


def _another(response: LLMResponse) -> LLMResponse:
    return response.twin(response.changeable_fields())
