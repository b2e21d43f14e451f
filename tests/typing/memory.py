"""What type checkers make of the chat memory. Checked, not run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import Any, assert_type

import redis
import redis.asyncio

from ractogateway import Message
from ractogateway.errors import RevisionConflict
from ractogateway.messages import MessageRole
from ractogateway.redis import AsyncRedisChatMemory, ChatMemoryConfig, RedisChatMemory

CONFIG = ChatMemoryConfig(max_turns=20, ttl_seconds=1800, key_prefix="app", max_message_bytes=65_536)


def ways_to_redis() -> None:
    RedisChatMemory()
    RedisChatMemory(url="redis://localhost:6379/0", config=CONFIG, namespace="tenant")
    RedisChatMemory(client=redis.Redis(decode_responses=True))
    AsyncRedisChatMemory(client=redis.asyncio.Redis())


def blocking(memory: RedisChatMemory) -> None:
    assert_type(memory.append("c", "user", "Hello!"), int)
    assert_type(memory.append("c", MessageRole.TOOL, None, request_id="r"), int)
    assert_type(memory.append("c", "user", [{"type": "text", "text": "Hello!"}]), int)
    assert_type(memory.extend("c", [{"role": "user", "content": "Hello!"}], expected_revision=0), int)
    assert_type(memory.extend("c", [Message(role=MessageRole.USER, content="Hello!")], request_id=None), int)
    assert_type(memory.get_history("c"), list[dict[str, Any]])
    assert_type(memory.count("c"), int)
    assert_type(memory.clear("c", expected_revision=3), None)
    assert_type(memory.aio, AsyncRedisChatMemory)
    with memory as same:
        assert_type(same, RedisChatMemory)


async def awaited(memory: AsyncRedisChatMemory) -> None:
    assert_type(await memory.append("c", "user", "Hello!"), int)
    assert_type(await memory.extend("c", memory_of_another_tool()), int)
    assert_type(await memory.get_history("c"), list[dict[str, Any]])
    assert_type(await memory.count("c"), int)
    assert_type(await memory.clear("c"), None)
    async with memory as same:
        assert_type(same, AsyncRedisChatMemory)


def memory_of_another_tool() -> list[dict[str, str]]:
    return [{"role": "user", "content": "Hello!"}]


def values(conflict: RevisionConflict) -> None:
    assert_type((conflict.expected, conflict.actual), tuple[int, int])


# Both checkers complain of an ignore that nothing needs, so each of these lines is known to be refused.
def wrong_on_purpose(memory: RedisChatMemory) -> None:
    memory.append("c", "user", 5)  # type: ignore[arg-type]
    memory.append(5, "user", "Hello!")  # type: ignore[arg-type]
    memory.extend("c", [5])  # type: ignore[list-item]
