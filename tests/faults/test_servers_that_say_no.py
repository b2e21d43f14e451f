"""A server that refuses writes, drops keys, or holds what nobody of ours has written: what can be read is read, and
nothing comes back torn, foreign or guessed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from faces import Maker
from injection import FAULTS, KINDS, Scene, again_and_again, writes_paused
from servers import FACTORIES, Server, ServerNotInstalled

from ractogateway.errors import StoreNotReady, StoreRefused
from ractogateway.messages import LLMResponse
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisOptions

PATIENT = RedisOptions(timeout_seconds=10.0)
LIMITS = RateLimitConfig(max_tokens_per_minute=1_000, window_seconds=3600.0)
TURNS = ChatMemoryConfig(max_turns=1_000)
ANSWER = LLMResponse(content="answer")

pytestmark = pytest.mark.parametrize("face", ["async url", "blocking url", "blocking client"])


@pytest.fixture(params=[KINDS[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def host(request: pytest.FixtureRequest) -> Iterator[Server]:
    try:
        server = FACTORIES[request.param](config={"maxmemory-policy": "noeviction"})
    except ServerNotInstalled as reason:
        pytest.skip(str(reason))
    with server:
        yield server


@pytest.fixture
def make(face: str, host: Server) -> Iterator[Callable[..., Any]]:
    """Tools of one face that raise in an outage, with time enough for any machine."""
    with ExitStack() as stack:
        maker = Maker(face, host, stack)
        options = {} if "client" in face else {"options": PATIENT}
        yield lambda tool, **settings: maker(tool, **options, **settings)


def question(number: int) -> tuple[str, str, str, float, int]:
    return f"question {number}", "", "gpt-4o", 0.0, 256


# --- reads go on -----------------------------------------------------------------------------------------------------


@pytest.mark.cell("out of memory", "cache", "limiter", "memory")
@pytest.mark.parametrize(
    "name", ["out of memory", pytest.param("MISCONF", marks=pytest.mark.cell("not ready", "memory"))]
)
def test_however_many_writes_are_refused_what_is_there_is_read(make, host, name, figures):
    """Also by those whose breaker has seen nothing but refusals."""
    cache, memory = make("cache", on_outage="raise"), make("memory", config=TURNS)
    limiter = make("limiter", config=LIMITS, on_outage="raise")
    cache.put(*question(1), ANSWER)
    memory.append("c", "user", "hello")
    assert limiter.consume("u", 100).allowed
    refused = 0
    with FAULTS[name].raging(Scene(host.url, host)):
        for _ in range(12):  # more than `breaker_failures`
            for write in (
                lambda: cache.put(*question(2), ANSWER),
                lambda: limiter.consume("u", 1),
                lambda: memory.append("c", "user", "lost"),
            ):
                with pytest.raises(StoreNotReady) as caught:
                    write()
                assert not caught.value.may_have_applied
                refused += 1
        assert cache.get(*question(1)).content == "answer"
        assert [message["content"] for message in memory.get_history("c")] == ["hello"]
        assert limiter.get_remaining("u") == 900
    for after in (lambda: cache.put(*question(2), ANSWER), lambda: limiter.consume("u", 1)):
        after()
    figures(calls=refused + 6, failed=refused, wrong=0, lost=0, double=0)


@pytest.mark.cell("pause", "cache", "memory")
def test_while_writes_are_paused_what_plain_commands_read_is_read(make, host, figures):
    cache, memory = make("cache", on_outage="raise"), make("memory", config=TURNS)
    cache.put(*question(1), ANSWER)
    memory.append("c", "user", "hello")
    with writes_paused(Scene(host.url, host)):
        for _ in range(20):
            assert cache.get(*question(1)).content == "answer"
            assert cache.get(*question(2)) is None
            assert memory.count("c") == len(memory.get_history("c")) == 1
    figures(calls=80, failed=0, wrong=0)


# --- scripts that are forgotten in the middle of a batch --------------------------------------------------------------


@pytest.mark.cell("scripts flushed", "cache", "limiter", "memory")
def test_batches_whose_scripts_are_forgotten_on_the_way(make, host, figures):
    cache, memory = make("cache", on_outage="raise", ttl_seconds=60), make("memory", config=TURNS)
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000_000), on_outage="raise")
    users = [f"u{number}" for number in range(40)]
    with host.client() as admin, again_and_again(lambda: admin.execute_command("SCRIPT", "FLUSH")):
        for turn in range(10):
            assert all(decision.allowed for decision in limiter.consume_many([(user, 2) for user in users]))
            cache.put_many([(question(number), ANSWER) for number in range(40)])
            memory.extend("c", [{"role": "user", "content": f"{turn}"}])
    assert [limiter.get_remaining(user) for user in users] == [1_000_000 - 20] * 40
    assert all(cache.get_many([question(number) for number in range(40)]))
    assert [message["content"] for message in memory.get_history("c")] == [f"{turn}" for turn in range(10)]
    figures(calls=10 * 81, failed=0, wrong=0, lost=0, double=0)


# --- what a server drops ---------------------------------------------------------------------------------------------


@pytest.mark.cell("eviction", "limiter", "memory")
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_beside_a_cache_that_fills_the_server_limits_and_memories_are_whole_or_gone(make, host, policy, figures):
    """Such a server is not for them (`doctor` says so); still nothing of theirs is torn, or somebody else's."""
    memory = make("memory", config=ChatMemoryConfig(max_turns=1_000, ttl_seconds=600))
    limiter = make("limiter", config=LIMITS, on_outage="raise")
    cache = make("cache", ttl_seconds=600, on_outage="raise", compress_above_bytes=10**9)
    for number in range(100):
        limiter.consume(f"u{number}", 100 + number)
    said = [[{"role": "user", "content": f"c{number}: {n}"} for n in range(8)] for number in range(40)]
    for number, messages in enumerate(said):
        memory.extend(f"c{number}", messages)
    full = int(host.client().info("memory")["used_memory"]) + 1_000_000
    host.command("CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", full)
    chance = random.Random(policy)
    for number in range(800):
        cache.put(*question(number), LLMResponse(content=chance.randbytes(2000).hex()))
    evicted = int(host.client().info("stats")["evicted_keys"])
    assert evicted > 100
    host.command("CONFIG", "SET", "maxmemory", 0)
    counters = [limiter.get_remaining(f"u{number}") for number in range(100)]
    assert all(left in (1_000, 900 - number) for number, left in enumerate(counters))
    histories = [memory.get_history(f"c{number}") for number in range(40)]
    assert all(history in ([], messages) for history, messages in zip(histories, said, strict=True))
    for number, history in enumerate(histories):
        memory.append(f"c{number}", "user", "more")
        assert memory.get_history(f"c{number}") == [*history, {"role": "user", "content": "more"}]
    kept = sum(left != 1_000 for left in counters), sum(map(bool, histories))
    figures(calls=1_020, wrong=0, note=f"{policy}: {kept[0]} of 100 counters and {kept[1]} of 40 memories survived")


