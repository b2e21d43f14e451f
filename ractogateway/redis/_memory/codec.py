"""From a caller's messages to entries, and back: checks, the users' hooks, encryption."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ractogateway._checks import check_tokens
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import Message
from ractogateway.redis._memory.counters import Counters
from ractogateway.redis.config import ChatMemoryConfig
from ractogateway.redis.encryption import CannotDecrypt, Encryption
from ractogateway.redis.entries import (
    MAX_ENTRY_TOKENS,
    SEALED,
    decode_payload,
    encode_entry,
    entry_kind,
    estimate_tokens,
    split_entry,
)
from ractogateway.redis.keys import MemoryKeys
from ractogateway.redis.transport import Port
from ractogateway.redis.turns import Kind, check_message, kind_of, takes_part_in_tool_use, to_json

T = TypeVar("T")
JsonMessage = dict[str, Any]


class Decoded(NamedTuple):
    """What became of some entries.

    Of a turn with an unreadable entry, messages that take part in tool use are left out with it: a provider refuses a
    result without its call, and a call without its result.
    """

    messages: list[JsonMessage]
    unreadable: int


class Codec:
    """One memory's way of keeping messages."""

    def __init__(self, config: ChatMemoryConfig, encryption: Encryption | None, port: Port, counters: Counters) -> None:
        self._limit = config.max_message_bytes
        self._redact = config.redact
        self._count_tokens = config.count_tokens
        self._encryption = encryption
        self._port = port
        self.counters = counters

    def check(self, messages: Sequence[Mapping[str, Any] | Message]) -> list[JsonMessage]:
        """The messages as they are kept, before anything is redacted."""
        return [check_message(message, max_message_bytes=self._limit) for message in messages]

    async def encode(self, keys: MemoryKeys, messages: Sequence[Mapping[str, Any] | Message]) -> list[bytes]:
        """Entries of these messages, checked and redacted.

        Raises:
            InvalidTypeError, InvalidValueError: as `check_message`, for what was given and for what ``redact`` made of
                it; or ``count_tokens`` returned no count.
        """
        checked = self.check(messages)
        if self._redact is not None:
            # A copy: the caller keeps the original as it was.
            redacted = await self._of_each(self._redact, copy.deepcopy(checked))
            checked = [check_message(_redacted(message), max_message_bytes=self._limit) for message in redacted]
        counts: Sequence[int | None] = [None] * len(checked)
        if self._count_tokens is not None:
            told = await self._of_each(self._count_tokens, checked)
            counts = [_checked_count(count) for count in told]
        return [self._entry(keys, *pair) for pair in zip(checked, counts, strict=True)]

    def decode(self, keys: MemoryKeys, entries: Sequence[bytes]) -> list[JsonMessage]:
        """The messages of these entries; what cannot be read is left out and counted, see `Decoded`."""
        decoded = self.attempt(keys, entries)
        self.counters.skipped(len(entries) - len(decoded.messages))
        return decoded.messages

    def attempt(self, keys: MemoryKeys, entries: Sequence[bytes]) -> Decoded:
        """`decode` for a caller who may try again, and counts later."""
        read: list[JsonMessage] = []
        unreadable = 0
        for turn in in_turns(entries, entry_kind):
            found = [message for entry in turn if (message := self._message(keys, entry)) is not None]
            unreadable += len(turn) - len(found)
            read += found if len(found) == len(turn) else [each for each in found if not takes_part_in_tool_use(each)]
        return Decoded(read, unreadable)

    def read(self, keys: MemoryKeys, entry: bytes) -> JsonMessage | None:
        """The message of one entry, None where it cannot be read. Not counted."""
        return self._message(keys, entry)

    def transplant(self, source: MemoryKeys, target: MemoryKeys, entries: Sequence[bytes]) -> list[bytes]:
        """The same entries for another conversation: what is encrypted is encrypted for its new place.

        Plain entries are copied as they are, also those of a later release. What cannot be decrypted is left out, and
        with it what cannot be read of its turn or takes part in tool use, see `Decoded`: what is hidden by a reader for
        as long as the turn is not whole would stand there for good without its counterpart.
        """
        moved: list[bytes] = []
        for turn in in_turns(entries, entry_kind):
            pairs = [(self._moved(source, target, entry), entry) for entry in turn]
            is_whole = all(copied is not None for copied, _ in pairs)
            moved += [
                copied
                for copied, entry in pairs
                if copied is not None and (is_whole or self._stands_alone(source, entry))
            ]
        self.counters.skipped(len(entries) - len(moved))
        return moved

    def _stands_alone(self, keys: MemoryKeys, entry: bytes) -> bool:
        message = self._message(keys, entry)
        return message is not None and not takes_part_in_tool_use(message)

    def _entry(self, keys: MemoryKeys, message: JsonMessage, tokens: int | None) -> bytes:
        entry = encode_entry(message, tokens=tokens)
        return entry if self._encryption is None else self._sealed(keys, entry)

    def _sealed(self, keys: MemoryKeys, entry: bytes) -> bytes:
        """A plain entry, encrypted. Its header goes in as associated data: nobody turns one kind into another."""
        split = split_entry(entry)
        if split is None or self._encryption is None:
            raise ValueError("not a plain entry")
        _, header, payload = split
        told = header[2:-1] or b"%d" % estimate_tokens(entry)
        header = b"%d%b%b|" % (SEALED, header[1:2], told)
        return header + self._encryption.encrypt(payload, associated=keys.messages + header)

    def _message(self, keys: MemoryKeys, entry: bytes) -> JsonMessage | None:
        split = split_entry(entry)
        if split is None:
            return None
        version, header, payload = split
        if version == SEALED:
            opened = self._opened(keys, header, payload)
            return None if opened is None else decode_payload(opened)
        return decode_payload(payload)

    def _opened(self, keys: MemoryKeys, header: bytes, payload: bytes) -> bytes | None:
        if self._encryption is None:
            return None
        try:
            return self._encryption.decrypt(payload, associated=keys.messages + header)
        except CannotDecrypt:
            return None

    def _moved(self, source: MemoryKeys, target: MemoryKeys, entry: bytes) -> bytes | None:
        split = split_entry(entry)
        if split is None or split[0] != SEALED:
            readable = split is not None and self._encryption is not None
            return self._sealed(target, entry) if readable else (entry if entry_kind(entry) else None)
        _, header, payload = split
        opened = self._opened(source, header, payload)
        if opened is None or self._encryption is None:
            return None
        return header + self._encryption.encrypt(opened, associated=target.messages + header)

    async def _of_each(
        self, function: Callable[[JsonMessage], T | Awaitable[T]], messages: list[JsonMessage]
    ) -> list[T]:
        """A user's function of each message: one thread for all of them, where it needs one."""
        if inspect.iscoroutinefunction(function):
            return [await self._port.call_user(function, message) for message in messages]
        results = await self._port.call_user(lambda: [function(message) for message in messages])
        if any(inspect.isawaitable(result) for result in results):
            raise InvalidTypeError("redact and count_tokens must be plain functions or coroutine functions")
        return results  # type: ignore[return-value]


