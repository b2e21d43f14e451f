"""Callers whose commands interleave in any order, and who may die between any two: the index of a user and the outbox
of a hook keep their promises at every moment, not only at the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stepping import Actor, SteppedMemory, bury

from ractogateway.redis import ChatMemoryConfig, RedisChatMemory
from ractogateway.redis.keys import MemoryKeys, member_of
from ractogateway.redis.scripts import memory_calls

interleaved = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
PREFIX = "ractogateway:memory"
CONVERSATIONS = ("a", "b")

WORK = st.tuples(
    st.sampled_from(["extend", "begin", "continue", "replace", "clear", "pop", "erase", "erase_user", "fork"]),
    st.sampled_from(CONVERSATIONS),
)
DIES, TIME_PASSES = 0, 1
SCHEDULE = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 11)), max_size=60)
"""Whose turn it is, and whether it dies instead, or so much time passes first that a lease is over."""


def play(work: list[Any], schedule: list[tuple[int, int]], check: Any, *, pass_time: Any = lambda: None) -> None:
    actors = [Actor(each) for each in work]
    try:
        for who, fate in schedule:
            living = [actor for actor in actors if not actor.done]
            if not living:
                return
            actor = living[who % len(living)]
            if fate == TIME_PASSES:
                pass_time()
            actor.die() if fate == DIES else actor.step()
            check()
        for actor in actors:
            while not actor.done:
                actor.step()
                check()
    finally:
        for actor in actors:
            actor.die()
        bury()


@pytest.fixture(scope="module")
def client(servers):
    with servers[next(iter(servers))].client() as client:
        yield client


@given(st.lists(WORK, min_size=2, max_size=6), SCHEDULE)
@interleaved
def test_a_conversation_with_messages_is_in_its_users_index_at_every_moment(client, work, schedule):
    client.flushdb()
    memory = SteppedMemory(client=client, config=ChatMemoryConfig(max_turns=3))
    tag = MemoryKeys.user_tag(PREFIX, "", "u")

    def check() -> None:
        for conversation in CONVERSATIONS:
            keys = MemoryKeys.of(PREFIX, "", conversation)
            if client.hget(keys.state, "u") == tag and client.exists(keys.messages):
                assert client.zscore(MemoryKeys.index(PREFIX, tag), member_of(conversation)) is not None

    def begin(what: str, where: str) -> Any:
        other = CONVERSATIONS[where == CONVERSATIONS[0]]
        message = [{"role": "user", "content": "hi"}]
        return {
            "extend": lambda: memory.extend(where, message, user_id="u"),
            "begin": lambda: memory.extend(where, message, user_id="u", expected_revision=0),
            "continue": lambda: memory.extend(where, message),
            "replace": lambda: memory.replace(where, message, user_id="u"),
            "clear": lambda: memory.clear(where),
            "pop": lambda: memory.pop(where),
            "erase": lambda: memory.erase(where),
            "erase_user": lambda: memory.erase_user("u"),
            "fork": lambda: memory.fork(where, other),
        }[what]()

    play([begin(*each) for each in work], schedule, check)


@given(st.permutations([0] * 4 + [1] * 4 + [2] * 5), st.sampled_from([None, 0]))
@settings(interleaved, max_examples=400)
def test_an_erasure_between_two_first_writes(client, order, expected):
    client.flushdb()
    memory = SteppedMemory(client=client)
    message = [{"role": "user", "content": "hi"}]
    writes = [memory.extend("a", message, user_id="u", expected_revision=each) for each in (None, expected)]
    actors = [*map(Actor, writes), Actor(memory.erase_user("u"))]
    for who in order:
        if not actors[who].done:
            actors[who].step()
    for actor in actors:
        actor.finish()
    assert RedisChatMemory(client=client).conversations("u") == (["a"] if memory_holds(client) else [])


def test_a_user_costs_one_command_more_and_only_at_the_beginning(client):
    client.flushdb()
    memory = SteppedMemory(client=client)

    def commands(revision: int | None) -> int:
        actor = Actor(memory.extend("a", [{"role": "user", "content": "hi"}], user_id="u", expected_revision=revision))
        actor.step()  # as far as the first
        count = 0
        while not actor.done:
            actor.step()
            count += 1
        return count

    assert [commands(revision) for revision in (0, 1, None)] == [2, 1, 1]


@given(st.permutations([0] * 7 + [1] * 9))
@settings(interleaved, max_examples=300)
def test_no_copy_escapes_an_erasure(client, order):
    client.flushdb()
    RedisChatMemory(client=client).append("a", "user", "secret", user_id="u")
    memory = SteppedMemory(client=client)
    actors = [Actor(memory.fork("a", "b")), Actor(memory.erase_user("u"))]
    for who in order:
        if not actors[who].done:
            actors[who].step()
    for actor in actors:
        actor.finish()
    assert not any(client.exists(MemoryKeys.of(PREFIX, "", where).messages) for where in "ab")


@given(st.permutations([0] * 8 + [1] * 9 + [2] * 4))
@settings(interleaved, max_examples=200)
def test_no_copy_outlives_its_source_that_was_begun_anew(client, order):
    client.flushdb()
    RedisChatMemory(client=client).append("a", "user", "secret", user_id="u")
    memory = SteppedMemory(client=client)
    actors = [
        Actor(memory.fork("a", "b")),
        Actor(memory.erase_user("u")),
        Actor(memory.append("a", "user", "new", user_id="u")),
    ]
    for who in order:
        if who == 2 and not actors[1].done:
            continue  # it is begun anew after it was erased
        if not actors[who].done:
            actors[who].step()
    actors[1].finish()
    actors[2].finish()
    actors[0].finish()
    assert {"role": "user", "content": "secret"} not in RedisChatMemory(client=client).get_history("b")


def test_a_copy_that_was_written_to_is_not_erased_with_its_source(client):
    client.flushdb()
    plain = RedisChatMemory(client=client)
    plain.append("a", "user", "secret", user_id="u")
    fork = Actor(SteppedMemory(client=client).fork("a", "b"))
    while not plain.count("b"):
        fork.step()
    plain.append("b", "user", "and mine")
    plain.erase("a")
    fork.finish()
    assert plain.count("b") == 2
    assert plain.conversations("u") == ["b"], "erase_user finds it"


@given(st.permutations([0] * 7 + [1] * 4))
@settings(interleaved, max_examples=300)
def test_no_copy_is_left_outside_its_users_index(client, order):
    """The source becomes a user's while it is copied."""
    client.flushdb()
    RedisChatMemory(client=client).append("a", "user", "nobody's")
    memory = SteppedMemory(client=client)
    secret = [{"role": "user", "content": "secret"}]
    actors = [Actor(memory.fork("a", "b")), Actor(memory.extend("a", secret, user_id="u"))]
    for who in order:
        if not actors[who].done:
            actors[who].step()
    for actor in actors:
        actor.finish()
    reader = RedisChatMemory(client=client)
    assert not any(message in secret for message in reader.get_history("b")) or "b" in reader.conversations("u")


