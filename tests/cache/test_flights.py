"""Who computes, who waits and who is told, in one process and between two."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis.asyncio
from probing import run_script, start_script
from proxy import Proxy
from servers import Server, wait_until

from ractogateway.errors import InvalidTypeError, StoreTimeout
from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions
from ractogateway.redis._cache import flights
from ractogateway.redis._cache.checks import tag_id_of
from ractogateway.redis._cache.store import AnswerStore

pytestmark = pytest.mark.usefixtures("patience")

REQUEST = ("question", "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content="answer")
PATIENT = RedisOptions(timeout_seconds=10.0)  # busy machines are slow


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.001)


class Model:
    def __init__(self, answer: LLMResponse = ANSWER) -> None:
        self.answer = answer
        self.calls = self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> LLMResponse:
        self.calls += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.answer


def calls_of(server: Server, *names: str) -> int:
    """How often these commands were executed; inside of scripts, too."""
    with server.client() as client:
        told = client.info("commandstats")
    return sum(told.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


# --- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.cell("cancellation storm", "cache")
def test_a_cancelled_leader_does_not_take_its_waiters_with_it(any_server):
    async def main() -> None:
        cache, model = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT), Model()
        leader = asyncio.create_task(cache.get_or_compute(*REQUEST, model))
        await until(lambda: model.calls)
        waiters = [asyncio.create_task(cache.get_or_compute(*REQUEST, model)) for _ in range(5)]
        await asyncio.sleep(0.05)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        waiters[0].cancel()
        model.gate.set()
        answers = await asyncio.gather(*waiters[1:])
        assert [answer.content for answer in answers] == ["answer"] * 4
        assert (model.calls, model.cancelled) == (1, 0)
        assert (await cache.get(*REQUEST)).content == "answer"

    asyncio.run(main())


@pytest.mark.parametrize("port", ["url", "client"])
def test_a_computation_ends_when_nobody_waits_any_more(any_server, port):
    async def main() -> None:
        client = redis.asyncio.Redis.from_url(any_server.url)
        where = {"url": any_server.url} if port == "url" else {"client": client}
        cache, model = AsyncRedisExactCache(**where, ttl_seconds=60), Model()
        tasks = [asyncio.create_task(cache.get_or_compute(*REQUEST, model)) for _ in range(3)]
        await until(lambda: model.calls)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: model.cancelled)
        # Its lease is given up: nobody waits for it to end by itself.
        async with asyncio.timeout(flights.LEASE_SECONDS / 2):
            model.gate.set()
            assert await cache.get_or_compute(*REQUEST, model) is ANSWER
        await client.aclose()

    asyncio.run(main())


def test_a_caller_that_is_cancelled_while_it_asks_leaves_no_lease_behind(any_server):
    async def main(proxy: Proxy) -> None:
        options = RedisOptions(timeout_seconds=5.0)
        cache = AsyncRedisExactCache(url=proxy.url, ttl_seconds=60, options=options)
        await cache.get_or_compute("warm", *REQUEST[1:], lambda: ANSWER)
        proxy.faults(delay_seconds=0.1)
        caller = asyncio.create_task(cache.get_or_compute(*REQUEST, Model()))
        with any_server.client() as client:
            await until(lambda: client.keys("*:l:*"))
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert not client.keys("*:l:*")

    with Proxy(any_server.url) as proxy:
        asyncio.run(main(proxy))


def test_cancellation_at_any_moment_leaves_no_lease_behind(any_server):
    """A storm: callers are cancelled wherever they are; whoever is not, is served, and soon."""

    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)

        async def compute() -> LLMResponse:
            await asyncio.sleep(0.002)
            return ANSWER

        for number in range(150):
            request = (f"question {number}", *REQUEST[1:])
            tasks = [asyncio.create_task(cache.get_or_compute(*request, compute)) for _ in range(4)]
            await asyncio.sleep(number % 10 * 0.0004)
            for task in tasks[: 1 + number % 4]:
                task.cancel()
            async with asyncio.timeout(flights.LEASE_SECONDS / 2):
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                assert all(answer.content == "answer" for answer in ended[1 + number % 4 :])
                assert (await cache.get_or_compute(*request, compute)).content == "answer"
        table = cache._flights
        await until(lambda: not (table.flights or table.groups or table.watches))

    asyncio.run(main())


@pytest.mark.cell("cancellation storm", "blocking")
def test_an_interrupted_thread_does_not_take_its_waiters_with_it(any_server):
    cache, computing = RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT), threading.Event()

    def interrupted() -> LLMResponse:
        computing.set()
        wait_until(lambda: waiter.running(), what="somebody waiting")
        raise KeyboardInterrupt

    with ThreadPoolExecutor(2) as pool:
        waiter = pool.submit(lambda: computing.wait(10) and cache.get_or_compute(*REQUEST, lambda: ANSWER))
        with pytest.raises(KeyboardInterrupt):
            cache.get_or_compute(*REQUEST, interrupted)
        assert waiter.result(flights.LEASE_SECONDS / 2).content == "answer"


# --- one process -----------------------------------------------------------------------------------------------------


def test_callers_of_one_moment_ask_once(any_server):
    async def main() -> None:
        cache, model = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT), Model()
        model.gate.set()
        await cache.get_or_compute("warm", *REQUEST[1:], model)
        # After a miss a lookup with the lease, and a fill (scripts that read by MGET, too); after a hit a plain read.
        for expected in ([2, 2], [1, 1], [1, 0]):
            before = [calls_of(any_server, command) for command in ("mget", "evalsha")]
            answers = await asyncio.gather(*(cache.get_or_compute(*REQUEST, model) for _ in range(50)))
            after = [calls_of(any_server, command) for command in ("mget", "evalsha")]
            assert [now - then for now, then in zip(after, before, strict=True)] == expected
            assert len({id(answer) for answer in answers}) == 50
        assert model.calls == 2

    asyncio.run(main())


def test_what_two_callers_get_is_not_shared(any_server):
    async def main() -> None:
        cache, model = (
            AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT),
            Model(LLMResponse(parsed={"a": [1]})),
        )
        tasks = [asyncio.create_task(cache.get_or_compute(*REQUEST, model)) for _ in range(3)]
        model.gate.set()
        first, second, third = await asyncio.gather(*tasks)
        for each in (first, second):
            each.parsed["a"].append(2)
        assert third.parsed == {"a": [1]}

    asyncio.run(main())


def test_the_computation_runs_in_its_callers_context(any_server):
    variable = contextvars.ContextVar("variable", default="nobody's")
    seen: list[str] = []

    def blocking() -> LLMResponse:
        seen.append(variable.get())
        return ANSWER

    async def awaited() -> LLMResponse:
        return blocking()

    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
        for number, compute in enumerate((awaited, blocking)):
            variable.set(f"caller {number}")
            await cache.get_or_compute(f"question {number}", *REQUEST[1:], compute)

    asyncio.run(main())
    variable.set("caller 2")
    RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT).get_or_compute(
        "blocking", *REQUEST[1:], blocking
    )
    assert seen == ["caller 0", "caller 1", "caller 2"]


def test_a_blocking_face_takes_no_coroutine_function(any_server):
    async def compute() -> LLMResponse:
        return ANSWER

    with pytest.raises(InvalidTypeError, match="coroutine function"):
        RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT).get_or_compute(*REQUEST, compute)


def test_a_face_and_its_twin_compute_together(any_server):
    cache, computing, gate = (
        RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT),
        threading.Event(),
        threading.Event(),
    )

    def slow() -> LLMResponse:
        computing.set()
        assert gate.wait(10)
        return ANSWER

    async def awaiting() -> LLMResponse:
        task = asyncio.create_task(cache.aio.get_or_compute(*REQUEST, lambda: 1 / 0))
        await asyncio.sleep(0.05)
        gate.set()
        return await task

    with ThreadPoolExecutor(1) as pool:
        blocking = pool.submit(cache.get_or_compute, *REQUEST, slow)
        assert computing.wait(10)
        assert asyncio.run(awaiting()).cached
        assert blocking.result(10) is ANSWER
    assert cache.stats.coalesced == 1


def test_after_two_disappointments_nobody_waits_any_longer(any_server):
    """With a provider that fails everybody, each caller gets an error of its own, and soon."""

    async def main() -> None:
        cache, begun, gate = (
            AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT),
            [],
            asyncio.Event(),
        )

        def failing(number: int) -> Callable[[], object]:
            async def compute() -> LLMResponse:
                begun.append(number)
                if len(begun) > 2:  # the first two fail alone, the others must be here together
                    await gate.wait()
                raise ZeroDivisionError(number)

            return compute

        tasks = [asyncio.create_task(cache.get_or_compute(*REQUEST, failing(number))) for number in range(8)]
        await until(lambda: len(begun) == 8)
        gate.set()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(error) for error in ended] == [str(number) for number in range(8)]

    asyncio.run(main())


def test_an_entry_that_can_neither_be_read_nor_deleted_costs_no_answer(any_server, monkeypatch):
    async def fail(*_: object) -> bool:
        raise StoreTimeout("too slow", may_have_applied=True)

    cache = RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
    cache.put(*REQUEST, ANSWER)
    with any_server.client() as client:
        client.append(client.keys("*:e:*")[0], "x")
    monkeypatch.setattr(AnswerStore, "forget", fail)
    assert cache.get_or_compute(*REQUEST, lambda: ANSWER) is ANSWER


# --- two processes ---------------------------------------------------------------------------------------------------

LEADER = """
    import time
    from ractogateway.messages import LLMResponse
    from ractogateway.redis import RedisExactCache

    def compute():
        print("computing", flush=True)
        sys.stdin.readline()
        return LLMResponse(content="theirs")

    cache = RedisExactCache(URL, ttl_seconds=60)
    print(cache.get_or_compute("question", "", "gpt-4o", 0.0, 256, compute, tags=["t"]).content, flush=True)
