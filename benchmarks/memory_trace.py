"""Real conversations through the chat memory: bytes a message, p50 and p99 of a turn, server time a turn.

    python benchmarks/memory_trace.py mooncake_conversations.jsonl [--url redis://…] [--requests 3000] [--tasks 32]

The file is the conversation trace of Mooncake (kvcache-ai/Mooncake, FAST25-release/traces/conversation_trace.jsonl,
Apache-2.0): lengths of prompts and answers in tokens, and an id for each prompt block of 512 tokens that is shared by
all prompts with the same beginning. A request whose blocks begin with those of an earlier one continues that one's
conversation; what its prompt has more is the user's message. The texts are made up, four characters a token.

Each turn reads the last messages (``last=20``), then writes question and answer, as a service would; the model does
not take any time. Conversations run side by side, so many at a time; the turns of one come one after the other.
Latencies are those of a client that keeps the server busy. Server time is what ``INFO commandstats`` counts for all
commands. With ``--url``, nobody else may use the server meanwhile, and its database is emptied.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import redis
from _load import server
from _results import record
from _rounds import header

from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig

BYTES_A_TOKEN = 4
MAX_TURNS = 20
TTL_SECONDS = 1_800


@dataclass(frozen=True)
class Turn:
    question_tokens: int
    answer_tokens: int


def conversations(lines: Iterable[str]) -> list[list[Turn]]:
    """The requests of the trace, chained."""
    found: list[list[Turn]] = []
    # By the last whole block of a conversation: as ids stand for all that precedes a block, one is enough.
    ends: dict[int, tuple[int, int]] = {}
    for line in lines:
        request = json.loads(line)
        blocks, prompt, answer = request["hash_ids"], request["input_length"], request["output_length"]
        # The first block is the system prompt that everybody shares.
        number, before = next((ends[block] for block in reversed(blocks[1:]) if block in ends), (len(found), 0))
        if number == len(found) or before >= prompt:
            number, before = len(found), 0
            found.append([])
        found[number].append(Turn(max(1, prompt - before), answer))
        if len(blocks) > 2:  # noqa: PLR2004 - a shared first block, a whole one, one that is not full
            ends[blocks[-2]] = (number, prompt + answer)
    return found


@dataclass
class Timings:
    reads: list[float]
    writes: list[float]


async def replay(url: str, all_turns: list[list[Turn]], tasks: int) -> Timings:
    timings = Timings([], [])
    waiting = iter(enumerate(all_turns))

    async with AsyncRedisChatMemory(
        url, config=ChatMemoryConfig(max_turns=MAX_TURNS, ttl_seconds=TTL_SECONDS)
    ) as memory:

        async def speak() -> None:
            for number, turns in waiting:
                for turn in turns:
                    question, answer = turn.question_tokens * BYTES_A_TOKEN, turn.answer_tokens * BYTES_A_TOKEN
                    messages = [
                        {"role": "user", "content": "q" * question},
                        {"role": "assistant", "content": "a" * answer},
                    ]
                    started = time.perf_counter()
                    await memory.get_history(f"c{number}", last=MAX_TURNS)
                    read = time.perf_counter()
                    await memory.extend(f"c{number}", messages)
                    timings.reads.append(read - started)
                    timings.writes.append(time.perf_counter() - read)

        await asyncio.gather(*(speak() for _ in range(tasks)))
    return timings


def at(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))] * 1e3


def stored(client: redis.Redis) -> tuple[int, int, int, int]:
    """Messages, bytes of their texts, bytes of their keys, bytes of the records of writes."""
    messages = texts = kept = operations = 0
    for key in client.scan_iter(count=1000):
        taken = client.memory_usage(key, samples=0) or 0
        if b":op:" in key:
            operations += taken
        else:
            kept += taken
        if key.endswith(b":messages"):
            for entry in client.lrange(key, 0, -1):
                messages += 1
                texts += len(json.loads(entry[2:])["content"])
    return messages, texts, kept, operations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("trace", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--tasks", type=int, default=32)
    options = parser.parse_args()
    with options.trace.open() as file:
        chained = conversations(line for _, line in zip(range(options.requests), file, strict=False))
    with server(options.url) as url, redis.Redis.from_url(url) as client:
        client.flushdb()
        client.config_resetstat()
        started = time.perf_counter()
        timings = asyncio.run(replay(url, chained, options.tasks))
        seconds = time.perf_counter() - started
        stats = client.info("commandstats").values()
        server_us = sum(stat["usec"] for stat in stats) / len(timings.writes)
        messages, texts, kept, operations = stored(client)
    turns = len(timings.writes)
    print(header("redis", "hiredis"))
    print(f"{turns} turns in {len(chained)} conversations, the longest of {max(map(len, chained))}")
    print(f"{turns / seconds:,.0f} turns a second (read and write), {options.tasks} at a time")
    for name, values in (("read", timings.reads), ("write", timings.writes)):
        record(f"p99 of a {name}, {options.tasks} at a time", "ractogateway", [at(values, 0.99)], unit="ms")
        print(f"{name:5}  p50 {at(values, 0.5):6.2f} ms   p99 {at(values, 0.99):6.2f} ms")
    record("server time of a turn, read and written", "ractogateway", [server_us], unit="µs")
    record("what the store takes for a byte of text", "ractogateway", [kept / texts], unit="bytes")
    print(f"server time a turn (read and write): {server_us:.0f} µs")
    print(f"{messages} messages kept, {texts / messages:,.0f} bytes of text each; the store takes {kept / texts:.3f}x")
    print(f"{(kept - texts) / messages:.0f} bytes a message besides the text; a write is remembered in", end=" ")
    print(f"{operations / turns:.0f} bytes for ten seconds")


if __name__ == "__main__":
    main()
