"""What a conversation costs: memory at rest, and bytes on the wire when nothing changed."""

from __future__ import annotations

import pytest

from ractogateway.redis import ChatMemoryConfig, RedisChatMemory, RedisOptions

TEXT_BYTES = 400
TURNS = 20


def turn() -> list[dict]:
    return [{"role": "user", "content": "x" * TEXT_BYTES}, {"role": "assistant", "content": "y" * TEXT_BYTES}]


def test_the_store_takes_at_most_a_third_more_than_the_text(server):
    memory = RedisChatMemory(server.url, config=ChatMemoryConfig(max_turns=TURNS, ttl_seconds=60))
    for _ in range(2 * TURNS):
        memory.extend("c", turn())
    with server.client() as client:
        keys = [key for key in client.scan_iter() if b":op:" not in key]
        taken = sum(client.memory_usage(key, samples=0) for key in keys)
        operations = client.keys("*:op:*")
        remembered = client.memory_usage(operations[0])
        longest = max(map(client.pttl, operations))
    text = 2 * TURNS * TEXT_BYTES
    assert len(keys) == 2
    assert taken <= 1.3 * text, f"{taken / text:.3f}"
    assert remembered <= 200
    assert longest <= 10_000, "a write is remembered for twice its time limit"


@pytest.fixture
def bytes_sent(any_server):
    """How many bytes the server sent for ``call()`` a hundred times over, and once for the question itself."""

    def measure(call) -> int:
        with any_server.client() as client:
            call()
            before = client.info("stats")["total_net_output_bytes"]
            for _ in range(100):
                call()
            return (client.info("stats")["total_net_output_bytes"] - before) // 100

    return measure


def test_reading_that_nothing_changed_costs_the_same_whatever_the_length(any_server, bytes_sent):
    memory = RedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=100_000))
    costs = []
    for name, turns in (("short", 1), ("long", 1_000)):
        revision = memory.extend(name, turn() * turns)
        costs.append(bytes_sent(lambda name=name, revision=revision: memory.get_changes(name, revision)))
    overhead = bytes_sent(lambda: None)
    assert abs(costs[0] - costs[1]) <= 16, "the digits of two numbers"
    assert costs[1] - overhead <= 64


def test_the_last_messages_are_all_that_is_read(any_server, bytes_sent):
    memory = RedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=100_000))
    memory.extend("c", turn() * 1_000)
    assert bytes_sent(lambda: memory.get_history("c", last=4)) < 6 * TEXT_BYTES
    assert bytes_sent(lambda: memory.get_page("c", limit=4, before=1_000)) < 6 * TEXT_BYTES


def test_a_delta_is_what_came(any_server, bytes_sent):
    memory = RedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=100_000))
    revision = memory.extend("c", turn() * 1_000)
    memory.extend("c", turn())
    assert bytes_sent(lambda: memory.get_changes("c", revision)) < 3 * TEXT_BYTES


@pytest.mark.parametrize(("seconds", "kept"), [(1.0, 10), (5.0, 10), (120.0, 240)])
def test_a_write_is_remembered_for_twice_its_time_limit_at_least(any_server, seconds, kept):
    memory = RedisChatMemory(any_server.url, options=RedisOptions(timeout_seconds=seconds))
    memory.append("c", "user", "hi")
    memory.append("d", "user", "hi", request_id="named")
    with any_server.client() as client:
        lives = sorted(client.pttl(key) / 1000 for key in client.scan_iter(match="*:op:*"))
    assert kept - 5 < lives[0] <= kept
    assert 3_590 < lives[1] <= 3_600


def test_a_given_client_is_given_a_minute(any_server):
    with any_server.client() as client:
        RedisChatMemory(client=client).append("c", "user", "hi")
        (key,) = client.scan_iter(match="*:op:*")
        assert 50_000 < client.pttl(key) <= 60_000
