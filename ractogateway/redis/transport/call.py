"""A command on its way to Redis, as the cores see it: what to send, how to read the reply, whether it may be sent
twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Argument = bytes | int
Command = tuple[Argument, ...]


_READS = frozenset({b"GET", b"HGETALL", b"HMGET", b"LLEN", b"LRANGE", b"MGET", b"PTTL", b"ZRANGE", b"ZSCAN", b"ZSCORE"})
"""What the cores send that a replica serves; whatever is not named here counts as a write."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. ``sha1`` is the name under which the server caches it. One that ``reads_only`` runs on replicas."""

    name: str
    source: bytes
    sha1: bytes
    reads_only: bool = False

    @classmethod
    def of(cls, name: str, source: bytes, *, reads_only: bool = False) -> Script:
        """Name a script by the SHA-1 of its source, as Redis does."""
        return cls(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode(), reads_only)


class Call(Generic[T]):
    """One command with its reply parser. Not to be changed once it is made.

    A dataclass of this kind, frozen, would take more than twice the time to make, and one is made for each command.

    Attributes:
        command: the whole command; keys and arguments are bytes, so nothing is left to an encoding.
        keys: the keys it touches, all in one slot.
        parse: turns the raw reply into the value that the core wants. Replies arrive as bytes, never decoded.
        replay_safe: running it twice has the effect and the reply of running it once, so it may be sent again when the
            outcome of the first try is unknown.
        script: set when the command is an EVALSHA; the EVAL of the same call is sent where the server lacks the script.
        bulky: the reply may be large. It comes over a connection of its own, so that small replies need not wait for
            it.
    """

    __slots__ = ("bulky", "command", "keys", "parse", "replay_safe", "script")

    def __init__(
        self,
        command: Command,
        keys: tuple[bytes, ...],
        parse: Callable[[Any], T],
        replay_safe: bool,
        script: Script | None = None,
        bulky: bool = False,
    ) -> None:
        self.command = command
        self.keys = keys
        self.parse = parse
        self.replay_safe = replay_safe
        self.script = script
        self.bulky = bulky

    @property
    def reads_only(self) -> bool:
        """Whether a replica serves it."""
        return self.command[0] in _READS if self.script is None else self.script.reads_only

    def as_eval(self) -> Command:
        """The same script call with the source instead of its SHA-1."""
        if self.script is None:
            raise TypeError("a plain command has no script")
        return (b"EVAL", self.script.source, *self.command[2:])


def script_call(
    script: Script,
    keys: tuple[bytes, ...],
    arguments: Sequence[Argument],
    parse: Callable[[Any], T],
    *,
    replay_safe: bool,
    bulky: bool = False,
) -> Call[T]:
    """A call of a Lua script: EVALSHA, all keys declared."""
    return Call((b"EVALSHA", script.sha1, len(keys), *keys, *arguments), keys, parse, replay_safe, script, bulky)


def plain_call(
    name: bytes,
    keys: tuple[bytes, ...],
    arguments: Sequence[Argument],
    parse: Callable[[Any], T],
    *,
    replay_safe: bool,
    bulky: bool = False,
) -> Call[T]:
    """A call of a plain command whose keys come before its other arguments."""
    return Call((name, *keys, *arguments), keys, parse, replay_safe, bulky=bulky)
