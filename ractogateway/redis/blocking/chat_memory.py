"""The chat memory for blocking callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ractogateway.messages import Message
from ractogateway.redis.blocking.face import Face
from ractogateway.redis.chat_memory import AsyncRedisChatMemory
from ractogateway.redis.config import ChatMemoryConfig, RedisOptions
from ractogateway.redis.transport import BlockingClient, open_blocking_port, open_worker_port

__all__ = ["RedisChatMemory"]


class _DrivenChatMemory(AsyncRedisChatMemory):
    _open_port = staticmethod(open_blocking_port)


class _AwaitedChatMemory(AsyncRedisChatMemory):
    _open_port = staticmethod(open_worker_port)


class RedisChatMemory(Face[AsyncRedisChatMemory]):
    """Bounded conversations in Redis for blocking callers.

    See `AsyncRedisChatMemory` for the arguments and the meaning of every method; ``client`` is a ``redis.Redis`` here.
    """

    _driven = _DrivenChatMemory
    _awaited = _AwaitedChatMemory

    def __init__(
        self,
        url: str | None = None,
        client: BlockingClient | None = None,
        config: ChatMemoryConfig | None = None,
        *,
        namespace: str = "",
        options: RedisOptions | None = None,
    ) -> None:
        super().__init__(url, client, config=config, namespace=namespace, options=options)

    def append(
        self,
        conversation_id: str,
        role: str,
        content: str | list[dict[str, Any]] | None,
        *,
        request_id: str | None = None,
    ) -> int:
        """Append one message, trim, and start the time to live anew; the new revision."""
        return self._run(self._core.append(conversation_id, role, content, request_id=request_id))

    def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Append messages, all or none; the new revision."""
        return self._run(
            self._core.extend(conversation_id, messages, request_id=request_id, expected_revision=expected_revision)
        )

    def get_history(self, conversation_id: str) -> list[dict[str, Any]]:
        """The messages, oldest first, pinned ones before all others."""
        return self._run(self._core.get_history(conversation_id))

    def count(self, conversation_id: str) -> int:
        """The number of messages kept."""
        return self._run(self._core.count(conversation_id))

    def clear(self, conversation_id: str, *, expected_revision: int | None = None) -> None:
        """Delete the messages."""
        self._run(self._core.clear(conversation_id, expected_revision=expected_revision))