# --- what lies there -------------------------------------------------------------------------------------------------


@pytest.mark.cell("bad bytes at rest", "memory")
def test_records_that_are_cut_short_or_of_the_future_are_skipped_and_counted(make, host, figures):
    memory = make("memory", config=TURNS)
    for number in range(6):
        memory.append("c", "user", f"message {number}")
    with host.client() as client:
        (key,) = client.keys("*:messages")
        whole = client.lrange(key, 0, -1)
        damaged = {1: whole[1][:-3], 3: b"9" + whole[3][1:], 4: bytes(len(whole[4]))}
        for place, value in damaged.items():
            client.lset(key, place, value)
        assert [message["content"][-1] for message in memory.get_history("c")] == ["0", "2", "5"]
        assert memory.stats.skipped == 3
        memory.append("c", "user", "message 6")
        assert [message["content"][-1] for message in memory.get_history("c")] == ["0", "2", "5", "6"]
        assert client.lrange(key, 0, 5) == [damaged.get(place, value) for place, value in enumerate(whole)]
    figures(calls=9, wrong=0, lost=0, note="3 records damaged, 3 skipped and counted, none overwritten")


@pytest.mark.cell("bad bytes at rest", "limiter")
def test_a_log_that_is_damaged_is_refused_and_left_as_it_is(make, host, figures):
    limiter = make("limiter", config=LIMITS, on_outage="local")
    limiter.consume("u", 100)
    refused = 0
    with host.client() as client:
        (key,) = client.keys("*:tokens")
        whole = client.get(key)
        for value in (whole[:-3], b"\x09" + whole[1:], b"nonsense", whole + b"x"):
            client.set(key, value)
            for call in (lambda: limiter.consume("u", 1), lambda: limiter.get_remaining("u")):
                with pytest.raises(StoreRefused):
                    call()
                refused += 1
            assert client.get(key) == value
        assert limiter.get_remaining("v") == 1_000
        limiter.reset("u")
        assert limiter.consume("u", 1).remaining == 999
    figures(calls=refused + 4, wrong=0, note=f"{refused} refused, the log as it was; `reset` helps")


@pytest.mark.cell("bad bytes at rest", "cache")
def test_entries_that_are_damaged_under_load_are_misses_and_counted(make, host, figures):
    """Somebody changes a byte of every entry, again and again, while many ask."""
    cache = make("cache", ttl_seconds=60, on_outage="raise", compress_above_bytes=10**9)
    chance = random.Random(1)
    asked: list[int] = []

    def damage() -> None:
        for key in client.scan_iter(match="*:e:*"):
            value = client.get(key)
            if value:
                client.setrange(key, chance.randrange(len(value)), chance.randbytes(1))

    def ask(seed: int) -> list[object]:
        own, wrong = random.Random(seed), []
        turns = 0
        while turns < 150 or (not cache.stats.corrupt and time.monotonic() < patience):
            turns += 1
            number = own.randrange(8)
            found = cache.get(*question(number))
            if found is None:
                cache.put(*question(number), LLMResponse(content=f"answer {number}"))
            elif found.content != f"answer {number}":
                wrong.append(found)
        asked.append(turns)
        return wrong

    patience = time.monotonic() + 30
    with host.client() as client, again_and_again(damage), ThreadPoolExecutor(4) as pool:
        wrong = sum(pool.map(ask, range(4)), [])
    assert wrong == []
    assert cache.stats.corrupt > 0, "no damaged entry was met"
    figures(calls=sum(asked), wrong=len(wrong), note=f"{cache.stats.corrupt} damaged entries met")
