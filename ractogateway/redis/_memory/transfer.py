"""Whole conversations on the move: copies, files, and the older layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ractogateway.errors import InvalidTypeError, InvalidValueError, RactoGatewayError
from ractogateway.redis._memory import index
from ractogateway.redis._memory.codec import JsonMessage, plain_json
from ractogateway.redis._memory.store import Place, Store
from ractogateway.redis._memory.writing import write_entries, write_messages
from ractogateway.redis.entries import decode_payload, encode_entry
from ractogateway.redis.keys import MemoryKeys
from ractogateway.redis.scripts import memory_calls as calls
from ractogateway.redis.scripts.memory_calls import Status
from ractogateway.redis.turns import check_message


async def fork(store: Store, source: Place, target: Place, request_id: str | None) -> int:
    """Copy a conversation into one without messages; the new one's revision. It belongs to the same user."""
    owner = await store.port.run(calls.owner_of(source.keys))
    read = await _changes(store, source, 0)  # all there is, and its revision
    moved = store.codec.transplant(source.keys, target.keys, read.entries)
    guard = store.guard(request_id)
    if not moved:
        made = await store.port.run(calls.made_by(target.keys, guard))
        if made is None:
            raise InvalidValueError("source must be a conversation that holds messages")
        return made  # sent again after the source was cleared
    reply = await write_entries(store, target, moved, guard, mode="fill", user_tag=owner)
    since = await _changes(store, source, read.revision)
    begun_anew = since.anew and since.revision != read.revision
    if begun_anew or await store.port.run(calls.owner_of(source.keys)) != owner:
        # It was erased meanwhile (whose erasure may have looked for copies before this one was in the index), even if
        # it was begun anew since; or became a user's (in whose index this copy is not).
        await index.erase(store, target, at_revision=reply.revision)
        raise InvalidValueError(
            "source must be only appended to while it is copied: the copy was erased, unless written to since"
        )
    return reply.revision


async def _changes(store: Store, place: Place, since: int) -> calls.Delta:
    return await store.port.run(calls.read_changes(place.keys, since=since))


async def export(store: Store, place: Place) -> str:
    """The messages as JSON Lines."""
    entries = await store.port.run(calls.read_conversation(place.keys))
    return "".join(f"{plain_json(message)}\n" for message in store.codec.decode(place.keys, entries))


async def import_lines(
    store: Store, place: Place, lines: str | bytes | Iterable[str], user_tag: bytes, request_id: str | None
) -> int:
    """Fill a conversation from JSON Lines; its revision."""
    messages = _parsed(lines)
    if not messages:
        raise InvalidValueError("lines must hold at least one message")
    return await write_messages(store, place, messages, store.guard(request_id), mode="fill", user_tag=user_tag)


async def migrate(store: Store, place: Place, source_key: str | None, user_tag: bytes) -> int:
    """Bring a list of plain JSON objects over; how many messages. It is deleted once all of it is brought over."""
    if source_key is None:
        source = MemoryKeys.older_layout(store.config.key_prefix, place.id)
    else:
        source = source_key.encode("utf-8", "surrogatepass")
    items = await store.port.run(calls.read_list(source))
    usable = [_usable(item, store) for item in items]
    # As entries, so that what leaves a tool call without its result is left out by the same rule as in a reading.
    messages = store.codec.decode(place.keys, [b"" if each is None else encode_entry(each) for each in usable])
    if not messages:
        return 0
    # Whoever migrates the same list at the same time does it once.
    request_id = "migrate " + hashlib.sha256(b"".join(b"%d:%b" % (len(item), item) for item in items)).hexdigest()
    entries = await store.codec.encode(place.keys, messages)
    reply = await write_entries(store, place, entries, store.guard(request_id), mode="fill", user_tag=user_tag)
    if reply.status is Status.REPLAYED and (await _changes(store, place, reply.revision)).anew:
        # What was brought over may be gone (cleared, say), and the list have been written again by an older replica.
        await write_entries(store, place, entries, store.guard(), mode="fill", user_tag=user_tag)
    if len(messages) == len(items):
        await store.port.run(calls.discard_list(source, items))
    return len(messages)


def _usable(item: bytes, store: Store) -> JsonMessage | None:
    message = decode_payload(item)
    try:
        return None if message is None else check_message(message, max_message_bytes=store.config.max_message_bytes)
    except RactoGatewayError:
        return None


def _parsed(lines: str | bytes | Iterable[str]) -> list[JsonMessage]:
    if isinstance(lines, bytes):
        try:
            lines = lines.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidValueError("lines must be UTF-8") from None
    # Not splitlines(): that would cut a text at U+2028.
    split = lines.split("\n") if isinstance(lines, str) else lines
    if not isinstance(split, Iterable):
        raise InvalidTypeError(f"lines must be JSON Lines as str, bytes or lines of str, not {type(lines).__name__}")
    messages = []
    for number, line in enumerate(split, 1):
        if not isinstance(line, str):
            raise InvalidTypeError(f"line {number} must be a str, not {type(line).__name__}")
        if not line.strip():
            continue
        message = decode_payload(line.encode("utf-8", "backslashreplace"))  # a lone surrogate, as JSON escapes it
        if message is None:
            raise _not_a_message(number)
        messages.append(message)
    return messages


def _not_a_message(number: int) -> RactoGatewayError:
    return InvalidValueError(f"line {number} must be a JSON object with a role")