def in_turns(items: Sequence[T], kind: Callable[[T], Kind | None]) -> Iterator[Sequence[T]]:
    """Entries or messages, turn by turn; an entry without a valid header belongs to the turn it stands in."""
    start = 0
    for index, item in enumerate(items):
        if index > start and kind(item) == "U":
            yield items[start:index]
            start = index
    if items:
        yield items[start:]


def as_objects(history: Sequence[JsonMessage]) -> list[Message]:
    """Those that `Message` can hold (which holds nothing of a later release, say), by the rule of `Decoded`."""
    objects: list[Message] = []
    for turn in in_turns(history, kind_of):
        found = [_as_object(message) for message in turn]
        is_whole = None not in found
        objects += [
            each
            for each, message in zip(found, turn, strict=True)
            if each is not None and (is_whole or not takes_part_in_tool_use(message))
        ]
    return objects


def _as_object(message: JsonMessage) -> Message | None:
    try:
        return Message.model_validate(message)
    except ValueError:  # pydantic's ValidationError is one
        return None


def _checked_count(value: object) -> int:
    count = check_tokens("what count_tokens returns", value, minimum=0)
    if count > MAX_ENTRY_TOKENS:
        raise InvalidValueError("what count_tokens returns must be below 10**15")
    return count


def _redacted(message: object) -> Mapping[str, Any] | Message:
    if not isinstance(message, (Mapping, Message)):
        raise InvalidTypeError(f"redact must return a mapping or a Message, not {type(message).__name__}")
    return message


def plain_json(message: JsonMessage) -> str:
    """A message as one line of JSON; a lone surrogate is escaped, so that it can be written to a file."""
    return to_json(message).encode("utf-8", "backslashreplace").decode("utf-8")
