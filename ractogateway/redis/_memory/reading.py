"""Reads: histories, windows, pages, and what changed since a revision."""

from __future__ import annotations

from typing import NamedTuple

from ractogateway.redis._memory.codec import JsonMessage
from ractogateway.redis._memory.store import Place, Store
from ractogateway.redis._memory.values import ConversationChanges, ConversationPage
from ractogateway.redis.scripts import memory_calls as calls
from ractogateway.redis.scripts.memory_calls import Window
from ractogateway.redis.turns import kind_of, takes_part_in_tool_use

_CHANGES_TRIES = 8


class _Read(NamedTuple):
    window: Window
    pinned: list[JsonMessage]
    messages: list[JsonMessage]


async def history(store: Store, place: Place, last: int | None) -> list[JsonMessage]:
    """The messages, pinned ones first; with ``last``, only so many of the others, widened to whole turns."""
    if last is None:
        entries = await store.port.run(calls.read_conversation(place.keys))
        return store.codec.decode(place.keys, entries)
    read = await _window(store, place, last, None)
    return read.pinned + read.messages


async def page(store: Store, place: Place, limit: int, before: int | None) -> ConversationPage:
    """The last ``limit`` messages before a position, widened to whole turns."""
    window, pinned, messages = await _window(store, place, limit, before)
    return ConversationPage(
        messages=messages,
        pinned=pinned,
        before=window.position if window.earlier else None,
        revision=window.revision,
        count=window.length,
        tokens=window.tokens,
    )


async def changes(store: Store, place: Place, since: int) -> ConversationChanges:
    """What happened after a revision; a few bytes where nothing did."""
    if since:  # else there is something to read, but for conversations nobody has written to
        glance, length = await store.port.run_many([calls.glance_at(place.keys), calls.count_messages(place.keys)])
        # Read one after the other, and nevertheless true: a list that has the length its state was counted for, under
        # the revision that the caller knows, was unchanged at one moment between the two.
        if glance.revision == since and (glance.counted_for or 0) == length:
            return ConversationChanges(revision=since, messages=[])
    delta = await store.port.run(calls.read_changes(place.keys, since=since))
    messages, unreadable = store.codec.attempt(place.keys, delta.entries)
    if delta.anew:
        store.counters.skipped(len(delta.entries) - len(messages))
        return ConversationChanges(delta.revision, messages, anew=True)
    if not (delta.left or unreadable or any(map(takes_part_in_tool_use, messages))):
        return ConversationChanges(delta.revision, messages)
    # Something that this reader cannot read, and its copy never had, may be among what has left, or in the turn that
    # these messages go on with.
    whole = delta
    for _ in range(_CHANGES_TRIES):
        if delta.anew:
            break
        # Together, so that the conversation hardly ever moves on in between.
        both = [calls.read_changes(place.keys, since=revision) for revision in (since, 0)]
        delta, whole = await store.port.run_many(both)
        if whole.revision == delta.revision:
            break
    messages = store.codec.attempt(place.keys, delta.entries).messages
    everything, unreadable = store.codec.attempt(place.keys, whole.entries)
    if delta.anew or unreadable or whole.revision != delta.revision:
        store.counters.skipped(len(whole.entries) - len(everything))
        return ConversationChanges(whole.revision, everything, anew=True)
    kept = sum(kind_of(message) != "P" for message in everything) - len(messages)
    return ConversationChanges(delta.revision, messages, delta.left, kept=kept)


async def _window(store: Store, place: Place, last: int, before: int | None) -> _Read:
    """Read until ``last`` messages can be read, or all there are: others stand in for those that cannot."""
    wanted = last
    while True:
        window = await store.port.run(calls.read_window(place.keys, last=wanted, before=before))
        messages = store.codec.attempt(place.keys, window.entries).messages
        missing, hidden = last - len(messages), len(window.entries) - len(messages)
        if missing <= 0 or not window.earlier:
            break
        wanted += max(missing, hidden)
    store.counters.skipped(hidden)
    return _Read(window, store.codec.decode(place.keys, window.pinned), messages)
