"""One object serves every event loop and every thread of a process, whatever began first."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import signal
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
import redis
from books import Tally
from probing import async_port, blocking_port, echo, own_server, run, run_script
from proxy import Proxy
from servers import wait_until

from ractogateway.errors import (
    BlockingCallInLoopError,
    BlockingCallWarning,
    InvalidValueError,
    StoreUnavailable,
    UnsupportedEventLoopError,
)
from ractogateway.messages import LLMResponse
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    ChatMemoryConfig,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)

REQUEST = ("question", "", "gpt-4o", 0.0, 256)
OPTIONS = RedisOptions(timeout_seconds=10.0)
POLICY = "RACTOGATEWAY_BLOCKING_IN_LOOP"


# --- event loops -----------------------------------------------------------------------------------------------------


@pytest.mark.cell("loop switch", "cache")
def test_one_object_in_successive_loops(any_server):
    memory = AsyncRedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=100), options=OPTIONS)

    async def use(number: int) -> list[str]:
        await asyncio.gather(*(memory.append("conversation", "user", f"{number}:{n}") for n in range(5)))
        return [message["content"] for message in await memory.get_history("conversation")]

    expected: list[str] = []
    for number in range(4):
        seen = asyncio.run(use(number))
        expected += [f"{number}:{n}" for n in range(5)]
        assert sorted(seen) == sorted(expected)
    gc.collect()  # a loop, a transport or a socket that was left open would warn now


def test_a_loop_takes_its_connections_with_it(any_server):
    url = f"{any_server.url}?client_name=of_a_loop"
    port = async_port(url)
    with any_server.client() as client:
        for _ in range(3):

            async def use() -> int:
                await asyncio.gather(*(port.run(echo(b"%d" % n)) for n in range(50)))
                return sum(each["name"] == "of_a_loop" for each in client.client_list())

            assert 1 <= asyncio.run(use()) <= 2
            wait_until(lambda: not any(each["name"] == "of_a_loop" for each in client.client_list()))


def test_two_loops_in_two_threads_at_once(any_server):
    """Both at full speed on one object, and the private loop of the blocking callers beside them."""
    port, blocking = async_port(any_server.url, 10.0), blocking_port(any_server.url, 10.0)
    barrier = threading.Barrier(3)

    async def caller(name: bytes, number: int) -> None:
        for count in range(40):
            token = b"%b %d %d" % (name, number, count)
            assert await port.run(echo(token)) == token

    def loop(name: bytes) -> None:
        async def main() -> None:
            await asyncio.gather(*(caller(name, number) for number in range(20)))

        barrier.wait()
        for _ in range(2):
            asyncio.run(main())

    def block() -> None:
        barrier.wait()
        for count in range(300):
            assert run(blocking, echo(b"%d" % count)) == b"%d" % count

    with ThreadPoolExecutor(3) as pool:
        for future in [pool.submit(loop, b"one"), pool.submit(loop, b"two"), pool.submit(block)]:
            future.result(30.0)


def test_a_call_that_its_loop_abandons_hurts_nobody(any_server):
    """The loop ends while calls are under way; the next loop begins afresh."""
    port = async_port(any_server.url)
    for number in range(10):

        async def main(number: int = number) -> bytes:
            abandoned = [asyncio.ensure_future(port.run(echo(b"abandoned %d" % n))) for n in range(50)]
            await asyncio.sleep(0)
            assert not any(task.done() for task in abandoned)
            return await port.run(echo(b"mine %d" % number)) if number % 2 else b"mine %d" % number

        assert asyncio.run(main()) == b"mine %d" % number
    gc.collect()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loop_that_is_closed_without_a_farewell_leaves_no_connection(any_server):
    """Python warns of the transport that nobody closed; but the socket must be gone with it."""
    memory = AsyncRedisChatMemory(f"{any_server.url}?client_name=no_farewell", options=OPTIONS)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(memory.get_history("conversation")) == []
        loop.close()
    del loop
    gc.collect()
    with any_server.client() as client:
        wait_until(lambda: not any(each["name"] == "no_farewell" for each in client.client_list()))


def test_a_loop_that_ends_by_interrupt(any_server):
    """Ctrl-C in a program that awaits: its loop ends, the next one works."""
    memory = AsyncRedisChatMemory(any_server.url, options=OPTIONS)

    async def interrupted() -> None:
        await memory.count("conversation")
        await asyncio.gather(*(memory.count("conversation") for _ in range(20)), sigint())

    async def sigint() -> None:
        signal.raise_signal(signal.SIGINT)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(interrupted())
        assert asyncio.run(memory.count("conversation")) == 0
    gc.collect()


def test_other_loops_of_asyncio(any_server):
    """uvloop, in the program's own thread: it is asyncio to us."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    memory = AsyncRedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=100), options=OPTIONS)

    async def use() -> int:
        await asyncio.gather(*(memory.append("conversation", "user", str(n)) for n in range(20)))
        return await memory.count("conversation")

    assert uvloop.run(use()) == 20
    assert asyncio.run(use()) == 40
    assert uvloop.run(use()) == 60
    gc.collect()


