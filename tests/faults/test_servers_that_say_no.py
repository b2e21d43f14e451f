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
from books import Tally
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


def text(found: LLMResponse | None) -> str | None:
    return found and found.content


def texts(memory: Any) -> list[str]:
    return [message["content"] for message in memory.get_history("c")]


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
    tally = Tally()
    with FAULTS[name].raging(Scene(host.url, host)):
        for _ in range(12):  # more than `breaker_failures`
            for write in (
                lambda: cache.put(*question(2), ANSWER),
                lambda: limiter.consume("u", 1),
                lambda: memory.append("c", "user", "lost"),
            ):
                assert not tally.refused(write, StoreNotReady).may_have_applied
        tally.saw(text(cache.get(*question(1))), "answer")
        tally.kept(texts(memory), ["hello"])
        tally.saw(limiter.get_remaining("u"), 900)
    tally.saw(cache.put(*question(2), ANSWER), None)
    tally.saw(limiter.consume("u", 1).remaining, 899)
    tally.judge(figures)


@pytest.mark.cell("pause", "cache", "memory")
def test_while_writes_are_paused_what_plain_commands_read_is_read(make, host, figures):
    cache, memory = make("cache", on_outage="raise"), make("memory", config=TURNS)
    cache.put(*question(1), ANSWER)
    memory.append("c", "user", "hello")
    tally = Tally()
    with writes_paused(Scene(host.url, host)):
        for _ in range(20):
            tally.saw(text(cache.get(*question(1))), "answer")
            tally.saw(cache.get(*question(2)), None)
            tally.saw(memory.count("c"), 1)
            tally.kept(texts(memory), ["hello"])
    tally.judge(figures)


# --- scripts that are forgotten in the middle of a batch --------------------------------------------------------------


@pytest.mark.cell("scripts flushed", "cache", "limiter", "memory")
def test_batches_whose_scripts_are_forgotten_on_the_way(make, host, figures):
    cache, memory = make("cache", on_outage="raise", ttl_seconds=60), make("memory", config=TURNS)
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=1_000_000), on_outage="raise")
    users = [f"u{number}" for number in range(40)]
    tally = Tally()
    with host.client() as admin, again_and_again(lambda: admin.execute_command("SCRIPT", "FLUSH")):
        for turn in range(10):
            for decision in limiter.consume_many([(user, 2) for user in users]):
                tally.saw(decision.allowed, True)
            tally.saw(cache.put_many([(question(number), ANSWER) for number in range(40)]), None)
            tally.saw(memory.extend("c", [{"role": "user", "content": f"{turn}"}]), turn + 1)
    for user in users:
        tally.kept(["token"] * (1_000_000 - limiter.get_remaining(user)), ["token"] * 20)
    for found in cache.get_many([question(number) for number in range(40)]):
        tally.saw(text(found), "answer")
    tally.kept(texts(memory), [f"{turn}" for turn in range(10)], in_order=True)
    tally.judge(figures)


# --- what a server drops ---------------------------------------------------------------------------------------------


@pytest.mark.cell("eviction", "limiter", "memory")
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
def test_beside_a_cache_that_fills_the_server_limits_and_memories_are_whole_or_gone(make, host, policy, figures):
    """Such a server is not for them (`doctor` says so); still nothing of theirs is torn, or somebody else's."""
    memory = make("memory", config=ChatMemoryConfig(max_turns=1_000, ttl_seconds=600))
    limiter = make("limiter", config=LIMITS, on_outage="raise")
    cache = make("cache", ttl_seconds=600, on_outage="raise", compress_above_bytes=10**9)
    tally = Tally()
    for number in range(100):
        tally.saw(limiter.consume(f"u{number}", 100 + number).remaining, 900 - number)
    said = [[{"role": "user", "content": f"c{number}: {n}"} for n in range(8)] for number in range(40)]
    for number, messages in enumerate(said):
        tally.saw(memory.extend(f"c{number}", messages), 1)
    full = int(host.client().info("memory")["used_memory"]) + 1_000_000
    host.command("CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", full)
    chance = random.Random(policy)
    for number in range(800):
        tally.saw(cache.put(*question(number), LLMResponse(content=chance.randbytes(2000).hex())), None)
    evicted = int(host.client().info("stats")["evicted_keys"])
    assert evicted > 100
    host.command("CONFIG", "SET", "maxmemory", 0)
    counters = [limiter.get_remaining(f"u{number}") for number in range(100)]
    for number, left in enumerate(counters):
        tally.saw(left, 1_000, 900 - number)
    histories = [memory.get_history(f"c{number}") for number in range(40)]
    for number, (history, messages) in enumerate(zip(histories, said, strict=True)):
        tally.saw(history, [], messages)
        memory.append(f"c{number}", "user", "more")
        tally.saw(memory.get_history(f"c{number}"), [*history, {"role": "user", "content": "more"}])
    kept = sum(left != 1_000 for left in counters), sum(map(bool, histories))
    tally.judge(figures, note=f"{policy}: {kept[0]} of 100 counters and {kept[1]} of 40 memories survived")