"""


@pytest.fixture
def leader(any_server):
    process = start_script(LEADER, any_server.url)
    assert process.stdout.readline() == "computing\n"
    yield process
    process.kill()
    process.communicate()


async def warm(cache: AsyncRedisExactCache) -> None:
    """Its tracker tracks: from now on it is told by push."""
    tracker = cache._tracked.tracker()
    tracker.listener(cache._flights, flights.Wakers)
    await until(lambda: tracker.alive)


def test_an_answer_of_another_process_is_waited_for_by_push(any_server, leader, monkeypatch):
    asked: list[object] = []
    look_up = flights.calls.look_up
    monkeypatch.setattr(flights.calls, "look_up", lambda *given, **named: asked.append(1) or look_up(*given, **named))

    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
        await warm(cache)
        waiters = [asyncio.create_task(cache.get_or_compute(*REQUEST, lambda: 1 / 0, tags=["t"])) for _ in range(20)]
        await asyncio.sleep(0.5)
        assert len(asked) == 1, "nobody polls"
        leader.stdin.write("\n")
        leader.stdin.flush()
        async with asyncio.timeout(flights.LEASE_SECONDS / 2):  # not by the end of the lease
            answers = await asyncio.gather(*waiters)
        assert {(answer.content, answer.cached) for answer in answers} == {("theirs", True)}
        assert len(asked) == 2
        assert (await cache.stats()).coalesced == 20

    asyncio.run(main())


def test_a_killed_process_holds_nobody_up_for_longer_than_its_lease(any_server, leader):
    async def main() -> None:
        cache, model = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT), Model()
        model.gate.set()
        waiters = [asyncio.create_task(cache.get_or_compute(*REQUEST, model)) for _ in range(5)]
        await asyncio.sleep(0.1)
        leader.send_signal(signal.SIGKILL)
        async with asyncio.timeout(flights.LEASE_SECONDS + 1.0):
            answers = await asyncio.gather(*waiters)
        assert {answer.content for answer in answers} == {"answer"}
        assert model.calls == 1

    asyncio.run(main())


FORGETTING = {
    "invalidate": lambda cache: cache.invalidate(*REQUEST),
    "clear": lambda cache: cache.clear(),
    "invalidate_tag": lambda cache: cache.invalidate_tag("t"),
}


@pytest.mark.parametrize("how", FORGETTING)
def test_another_process_that_was_overtaken_is_not_waited_for(any_server, leader, how):
    cache = RedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT)
    FORGETTING[how](cache)
    assert cache.get_or_compute(*REQUEST, lambda: ANSWER, tags=["t"]) is ANSWER
    leader.stdin.write("\n")
    leader.stdin.flush()
    assert leader.stdout.readline() == "theirs\n"
    assert cache.get(*REQUEST).content == "answer"


def test_waiters_are_woken_when_what_they_wait_for_is_invalidated(any_server, leader):
    async def main() -> None:
        cache, other = (AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, options=PATIENT) for _ in range(2))
        await warm(cache)
        waiting = asyncio.create_task(cache.get_or_compute(*REQUEST, Model()))
        await asyncio.sleep(0.1)
        model = Model()
        model.gate.set()
        waiting.cancel()
        waiting = asyncio.create_task(cache.get_or_compute(*REQUEST, model))
        await asyncio.sleep(0.1)
        assert model.calls == 0
        await other.invalidate(*REQUEST)
        async with asyncio.timeout(flights.LEASE_SECONDS / 2):  # not by the end of the lease
            assert await waiting is ANSWER

    asyncio.run(main())


def test_a_forked_child_computes_for_itself(any_server):
    told = run_script(
        """
        from ractogateway.messages import LLMResponse
        from ractogateway.redis import RedisExactCache

        cache = RedisExactCache(URL, ttl_seconds=60, namespace=NAMESPACE)

        def compute():
            # In the middle of it: what the parent has under way is not the child's.
            child = os.fork()
            if child == 0:
                cache.clear()
                answer = cache.get_or_compute("q", "", "m", 0.0, 1, lambda: LLMResponse(content="child"))
                os._exit(0 if answer.content == "child" else 1)
            assert os.waitpid(child, 0)[1] == 0
            return LLMResponse(content="parent")

        print(cache.get_or_compute("q", "", "m", 0.0, 1, compute).content)
        print(cache.get("q", "", "m", 0.0, 1).content)
        """,
        any_server.url,
    )
    assert told.split() == ["parent", "child"]


def test_tags_of_an_entry_and_of_a_lease_are_checked_together(any_server):
    """A caller who knows neither is told of one after the other, and has to check both: else it never waits."""

    async def main() -> None:
        here, there = (AsyncRedisExactCache(url=any_server.url, ttl_seconds=60) for _ in range(2))
        request = ("tags of two kinds", "", "model", 0.0, 10)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def compute() -> LLMResponse:
            begun.set()
            await go_on.wait()
            return LLMResponse(content="the leader's")

        async def own() -> LLMResponse:
            return LLMResponse(content="computed in vain")

        await here.put(*request, LLMResponse(content="overtaken"), tags=["of the entry"])
        await here._store.forget_tag(tag_id_of("of the entry"))  # dead, and not deleted yet
        leader = asyncio.create_task(here.get_or_compute(*request, compute, tags=["of the lease"]))
        await begun.wait()
        waiter = asyncio.create_task(there.get_or_compute(*request, own))
        done, _ = await asyncio.wait([waiter], timeout=0.3)
        assert not done, "it did not wait for the lease"
        go_on.set()
        assert [(await task).content for task in (leader, waiter)] == ["the leader's"] * 2

    asyncio.run(main())
