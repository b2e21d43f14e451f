"""Calls the memory scripts through a plain redis-py client, and looks at what they left behind."""

from __future__ import annotations

import itertools
import secrets
from typing import Any, Self

import redis
from memory_model import Reply

from ractogateway.redis.entries import decode_entry, encode_entry
from ractogateway.redis.scripts.loading import load

SCRIPTS = ("extend", "clear", "pop", "window", "changes")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Conversation:
    """One conversation under keys of its own. Use as a context manager: the keys go when it ends."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        tag = secrets.token_hex(8)
        self._base = f"test:{{{tag}}}:"
        self.list, self.state, self.evicted = (self._base + kind for kind in "lse")
        self._scripts = {name: client.register_script(load(f"memory/{name}").source) for name in SCRIPTS}
        self._operations = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def forget(self) -> None:
        for key in self.client.scan_iter(match=glob_of(self._base) + "*", count=1000):
            self.client.delete(key)

    def operation_key(self, operation: bytes) -> str:
        return f"{self._base}op:{operation.hex()}"

    def run(self, script: str, keys: list[str], *arguments: Any) -> Any:
        return self._scripts[script](keys=keys, args=arguments)

    def new_operation(self) -> bytes:
        return next(self._operations).to_bytes(16, "big")

    def extend(
        self,
        *entries: bytes,
        mode: Any = "append",
        max_turns: Any = 20,
        max_tokens: Any = None,
        ttl: Any = HOUR_MS,
        operation: bytes | None = None,
        expected: Any = None,
        keep: Any = HOUR_MS,
        tombstone: Any = DAY_MS,
        max_pinned: Any = 8,
        user: bytes = b"",
        indexed: Any = None,
        hooked: Any = None,
    ) -> Reply:
        operation = self.new_operation() if operation is None else operation
        bounds = [mode, max_turns, optional(max_tokens), optional(ttl)]
        guards = [optional(expected), keep, tombstone, max_pinned, user, optional(indexed), optional(hooked)]
        keys = [self.list, self.state, self.operation_key(operation), self.evicted]
        return Reply(*self.run("extend", keys, *bounds, *guards, *entries))

    def say(self, *messages: dict[str, Any], **options: Any) -> Reply:
        return self.extend(*map(encode_entry, messages), **options)

    def clear(
        self,
        *,
        ttl: Any = HOUR_MS,
        operation: bytes | None = None,
        expected: Any = None,
        keep: Any = HOUR_MS,
        tombstone: Any = DAY_MS,
    ) -> Reply:
        return self._guarded("clear", (), ttl, operation, expected, keep, tombstone)

    def pop(
        self,
        *tail: bytes,
        ttl: Any = HOUR_MS,
        operation: bytes | None = None,
        expected: Any = None,
        keep: Any = HOUR_MS,
        tombstone: Any = DAY_MS,
    ) -> Reply:
        return self._guarded("pop", tail, ttl, operation, expected, keep, tombstone)

    def _guarded(self, script, tail, ttl, operation, expected, keep, tombstone) -> Reply:
        operation = self.new_operation() if operation is None else operation
        keys = [self.list, self.state, self.operation_key(operation)]
        return Reply(*self.run(script, keys, optional(ttl), optional(expected), keep, tombstone, *tail))

    def window(self, last: Any, before: Any = None) -> Any:
        return self.run("window", [self.list, self.state], last, optional(before))

    def changes(self, since: Any) -> Any:
        return self.run("changes", [self.list, self.state], since)

    def entries(self) -> list[bytes]:
        return self.client.lrange(self.list, 0, -1)

    def texts(self) -> list[str]:
        """The content of every entry that can be read."""
        return [message["content"] for entry in self.entries() if (message := decode_entry(entry)) is not None]

    def counts(self) -> dict[str, int]:
        """What the state says of the list."""
        names = ("revision", "length", "turns", "tokens", "pinned", "position")
        words = (self.client.hget(self.state, "c") or b"0 0 0 0 0 0").split(b" ")
        return dict(zip(names, map(int, words), strict=True))

    def set_count(self, name: str, value: int) -> None:
        counts = {**self.counts(), name: value}
        self.client.hset(self.state, "c", b" ".join(b"%d" % count for count in counts.values()))

    def snapshot(self) -> tuple[object, ...]:
        """Everything a refused call must leave as it is."""
        keys = (self.list, self.state)
        return tuple(read(key) for key in keys for read in (self.client.dump, self.client.pexpiretime))


def glob_of(text: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


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
