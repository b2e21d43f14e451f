"""Who owns a connection closes it: ours end a while after the last object that needs them, a given client's never."""

from __future__ import annotations

import asyncio
import gc
import importlib
import itertools
import pkgutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
import redis.asyncio
from probing import Callers, echo
from secrecy import SECRET_ANSWER, SECRET_PROMPT
from servers import Server, wait_until

from ractogateway.messages import LLMResponse
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
    transport,
)

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
OPTIONS = RedisOptions(timeout_seconds=10.0)
BLOCKING = RedisExactCache, RedisRateLimiter, RedisChatMemory
AWAITING = AsyncRedisExactCache, AsyncRedisRateLimiter, AsyncRedisChatMemory

_names = itertools.count()


class Named:
    """A URL whose connections can be told from all others on the server."""

    def __init__(self, server: Server) -> None:
        self.name = f"ownership{next(_names)}"
        self.url = f"{server.url}?client_name={self.name}"
        self._client = server.client()

    @property
    def connections(self) -> set[str]:
        return {each["id"] for each in self._client.client_list() if each["name"] == self.name}

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def named(any_server) -> Iterator[Named]:
    target = Named(any_server)
    yield target
    target.close()


@pytest.fixture
def grace(monkeypatch):
    """Sets the seconds for which a connection without an owner is kept."""
    names = [each.name for each in pkgutil.iter_modules(transport.__path__)]
    modules = [importlib.import_module(f"{transport.__name__}.{name}") for name in names]
    holders = [module for module in modules if hasattr(module, "_IDLE_GRACE_SECONDS")]
    assert holders, "the constant has another name now"

    def set_grace(seconds: float) -> None:
        for module in holders:
            monkeypatch.setattr(module, "_IDLE_GRACE_SECONDS", seconds)

    return set_grace


def use(tool: object) -> None:
    match tool:
        case RedisExactCache():
            tool.put(*REQUEST, LLMResponse(content=SECRET_ANSWER))
            assert tool.get(*REQUEST).content == SECRET_ANSWER
        case RedisRateLimiter():
            assert tool.check_and_consume("user", 1)
        case RedisChatMemory():
            tool.append("conversation", "user", "hello")
            assert tool.get_history("conversation")


async def use_awaiting(tool: object) -> None:
    match tool:
        case AsyncRedisExactCache():
            await tool.put(*REQUEST, LLMResponse(content=SECRET_ANSWER))
            assert (await tool.get(*REQUEST)).content == SECRET_ANSWER
        case AsyncRedisRateLimiter():
            assert await tool.check_and_consume("user", 1)
        case AsyncRedisChatMemory():
            await tool.append("conversation", "user", "hello")
            assert await tool.get_history("conversation")


# --- our connections -------------------------------------------------------------------------------------------------


def test_the_last_object_takes_the_connections_with_it(named, grace):
    grace(0.1)
    tools = [kind(named.url, options=OPTIONS) for kind in BLOCKING]
    for tool in tools:
        use(tool)
    shared = named.connections
    assert 1 <= len(shared) <= 2, "objects of one URL share their connections"
    while len(tools) > 1:
        del tool, tools[0]
        gc.collect()
        tool = tools[-1]
        use(tool)
        assert named.connections == shared
    del tool
    tools.clear()
    gc.collect()
    wait_until(lambda: not named.connections, what="the connections without an owner being closed")


def test_the_same_for_awaiting_objects_while_their_loop_lives(named, grace):
    grace(0.1)

    async def main() -> None:
        tools = [kind(named.url, options=OPTIONS) for kind in AWAITING]
        for tool in tools:
            await use_awaiting(tool)
        shared = named.connections
        assert 1 <= len(shared) <= 2
        del tool, tools[1:]
        gc.collect()
        await asyncio.sleep(0.15)
        await use_awaiting(tools[0])
        assert named.connections == shared
        tools.clear()
        gc.collect()
        for _ in range(500):
            if not await asyncio.to_thread(lambda: named.connections):
                return
            await asyncio.sleep(0.01)
        pytest.fail("the connections without an owner were not closed")

    asyncio.run(main())


def test_a_successor_within_the_grace_inherits_the_connection(named, grace):
    grace(1.0)
    use(RedisRateLimiter(named.url, options=OPTIONS))
    gc.collect()
    first = named.connections
    assert first, "closed too early"
    successor = RedisRateLimiter(named.url, options=OPTIONS)
    use(successor)
    time.sleep(1.3)  # past the end of the predecessor's grace, which must not be the successor's
    assert named.connections == first
    use(successor)
    assert named.connections == first


def test_an_object_for_every_request_does_not_mean_a_connection_for_every_request(named):
    """Programs that make a tool in each handler exist; they must not drown the server."""
    seen = set()
    for _ in range(50):
        use(RedisRateLimiter(named.url, options=OPTIONS))
        seen |= named.connections
    assert len(seen) == 1


def test_the_end_of_an_object_in_any_thread_closes_nothing_under_others(named, grace):
    """Objects come and go in many threads while others of the same URL are in mid-call."""
    grace(0.0)
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            use(RedisRateLimiter(named.url, options=OPTIONS))

    with ThreadPoolExecutor(4) as pool, Callers("blocking", named.url, 10.0) as callers:
        visitors = [pool.submit(come_and_go) for _ in range(4)]
        for _ in range(5):
            results = [result for result, _ in callers.outcomes(echo(b"%d" % n) for n in range(100))]
            assert results == [b"%d" % n for n in range(100)]
        over.set()
        for visitor in visitors:
            visitor.result(10.0)


@pytest.mark.parametrize("kind", BLOCKING)
def test_a_closed_object_can_be_used_again(named, kind):
    with kind(named.url, options=OPTIONS) as tool:
        use(tool)
    use(tool)
    tool.close()
    tool.close()
    use(tool)


# --- given clients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKING)
def test_a_given_client_stays_open(any_server, kind):
    with redis.Redis.from_url(any_server.url, single_connection_client=True) as client:
        number = client.client_id()
        with kind(client=client) as tool:
            use(tool)
        tool.close()
        asyncio.run(use_awaiting(tool.aio))
        asyncio.run(tool.aio.aclose())
        del tool
        gc.collect()
        assert client.client_id() == number, "our end closed the client's connection"


@pytest.mark.parametrize("kind", AWAITING)
def test_a_given_awaiting_client_stays_open(any_server, kind):
    async def main() -> None:
        async with redis.asyncio.Redis.from_url(any_server.url, single_connection_client=True) as client:
            number = await client.client_id()
            async with kind(client=client) as tool:
                await use_awaiting(tool)
            await tool.aclose()
            del tool
            gc.collect()
            assert await client.client_id() == number

    asyncio.run(main())


def test_a_given_client_is_used_as_it_is(any_server):
    """Its pool, its name, its instrumentation: every command goes through its own ``execute_command``."""
    seen: list[str] = []

    class Instrumented(redis.Redis):
        def execute_command(self, *arguments, **options):
            name = arguments[0]
            seen.append(name if isinstance(name, str) else name.decode())
            return super().execute_command(*arguments, **options)

    with Instrumented.from_url(any_server.url) as client:
        for kind in BLOCKING:
            use(kind(client=client))
        # Five calls: a write and a read of the cache and of the memory, and a charge.
        assert len(seen) >= 5
        assert set(seen) <= {"EVALSHA", "EVAL", "MGET", "LRANGE"}
