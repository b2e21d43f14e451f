"""What the memory scripts must do, in plain Python: one list, counted afresh by every call.

Written from the rules, not from the Lua: nothing here is incremental, cached or read in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

APPLIED, REPLAYED, CONFLICT = 1, 2, 3
IDS_KEPT = 64


class Reply(NamedTuple):
    status: int
    revision: int
    dropped: int = 0
    entries: int = 0
    turns: int = -1


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


def trimmed(entries: list[bytes], max_turns: int) -> list[bytes]:
    starts = turn_starts(entries)
    if len(starts) <= max_turns:
        return entries
    cut = starts[-max_turns]
    return [entry for entry in entries[:cut] if is_pinned(entry)] + entries[cut:]


@dataclass
class MemoryModel:
    entries: list[bytes] = field(default_factory=list)
    revision: int = 0
    operations: dict[bytes, int] = field(default_factory=dict)

    def extend(
        self, new: list[bytes], *, operation: bytes, max_turns: int, expected: int | None, max_pinned: int
    ) -> Reply:
        if (refusal := self._refusal(operation, expected)) is not None:
            return refusal
        new_pinned = [entry for entry in new if is_pinned(entry)]
        if new_pinned and pinned_head(self.entries) + len(new_pinned) > max_pinned:
            raise PinnedLimit
        before = len(self.entries) + len(new)
        entries = trimmed(self.entries + [entry for entry in new if not is_pinned(entry)], max_turns)
        head = pinned_head(entries)
        self.entries = entries[:head] + new_pinned + entries[head:]
        return self._applied(operation, dropped=before - len(self.entries))

    def clear(self, *, operation: bytes, expected: int | None) -> Reply:
        if (refusal := self._refusal(operation, expected)) is not None:
            return refusal
        dropped, self.entries = len(self.entries), []
        return self._applied(operation, dropped=dropped)

    def forget_state(self) -> None:
        """The state was evicted."""
        self.revision, self.operations = 0, {}

    def _refusal(self, operation: bytes, expected: int | None) -> Reply | None:
        if operation in self.operations:
            return Reply(REPLAYED, self.operations[operation], entries=len(self.entries))
        if expected is not None and expected != self.revision:
            return Reply(CONFLICT, self.revision, entries=len(self.entries))
        return None

    def _applied(self, operation: bytes, dropped: int) -> Reply:
        self.revision += 1
        self.operations[operation] = self.revision
        self.operations = dict(list(self.operations.items())[-IDS_KEPT:])
        return Reply(APPLIED, self.revision, dropped, len(self.entries), len(turn_starts(self.entries)))
