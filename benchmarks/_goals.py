"""The goals that the project has set itself, and what a run says about each.

Those of the first part come from its design; those of the second hold the footprint down. A goal is one comparison:
a subject beside a reference of the same case, or a figure by itself. Where several references are named, the one that
did best stands for them. A goal is met when the median meets it; the extremes are printed beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from _results import Figure, ratios_of


@dataclass(frozen=True)
class Goal:
    """``bound`` is the least that is wanted where ``least`` is true, else the most; a ratio if there are references."""

    id: str
    text: str
    benchmark: str
    case: str
    subject: str
    bound: float
    references: tuple[str, ...] = ()
    least: bool = True
    unit: str = "x"
    part: str = "speed"

    def wanted(self) -> str:
        unit = self.unit if self.unit == "x" else f" {self.unit}"
        return f"{'≥' if self.least else '≤'} {self.bound:g}{unit}"


class Verdict(NamedTuple):
    """``met`` is None when there are no figures."""

    goal: Goal
    met: bool | None
    median: float = 0.0
    lowest: float = 0.0
    highest: float = 0.0
    reference: str = ""

    def word(self) -> str:
        if self.met is None:
            return "not measured"
        if not self.met:
            return "missed"
        worst = self.lowest if self.goal.least else self.highest
        every = worst >= self.goal.bound if self.goal.least else worst <= self.goal.bound
        return "met" if every else "met, not in every round"


HIT, RAW = "a whole cache hit of 1 KB, {}", "GET of 1 KB, {}"
CONNECTIONS = ("redis.asyncio", "redis.asyncio, 64 connections")
CHECKS, LEASES = "checks a second, 100 tasks", "another process's write, from its reply to being seen"
SCRIPT = "server time of a script, 1 at a time"


def _threads(
    name: str, text: str, case: str, subject: str, reference: str, bounds: Mapping[int, float]
) -> Iterable[Goal]:
    for count, bound in bounds.items():
        what = f"{text}, {count} thread{'s' if count > 1 else ''}"
        yield Goal(f"{name}-{count}", what, "transport", case.format(f"{count} threads"), subject, bound, (reference,))


GOALS: Sequence[Goal] = (
    Goal(
        "hit-redis", "async `get` hit of 1 KB, 100 tasks, over GET + pydantic by hand on redis.asyncio", "transport",
        HIT.format("100 tasks"), "AsyncRedisExactCache.get", 4, ("redis.asyncio GET + pydantic",),
    ),
    Goal(
        "hit-client", "the same over itself on a given redis.asyncio client", "transport",
        HIT.format("100 tasks"), "AsyncRedisExactCache.get", 4, ("AsyncRedisExactCache.get, client=",),
    ),
    Goal(
        "hit-glide", "the same over GET + pydantic by hand on valkey-glide", "transport",
        HIT.format("100 tasks"), "AsyncRedisExactCache.get", 2, ("valkey-glide GET + pydantic",),
    ),
    Goal(
        "raw-100", "raw command through the transport, 100 tasks, over redis.asyncio", "transport",
        RAW.format("100 tasks"), "ractogateway", 8, CONNECTIONS,
    ),
    Goal(
        "raw-1000", "the same, 1,000 tasks", "transport",
        RAW.format("1000 tasks"), "ractogateway", 15, CONNECTIONS,
    ),
    Goal(
        "limiter-limits", "limiter `consume`, 100 tasks, over limits", "limiter",
        CHECKS, "ractogateway", 4, ("limits, moving window", "limits, sliding counter"),
    ),
    Goal(
        "limiter-throttled", "the same over throttled-py", "limiter",
        CHECKS, "ractogateway", 4, ("throttled-py, GCRA", "throttled-py, sliding window"),
    ),
    Goal(
        "script-gcra", "server time of one limit, over throttled-py's GCRA", "limiter_script",
        SCRIPT, "consume, cost 1", 1.5, ("GCRA",), least=False,
    ),
    Goal(
        "script-full", "the same, a full log", "limiter_script",
        SCRIPT, "consume, one user, full log", 1.5, ("GCRA, one user",), least=False,
    ),
    Goal(
        "script-tokens", "the same of 1,000,000 tokens, over that of one token", "limiter_script",
        SCRIPT, "consume, cost 1,000,000", 1.1, ("consume, cost 1",), least=False,
    ),
    Goal(
        "memory-extend", "memory `extend` of a turn, 32 tasks, over openai-agents' RedisSession", "memory",
        "turns of two messages, 32 tasks", "ractogateway", 4, ("openai-agents",),
    ),
    *_threads(
        "blocking-raw", "blocking face with `url=`, raw command, over redis-py", RAW, "ractogateway, url=", "redis-py",
        {1: 0.9, 8: 1.8, 64: 4},
    ),
    *_threads(
        "blocking-hit", "the same, whole `get` hit, over GET + pydantic by hand", HIT, "RedisExactCache.get, url=",
        "redis-py GET + pydantic", {1: 0.8, 8: 1.6, 64: 2.4},
    ),
    *_threads(
        "blocking-client", "blocking face with `client=`, over the bare client", RAW, "ractogateway, client=",
        "redis-py", {1: 0.8, 8: 0.8, 64: 0.8},
    ),
    Goal(
        "near-hit", "near-cache hit, whole call", "cache_fleet",
        "near-cache hit of 1 KB, whole call", "ractogateway", 5, least=False, unit="µs",
    ),
    Goal(
        "near-coherent", "coherent with another replica's write, p99", "cache_fleet",
        f"{LEASES}, p99", "ractogateway", 1, least=False, unit="ms",
    ),
    Goal(
        "import", "import of `ractogateway.redis`, over redis.asyncio + pydantic", "footprint",
        "import in a fresh interpreter", "ractogateway.redis", 1.2, ("redis.asyncio + pydantic",), least=False,
    ),
    Goal(
        "import-bare", "import of `ractogateway`, over the same", "footprint",
        "import in a fresh interpreter", "ractogateway", 0.1, ("redis.asyncio + pydantic",), least=False,
        part="footprint",
    ),
    Goal("wheel", "the wheel", "footprint", "the wheel", "ractogateway", 500, least=False, unit="KB", part="footprint"),
    *(
        Goal(
            f"idle-{name}", f"an idle `{name}`", "footprint", "an idle object", name, 6144, least=False, unit="bytes",
            part="footprint",
        )
        for name in ("AsyncRedisExactCache", "AsyncRedisRateLimiter", "AsyncRedisChatMemory")
    ),
    Goal(
        "hundred-tasks", "memory that 100 tasks take of a process, over redis.asyncio", "footprint",
        "memory that 100 tasks take", "ractogateway", 0.5, ("redis.asyncio",), least=False, part="footprint",
    ),
)  # fmt: skip


def judge(figures: Iterable[Figure]) -> list[Verdict]:
    """Every goal, in order, with what these figures say."""
    samples: dict[tuple[str, str, str], list[float]] = {
        (each["benchmark"], each["case"], each["subject"]): each["samples"]
        for each in figures
        if each.get("kind", "figure") == "figure"
    }
    return [_verdict(goal, samples) for goal in GOALS]


def _verdict(goal: Goal, samples: Mapping[tuple[str, str, str], Sequence[float]]) -> Verdict:
    own = samples.get((goal.benchmark, goal.case, goal.subject))
    references = {name: samples.get((goal.benchmark, goal.case, name)) for name in goal.references}
    known = {name: values for name, values in references.items() if values}
    if not own or len(known) < len(goal.references):  # beside the slower one alone, it would look too good
        return Verdict(goal, None)
    if not known:
        values, reference = list(own), ""
    else:
        best = max if goal.least else min
        reference = best(known, key=lambda name: statistics.median(known[name]))
        values = ratios_of(own, known[reference])
    median = statistics.median(values)
    met = median >= goal.bound if goal.least else median <= goal.bound
    return Verdict(goal, met, median, min(values), max(values), reference)


def goal_of(figure: Mapping[str, Any]) -> str | None:
    """The goals that a figure is the subject of, by their ids."""
    named = [
        goal.id
        for goal in GOALS
        if (goal.benchmark, goal.case, goal.subject) == (figure["benchmark"], figure["case"], figure["subject"])
    ]
    return ", ".join(named) or None
