"""What was invalidated is not served to anybody who asks later: not from the store, not from a near cache, and not out
of a computation that had begun before."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import Server

from ractogateway.messages import LLMResponse
from ractogateway.redis import RedisExactCache, RedisOptions

QUESTIONS = 3
STORM_SECONDS = 1.0
OPTIONS = RedisOptions(timeout_seconds=10.0)


class World:
    """The truth that answers are computed from; it changes, and only then are the answers invalidated."""

    def __init__(self) -> None:
        self.versions = [0] * QUESTIONS
        self.invalidated = [0] * QUESTIONS  # the oldest version that a call may get which begins now
        self.turns = [threading.Lock() for _ in range(QUESTIONS)]
        self.computed = self.asked = 0
        self.end = time.monotonic() + STORM_SECONDS

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    def compute(self, number: int, chance: random.Random) -> LLMResponse:
        answer = LLMResponse(content=str(self.versions[number]))
        time.sleep(0.004 * chance.random())
        self.computed += 1
        return answer

    def check(self, answer: LLMResponse, oldest: int) -> None:
        self.asked += 1
        assert int(answer.content) >= oldest

    def change(self, cache: RedisExactCache, chance: random.Random) -> None:
        number = chance.randrange(QUESTIONS)
        with self.turns[number]:
            self.versions[number] += 1
            how = chance.random()
            if how < 0.4:
                cache.invalidate(*ask(number))
            elif how < 0.8:
                cache.invalidate_tag(f"tag {number}")
            else:
                cache.clear()
            self.invalidated[number] = self.versions[number]
        time.sleep(0.003 * chance.random())


def ask(number: int) -> tuple[str, str, str, float, int]:
    return (f"question {number}", "", "gpt-4o", 0.0, 256)


@pytest.mark.parametrize("near_cache_entries", [0, 50])
def test_nobody_gets_what_was_invalidated_before_he_asked(any_server: Server, near_cache_entries: int):
    world = World()
    near, *others = (
        RedisExactCache(url=any_server.url, ttl_seconds=60, options=OPTIONS, near_cache_entries=entries)
        for entries in (near_cache_entries, 0, 0)
    )
    caches = [near, *others]

    def blocking_caller(seed: int) -> None:
        chance, cache = random.Random(seed), caches[seed % 3]
        while world.goes_on:
            number = chance.randrange(QUESTIONS)
            oldest = world.invalidated[number]
            found = cache.get_or_compute(
                *ask(number), lambda number=number: world.compute(number, chance), tags=[f"tag {number}"]
            )
            world.check(found, oldest)

    async def awaiting_caller(seed: int) -> None:
        chance, cache = random.Random(seed), caches[seed % 3].aio
        while world.goes_on:
            number = chance.randrange(QUESTIONS)
            oldest = world.invalidated[number]
            found = await cache.get_or_compute(
                *ask(number), lambda number=number: world.compute(number, chance), tags=[f"tag {number}"]
            )
            world.check(found, oldest)
            await asyncio.sleep(0)

    async def awaiting_callers() -> None:
        await asyncio.gather(*(awaiting_caller(seed) for seed in range(6)))

    def changer(seed: int) -> None:
        chance = random.Random(seed)
        while world.goes_on:
            world.change(caches[seed % 3], chance)

    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(blocking_caller, seed) for seed in range(6)]
        calls += [pool.submit(changer, seed) for seed in range(3)]
        calls.append(pool.submit(asyncio.run, awaiting_callers()))
        for call in calls:
            call.result(30)
    assert world.asked > world.computed > 20
