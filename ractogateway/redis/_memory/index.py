"""Which conversations a user has: an index in a cluster slot of its own, kept right by the order of writes.

A conversation's state names its user. A write to a conversation that its user's index does not know of is refused
(``unindexed``); the caller enlists it and writes again, on the condition that nothing has happened meanwhile. So

* a conversation with messages is in the index, always: it is enlisted before its first message is written;
* an erasure (erase the conversation, then delist it unless it was enlisted again) leaves nothing behind that is not in
  the index: a write that enlisted before the erasure finds the revision advanced, and enlists again.

The index may name conversations that are gone (expired, cleared, or never written because a process died in between).
They are not shown, and each enlisting looks after the two oldest entries.
"""

from __future__ import annotations

from ractogateway.redis._memory.store import Place, Store
from ractogateway.redis._memory.values import Erasure
from ractogateway.redis.keys import conversation_of, member_of
from ractogateway.redis.scripts import memory_calls as calls
from ractogateway.redis.scripts.memory_calls import Status, WriteReply

_AT_ONCE = 128
_ERASURE_ROUNDS = 8
"""A user who writes all the while must not keep an erasure from ending."""


async def enlist(store: Store, user_tag: bytes, place: Place) -> None:
    """Make a conversation known to its user's index, and look after the oldest entries."""
    index = store.index(user_tag)
    stale = await store.port.run(calls.enlist_conversation(index, member_of(place.id), store.terms))
    for member in stale:
        # The score first: an entry that is renewed from here on stays.
        score = await store.port.run(calls.score_of(index, member))
        other = store.place(conversation_of(member))
        if score is None:
            continue
        if await store.port.run(calls.owner_of(other.keys)) == user_tag:
            await store.port.run(calls.enlist_conversation(index, member, store.terms))
        else:
            await store.port.run(calls.delist_conversation(index, member, score, is_over=False))


async def conversations(store: Store, user_tag: bytes) -> list[str]:
    """The user's conversations that hold messages, the longest not enlisted first."""
    members = await store.port.run(calls.enlisted(store.index(user_tag)))
    places = [store.place(conversation_of(member)) for member in members]
    found: list[str] = []
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        owners = await store.port.run_many([calls.owner_of(place.keys) for place in some])
        counts = await store.port.run_many([calls.count_messages(place.keys) for place in some])
        told = zip(some, owners, counts, strict=True)
        found += [place.id for place, owner, count in told if owner == user_tag and count]
    return found


async def erase(store: Store, place: Place, *, at_revision: int | None = None) -> Erasure:
    """Erase one conversation, whoever it belongs to; only at this revision, if one is given."""
    user_tag = await store.port.run(calls.owner_of(place.keys))
    member, index = member_of(place.id), store.index(user_tag)
    score = await store.port.run(calls.score_of(index, member)) if user_tag else None
    guard = store.guard(expected_revision=at_revision)
    reply = await store.port.run(calls.erase_conversation(place.keys, store.terms, guard, user_tag=b""))
    if score is not None and reply.status is not Status.CONFLICT:
        await store.port.run(calls.delist_conversation(index, member, score, is_over=True))
    return _sum([reply])


async def erase_user(store: Store, user_tag: bytes) -> Erasure:
    """Erase every conversation of a user, those included that come into the index meanwhile."""
    index = store.index(user_tag)
    seen: set[bytes] = set()
    replies: list[WriteReply] = []
    for _ in range(_ERASURE_ROUNDS):
        members = [member for member in await store.port.run(calls.enlisted(index)) if member not in seen]
        if not members:
            break
        for start in range(0, len(members), _AT_ONCE):
            replies += await _erase_some(store, user_tag, members[start : start + _AT_ONCE])
        seen.update(members)
    return _sum(replies)


async def _erase_some(store: Store, user_tag: bytes, members: list[bytes]) -> list[WriteReply]:
    index = store.index(user_tag)
    places = [store.place(conversation_of(member)) for member in members]
    # The scores first: an entry that is renewed from here on stays.
    scores = await store.port.run_many([calls.score_of(index, member) for member in members])
    replies: list[WriteReply] = await store.port.run_many(
        [calls.erase_conversation(place.keys, store.terms, store.guard(), user_tag=user_tag) for place in places]
    )
    # One that is not this user's (any more, or yet: its first write may be under way) was left as it is.
    await store.port.run_many(
        [
            calls.delist_conversation(index, member, score, is_over=reply.status is not Status.FOREIGN)
            for member, score, reply in zip(members, scores, replies, strict=True)
            if score is not None
        ]
    )
    return replies


def _sum(replies: list[WriteReply]) -> Erasure:
    """``tokens`` of an erasure's reply is the number of evicted entries."""
    done = [reply for reply in replies if reply.status is Status.APPLIED]
    return Erasure(
        conversations=sum(1 for reply in done if reply.dropped or reply.tokens),
        messages=sum(reply.dropped for reply in done),
        evicted=sum(reply.tokens for reply in done),
    )