def test_a_reply_that_nobody_asked_for(any_server, callers_of):
    """A connection on which the server says something out of turn is not trusted any more: from there on, every reply
    would be the one before."""
    with Proxy(any_server.url) as proxy:
        callers = callers_of(proxy.url).warm()
        for nonsense in (b"+surprise\r\n", b"$-1\r\n:7\r\n", b"-ERR surprise\r\n"):
            proxy.inject(nonsense)
            with contextlib.suppress(AssertionError):  # noticed now, or by the next call before it sends
                wait_until(lambda: proxy.open == 0, timeout_seconds=0.2)
            for n in range(5):
                assert callers.result(echo(b"%d" % n)) == b"%d" % n
            assert [result for result, _ in callers.outcomes([echo(b"a")] * 20)] == [b"a"] * 20


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.cell("thread storm", "cache", "blocking")
def test_sixty_four_threads_on_first_use(any_server):
    """One private thread and its connections for all of them, and every reply is the right one."""
    source = """
        import threading
        import redis

        cache = new_cache()
        barrier = threading.Barrier(64)
        failures = []

        def use(number):
            from ractogateway.messages import LLMResponse

            barrier.wait()
            try:
                cache.put(*question(number), LLMResponse(content=f"answer {number}"))
                ask(cache, [number] * 5)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        with redis.Redis.from_url(URL) as client:
            # One for small replies and one for large ones.
            assert sum(each["name"] == "first" for each in client.client_list()) <= 2
        print(threading.active_count() - 1, "thread")
    """
    assert run_script(source, f"{any_server.url}?client_name=first") == "1 thread\n"


# --- a blocking call where a loop runs -------------------------------------------------------------------------------


TOOLS = RedisExactCache, RedisRateLimiter, RedisChatMemory


def use_all(cache: RedisExactCache, limiter: RedisRateLimiter, memory: RedisChatMemory, tally: Tally) -> None:
    tally.saw(cache.put(*REQUEST, LLMResponse(content="answer")), None)
    tally.saw(cache.get(*REQUEST).content, "answer")
    tally.saw(len(cache), 1)
    tally.saw(cache.stats.size, 1)
    tally.saw(limiter.consume("user", 1).allowed, True)
    tally.saw(limiter.get_remaining("user") < 10_000, True)
    tally.saw(memory.append("conversation", "user", "hello") > 0, True)
    tally.saw(memory.count("conversation"), 1)
    tally.saw(memory.clear("conversation"), None)
    tally.saw(cache.invalidate(*REQUEST), True)


@pytest.mark.cell("loop switch", "blocking")
@pytest.mark.parametrize("by", ["url", "client"])
def test_a_blocking_call_inside_a_running_loop_works_and_warns_once_a_line(any_server, by, figures):
    """As in a notebook: the loop stands still meanwhile, and the line that made it do so is named, once."""

    async def cell() -> list[warnings.WarningMessage]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.resetwarnings()
            for _ in range(3):
                use_all(*tools, tally)
        return caught

    tally = Tally()
    with redis.Redis.from_url(any_server.url) as client:
        tools = [tool(client=client) if by == "client" else tool(any_server.url, options=OPTIONS) for tool in TOOLS]
        caught = [each for each in asyncio.run(cell()) if issubclass(each.category, BlockingCallWarning)]
    first = use_all.__code__.co_firstlineno
    assert sorted(each.lineno for each in caught) == list(range(first + 1, first + 11)), "one a line, at the caller's"
    assert {each.filename for each in caught} == {__file__}
    assert all(".aio" in str(each.message) for each in caught)
    tally.judge(figures)


