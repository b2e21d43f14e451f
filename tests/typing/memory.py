"""What type checkers make of the chat memory. Checked, not run."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import Any, assert_type

import redis
import redis.asyncio

from ractogateway import Message
from ractogateway.errors import RevisionConflict
from ractogateway.messages import MessageRole
from ractogateway.redis import (
    AsyncRedisChatMemory,
    ChatMemoryConfig,
    ConversationChanges,
    ConversationPage,
    Encryption,
    Erasure,
    MemoryStats,
    RedisChatMemory,
)

CONFIG = ChatMemoryConfig(max_turns=20, ttl_seconds=1800, key_prefix="app", max_message_bytes=65_536)


def count(message: dict[str, Any]) -> int:
    return len(message)


async def redact(message: dict[str, Any]) -> dict[str, Any]:
    return message


def summarise(conversation_id: str, messages: list[dict[str, Any]]) -> None:
    del conversation_id, messages


HOOKED = ChatMemoryConfig(max_tokens=4_000, count_tokens=count, redact=redact, on_evict=summarise)


def ways_to_redis() -> None:
    RedisChatMemory()
    RedisChatMemory(url="redis://localhost:6379/0", config=CONFIG, namespace="tenant")
    RedisChatMemory(client=redis.Redis(decode_responses=True))
    AsyncRedisChatMemory(client=redis.asyncio.Redis())
    AsyncRedisChatMemory(config=HOOKED, encryption=Encryption({"k1": bytes(32)}, current="k1"))


def blocking(memory: RedisChatMemory) -> None:
    assert_type(memory.append("c", "user", "Hello!"), int)
    assert_type(memory.append("c", MessageRole.TOOL, "22", request_id="r"), int)
    assert_type(memory.append("c", "user", [{"type": "text", "text": "Hello!"}]), int)
    assert_type(memory.extend("c", [{"role": "user", "content": "Hello!"}], expected_revision=0), int)
    assert_type(memory.extend("c", [Message(role=MessageRole.USER, content="Hello!")], request_id=None), int)
    assert_type(memory.get_history("c"), list[dict[str, Any]])
    assert_type(memory.count("c"), int)
    assert_type(memory.clear("c", expected_revision=3), None)
    assert_type(memory.aio, AsyncRedisChatMemory)
    assert_type(memory.extend("c", [{"role": "user"}], user_id="u"), int)
    assert_type(memory.replace("c", [], expected_revision=1), int)
    assert_type(memory.pop("c", expected_revision=1), dict[str, Any] | None)
    assert_type(memory.get_history("c", last=4), list[dict[str, Any]])
    assert_type(memory.get_messages("c", last=4), list[Message])
    assert_type(memory.get_page("c", limit=10, before=7), ConversationPage)
    assert_type(memory.get_page("c").messages, list[dict[str, Any]])
    assert_type(memory.get_changes("c", 3), ConversationChanges)
    assert_type(memory.stats, MemoryStats)
    assert_type(memory.fork("c", "d"), int)
    assert_type(memory.import_("e", memory.export("c"), user_id="u"), int)
    assert_type(memory.migrate("c", source_key="old:c"), int)
    assert_type(memory.conversations("u"), list[str])
    assert_type(memory.erase("c"), Erasure)
    assert_type(memory.erase_user("u").messages, int)
    assert_type(memory.deliver_evicted("c"), int)
    with memory as same:
        assert_type(same, RedisChatMemory)


async def awaited(memory: AsyncRedisChatMemory) -> None:
    assert_type(await memory.append("c", "user", "Hello!"), int)
    assert_type(await memory.extend("c", memory_of_another_tool()), int)
    assert_type(await memory.get_history("c"), list[dict[str, Any]])
    assert_type(await memory.count("c"), int)
    assert_type(await memory.clear("c"), None)
    assert_type(await memory.stats(), MemoryStats)
    assert_type(await memory.pop("c"), dict[str, Any] | None)
    assert_type((await memory.get_changes("c", 3)).anew, bool)
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
