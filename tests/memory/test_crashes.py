"""A process that dies between trimming and its hook: somebody else delivers."""

from __future__ import annotations

import subprocess
import sys

import anyio
import anyio.lowlevel
import pytest
from servers import wait_until

from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig, RedisChatMemory
from ractogateway.redis._memory import outbox
from ractogateway.redis.scripts import memory_calls
from ractogateway.redis.scripts.memory_calls import LEASE_MS

DYING = """
import os, sys
from ractogateway.redis import ChatMemoryConfig, RedisChatMemory

def hook(conversation_id, messages):
    os._exit(7)

memory = RedisChatMemory(sys.argv[1], config=ChatMemoryConfig(max_turns=1, on_evict=hook))
for number in range(2):
    memory.append("c", "user", f"q{number}")
"""


def memory_with(server, evicted, **settings):
    config = ChatMemoryConfig(max_turns=1, on_evict=lambda _id, messages: evicted.extend(messages), **settings)
    return RedisChatMemory(server.url, config=config)


@pytest.fixture
def abandoned(any_server):
    """A conversation whose process died in its hook; the lease that it held is over."""
    died = subprocess.run([sys.executable, "-c", DYING, any_server.url], check=False, timeout=60)
    assert died.returncode == 7
    with any_server.client() as client:
        (lease,) = client.keys("*:lease")
        assert 0 < client.pttl(lease) <= LEASE_MS
        yield client


def test_the_next_write_delivers_what_a_dead_process_left(any_server, abandoned):
    evicted = []
    memory = memory_with(any_server, evicted)
    memory.append("c", "user", "q2")
    assert evicted == [], "somebody may still be at it"
    (lease,) = abandoned.keys("*:lease")
    abandoned.pexpire(lease, 1)
    wait_until(lambda: not abandoned.exists(lease))
    memory.append("c", "user", "q3")
    assert [message["content"] for message in evicted] == ["q0", "q1", "q2"]
    assert not abandoned.keys("*:evicted")
    assert not abandoned.keys("*:delivering")


def test_a_cancelled_hook_leaves_the_messages_for_the_next(any_server):
    evicted = []

    async def main() -> None:
        async def hook(_id, messages):
            if not evicted:
                evicted.append("began")
                await anyio.sleep_forever()
            evicted.extend(message["content"] for message in messages)

        memory = AsyncRedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=1, on_evict=hook))
        await memory.append("c", "user", "q0")
        with anyio.move_on_after(0.2):
            await memory.append("c", "user", "q1")
        assert evicted == ["began"]
        await memory.append("c", "user", "q2")

    anyio.run(main)
    assert evicted == ["began", "q0", "q1"]


@pytest.mark.parametrize("blocking", [True, False])
def test_nobody_else_gets_what_a_long_hook_is_at(any_server, monkeypatch, blocking):
    """However long it takes: the lease is renewed, and may end only when the process does."""
    monkeypatch.setattr(memory_calls, "LEASE_MS", 400)
    monkeypatch.setattr(outbox, "_BEAT_SECONDS", 0.05)
    evicted, others = [], []
    other = memory_with(any_server, others)

    def hook(_id, messages):
        evicted.extend(messages)
        with any_server.client() as client:
            (lease,) = client.keys("*:lease")
            for _ in range(12):  # beats: a lease and a half
                end = client.pexpiretime(lease)
                wait_until(lambda end=end: client.pexpiretime(lease) > end, what="a beat")
        assert other.deliver_evicted("c") == 0

    config = ChatMemoryConfig(max_turns=1, on_evict=hook)
    face = RedisChatMemory(any_server.url, config=config)
    for number in range(2):
        if blocking:
            face.append("c", "user", f"q{number}")
        else:
            anyio.run(face.aio.append, "c", "user", f"q{number}")
    assert face.stats.hook_failures == 0
    assert ([message["content"] for message in evicted], others) == (["q0"], [])


def test_coroutine_functions_are_awaited(any_server):
    evicted = []

    async def redact(message):
        await anyio.lowlevel.checkpoint()
        return {**message, "content": message["content"].upper()}

    async def count(_message):
        return 7

    async def hook(_id, messages):
        evicted.extend(messages)

    async def main() -> None:
        config = ChatMemoryConfig(max_turns=1, redact=redact, count_tokens=count, on_evict=hook)
        memory = AsyncRedisChatMemory(any_server.url, config=config)
        await memory.append("c", "user", "q0")
        await memory.append("c", "user", "q1")
        assert await memory.get_history("c") == [{"role": "user", "content": "Q1"}]
        assert (await memory.get_page("c")).tokens == 7

    anyio.run(main)
    assert evicted == [{"role": "user", "content": "Q0"}]


def test_what_waits_survives_the_loss_of_the_state(any_server):
    evicted = []
    failing = RedisChatMemory(any_server.url, config=ChatMemoryConfig(max_turns=1, on_evict=lambda *_: 1 / 0))
    failing.append("c", "user", "q0")
    with any_server.client() as client:
        before = set(client.keys("*:delivering"))
        failing.append("c", "user", "q1")
        (waiting,) = set(client.keys("*:delivering")) - before
        client.rename(waiting, waiting.replace(b":delivering", b":evicted"))
        client.delete(*client.keys("*:state"))
    memory_with(any_server, evicted).append("c", "assistant", "a1")
    assert [message["content"] for message in evicted] == ["q0"]