@pytest.mark.parametrize(("policy", "warned"), [("warn", True), ("allow", False), (None, True), ("", True)])
def test_the_policy_for_blocking_calls(any_server, monkeypatch, policy, warned):
    if policy is None:
        monkeypatch.delenv(POLICY, raising=False)
    else:
        monkeypatch.setenv(POLICY, policy)
    cache = RedisExactCache(any_server.url, options=OPTIONS)

    async def main() -> None:
        cache.get(*REQUEST)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
    assert any(issubclass(each.category, BlockingCallWarning) for each in caught) is warned


def test_blocking_calls_can_be_forbidden(any_server, monkeypatch):
    cache, limiter, memory = (tool(any_server.url, options=OPTIONS) for tool in TOOLS)

    async def main() -> None:
        for call in (
            lambda: cache.get(*REQUEST),
            lambda: len(cache),
            lambda: cache.stats,
            lambda: limiter.consume("user", 1),
            lambda: memory.append("conversation", "user", "hello"),
        ):
            with pytest.raises(BlockingCallInLoopError):
                call()
        await asyncio.to_thread(cache.get, *REQUEST)  # a thread of its own is where a blocking call belongs
        await cache.aio.get(*REQUEST)
        assert cache  # no network
        repr(cache)

    monkeypatch.setenv(POLICY, "raise")
    asyncio.run(main())
    assert any_server.command("DBSIZE") == 0
    cache.get(*REQUEST)
    monkeypatch.setenv(POLICY, "perhaps")
    with pytest.raises(InvalidValueError, match=POLICY):
        asyncio.run(main())


