"""How a chat memory grows with the length of a conversation, 10 to 10,000 messages: appending, the end, the whole.

    python benchmarks/memory_growth.py [--url redis://…] [--rounds 5] [--seconds 0.2] [--longest 10000]

One caller. Nobody trims here (ours is bounded by a million turns): that a conversation is long is the point.

* *append* a turn of two messages of 400 characters (in rounds that let the conversation grow by as much as is written);
* *the last four* messages: openai-agents' ``get_items(limit=4)``; LangChain and LlamaIndex read all, and cut;
* *all* messages: whatever each gives a caller (dicts of ours and openai-agents', the others' own objects);
* *unchanged*: `get_changes` since the newest revision, which only ours has.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import redis.asyncio
from _load import in_tasks, options, server
from _results import absent, failed
from _rounds import compare_async, header, show

from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig, RedisOptions

TTL_SECONDS = 1_800
TEXT = "x" * 400
TURN = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]
LENGTHS = (10, 100, 1_000, 10_000)
ENOUGH = 4
REFERENCE = "openai-agents"

Read = Callable[[], Awaitable[object]]


class Conversation(NamedTuple):
    append: Read
    last: Callable[[], Awaitable[int]]
    """How many messages it has read."""
    all: Callable[[], Awaitable[int]]
    unchanged: Read | None = None


Open = Callable[[int], Awaitable[Conversation]]
"""Makes a conversation of so many messages."""


@contextlib.asynccontextmanager
async def ours(url: str) -> AsyncIterator[Open]:
    config = ChatMemoryConfig(max_turns=1_000_000, ttl_seconds=TTL_SECONDS)
    async with AsyncRedisChatMemory(url, config=config, options=RedisOptions(timeout_seconds=30.0)) as memory:

        async def opened(length: int) -> Conversation:
            name = uuid.uuid4().hex
            revision = await memory.extend(name, TURN * (length // 2))

            async def last() -> int:
                return len(await memory.get_history(name, last=ENOUGH))

            async def everything() -> int:
                return len(await memory.get_history(name))

            return Conversation(
                lambda: memory.extend(name, TURN), last, everything, lambda: memory.get_changes(name, revision)
            )

        yield opened


@contextlib.asynccontextmanager
async def openai_agents(url: str) -> AsyncIterator[Open]:
    from agents.extensions.memory import RedisSession  # noqa: PLC0415 - a peer of the bench group

    async with redis.asyncio.Redis.from_url(url) as client:

        async def opened(length: int) -> Conversation:
            session = RedisSession(uuid.uuid4().hex, redis_client=client, ttl=TTL_SECONDS)
            await session.add_items(TURN * (length // 2))  # type: ignore[arg-type]

            async def last() -> int:
                return len(await session.get_items(limit=ENOUGH))

            async def everything() -> int:
                return len(await session.get_items())

            return Conversation(lambda: session.add_items(TURN), last, everything)  # type: ignore[arg-type]

        yield opened


@contextlib.asynccontextmanager
async def langchain(url: str) -> AsyncIterator[Open]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.chat_message_histories import RedisChatMessageHistory  # noqa: PLC0415
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415 - a peer of the bench group

    turn = [HumanMessage(TEXT), AIMessage(TEXT)]

    async def opened(length: int) -> Conversation:
        history = RedisChatMessageHistory(uuid.uuid4().hex, url=url, ttl=TTL_SECONDS)
        await history.aadd_messages(turn * (length // 2))

        async def last() -> int:
            return len((await history.aget_messages())[-ENOUGH:])

        async def everything() -> int:
            return len(await history.aget_messages())

        return Conversation(lambda: history.aadd_messages(turn), last, everything)

    yield opened


@contextlib.asynccontextmanager
async def llama_index(url: str) -> AsyncIterator[Open]:
    from llama_index.core.llms import ChatMessage  # noqa: PLC0415 - a peer of the bench group
    from llama_index.storage.chat_store.redis import RedisChatStore  # noqa: PLC0415

    turn = [ChatMessage(role=role, content=TEXT) for role in ("user", "assistant")]
    async with redis.asyncio.Redis.from_url(url) as client:
        store = RedisChatStore(aredis_client=client, redis_url=url, ttl=TTL_SECONDS)

        async def opened(length: int) -> Conversation:
            name = uuid.uuid4().hex
            await store.aset_messages(name, turn * (length // 2))

            async def append() -> None:
                for message in turn:
                    await store.async_add_message(name, message)

            async def last() -> int:
                return len((await store.aget_messages(name))[-ENOUGH:])

            async def everything() -> int:
                return len(await store.aget_messages(name))

            return Conversation(append, last, everything)

        yield opened


MAKERS: dict[str, Callable[[str], contextlib.AbstractAsyncContextManager[Open]]] = {
    REFERENCE: openai_agents,
    "langchain": langchain,
    "llama-index": llama_index,
    "ractogateway": ours,
}


def reading(read: Callable[[], Awaitable[int]], expected: int, seconds: float) -> Callable[[], Awaitable[float]]:
    async def operation(_number: int) -> None:
        assert await read() == expected

    return in_tasks(1, operation, seconds)


async def at_length(opened: dict[str, Open], length: int, rounds: int, seconds: float) -> None:
    made: dict[str, Conversation] = {}
    for name, make in opened.items():
        try:
            made[name] = await make(length)
        except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
            failed(name, error)
    cases = {
        f"the last four of {length:,} messages": {
            name: reading(each.last, ENOUGH, seconds) for name, each in made.items()
        },
        f"all of {length:,} messages": {name: reading(each.all, length, seconds) for name, each in made.items()},
        f"nothing new in {length:,} messages": {
            name: in_tasks(1, lambda _, ask=each.unchanged: ask(), seconds)
            for name, each in made.items()
            if each.unchanged is not None
        },
        # Last, for it makes them longer.
        f"a turn appended to {length:,} messages": {
            name: in_tasks(1, lambda _, each=each: each.append(), seconds) for name, each in made.items()
        },
    }
    for title, contenders in cases.items():
        if contenders:
            figures = await compare_async(contenders, rounds=rounds)
            baseline = REFERENCE if REFERENCE in figures else "ractogateway"
            show(title, figures, baseline, messages=length)


async def main(url: str, longest: int, rounds: int, seconds: float) -> None:
    async with contextlib.AsyncExitStack() as stack:
        opened = {}
        for name, make in MAKERS.items():
            try:
                opened[name] = await stack.enter_async_context(make(url))
            except ImportError as missing:
                absent(name, missing)
        for length in LENGTHS:
            if length <= longest:
                await at_length(opened, length, rounds, seconds)


if __name__ == "__main__":
    parser = options(__doc__, seconds=0.2)
    parser.add_argument("--longest", type=int, default=10_000)
    arguments = parser.parse_args()
    print(header("redis", "hiredis", "openai-agents", "langchain-community", "llama-index-storage-chat-store-redis"))
    with server(arguments.url) as address:
        asyncio.run(main(address, arguments.longest, arguments.rounds, arguments.seconds))
