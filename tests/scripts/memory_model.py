"""What the memory scripts must do, in plain Python: one list, counted afresh by every call.

Written from the rules, not from the Lua: nothing here is incremental, cached or read in blocks.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple

APPLIED, REPLAYED, CONFLICT, UNINDEXED, FOREIGN, OCCUPIED = range(1, 7)


class Reply(NamedTuple):
    status: int
    revision: int
    dropped: int = 0
    entries: int = 0
    turns: int = -1
    tokens: int = -1
    waiting: int = 0
    user: bytes = b""


class PinnedLimit(Exception):
    """The call would hold too many pinned entries."""


def is_pinned(entry: bytes) -> bool:
    return kind(entry) == b"P"


def kind(entry: bytes) -> bytes | None:
    return entry[1:2] if entry[:1] in b"123456789" and entry[1:2] in (b"P", b"U", b"M") else None


def turn_starts(entries: list[bytes]) -> list[int]:
    """Where each turn starts: at the first entry that is not pinned, and at every U after it."""
    body = [index for index, entry in enumerate(entries) if not is_pinned(entry)]
    return body[:1] + [index for index in body[1:] if kind(entries[index]) == b"U"]


def pinned_head(entries: list[bytes]) -> int:
    """How many pinned entries come before anything else."""
    return next((index for index, entry in enumerate(entries) if not is_pinned(entry)), len(entries))


def tokens(entry: bytes) -> int:
    """What an entry says, else a quarter of its bytes."""
    said = re.match(rb"[2-9][PUM](\d{1,15})\|", entry)
    return int(said[1]) if said else math.ceil(len(entry) / 4)


def total(entries: list[bytes]) -> int:
    return sum(map(tokens, entries))


def trimmed(entries: list[bytes], max_turns: int, max_tokens: int | None) -> tuple[list[bytes], list[bytes]]:
    """What is left, and what left: turns leave from the front, one at a time, until the rest fits or is one turn."""
    evicted: list[bytes] = []
    while True:
        starts = turn_starts(entries)
        fits = len(starts) <= max_turns and (max_tokens is None or total(entries) <= max_tokens)
        if fits or len(starts) < 2:
            return entries, evicted
        oldest = entries[: starts[1]]
        evicted += [entry for entry in oldest if not is_pinned(entry)]
        entries = [entry for entry in oldest if is_pinned(entry)] + entries[starts[1] :]


@dataclass
class MemoryModel:
    entries: list[bytes] = field(default_factory=list)
    revision: int = 0
    operations: dict[bytes, int] = field(default_factory=dict)
    evicted: list[bytes] = field(default_factory=list)

    def extend(
        self,
        new: list[bytes],
        *,
        operation: bytes,
        max_turns: int,
        expected: int | None,
        max_pinned: int,
        max_tokens: int | None = None,
        mode: str = "append",
    ) -> Reply:
        if (refusal := self._refusal(operation, expected)) is not None:
            return refusal
        if mode == "fill" and self.entries:
            return Reply(OCCUPIED, self.revision, entries=len(self.entries))
        there = self.entries if mode == "append" else []
        new_pinned = [entry for entry in new if is_pinned(entry)]
        if new_pinned and pinned_head(there) + len(new_pinned) > max_pinned:
            raise PinnedLimit
        body = [entry for entry in new if not is_pinned(entry)]
        budget = None if max_tokens is None else max_tokens - total(new_pinned)
        kept, evicted = trimmed(there + body, max_turns, budget)
        head = pinned_head(kept)
        kept = kept[:head] + new_pinned + kept[head:]
        self.entries, self.evicted = kept, self.evicted + evicted
        return self._applied(operation, dropped=len(evicted))

    def clear(self, *, operation: bytes, expected: int | None) -> Reply:
        if (refusal := self._refusal(operation, expected)) is not None:
            return refusal
        dropped, self.entries = len(self.entries), []
        return self._applied(operation, dropped=dropped)

    def pop(self, tail: list[bytes], *, operation: bytes, expected: int | None) -> Reply:
        if (refusal := self._refusal(operation, expected)) is not None:
            return refusal
        if self.entries[-len(tail) :] != tail:
            return Reply(CONFLICT, self.revision, entries=len(self.entries))
        self.entries = self.entries[: -len(tail)]
        return self._applied(operation, dropped=len(tail))

    def window(self, last: int) -> tuple[list[bytes], list[bytes]]:
        """The pinned head, and the newest entries from the turn start on that has ``last`` with a header behind it."""
        head = pinned_head(self.entries)
        body = self.entries[head:]
        for index in range(len(body) - 1, -1, -1):
            counted = sum(kind(entry) in (b"U", b"M") for entry in body[index:])
            if counted >= last and kind(body[index]) == b"U":
                return self.entries[:head], body[index:]
        return self.entries[:head], body

    def forget_state(self) -> None:
        """The state was evicted."""
        self.revision = 0

    def _refusal(self, operation: bytes, expected: int | None) -> Reply | None:
        if operation in self.operations:
            return Reply(REPLAYED, self.operations[operation], entries=len(self.entries))
        if expected is not None and expected != self.revision:
            return Reply(CONFLICT, self.revision, entries=len(self.entries))
        return None

    def _applied(self, operation: bytes, dropped: int) -> Reply:
        self.revision += 1
        self.operations[operation] = self.revision
        turns = len(turn_starts(self.entries))
        return Reply(APPLIED, self.revision, dropped, len(self.entries), turns, total(self.entries))
