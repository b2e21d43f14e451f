"""Closing is never needed; who closes all the same finds the connection closed."""

from __future__ import annotations

import asyncio

import pytest
from servers import valkey9, wait_until

from ractogateway.redis import AsyncRedisRateLimiter, RedisRateLimiter


@pytest.fixture(scope="module")
def own_server():
    """Not the shared one, which connections of other tests may leave at any moment."""
    with valkey9() as server:
        yield server


@pytest.fixture
def connections(own_server):
    with own_server.client() as client:
        before = len(client.client_list())
        yield lambda: len(client.client_list()) - before


def gone(connections):
    """The server hears of it a moment later."""
    wait_until(lambda: connections() == 0, timeout_seconds=2, what="the end of the connection")


def test_the_last_object_closes_the_connection(own_server, connections):
    first, second = RedisRateLimiter(url=own_server.url), RedisRateLimiter(url=own_server.url)
    first.get_remaining("u")
    second.get_remaining("u")
    assert connections() == 1
    first.close()
    assert connections() == 1
    second.close()
    gone(connections)


def test_a_closed_object_opens_again(own_server, connections):
    limiter = RedisRateLimiter(url=own_server.url)
    for _ in range(3):
        assert limiter.get_remaining("u") == 10_000
        assert connections() == 1
        limiter.close()
        limiter.close()
        gone(connections)


def test_an_async_block_closes_too(own_server, connections):
    async def main():
        async with AsyncRedisRateLimiter(url=own_server.url) as limiter:
            await limiter.get_remaining("u")
            assert connections() == 1
        gone(connections)
        assert await limiter.get_remaining("u") == 10_000
        await limiter.aclose()

    asyncio.run(main())
    gone(connections)


def test_a_given_client_stays_open(any_server):
    with any_server.client() as client:
        with RedisRateLimiter(client=client) as limiter:
            limiter.get_remaining("u")
        assert client.ping()