# --- what lies there -------------------------------------------------------------------------------------------------


@pytest.mark.cell("bad bytes at rest", "memory")
def test_records_that_are_cut_short_or_of_the_future_are_skipped_and_counted(make, host, figures):
    memory, tally = make("memory", config=TURNS), Tally()
    for number in range(6):
        memory.append("c", "user", f"message {number}")
    with host.client() as client:
        (key,) = client.keys("*:messages")
        whole = client.lrange(key, 0, -1)
        damaged = {1: whole[1][:-3], 3: b"9" + whole[3][1:], 4: bytes(len(whole[4]))}
        for place, value in damaged.items():
            client.lset(key, place, value)
        tally.kept(texts(memory), ["message 0", "message 2", "message 5"], in_order=True)
        skipped = memory.stats.skipped
        memory.append("c", "user", "message 6")
        tally.kept(texts(memory), ["message 0", "message 2", "message 5", "message 6"], in_order=True)
        left = [damaged.get(place, value) for place, value in enumerate(whole)]
        overwritten = sum(now != then for now, then in zip(client.lrange(key, 0, 5), left, strict=True))
    note = f"{len(damaged)} records damaged, {skipped} skipped and counted, {overwritten} overwritten"
    tally.judge(figures, note=note)
    assert (skipped, overwritten) == (3, 0)


@pytest.mark.cell("bad bytes at rest", "limiter")
def test_a_log_that_is_damaged_is_refused_and_left_as_it_is(make, host, figures):
    limiter = make("limiter", config=LIMITS, on_outage="local")
    limiter.consume("u", 100)
    tally, changed = Tally(), 0
    with host.client() as client:
        (key,) = client.keys("*:tokens")
        whole = client.get(key)
        for value in (whole[:-3], b"\x09" + whole[1:], b"nonsense", whole + b"x"):
            client.set(key, value)
            for call in (lambda: limiter.consume("u", 1), lambda: limiter.get_remaining("u")):
                tally.refused(call, StoreRefused)
            changed += client.get(key) != value
        tally.saw(limiter.get_remaining("v"), 1_000)
        limiter.reset("u")
        tally.saw(limiter.consume("u", 1).remaining, 999)
    tally.judge(figures, note=f"{changed} damaged logs changed; `reset` helps")
    assert changed == 0


@pytest.mark.cell("bad bytes at rest", "cache")
def test_entries_that_are_damaged_under_load_are_misses_and_counted(make, host, figures):
    """Somebody changes a byte of every entry, again and again, while many ask."""
    cache = make("cache", ttl_seconds=60, on_outage="raise", compress_above_bytes=10**9)
    chance = random.Random(1)
    tally = Tally()

    def damage() -> None:
        for key in client.scan_iter(match="*:e:*"):
            value = client.get(key)
            if value:
                client.setrange(key, chance.randrange(len(value)), chance.randbytes(1))

    def ask(seed: int) -> None:
        own, turns = random.Random(seed), 0
        while turns < 150 or (not cache.stats.corrupt and time.monotonic() < patience):
            turns += 1
            number = own.randrange(8)
            found = cache.get(*question(number))
            tally.saw(text(found), None, f"answer {number}")
            if found is None:
                cache.put(*question(number), LLMResponse(content=f"answer {number}"))

    patience = time.monotonic() + 30
    with host.client() as client, again_and_again(damage), ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    tally.judge(figures, note=f"{cache.stats.corrupt} damaged entries met")
    assert cache.stats.corrupt > 0, "no damaged entry was met"