def test_interactive_sessions_are_left_in_peace(any_server, monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    cache = RedisExactCache(any_server.url, options=OPTIONS)

    async def cell() -> None:
        cache.put(*REQUEST, LLMResponse(content="answer"))  # warnings are errors here
        assert cache.get(*REQUEST).content == "answer"

    asyncio.run(cell())


@pytest.mark.parametrize("face", ["core", "aio of url", "aio of client"])
def test_other_event_loops_are_refused(any_server, face):
    """Trio drives a coroutine without asyncio's loop, and so does this."""
    with redis.Redis.from_url(any_server.url) as client:
        if face == "core":
            cores = (AsyncRedisExactCache, AsyncRedisRateLimiter, AsyncRedisChatMemory)
            cache, limiter, memory = (core(any_server.url) for core in cores)
        elif face == "aio of url":
            cache, limiter, memory = (tool(any_server.url).aio for tool in TOOLS)
        else:
            cache, limiter, memory = (tool(client=client).aio for tool in TOOLS)
        for coroutine in (
            cache.clear(),
            cache.size(),
            limiter.consume("user", 1),
            limiter.reset("user"),
            memory.append("conversation", "user", "hello"),
            memory.get_history("conversation"),
        ):
            with pytest.raises(UnsupportedEventLoopError):
                coroutine.send(None)
    assert any_server.command("DBSIZE") == 0


# --- cancellation ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def freezable():
    with own_server() as server:
        yield server


async def cancelled(port: Any, count: int, seconds: Any) -> list[asyncio.Task[bytes]]:
    """Calls that are cancelled after ``seconds()``, as far as they were not done by then."""
    left = []

    async def one(number: int) -> None:
        task = asyncio.ensure_future(port.run(echo(b"%d" % number)))
        await asyncio.sleep(seconds())
        if task.cancel():
            left.append(task)
        await asyncio.wait([task], timeout=5.0)

    await asyncio.gather(*(one(number) for number in range(count)))
    return left


MOMENTS = ["waiting for a reply", "waiting for a connection", "between two tries", "in a race"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_whoever_is_cancelled_is_cancelled(freezable, moment):
    """300 of 300: wherever the call was, and whatever arrived at the same time, a cancellation is never swallowed."""

    async def main() -> None:
        choose = random.Random(9)
        with Proxy(freezable.url) as proxy:
            port = async_port(proxy.url, 0.02 if moment == "in a race" else 5.0, stall_seconds=30.0)
            patient = async_port(proxy.url, stall_seconds=30.0)
            if moment != "waiting for a connection":
                await patient.run(echo(b"warm"))
            if moment.startswith("waiting"):
                proxy.faults(swallow=True)
            elif moment == "between two tries":
                proxy.shut()
            else:  # replies, deadlines and cancellations, all within the same few milliseconds
                proxy.faults(delay_seconds=0.02)
            left = await cancelled(port, 300, lambda: choose.uniform(0.01, 0.03))
            assert len(left) > (30 if moment == "in a race" else 299)
            assert all(task.cancelled() for task in left)
            proxy.faults()
            proxy.cut()
            if moment == "between two tries":
                proxy.reopen()
            assert await patient.run(echo(b"mine")) == b"mine"

    asyncio.run(main())


def test_cancel_scopes_and_timeouts_of_others_work(freezable):
    """anyio's and asyncio's own time limits around a call end in their own errors, not in ours."""

    async def main() -> None:
        port = async_port(freezable.url)
        await port.run(echo(b"warm"))
        with freezable.frozen():
            with anyio.move_on_after(0.02) as scope:
                await port.run(echo(b"x"))
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.02):
                    await port.run(echo(b"x"))
            assert not isinstance(caught.value, StoreUnavailable)
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(port.run, echo(b"x"))
                await anyio.sleep(0.01)
                group.cancel_scope.cancel()
        assert await port.run(echo(b"mine")) == b"mine"

    asyncio.run(main())


# --- context variables -----------------------------------------------------------------------------------------------

_request: contextvars.ContextVar[Any] = contextvars.ContextVar("request")


class Request:
    """What a web framework keeps in a context variable: large, and meant to be gone when the request is."""


def remembered(call: Any) -> weakref.ref[Request]:
    """Make a call in the context of a request, and give back what tells whether the request still lives."""

    def handle() -> weakref.ref[Request]:
        request = Request()
        _request.set(request)
        call()
        return weakref.ref(request)

    return contextvars.copy_context().run(handle)


def forgotten(reference: weakref.ref[Request]) -> bool:
    gc.collect()
    return reference() is None


def test_connections_do_not_keep_the_context_of_blocking_callers(any_server):
    with Proxy(any_server.url) as proxy:
        port = blocking_port(proxy.url)
        for _ in range(2):  # the first connection, and the one after a loss
            reference = remembered(lambda: run(port, echo(b"x")))
            wait_until(lambda reference=reference: forgotten(reference), what="the request being forgotten")
            assert proxy.open > 0
            proxy.cut()


def test_connections_do_not_keep_the_context_of_awaiting_callers(any_server):
    async def main() -> None:
        with Proxy(any_server.url) as proxy:
            port = async_port(proxy.url)
            for _ in range(2):
                started: list[asyncio.Task[bytes]] = []
                reference = remembered(lambda: started.append(asyncio.ensure_future(port.run(echo(b"x")))))
                await started.pop()
                deadline = time.monotonic() + 5
                while not forgotten(reference):
                    assert time.monotonic() < deadline, "something of ours keeps the request"
                    await asyncio.sleep(0.005)
                assert proxy.open > 0
                proxy.cut()

    asyncio.run(main())


def test_callbacks_of_users_see_the_context_of_their_request(any_server):
    """What runs in the caller's own task or thread has the caller's context."""
    seen: list[Any] = []

    async def main() -> None:
        cache = AsyncRedisExactCache(any_server.url, options=OPTIONS)
        _request.set("awaiting")
        await cache.get(*REQUEST)
        seen.append(_request.get())

    asyncio.run(main())
    _request.set("blocking")
    RedisExactCache(any_server.url, options=OPTIONS).get(*REQUEST)
    seen.append(_request.get())
    assert seen == ["awaiting", "blocking"]
