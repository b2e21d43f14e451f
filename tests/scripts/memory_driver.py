"""Calls the memory scripts through a plain redis-py client, and looks at what they left behind."""

from __future__ import annotations

import itertools
import secrets
from typing import Any, Self

import redis
from memory_model import Reply

from ractogateway.redis.scripts.loading import load
from ractogateway.redis.turns import decode_entry, encode_entry

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Conversation:
    """One conversation under keys of its own. Use as a context manager: the keys go when it ends."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        tag = secrets.token_hex(8)
        self.list, self.state = f"test:{{{tag}}}:l", f"test:{{{tag}}}:s"
        self._extend, self._clear = (client.register_script(load(name).source) for name in ("extend", "clear"))
        self._operations = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.delete(self.list, self.state)

    def new_operation(self) -> bytes:
        return next(self._operations).to_bytes(16, "big")

    def extend(
        self,
        *entries: bytes,
        max_turns: Any = 20,
        ttl: Any = HOUR_MS,
        operation: bytes | None = None,
        expected: Any = None,
        max_pinned: Any = 8,
        tombstone: Any = DAY_MS,
    ) -> Reply:
        operation = self.new_operation() if operation is None else operation
        arguments = [max_turns, optional(ttl), operation, optional(expected), max_pinned, tombstone]
        return Reply(*self._extend(keys=[self.list, self.state], args=[*arguments, *entries]))

    def say(self, *messages: dict[str, Any], **options: Any) -> Reply:
        return self.extend(*map(encode_entry, messages), **options)

    def clear(
        self, *, ttl: Any = HOUR_MS, operation: bytes | None = None, expected: Any = None, tombstone: Any = DAY_MS
    ) -> Reply:
        operation = self.new_operation() if operation is None else operation
        arguments = [optional(ttl), operation, optional(expected), tombstone]
        return Reply(*self._clear(keys=[self.list, self.state], args=arguments))

    def entries(self) -> list[bytes]:
        return self.client.lrange(self.list, 0, -1)

    def texts(self) -> list[str]:
        """The content of every entry that can be read."""
        return [message["content"] for entry in self.entries() if (message := decode_entry(entry)) is not None]

    def snapshot(self) -> tuple[object, ...]:
        """Everything a refused call must leave as it is."""
        keys = (self.list, self.state)
        return tuple(read(key) for key in keys for read in (self.client.dump, self.client.pexpiretime))


def optional(value: Any) -> Any:
    return b"" if value is None else value


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def plain_turns(count: int, first: int = 0) -> list[bytes]:
    return [
        encode_entry(message)
        for number in range(first, first + count)
        for message in (user(f"q{number}"), assistant(f"a{number}"))
    ]
