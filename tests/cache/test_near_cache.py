"""A near cache serves what Redis holds, or nothing: whatever happens to the network, and whoever writes."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio
from probing import own_server
from proxy import Proxy
from secrecy import SECRET_ANSWER, SECRET_PROMPT
from servers import Server, wait_until

from ractogateway.cache.fingerprint import fingerprint
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import LLMResponse, Usage
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions
from ractogateway.redis._cache.near import Copy, NearCache
from ractogateway.redis.transport import TrackedPort, tracking
from ractogateway.redis.transport.exchange import Exchange

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content=SECRET_ANSWER, parsed={"list": [1]}, usage=Usage(total_tokens=10))
PATIENT = RedisOptions(timeout_seconds=10.0, breaker_failures=1_000_000)


def ask(number: int) -> tuple[str, str, str, float, int]:
    return (f"question {number}", *REQUEST[1:])


def copies(cache: Any) -> int:
    return len(getattr(cache, "_core", cache)._store.near)


def kept(cache: RedisExactCache, *request: Any) -> None:
    """Ask until there is a copy."""
    before = copies(cache)

    def is_kept() -> bool:
        cache.get(*request)
        return copies(cache) > before

    wait_until(is_kept, what="a copy")


def near(url: str, entries: int = 100, **settings: Any) -> RedisExactCache:
    return RedisExactCache(url=url, ttl_seconds=60, near_cache_entries=entries, options=PATIENT, **settings)


def reads(server: Server) -> int:
    with server.client() as client:
        return client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]


# --- what a hit is ---------------------------------------------------------------------------------------------------


def test_a_copy_is_served_without_asking(server):
    cache = near(server.url)
    cache.put(*REQUEST, ANSWER)
    kept(cache, *REQUEST)
    before = reads(server)
    hits = [cache.get(*REQUEST) for _ in range(50)]
    hits += [cache.get_or_compute(*REQUEST, lambda: 1 / 0), *cache.get_many([REQUEST])]
    assert reads(server) == before
    assert all(
        (hit.content, hit.cached, hit.usage, hit.saved_usage) == (SECRET_ANSWER, True, Usage(), ANSWER.usage)
        for hit in hits
    )
    assert cache.stats.hits >= 52


def test_what_a_caller_does_to_its_hit_is_its_own_business(any_server):
    cache = near(any_server.url)
    cache.put(*REQUEST, ANSWER)
    kept(cache, *REQUEST)
    for _ in range(3):
        hit = cache.get(*REQUEST)
        assert (hit.content, hit.parsed, hit.tool_calls) == (SECRET_ANSWER, {"list": [1]}, [])
        hit.content = "changed"
        hit.parsed["list"].append(2)
        hit.tool_calls.append("changed")


def test_requests_that_look_alike_are_told_apart(any_server):
    cache = near(any_server.url)
    cache.put("1", "", "m", 0, 1, ANSWER)
    kept(cache, "1", "", "m", 0, 1)
    assert cache.get("1", "", "m", 0.0, 1, context={}).content == SECRET_ANSWER
    assert cache.get("1", "", "m", 0.0, 1, context={"history": []}) is None
    with pytest.raises(InvalidTypeError):
        cache.get("1", "", "m", False, 1)
    with pytest.raises(InvalidTypeError):
        cache.get("1", "", "m", 0, True)
    with pytest.raises(InvalidTypeError):
        cache.get(1, "", "m", 0, 1)
    with pytest.raises(InvalidTypeError):
        cache.get("1", "", "m", 0, 1, context=[])


def test_the_least_recently_used_copies_leave_first(any_server):
    cache = near(any_server.url, 3)
    cache.put_many([(ask(number), ANSWER) for number in range(10)])
    for number in range(3):
        kept(cache, *ask(number))
    cache.get(*ask(0))
    for number in range(3, 5):
        cache.get(*ask(number))
        assert copies(cache) == 3
    held = cache._core._store.near.port.tracker().listener(cache._core._store.near, lambda: None)
    assert [number for number in range(10) if held.get(fingerprint(*ask(number)))] == [0, 3, 4]
    # What told of the others is forgotten with them.
    assert len(held._fingerprints) == 3
    assert sum(map(len, held._dependants.values())) == 3


@pytest.mark.parametrize("client", [redis.Redis(), redis.asyncio.Redis()])
def test_a_given_client_is_not_ours_to_track_on(client):
    kind = RedisExactCache if isinstance(client, redis.Redis) else AsyncRedisExactCache
    with pytest.raises(InvalidValueError, match="near_cache_entries"):
        kind(client=client, near_cache_entries=1)
    for entries in (-1, 1.5, True, None):
        with pytest.raises((InvalidValueError, InvalidTypeError), match="near_cache_entries"):
            kind(near_cache_entries=entries)


def test_a_copy_made_of_two_reads_stands_if_neither_was_overtaken():
    tracker = tracking.Tracker()
    tracker.permit()
    tracker.proved(time.monotonic())
    copies_of = NearCache(SimpleNamespace(tracker=lambda: tracker), 10)
    copy = Copy(ANSWER, (), float("inf"), 0.0, b"entry", (b"tag",))
    for changed in ([b"entry"], [b"tag"], None):
        fills = [tracker.begin([b"entry"]), tracker.begin([b"tag"])]
        tracker.drop(changed)
        assert not copies_of.keep(b"name", copy, fills)
        assert len(copies_of) == 0
    assert copies_of.keep(b"name", copy, [tracker.begin([b"entry"]), tracker.begin([b"tag"])])
    assert len(copies_of) == 1


# --- the end of a copy -----------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Any], object]] = {
    "put": lambda cache: cache.put(*REQUEST, LLMResponse(content="new")),
    "put_many": lambda cache: cache.put_many([(REQUEST, LLMResponse(content="new"))]),
    "invalidate": lambda cache: cache.invalidate(*REQUEST),
    "invalidate_tag": lambda cache: cache.invalidate_tag("t"),
    "clear": lambda cache: cache.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("by", ["itself", "its twin", "another object", "a stranger"])
def test_a_change_is_seen(server, change, by):
    cache, other = near(server.url), RedisExactCache(url=server.url, ttl_seconds=60)
    cache.put(*REQUEST, ANSWER, tags=["s", "t"])
    kept(cache, *REQUEST)
    expected = "new" if change.startswith("put") else None
    if by == "a stranger":
        with server.client() as client:
            CHANGES[change](RedisExactCache(client=client, ttl_seconds=60))
    elif by == "its twin":
        asyncio.run(CHANGES[change](cache.aio))
    else:
        CHANGES[change](cache if by == "itself" else other)

    def seen() -> bool:
        hit = cache.get(*REQUEST)
        return (hit and hit.content) == expected

    if by == "a stranger":
        wait_until(seen, what="the change")
    assert seen(), "at once, where the change was made in this process"


def test_a_computed_answer_replaces_a_copy(any_server):
    cache = near(any_server.url)
    cache.put(*REQUEST, ANSWER)
    kept(cache, *REQUEST)
    cache.invalidate(*REQUEST)
    assert cache.get_or_compute(*REQUEST, lambda: LLMResponse(content="new")).content == "new"
    assert cache.get(*REQUEST).content == "new"


def test_a_copy_ends_with_its_time(any_server):
    cache = near(any_server.url)
    cache.put(*REQUEST, ANSWER, ttl_seconds=0.4)
    stored_at = time.monotonic()
    kept(cache, *REQUEST)
    while cache.get(*REQUEST) is not None:
        time.sleep(0.001)
    assert time.monotonic() - stored_at < 0.4 + 0.1, "no sooner told by the server, which is late"


def test_a_stale_answer_is_no_near_hit(any_server):
    cache = RedisExactCache(
        url=any_server.url, ttl_seconds=0.3, stale_seconds=60, near_cache_entries=10, options=PATIENT
    )
    cache.put(*REQUEST, ANSWER)
    wait_until(lambda: cache.get(*REQUEST) is None, what="the end of its time")
    assert cache.get_or_compute(*REQUEST, lambda: LLMResponse(content="new")).content == SECRET_ANSWER
    wait_until(lambda: cache.get(*REQUEST) is not None, what="the new answer")


def test_an_answer_whose_time_is_over_does_not_get_a_newer_ones(any_server, monkeypatch):
    settings = {"ttl_seconds": 60, "stale_seconds": 60, "near_cache_entries": 10, "options": PATIENT}
    cache = RedisExactCache(url=any_server.url, **settings)
    cache.put(*REQUEST, LLMResponse(content="newer"))
    with any_server.client() as store:
        (key,) = store.keys("*:e:*")
        newer = store.get(key)
        cache.put(*REQUEST, ANSWER, ttl_seconds=0.05)
        wait_until(lambda: cache.get(*REQUEST) is None, what="the end of its time")

        async def one_by_one(self, calls):
            replies = [await self.fetch(calls[0])]
            store.set(key, newer, px=120_000)
            return replies + [await self.fetch(call) for call in calls[1:]]

        monkeypatch.setattr(TrackedPort, "fetch_many", one_by_one)
        answer = cache.get(*REQUEST)
        assert answer is None or answer.content == "newer"


def test_nothing_is_served_over_a_lost_connection(any_server):
    cache = near(any_server.url)
    cache.put(*REQUEST, ANSWER)
    kept(cache, *REQUEST)
    any_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: copies(cache) == 0, what="the loss being noticed")
    kept(cache, *REQUEST)


def test_silence_is_not_freshness():
    with own_server() as server:
        cache = RedisExactCache(url=server.url, ttl_seconds=60, near_cache_entries=10)
        cache.put(*REQUEST, ANSWER)
        kept(cache, *REQUEST)
        with server.frozen():
            frozen_at = time.monotonic()
            wait_until(lambda: cache.get(*REQUEST) is None, what="the end of the copy")
            assert time.monotonic() - frozen_at < 2.5


def test_a_loop_that_was_stopped_serves_nothing_old(any_server, monkeypatch):
    """It has not read its socket since, so its copies are as they were; only the clock tells."""
    monkeypatch.setattr(tracking, "BEAT_SECONDS", 0.15)
    monkeypatch.setattr(tracking, "PATIENCE_SECONDS", 0.15)

    async def main() -> None:
        cache = AsyncRedisExactCache(url=any_server.url, ttl_seconds=60, near_cache_entries=10, options=PATIENT)
        await cache.put(*REQUEST, ANSWER)
        while not len(cache._store.near):
            await cache.get(*REQUEST)
            await asyncio.sleep(0.01)
        with any_server.client() as client:
            client.delete(*client.keys("*:e:*"))
        assert (await cache.get(*REQUEST)).content == SECRET_ANSWER, "nobody has been told yet"
        time.sleep(0.35)  # noqa: ASYNC251 - what such programs do
        assert await cache.get(*REQUEST) is None

    asyncio.run(main(), debug=False)


def test_without_tracking_there_are_no_copies_and_no_harm():
    with own_server(config={"rename-command": "CLIENT ''"}) as server:
        cache = RedisExactCache(url=server.url, ttl_seconds=60, near_cache_entries=10, on_outage="raise")
        cache.put(*REQUEST, ANSWER)
        for _ in range(20):
            assert cache.get(*REQUEST).content == SECRET_ANSWER
        assert copies(cache) == 0


def test_what_is_closed_leaves_no_connection():
    with own_server() as server, server.client() as client:

        def alone() -> bool:
            return len(client.client_list()) == 1

        cache = near(server.url)
        for _ in range(2):  # it stays usable
            cache.put(*REQUEST, ANSWER)
            kept(cache, *REQUEST)
            cache.close()
            wait_until(alone, what="no connection but this one")
        del cache

        async def main() -> None:
            async with AsyncRedisExactCache(
                url=server.url, ttl_seconds=60, near_cache_entries=5, options=PATIENT
            ) as core:
                await core.put(*REQUEST, ANSWER)
                while not len(core._store.near):
                    await core.get(*REQUEST)
                    await asyncio.sleep(0.001)
            await asyncio.to_thread(wait_until, alone, what="no connection but this one")

        asyncio.run(main())


# --- storms ----------------------------------------------------------------------------------------------------------


class Fence(Exchange):
    """A PING on the tracking connection: when it is answered, every invalidation before it has been received."""

    def __init__(self, passed: Callable[[], object]) -> None:
        super().__init__(((b"PING",),))
        self._passed = passed

    def wake(self) -> None:
        if self.failure is None:
            self._passed()


class Floor:
    """Writers take turns at a question, so that its versions are in order; readers know the oldest that may be seen."""

    def __init__(self, questions: int) -> None:
        self.turns = [threading.Lock() for _ in range(questions)]
        self.written = [0] * questions
        self._oldest = [0] * questions
        self._lock = threading.Lock()

    def of(self, number: int) -> int:
        return self._oldest[number]

    def rise(self, number: int, version: int) -> None:
        with self._lock:
            self._oldest[number] = max(self._oldest[number], version)


QUESTIONS = 3
STORM_SECONDS = 1.2


def write(cache: RedisExactCache, floor: Floor, chance: random.Random, told: Callable[[int, int], object]) -> None:
    """One change of one question; then ``told(question, oldest version that may still be seen)``."""
    number = chance.randrange(QUESTIONS)
    with floor.turns[number]:
        version = floor.written[number]
        what = chance.random()
        if what < 0.6:
            floor.written[number] = version = version + 1
            cache.put(*ask(number), LLMResponse(content=str(version)), tags=[f"tag {number}"])
            told(number, version)
        elif what < 0.8:
            cache.invalidate(*ask(number))
            told(number, version + 1)
        else:
            cache.invalidate_tag(f"tag {number}")
            told(number, version + 1)


@pytest.mark.parametrize("kind", ["awaiting", "blocking"])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_nothing_stale_is_served_in_a_storm(any_server, seed, kind):  # noqa: C901 - four roles in one storm
    floor, served = Floor(QUESTIONS), [0]
    with Proxy(any_server.url, seed=seed) as proxy, ThreadPoolExecutor(12) as pool:
        cache = near(proxy.url)
        reading = cache.aio if kind == "awaiting" else cache
        proxy.faults(delay_seconds=0.001)  # every connection has delays of its own
        end = time.monotonic() + STORM_SECONDS

        def check(answer: LLMResponse | None, oldest: int) -> None:
            served[0] += answer is not None
            assert answer is None or int(answer.content) >= oldest

        def own_writer(chance: random.Random) -> None:
            while time.monotonic() < end:
                write(cache, floor, chance, floor.rise)
                time.sleep(0.02 * chance.random())

        def foreign_writer(chance: random.Random) -> None:
            with any_server.client() as client:
                foreigner = RedisExactCache(client=client, ttl_seconds=60)

                def told(number: int, version: int) -> None:
                    link = reading_link()
                    link.loop.call_soon_threadsafe(link.submit, Fence(lambda: floor.rise(number, version)))

                while time.monotonic() < end:
                    write(foreigner, floor, chance, told)
                    time.sleep(0.02 * chance.random())

        def blocking_reader(chance: random.Random) -> None:
            while time.monotonic() < end:
                number = chance.randrange(QUESTIONS)
                oldest = floor.of(number)
                check(cache.get(*ask(number)), oldest)
                time.sleep(chance.choice((0.0001, 0.0005)))

        async def awaiting_reader(chance: random.Random) -> None:
            while time.monotonic() < end:
                number = chance.randrange(QUESTIONS)
                oldest = floor.of(number)
                check(await reading.get(*ask(number)), oldest)
                await asyncio.sleep(chance.choice((0.0001, 0.0005)))

        ready = threading.Event()
        links: list[Any] = []

        def reading_link() -> Any:
            return links[0]

        async def awaiting_readers() -> None:
            links.append(reading._tracked._tracking_link())
            ready.set()
            await asyncio.gather(*(awaiting_reader(random.Random(f"{seed}:{n}")) for n in range(8)))

        if kind == "awaiting":
            calls = [pool.submit(asyncio.run, awaiting_readers())]
            assert ready.wait(10)
        else:
            links.append(cache._core._tracked._tracking_link())
            calls = [pool.submit(blocking_reader, random.Random(f"{seed}:{n}")) for n in range(5)]
        writers = [own_writer, own_writer, foreign_writer, foreign_writer]
        calls += [pool.submit(role, random.Random(f"{seed}:w{n}")) for n, role in enumerate(writers)]
        for call in calls:
            call.result()
        assert served[0] > 100
        assert cache.stats.hits > 100
