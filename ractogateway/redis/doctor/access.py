"""What a user may do, and what the tools need: the rules of SECURITY.md, word by word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ractogateway.errors import StoreRefused
from ractogateway.redis.doctor.facts import Facts
from ractogateway.redis.doctor.findings import Finding
from ractogateway.redis.transport.inspection import Inspected, Inspection

COMMANDS: Final[Mapping[str, tuple[str, ...]]] = {
    "cache": (
        *("evalsha", "eval", "get", "getrange", "hgetall", "hincrby", "mget", "persist", "pexpire", "pttl", "set"),
        *("time", "unlink", "zadd", "zcard", "zcount", "zrangebyscore", "zrem", "zscan"),
    ),
    "limiter": (
        *("evalsha", "eval", "unlink", "append", "exists", "get", "set", "setrange", "time", "pexpire", "pttl"),
        *("zadd", "zcard", "zcount", "zrange", "zrangebyscore", "zrank", "zrem", "zremrangebyscore", "zscore"),
    ),
    "memory": (
        *("evalsha", "eval", "unlink", "exists", "get", "hdel", "hmget", "hset", "llen", "lpush", "lrange", "ltrim"),
        *("persist", "pexpire", "pttl", "rename", "rpush", "set", "time"),
        *("zadd", "zrange", "zrangebyscore", "zrem", "zscore"),
    ),
}
"""What each tool sends, and what its scripts call."""

_BEHIND_THE_KEY: Final[Mapping[str, int]] = {
    **dict.fromkeys(("append", "hdel", "hmget", "lpush", "pexpire", "rpush", "set", "zrank", "zrem", "zscan"), 1),
    **dict.fromkeys(("getrange", "hincrby", "hset", "lrange", "ltrim", "setrange", "zadd", "zcount"), 2),
    **dict.fromkeys(("zrange", "zrangebyscore", "zremrangebyscore"), 2),
    "zscore": 1,
}
"""The server counts a command's arguments before it says who may run it."""


async def dry_run(
    server: Inspected, facts: Facts, inspection: Inspection, tools: Mapping[str, str], user: str | None
) -> None:
    """Let the server try every word, without doing it. Where it does not, `Facts.lacking` stays None."""
    try:
        name = user if user is not None else (await server.ask("ACL", "WHOAMI")).decode()
        lacking = {tool: await _refused(server, name, tool, prefix) for tool, prefix in tools.items()}
        of_the_connection = list(_of_the_connection(inspection))
        verdicts = await _try(server, name, [(*command.split("|"), *words) for command, *words in of_the_connection])
        lacking["connection"] = [
            f"+{command.lower()}"
            for (command, *_), verdict in zip(of_the_connection, verdicts, strict=True)
            if not _granted(verdict)
        ]
    except StoreRefused:
        return
    facts.lacking = lacking


def access(facts: Facts, tools: Mapping[str, str], user: str | None) -> Iterator[Finding]:
    """Whether the user may do what the tools do."""
    if facts.lacking is None and user is None:
        yield Finding("access", "note", "the ACL does not let this user look up what it may do: a trial tells")
        return
    if facts.lacking is None:
        text = "what this user may do could not be looked up: there is none of that name, or the URL's may not ask"
        yield Finding("access", "warning", text, "see ACL LIST; who asks needs +acl|dryrun")
        return
    for tool, words in facts.lacking.items():
        if words:
            text = f"the ACL user lacks what the {tool} needs: {' '.join(words)}"
            yield Finding("access", "problem", text, f"ACL SETUSER <user> {' '.join(words)}")
    if not any(facts.lacking.values()):
        yield Finding("access", "ok", f"the ACL user may do all that is needed by {_listed(tools)}")


def tracking(facts: Facts, tools: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the server can tell of changes by push."""
    if "cache" not in tools:
        return
    if not facts.tracks:
        yield Finding("tracking", "ok", "the server tells of changes by push: near caches and waiting by push work")
        return
    text = f"{facts.tracks}: nothing is kept near, and who waits for an answer polls"
    yield Finding("tracking", "note", text, "ACL SETUSER <user> +client|tracking, if near_cache_entries= is wanted")


async def _refused(server: Inspected, user: str, tool: str, prefix: str) -> list[str]:
    key = f"{prefix}:{{doctor}}:any"
    commands = COMMANDS[tool]
    verdicts = await _try(server, user, [_example(command, key) for command in commands])
    refused = [f"+{command}" for command, verdict in zip(commands, verdicts, strict=True) if b"to run the" in verdict]
    # Whoever may not run a command is not told about its keys.
    if any(not _granted(verdict) and b"to run the" not in verdict for verdict in verdicts):
        refused.append(f"~{pattern(prefix)}:*")
    return refused


async def _try(server: Inspected, user: str, commands: Sequence[Sequence[str]]) -> list[bytes]:
    return await server.ask_many([("ACL", "DRYRUN", user, *words) for words in commands])


def _example(command: str, key: str) -> tuple[str, ...]:
    if command in ("evalsha", "eval"):
        return (command, "return 1", "1", key)
    if command == "time":
        return (command,)
    if command == "rename":
        return (command, key, key)
    return (command, key, *["1"] * _BEHIND_THE_KEY.get(command, 0))


def _of_the_connection(inspection: Inspection) -> Iterator[tuple[str, ...]]:
    if inspection.kind == "cluster":
        yield from (("CLUSTER|SLOTS",), ("CLUSTER|MYID",), ("ASKING",))
    if inspection.database:
        yield ("SELECT", str(inspection.database))


def pattern(prefix: str) -> str:
    """A prefix as an ACL writes it: glob characters stand for themselves."""
    return "".join(f"\\{character}" if character in r"*?[]\\" else character for character in prefix)


def _granted(verdict: bytes) -> bool:
    return verdict == b"OK"


def _listed(tools: Mapping[str, str]) -> str:
    *others, last = tools
    return f"{', '.join(others)} and {last}" if others else last
