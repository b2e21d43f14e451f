"""Whether what is written stays: eviction, room, and the disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ractogateway.redis.doctor.facts import Facts
from ractogateway.redis.doctor.findings import Finding

_FULL, _FILLING = 0.95, 0.8
_LOSS = {"always": "nothing", "everysec": "up to a second", "no": "what the system had not written"}
_MISCONF = "the server refuses every write while that lasts (MISCONF)"


def eviction(facts: Facts, tools: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the server drops keys when it is full. ``volatile-*`` is no better: nearly all keys of ours expire."""
    policy, limit = facts.info.get("maxmemory_policy"), facts.number("maxmemory")
    if policy is None:
        return
    kept = [tool for tool in ("limiter", "memory") if tool in tools]
    if policy == "noeviction":
        yield Finding("eviction", "ok", "noeviction: nothing is dropped before its time")
    elif not kept:
        yield Finding("eviction", "ok", f"{policy}: what the cache loses is a miss")
    else:
        lost = " and ".join({"limiter": "budgets", "memory": "conversations"}[tool] for tool in kept)
        text = f"{policy}: a full server drops {lost}, and a dropped budget is a full one again"
        if "limiter" not in kept:
            text = f"{policy}: a full server drops {lost}"
        advice = f"set maxmemory-policy noeviction, or give {' and '.join(kept)} a server that has it"
        yield Finding("eviction", "problem" if limit else "warning", text, advice)


def headroom(facts: Facts) -> Iterator[Finding]:
    """How full it is."""
    used, limit = facts.number("used_memory"), facts.number("maxmemory")
    if used is None or limit is None:
        return
    if not limit:
        text = f"no maxmemory: {_size(used)} in use, and the machine's memory is the limit"
        advice = "set maxmemory, so that writes fail (OOM) before the system kills the server"
        yield Finding("memory", "note", text, advice)
        return
    share = used / limit
    text = f"{_size(used)} of {_size(limit)} in use ({share:.0%})"
    if share < _FILLING:
        yield Finding("memory", "ok", text)
        return
    drops = facts.info.get("maxmemory_policy") != "noeviction"
    then = "it drops keys when it is full" if drops else "it refuses writes when it is full (OOM)"
    level = "problem" if share >= _FULL and not drops else "warning"
    yield Finding("memory", level, f"{text}: {then}", "raise maxmemory, or shorten the times to live")  # type: ignore[arg-type]


def persistence(facts: Facts, tools: Mapping[str, str], *, embedded: bool = False) -> Iterator[Finding]:
    """What a restart costs, and whether a full disk stops writes."""
    if "aof_enabled" not in facts.info:
        return
    # None where CONFIG GET is forbidden, as managed services have it.
    appends, snapshots = facts.info["aof_enabled"] == "1", facts.settings.get("save")
    yield from _failing(facts, appends=appends, snapshots=snapshots)
    kept = {"limiter": "budgets", "memory": "conversations"}
    lost = " and ".join(kept[tool] for tool in kept if tool in tools)
    if appends:
        loss = _LOSS.get(
            facts.settings.get("appendfsync", ""), "what appendfsync, which could not be looked up, allows"
        )
        yield Finding("persistence", "ok", f"append-only file: a crash loses {loss}")
    elif not lost:
        yield Finding("persistence", "ok", "no append-only file: a cache that starts empty is slow, not wrong")
    elif embedded:
        yield Finding("persistence", "note", "in memory only, as embedded:// is meant; embedded:///path keeps its data")
    elif snapshots == "":
        text = f"nothing is kept on disk: a restart forgets {lost}"
        yield Finding("persistence", "warning", text, "set appendonly yes")
    elif snapshots is None:
        text = f"no append-only file: a restart goes back to the last snapshot, if there are any, {lost} with it"
        yield Finding("persistence", "warning", text, "have the append-only file on")
    else:
        text = f"snapshots only: a restart goes back to the last one, {lost} with it"
        yield Finding("persistence", "warning", text, "set appendonly yes")


def _failing(facts: Facts, *, appends: bool, snapshots: str | None) -> Iterator[Finding]:
    if appends and facts.info.get("aof_last_write_status", "ok") != "ok":
        text = f"the append-only file cannot be written: {_MISCONF}"
        yield Finding("persistence", "problem", text, "free the disk, and look into the server's log")
    if facts.info.get("rdb_last_bgsave_status", "ok") == "ok":
        return
    if snapshots != "" and facts.settings.get("stop-writes-on-bgsave-error", "yes") == "yes":
        text = f"the last snapshot failed: {_MISCONF}"
        yield Finding("persistence", "problem", text, "free disk and memory, and look into the server's log")
    else:
        text = "the last snapshot failed"
        yield Finding("persistence", "warning", text, "free disk and memory, and look into the server's log")


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1024:  # noqa: PLR2004 - as the server itself counts
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GB"
