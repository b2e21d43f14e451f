"""Writes: one script each, and what becomes of its reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ractogateway.errors import (
    ForeignConversation,
    InvalidTypeError,
    InvalidValueError,
    RevisionConflict,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from ractogateway.messages import Message
from ractogateway.redis._memory import index, outbox
from ractogateway.redis._memory.codec import JsonMessage
from ractogateway.redis._memory.store import Place, Store
from ractogateway.redis.entries import is_for_others
from ractogateway.redis.scripts import memory_calls as calls
from ractogateway.redis.scripts.memory_calls import Guard, Mode, Status, WriteReply
from ractogateway.redis.transport import Call
from ractogateway.redis.turns import kind_of

_INDEX_TRIES = 32
_POP_TRIES = 32
_FIRST_TAIL = 4


async def write_messages(
    store: Store,
    place: Place,
    messages: Sequence[Mapping[str, Any] | Message],
    guard: Guard,
    *,
    mode: Mode = "append",
    user_tag: bytes = b"",
) -> int:
    """Check, redact, encode and write messages; the revision."""
    entries = await store.codec.encode(place.keys, messages)
    return (await write_entries(store, place, entries, guard, mode=mode, user_tag=user_tag)).revision


async def write_entries(
    store: Store,
    place: Place,
    entries: Sequence[bytes],
    guard: Guard,
    *,
    mode: Mode = "append",
    user_tag: bytes = b"",
) -> WriteReply:
    """Write entries, or find that they have been written before. Evicted ones are given to the hook."""

    def extend(indexed_at: int | None) -> Call[WriteReply]:
        return calls.extend_conversation(
            place.keys, entries, store.terms, guard, mode=mode, user_tag=user_tag, indexed_at=indexed_at
        )

    try:
        reply = await _indexed(store, place, extend, guard, user_tag)
    except StoreRefused as error:
        if error.code != "PINNEDLIMIT":
            raise
        raise _too_many_pinned() from None
    revision_of(reply, guard)
    bound = store.terms.max_tokens
    if bound is not None and reply.tokens > bound:
        store.counters.oversized()
    await _after(store, place, reply)
    return reply


async def clear(store: Store, place: Place, guard: Guard) -> int:
    """Delete the messages; the revision."""
    reply = await store.port.run(calls.clear_conversation(place.keys, store.terms, guard))
    revision = revision_of(reply, guard)
    await _after(store, place, reply)
    return revision


async def pop(store: Store, place: Place, expected_revision: int | None) -> JsonMessage | None:
    """Take the newest message off, and what stands behind it and nobody can read.

    Read first, then taken by name: a reply that gets lost takes no message with it.
    """
    for _ in range(_POP_TRIES):
        revision = (await store.port.run(calls.glance_at(place.keys))).revision
        if expected_revision is not None and expected_revision != revision:
            raise RevisionConflict(expected_revision, revision)
        tail, message = await _newest(store, place)
        if message is None:
            return None
        guard = store.guard(expected_revision=revision)
        reply = await store.port.run(calls.pop_entries(place.keys, tail, store.terms, guard))
        if reply.status is not Status.CONFLICT:
            store.counters.skipped(len(tail) - 1)
            await _after(store, place, reply)
            return message
    raise StoreUnavailable("the conversation changed so often that its newest message could not be taken")


async def _newest(store: Store, place: Place) -> tuple[list[bytes], JsonMessage | None]:
    """The entries from the newest that can be read on, and its message; None where all are corrupt, or there are none.

    Raises:
        StoreRefused: somebody else may read what stands there: it is not ours to delete.
    """
    count = _FIRST_TAIL
    while True:
        tail = await store.port.run(calls.read_tail(place.keys, count))
        for index_from_end in range(1, len(tail) + 1):
            entry = tail[-index_from_end]
            message = store.codec.read(place.keys, entry)
            if message is not None:
                return tail[-index_from_end:], message
            if is_for_others(entry):
                raise StoreRefused(
                    "the newest message cannot be read here, and was not taken: it is of a later release, or encrypted "
                    "by a key that is not here",
                    code="UNREADABLE",
                )
        if len(tail) < count:
            return tail, None
        count *= 4


async def _indexed(
    store: Store, place: Place, call_at: Callable[[int | None], Call[WriteReply]], guard: Guard, user_tag: bytes
) -> WriteReply:
    """Run a write whose conversation may belong to a user: the user's index learns of it first."""
    indexed_at = None
    if user_tag and guard.expected_revision == 0:
        # Never written to: its user's index cannot know of it, and need not be asked for by a write of its own.
        await index.enlist(store, user_tag, place)
        indexed_at = 0
    for _ in range(_INDEX_TRIES):
        reply = await store.port.run(call_at(indexed_at))
        if reply.status is not Status.UNINDEXED:
            return reply
        await index.enlist(store, reply.user_tag, place)
        indexed_at = reply.revision
    raise StoreUnavailable("the conversation changed so often that its user's index could not keep up")


def revision_of(reply: WriteReply, guard: Guard) -> int:
    """The revision that a write made, or why there is none.

    Raises:
        RevisionConflict: the conversation has moved on.
        ForeignConversation: it belongs to somebody else.
        InvalidValueError: it holds messages where it must not.
    """
    if reply.status is Status.CONFLICT:
        raise RevisionConflict(guard.expected_revision or 0, reply.revision)
    if reply.status is Status.FOREIGN:
        raise ForeignConversation("user_id must be that of the conversation: it belongs to another user")
    if reply.status is Status.OCCUPIED:
        raise InvalidValueError("the conversation must not hold messages yet; clear it first")
    return reply.revision


async def _after(store: Store, place: Place, reply: WriteReply) -> None:
    """What was written is written, whatever becomes of the evicted messages: they wait."""
    if reply.waiting and store.config.on_evict is not None:
        try:
            await outbox.deliver(store, place)
        except StoreError as error:
            store.counters.hook_failed(error)


def check_pinned(messages: Sequence[JsonMessage]) -> None:
    """Refuse more pinned messages than any conversation may hold."""
    if sum(kind_of(message) == "P" for message in messages) > calls.MAX_PINNED:
        raise _too_many_pinned()


def _too_many_pinned() -> InvalidValueError:
    return InvalidValueError(
        f"a conversation holds at most {calls.MAX_PINNED} system and developer messages: they are never trimmed"
    )


def check_messages(
    messages: Sequence[Mapping[str, Any] | Message], *, may_be_empty: bool = False
) -> Sequence[Mapping[str, Any] | Message]:
    """A sequence of messages; each is checked when it is encoded."""
    if isinstance(messages, (str, bytes, Mapping, Message)) or not isinstance(messages, Sequence):
        raise InvalidTypeError(f"messages must be a sequence of messages, not {type(messages).__name__}")
    if not messages and not may_be_empty:
        raise InvalidValueError("messages must not be empty")
    return messages