def revision_of(client: Any, keys: MemoryKeys) -> int:
    return int((client.hget(keys.state, "c") or b"0 ").split(b" ")[0])


def memory_holds(client: Any) -> bool:
    return bool(client.exists(MemoryKeys.of(PREFIX, "", "a").messages))


@given(st.integers(2, 5), st.booleans(), SCHEDULE)
@interleaved
def test_a_trimmed_message_waits_or_was_delivered_at_every_moment(client, writers, hook_fails, schedule):
    client.flushdb()
    delivered: list[str] = []
    keys = MemoryKeys.of(PREFIX, "", "a")

    def hook(_id, messages):
        if hook_fails and len(delivered) < 2:
            delivered.append("failed")
            raise RuntimeError
        delivered.extend(message["content"] for message in messages)

    memory = SteppedMemory(client=client, config=ChatMemoryConfig(max_turns=1, on_evict=hook))
    read = RedisChatMemory(client=client)

    def pass_time() -> None:
        client.delete(keys.lease)

    def check() -> None:
        written = revision_of(client, keys)
        waiting = read._run(_texts(read, client, keys.evicted)) + read._run(_texts(read, client, keys.delivering))
        kept = [message["content"] for message in read.get_history("a")]
        everything = set(delivered) - {"failed"} | set(waiting) | set(kept)
        assert len(everything) == written

    play([memory.append("a", "user", f"m{number}") for number in range(writers)], schedule, check, pass_time=pass_time)
    client.delete(keys.lease)
    final = RedisChatMemory(client=client, config=ChatMemoryConfig(max_turns=1, on_evict=hook))
    for _ in range(3):
        final.deliver_evicted("a")
    assert client.exists(keys.evicted, keys.delivering) == 0
    in_order = [text for number, text in enumerate(delivered) if text not in delivered[:number] and text != "failed"]
    assert len(in_order) + len(read.get_history("a")) == revision_of(client, keys)


