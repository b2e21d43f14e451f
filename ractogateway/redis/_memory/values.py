"""What the chat memory tells besides messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ConversationChanges", "ConversationPage", "Erasure", "MemoryStats"]


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A part of a conversation, in whole turns.

    Attributes:
        messages: the page, oldest first, without the pinned messages.
        pinned: all system and developer messages, in their order.
        before: what to pass as ``before=`` for the page before this one; None where this is the first. Pages do not
            shift when messages are appended, trimmed, replaced or cleared meanwhile: no position is given twice, but
            for those of messages that were popped.
        revision: the conversation's at the time of the reading.
        count: messages in the whole conversation.
        tokens: their tokens, as ``max_tokens`` counts them.
    """

    messages: list[dict[str, Any]] = field(repr=False)
    pinned: list[dict[str, Any]] = field(repr=False)
    before: int | None
    revision: int
    count: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ConversationChanges:
    """What happened to a conversation after a revision. False where nothing did.

    Apply it to a copy: if ``anew``, the copy becomes ``messages``. Else, if ``dropped``, only the newest ``kept`` of
    those behind the pinned ones stay. Then ``messages`` come to the end.

    Attributes:
        revision: the one to ask with next time.
        messages: what was appended, or all there is.
        dropped: how many of the oldest messages left. Those that cannot be read, and are in no copy, are counted.
        anew: ``messages`` is the whole history: it was cleared, replaced, popped, expired or pinned to, something in it
            cannot be read, or the revision is too long ago.
        kept: how many of the older messages stay behind the pinned ones, where some left.
    """

    revision: int
    messages: list[dict[str, Any]] = field(repr=False)
    dropped: int = 0
    anew: bool = False
    kept: int = 0

    def __bool__(self) -> bool:
        return self.anew or bool(self.messages) or self.dropped > 0


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure removed, as the server's replies told: where one was lost and the call was sent again, what had
    been removed by then is not counted.

    Attributes:
        conversations: those that held anything.
        messages: the messages in them.
        evicted: trimmed messages that were waiting for ``on_evict``.
    """

    conversations: int
    messages: int
    evicted: int


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Counts of one object since it was made.

    Attributes:
        skipped: entries left out of what was read: corrupt, of a later release's format, encrypted by a key that is not
            here, or part of a tool call of which another part was one of these.
        oversized: writes after which one turn (or the pinned messages) alone exceeded ``max_tokens``; it was kept.
        hook_failures: calls of ``on_evict`` that raised; their messages are delivered again.
    """

    skipped: int
    oversized: int
    hook_failures: int
