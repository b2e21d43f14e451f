"""Cancelled calls, many threads at first use, forks, one object in several loops: nobody gets what is somebody else's,
and what is applied is what was said."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from books import Tally
from probing import run_script

from ractogateway.messages import LLMResponse
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    ChatMemoryConfig,
    RateLimitConfig,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)

PATIENT = RedisOptions(timeout_seconds=30.0, breaker_failures=1_000_000)
LIMITS = RateLimitConfig(max_tokens_per_minute=1_000_000, window_seconds=3600.0)
TURNS = ChatMemoryConfig(max_turns=1_000_000)
TASKS, ROUNDS, CANCELLED = 30, 20, 0.6


def question(number: int) -> tuple[str, str, str, float, int]:
    return f"question {number}", "", "gpt-4o", 0.0, 256


def answer(number: int) -> LLMResponse:
    return LLMResponse(content=f"answer {number}")


def texts(history: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in history]


# --- cancellation ----------------------------------------------------------------------------------------------------

Work = Callable[[], Coroutine[Any, Any, Any]]


class Crowd:
    """Tasks of which most are cancelled at some moment, and what came of them."""

    def __init__(self) -> None:
        self.calls = self.left = 0
        self.wrong: list[object] = []

    async def leave(self, work: Work, choose: random.Random) -> Any:
        """The result, or None of a call that was cancelled after some turns of the loop."""
        self.calls += 1
        task = asyncio.create_task(work())
        if choose.random() < CANCELLED:
            for _ in range(choose.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            self.left += 1
            return None
        return task.result()

    def figures(self, **more: int) -> dict[str, Any]:
        note = f"{self.left} of {self.calls} calls were cancelled on the way"
        return {"calls": self.calls, "wrong": len(self.wrong), **more, "note": note}


def storm_of(life: Callable[[Crowd, int, random.Random], Coroutine[Any, Any, None]]) -> Crowd:
    crowd = Crowd()

    async def main() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(life(crowd, number, random.Random(number)) for number in range(TASKS)))

    asyncio.run(main())
    assert crowd.left > crowd.calls // 10
    return crowd


@pytest.mark.cell("cancellation storm", "cache")
def test_of_a_cache(any_server, figures):
    cache = AsyncRedisExactCache(any_server.url, ttl_seconds=60, on_outage="raise", options=PATIENT)

    async def compute(number: int) -> LLMResponse:
        await asyncio.sleep(0.001)
        return answer(number)

    async def life(crowd: Crowd, _number: int, choose: random.Random) -> None:
        for _ in range(ROUNDS):
            number = choose.randrange(10)
            for work in (
                lambda number=number: cache.get(*question(number)),
                lambda number=number: cache.get_or_compute(*question(number), lambda: compute(number)),
                lambda number=number: cache.put(*question(number), answer(number)),
            ):
                found = await crowd.leave(work, choose)
                if found is not None and found.content != f"answer {number}":
                    crowd.wrong.append(found)
        for number in range(10):  # those that stay are served, whoever of the leaders has left
            found = await cache.get_or_compute(*question(number), lambda number=number: compute(number))
            assert found.content == f"answer {number}"

    crowd = storm_of(life)
    figures(**crowd.figures())
    assert crowd.wrong == []


@pytest.mark.cell("cancellation storm", "limiter")
def test_of_a_limiter(any_server, figures):
    """Who was cancelled says the same again: one charge. Who does not may have been charged, once at most."""
    limiter = AsyncRedisRateLimiter(any_server.url, config=LIMITS, on_outage="raise", options=PATIENT)
    charged: list[tuple[int, int, int]] = []

    async def life(crowd: Crowd, number: int, choose: random.Random) -> None:
        said = doubtful = 0
        for turn in range(ROUNDS):
            tokens = choose.randint(1, 9)
            consume = lambda turn=turn, tokens=tokens: limiter.consume(  # noqa: E731 - said again below
                f"u{number}", tokens, request_id=f"{turn}"
            )
            if await crowd.leave(consume, choose) is None:
                assert (await consume()).allowed
            said += tokens
            if await crowd.leave(lambda tokens=tokens: limiter.consume(f"u{number}", tokens), choose) is None:
                doubtful += tokens
            else:
                said += tokens
        charged.append((1_000_000 - await limiter.get_remaining(f"u{number}"), said, doubtful))

    crowd = storm_of(life)
    lost = [each for each in charged if each[0] < each[1]]
    double = [each for each in charged if each[0] > each[1] + each[2]]
    figures(**crowd.figures(lost=len(lost), double=len(double)))
    assert (lost, double) == ([], [])


@pytest.mark.cell("cancellation storm", "memory")
def test_of_a_memory(any_server, figures):
    memory = AsyncRedisChatMemory(any_server.url, config=TURNS, options=PATIENT)
    lost: list[object] = []
    double: list[object] = []

    async def life(crowd: Crowd, number: int, choose: random.Random) -> None:
        said = []
        for turn in range(ROUNDS):
            said.append(f"{number}: {turn}")
            append = lambda turn=turn: memory.append(  # noqa: E731 - said again below
                f"c{number}", "user", f"{number}: {turn}", request_id=f"{turn}"
            )
            if await crowd.leave(append, choose) is None:
                await append()
            history = await crowd.leave(lambda: memory.get_history(f"c{number}"), choose)
            if history is not None and [message["content"] for message in history] != said:
                crowd.wrong.append((history, said))
        there = [message["content"] for message in await memory.get_history(f"c{number}")]
        lost.extend(set(said) - set(there))
        double.extend(text for text in there if there.count(text) > 1)

    crowd = storm_of(life)
    figures(**crowd.figures(lost=len(lost), double=len(double)))
    assert (crowd.wrong, lost, double) == ([], [], [])


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.cell("thread storm", "cache", "limiter", "memory", "blocking")
def test_sixty_four_threads_on_first_use(any_server, figures):
    """They share one connection (two, where large replies have one of their own), and each gets what is its own."""
    url = f"{any_server.url}?client_name=threads"
    cache = RedisExactCache(url, ttl_seconds=60, on_outage="raise", options=PATIENT)
    limiter = RedisRateLimiter(url, config=LIMITS, on_outage="raise", options=PATIENT)
    memory = RedisChatMemory(url, config=TURNS, options=PATIENT)
    together, tally = threading.Barrier(64), Tally()

    def use(number: int) -> None:
        together.wait(30)
        tally.saw(cache.put(*question(number), answer(number)), None)
        tally.saw(memory.append("c", "user", f"message {number}") > 0, True)
        tally.saw(memory.append(f"c{number}", "user", f"message {number}"), 1)
        tally.saw(limiter.consume("u", number + 1).allowed, True)
        tally.kept(texts(memory.get_history(f"c{number}")), [f"message {number}"])
        tally.saw(cache.get(*question(number)).content, f"answer {number}")

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(use, range(64)))
    tally.saw(limiter.get_remaining("u"), 1_000_000 - sum(range(65)))
    tally.kept(texts(memory.get_history("c")), [f"message {number}" for number in range(64)])
    with any_server.client() as client:
        connections = sum(each["name"] == "threads" for each in client.client_list())
    tally.judge(figures, note=f"{connections} connections for {together.parties} threads")
    assert connections <= 2


# --- loops -----------------------------------------------------------------------------------------------------------


@pytest.mark.cell("loop switch", "cache", "limiter", "memory")
def test_one_object_in_several_loops(any_server, figures):
    """One after the other, then two at once in two threads."""
    cache = AsyncRedisExactCache(any_server.url, ttl_seconds=60, on_outage="raise", options=PATIENT)
    limiter = AsyncRedisRateLimiter(any_server.url, config=LIMITS, on_outage="raise", options=PATIENT)
    memory = AsyncRedisChatMemory(any_server.url, config=TURNS, options=PATIENT)

    tallies = {"cache": Tally(), "limiter": Tally(), "memory": Tally()}
    said: list[str] = []

    async def use(number: int) -> None:
        for turn in range(20):
            tallies["cache"].saw(await cache.put(*question(number), answer(number)), None)
            found = await cache.get(*question(number))
            tallies["cache"].saw(found and found.content, f"answer {number}")
            tallies["limiter"].saw((await limiter.consume("u", 1)).allowed, True)
            tallies["memory"].saw(await memory.append("c", "user", f"{number}: {turn}") > 0, True)
            said.append(f"{number}: {turn}")

    for number in range(5):
        asyncio.run(use(number))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: asyncio.run(use(number)), range(5, 25)))
    charged = 1_000_000 - asyncio.run(limiter.get_remaining("u"))
    tallies["limiter"].kept(["token"] * charged, ["token"] * len(said))
    tallies["memory"].kept(texts(asyncio.run(memory.get_history("c"))), said)
    for column, tally in tallies.items():
        tally.judge(figures, column, note=f"{len({each.partition(':')[0] for each in said})} loops")


@pytest.mark.cell("loop switch", "blocking")
def test_blocking_objects_outlive_the_loops_that_use_them(any_server, figures):
    """From threads of one `asyncio.run` after the other, then of two loops at once."""
    with (
        RedisRateLimiter(any_server.url, config=LIMITS, on_outage="raise", options=PATIENT) as limiter,
        RedisChatMemory(any_server.url, config=TURNS, options=PATIENT) as memory,
    ):
        tally, said = Tally(), []

        async def use(number: int) -> None:
            for turn in range(10):
                tally.saw((await asyncio.to_thread(limiter.consume, "u", 1)).allowed, True)
                tally.saw(await asyncio.to_thread(memory.append, "c", "user", f"{number}: {turn}") > 0, True)
                said.append(f"{number}: {turn}")

        for number in range(3):
            asyncio.run(use(number))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda number: asyncio.run(use(number)), range(3, 5)))
        tally.kept(["token"] * (1_000_000 - limiter.get_remaining("u")), ["token"] * len(said))
        tally.kept(texts(memory.get_history("c")), said)
    tally.judge(figures, note=f"{len({each.partition(':')[0] for each in said})} loops")


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.cell("fork", "cache", "limiter", "memory", "blocking")
def test_forks_under_load_charge_and_append_what_each_process_says(any_server, figures):
    """Threads of the parent are in mid-call when it forks; parent and children go on with the same objects."""
    said = run_script(
        """
        import asyncio, threading
        from ractogateway.redis import (AsyncRedisRateLimiter, ChatMemoryConfig, RateLimitConfig, RedisChatMemory,
                                        RedisRateLimiter)

        limits = RateLimitConfig(max_tokens_per_minute=1_000_000, window_seconds=3600.0)
        cache = new_cache()
        fill(cache, 10)
        limiter = RedisRateLimiter(URL, config=limits, on_outage="raise", options=options())
        awaited = AsyncRedisRateLimiter(URL, config=limits, on_outage="raise", options=options())
        memory = RedisChatMemory(URL, config=ChatMemoryConfig(max_turns=100_000), options=options())
        over = threading.Event()
        done = []

        def use(name, turns):
            for turn in range(turns):
                limiter.consume("u", 1)
                memory.append("c", "user", f"{name}: {turn}")
                ask(cache, range(3))
            asyncio.run(awaited.consume("u", 1))

        def hammer(number):
            turn = 0
            while not over.is_set():
                limiter.consume("u", 1)
                memory.append("c", "user", f"thread {number}: {turn}")
                turn += 1
            done.append(turn)

        threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        use("parent", 5)
        children = []
        for number in range(6):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    use(f"child {number}", 10)
                    status = 0
                finally:
                    os._exit(status)
            children.append(pid)
            use(f"parent {number}", 5)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        over.set()
        for thread in threads:
            thread.join()
        use("parent at last", 5)
        turns = 5 + 6 * 10 + 6 * 5 + 5 + sum(done)
        assert 1_000_000 - limiter.get_remaining("u") == turns + 14, "charges"
        texts = [message["content"] for message in memory.get_history("c")]
        assert len(texts) == len(set(texts)) == turns, "messages"
        print(2 * turns, len(children))
        """,
        any_server.url,
        timeout_seconds=60.0,
    )
    calls, forks = said.split()
    figures(calls=int(calls), note=f"{forks} forks in mid-load")


@pytest.mark.cell("exit with work pending", "limiter", "memory", "blocking")
def test_a_program_that_ends_in_mid_write(any_server, figures):
    """Daemon threads and tasks are in the middle of their calls when it ends: what they were told is so, and what they
    were not told has happened once at most."""
    said = run_script(
        """
        import asyncio, threading, time
        from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig, RateLimitConfig, RedisChatMemory
        from ractogateway.redis import RedisRateLimiter

        limits = RateLimitConfig(max_tokens_per_minute=1_000_000, window_seconds=3600.0)
        turns = ChatMemoryConfig(max_turns=100_000)
        cache = new_cache()
        limiter = RedisRateLimiter(URL, config=limits, on_outage="raise", options=options())
        memory = RedisChatMemory(URL, config=turns, options=options())
        awaited = AsyncRedisChatMemory(URL, config=turns, options=options())
        told = {"charged": 0, "appended": 0, "awaited": 0}
        threading.excepthook = lambda _: None  # they are told that the process ends

        def charge():
            while True:
                limiter.consume("u", 1)
                told["charged"] += 1

        def append():
            while True:
                memory.append("threads", "user", str(told["appended"]))
                told["appended"] += 1

        def store():
            while True:
                fill(cache, 5)

        for work in (charge, append, store):
            threading.Thread(target=work, daemon=True).start()

        async def main():
            async def one():
                while True:
                    await awaited.append("tasks", "user", str(told["awaited"]))
                    told["awaited"] += 1

            task = asyncio.create_task(one())
            while min(told.values()) < 30:
                await asyncio.sleep(0.01)
            task.cancel()

        asyncio.run(main())
        print(*told.values())
        """,
        any_server.url,
    )
    charged, appended, awaited = map(int, said.split())
    with (
        RedisRateLimiter(any_server.url, config=LIMITS) as limiter,
        RedisChatMemory(any_server.url, config=TURNS) as memory,
    ):
        uncharged = max(0, charged - (1_000_000 - limiter.get_remaining("u")))
        threads, tasks = ([int(text) for text in texts(memory.get_history(where))] for where in ("threads", "tasks"))
    lost = len(set(range(appended)) - set(threads)), len(set(range(awaited)) - set(tasks))
    double = len(threads) - len(set(threads)), len(tasks) - len(set(tasks))
    figures("limiter", calls=charged, lost=uncharged)
    figures("memory", calls=appended + awaited, lost=sum(lost), double=sum(double))
    figures("blocking", calls=charged + appended, lost=uncharged + lost[0], double=double[0])
    assert (uncharged, *lost, *double) == (0, 0, 0, 0, 0)
    assert (threads, tasks) == (sorted(threads), sorted(tasks)), "out of order"