async def _texts(memory: RedisChatMemory, client: Any, key: bytes) -> list[str]:
    codec = memory._core._store.codec
    return [message["content"] for message in codec.decode(MemoryKeys.of(PREFIX, "", "a"), client.lrange(key, 0, -1))]


def test_stale_entries_leave_the_index_and_living_ones_stay(client, monkeypatch):
    """Entries are looked after once the write they were made for is over; here, at once."""
    client.flushdb()
    memory = RedisChatMemory(client=client)
    for name in ("gone", "lives"):
        memory.append(name, "user", "hi", user_id="u")
    for key in (MemoryKeys.of(PREFIX, "", "gone").messages, MemoryKeys.of(PREFIX, "", "gone").state):
        client.delete(key)
    index = MemoryKeys.index(PREFIX, MemoryKeys.user_tag(PREFIX, "", "u"))
    memory.append("other", "user", "hi", user_id="u")
    assert client.zrange(index, 0, -1) == [b"gone", b"lives", b"other"], "an hour has to pass"
    monkeypatch.setattr(memory_calls, "ENLISTED_MS", 0)
    memory.append("new", "user", "hi", user_id="u")
    assert client.zrange(index, 0, -1) == [b"other", b"new", b"lives"]
    assert memory.conversations("u") == ["other", "new", "lives"]


def test_an_index_outlives_its_conversations(client):
    client.flushdb()
    week = 7 * 86_400
    index = MemoryKeys.index(PREFIX, MemoryKeys.user_tag(PREFIX, "", "u"))
    RedisChatMemory(client=client, config=ChatMemoryConfig(ttl_seconds=60)).append("a", "user", "hi", user_id="u")
    assert client.ttl(index) > 2 * 86_400
    longer = RedisChatMemory(client=client, config=ChatMemoryConfig(ttl_seconds=week))
    longer.append("b", "user", "hi", user_id="u")
    assert client.ttl(index) > 2 * week
    RedisChatMemory(client=client).append("a", "user", "hi")  # has no end from now on, whoever says so
    assert client.ttl(index) == -1
    longer.append("b", "user", "hi")
    assert client.ttl(index) == -1


def test_a_conversation_enlists_again_before_its_index_ends(client):
    client.flushdb()
    memory = RedisChatMemory(client=client, config=ChatMemoryConfig(ttl_seconds=60))
    memory.append("a", "user", "hi", user_id="u")
    keys = MemoryKeys.of(PREFIX, "", "a")
    index = MemoryKeys.index(PREFIX, MemoryKeys.user_tag(PREFIX, "", "u"))
    client.expire(index, 100)
    memory.append("a", "user", "hi")
    assert client.ttl(index) <= 100, "the state says that there is time"
    client.hset(keys.state, "x", 1)
    memory.append("a", "user", "hi")
    assert client.ttl(index) > 2 * 86_400
    assert memory.count("a") == 3
