"""An answer before it is stored, and how the next question begins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from proxy import Proxy

from ractogateway.errors import StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisOptions

ANSWER = LLMResponse(content="answer")
PATIENT = RedisOptions(timeout_seconds=10.0)  # busy machines are slow
SHORT = RedisOptions(timeout_seconds=1.0)


def request(number: int = 0) -> tuple[Any, ...]:
    return f"question {number}", "", "gpt-4o", 0.0, 256


async def compute() -> LLMResponse:
    return ANSWER


@pytest.fixture
def admin(any_server) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(any_server.url) as admin:
        yield admin
        admin.client_unpause()


async def ahead_of_its_storing(cache: AsyncRedisExactCache, admin: redis.Redis, number: int) -> Any:
    """An answer that the server is kept from storing."""

    async def pausing() -> LLMResponse:
        await asyncio.to_thread(admin.client_pause, 60_000, all=False)
        return ANSWER

    answer, stored = await cache.get_or_compute_ahead(*request(number), pausing)
    assert (answer.content, answer.cached) == ("answer", False)
    return stored


def test_an_answer_is_there_before_it_is_stored(any_server, admin):
    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
        await cache.get_or_compute(*request(1), compute)  # the server knows the scripts
        stored = await ahead_of_its_storing(cache, admin, 2)
        # Over a connection of its own: behind a write that is paused, reads of the same connection wait.
        looking = AsyncRedisExactCache(
            url=any_server.url, options=RedisOptions(timeout_seconds=10.0, stall_seconds=9.0)
        )
        assert await looking.get(*request(2)) is None
        waiting = asyncio.create_task(stored())
        asking = asyncio.create_task(cache.get_or_compute(*request(2), compute))  # waits for what is under way
        done, _ = await asyncio.wait((waiting, asking), timeout=0.05)
        assert not done
        admin.client_unpause()
        await waiting
        assert (await cache.get(*request(2))).content == "answer"
        assert (await asking).cached
        await stored()  # a second time it is over at once

    asyncio.run(main())


def test_an_answer_that_nobody_waits_for_is_stored(any_server, admin):
    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
        await cache.get_or_compute(*request(1), compute)
        assert await ahead_of_its_storing(cache, admin, 2) is not None
        admin.client_unpause()
        assert (await cache.get_or_compute(*request(2), compute)).cached

    asyncio.run(main())


def test_what_was_not_computed_here_leaves_nothing_to_wait_for(any_server):
    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
        await cache.put(*request(), ANSWER)
        answer, stored = await cache.get_or_compute_ahead(*request(), compute)
        assert (answer.cached, stored) == (True, None)

        async def fails() -> LLMResponse:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await cache.get_or_compute_ahead(*request(1), fails)

    asyncio.run(main())


def test_an_outage_while_it_is_stored_is_counted_and_raises_nothing(any_server, admin):
    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, on_outage="raise", options=SHORT)
        await cache.get_or_compute(*request(1), compute)
        stored = await ahead_of_its_storing(cache, admin, 2)
        await stored()
        admin.client_unpause()
        assert (await cache.stats()).errors == 1

    asyncio.run(main())


# --- how the next question begins ------------------------------------------------------------------------------------


def test_a_question_after_a_miss_asks_once_and_one_after_a_hit_by_a_plain_command(any_server):
    async def main() -> None:
        with Proxy(any_server.url) as proxy:
            cache = AsyncRedisExactCache(url=proxy.url, ttl_seconds=60, options=PATIENT)

            async def sent(number: int) -> tuple[int, int]:
                """Plain commands and scripts for a question; a computation stores by a script, too."""
                before = proxy.commands.copy()
                await cache.get_or_compute(*request(number), compute)
                return tuple(proxy.commands[name] - before[name] for name in (b"MGET", b"EVALSHA"))

            await sent(1)
            assert [await sent(2), await sent(1), await sent(2), await sent(3), await sent(4)] == [
                (0, 2),  # a miss after a miss
                (0, 1),  # a hit that was not expected
                (1, 0),  # a hit after a hit
                (1, 2),  # a miss that was not expected
                (0, 2),
            ]

    asyncio.run(main())


def test_where_scripts_that_write_are_not_served_stored_answers_are_found_by_plain_commands(any_server, admin):
    async def main() -> None:
        impatient = RedisOptions(timeout_seconds=1.5, stall_seconds=0.1)
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, on_outage="raise", options=impatient)
        await cache.put(*request(1), ANSWER)
        await cache.get_or_compute(*request(2), compute)  # a miss: the next question begins with the script
        admin.client_pause(60_000, all=False)
        with pytest.raises(StoreUnavailable):
            await cache.get_or_compute(*request(1), compute)
        for _ in range(2):
            assert (await cache.get_or_compute(*request(1), compute)).cached

    asyncio.run(main())
