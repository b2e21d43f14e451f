"""Leases on renewing an answer, and leases and entries whose tags a caller does not know."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable

import pytest
from secrecy import SECRET_ANSWER, SECRET_PROMPT

from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisOptions
from ractogateway.redis._cache import flights

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content=SECRET_ANSWER)
PATIENT = RedisOptions(timeout_seconds=10.0)  # busy machines are slow


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)


class Model:
    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> LLMResponse:
        self.calls += 1
        await self.gate.wait()
        return ANSWER


def test_tags_of_an_entry_and_of_a_lease_are_asked_about_together(any_server, monkeypatch):
    """The entry carries one tag, the lease on renewing it another, and the caller knows neither."""
    asked: list[object] = []
    look_up = flights.calls.look_up

    async def main() -> None:
        life = {"ttl_seconds": 0.2, "stale_seconds": 60.0}
        cache, model = AsyncRedisExactCache(url=any_server.url, **life, options=PATIENT), Model()
        await cache.get_or_compute(*REQUEST, lambda: ANSWER, tags=["first"])
        while await cache.get(*REQUEST):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        assert (await cache.get_or_compute(*REQUEST, model, tags=["second"])).cached
        monkeypatch.setattr(flights.calls, "look_up", lambda *args, **named: asked.append(1) or look_up(*args, **named))
        assert (await cache.get_or_compute(*REQUEST, Model())).content == SECRET_ANSWER
        assert len(asked) == 2
        # Without an answer the lease counts, and its tags are asked about, too.
        other = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
        waiting = asyncio.create_task(other.get_or_compute(*REQUEST, Model()))
        await until(lambda: other._flights.watches)
        assert len(asked) <= 2 + 3
        await until(lambda: model.calls)
        model.gate.set()
        assert (await waiting).cached

    asyncio.run(main())


def test_tags_that_change_all_the_time_cost_a_few_lookups_only(any_server, monkeypatch):
    look_up, asked = flights.calls.look_up, []

    def untold(*given: object, **named: object) -> object:
        asked.append(1)
        call = copy.copy(look_up(*given, **named))
        stamp = bytes(16) + b"\x01" + os.urandom(24)
        call.parse = lambda _: flights.Found(flights.Status.TELL, stamp, 0, b"")
        return call

    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
        monkeypatch.setattr(flights.calls, "look_up", untold)
        async with asyncio.timeout(flights.LEASE_SECONDS):
            assert await cache.get_or_compute(*REQUEST, lambda: ANSWER) is ANSWER
        assert len(asked) <= 9

    asyncio.run(main())


@pytest.mark.parametrize("outcome", [ZeroDivisionError, LLMResponse(content="cut sh", finish_reason="length")])
def test_a_refresh_in_vain_is_not_tried_again_at_once(any_server, outcome):
    async def main() -> None:
        life = {"ttl_seconds": 0.2, "stale_seconds": 60.0}
        cache, tried = AsyncRedisExactCache(url=any_server.url, **life, options=PATIENT), []

        async def compute() -> LLMResponse:
            tried.append(1)
            if isinstance(outcome, LLMResponse):
                return outcome
            raise outcome

        await cache.get_or_compute(*REQUEST, lambda: ANSWER)
        while await cache.get(*REQUEST):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        for _ in range(50):
            assert (await cache.get_or_compute(*REQUEST, compute)).content == SECRET_ANSWER
            await asyncio.sleep(0.002)
        assert len(tried) == 1
        with any_server.client() as client:  # and again when the lease has ended
            client.delete(*client.keys("*:l:*"))
        await cache.get_or_compute(*REQUEST, compute)
        await until(lambda: len(tried) == 2)

    asyncio.run(main())
