"""Many appends over a network that loses replies, and many processes on one conversation."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter

import pytest
from proxy import Proxy

from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig, RedisChatMemory, RedisOptions

CONVERSATIONS = 8
MAX_TURNS = 100


@pytest.mark.timeout(300)
@pytest.mark.parametrize("appends", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_appends_over_a_network_that_loses_one_reply_in_ten(any_server, appends):
    """Half the conversations are trimmed. All share one connection: each loss cuts everybody off."""
    bounds = [MAX_TURNS, 1_000_000]
    each = appends // CONVERSATIONS

    async def speak(memory: AsyncRedisChatMemory, conversation: str) -> list[int]:
        return [await memory.append(conversation, "user", f"{number}") for number in range(each)]

    async def main(url: str) -> list[list[int]]:
        options = RedisOptions(timeout_seconds=60.0, breaker_failures=1_000_000)
        memories = [
            AsyncRedisChatMemory(url, config=ChatMemoryConfig(max_turns=bound), options=options) for bound in bounds
        ]
        async with memories[0], memories[1]:
            speakers = (speak(memories[number % 2], f"c{number}") for number in range(CONVERSATIONS))
            return await asyncio.gather(*speakers)

    with Proxy(any_server.url) as proxy:
        proxy.faults(lose_one_in=10, losing=(b"EVALSHA", b"EVAL"))
        revisions = asyncio.run(main(proxy.url))
        assert proxy.lost >= appends // 12
    assert revisions == [list(range(1, each + 1))] * CONVERSATIONS
    memory = RedisChatMemory(any_server.url)
    for number in range(CONVERSATIONS):
        kept = [message["content"] for message in memory.get_history(f"c{number}")]
        assert kept == [f"{n}" for n in range(each)][-bounds[number % 2] :]


PROCESS = """
import json, sys
from ractogateway.redis import ChatMemoryConfig, RedisChatMemory

url, me, turns = sys.argv[1], sys.argv[2], int(sys.argv[3])
memory = RedisChatMemory(url, config=ChatMemoryConfig(max_turns=1_000_000))
memory.count("c")
print("ready", flush=True)
sys.stdin.readline()
made = []
for number in range(turns):
    name = f"{me}-{number}"
    made.append(memory.extend("c", [
        {"role": "user", "content": name},
        {"role": "assistant", "content": None, "tool_calls": [{"id": name}]},
        {"role": "tool", "content": name, "tool_call_id": name},
        {"role": "assistant", "content": name},
    ], user_id="u"))
print(json.dumps(made))
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("processes", "turns"), [(16, 20), pytest.param(16, 500, marks=pytest.mark.slow)])
def test_sixteen_processes_on_one_conversation(any_server, processes, turns):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, any_server.url, str(number), str(turns)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for process in running:
        assert process.stdout.readline() == "ready\n"
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    revisions = [json.loads(process.communicate(timeout=100)[0]) for process in running]
    assert sorted(sum(revisions, [])) == list(range(1, processes * turns + 1)), "gapless, and nobody's twice"
    assert all(made == sorted(made) for made in revisions)

    history = RedisChatMemory(any_server.url).get_history("c")
    named = [message.get("content") or message["tool_calls"][0]["id"] for message in history]
    order = named[::4]
    assert named == [name for name in order for _ in range(4)], "no turn is interleaved with another"
    assert Counter(order) == Counter(f"{me}-{number}" for me in range(processes) for number in range(turns))
    by_revision = {revision: f"{me}-{n}" for me, made in enumerate(revisions) for n, revision in enumerate(made)}
    assert order == [by_revision[revision] for revision in sorted(by_revision)], (
        "the list has the order of the revisions"
    )
