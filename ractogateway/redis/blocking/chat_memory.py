"""The chat memory for blocking callers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ractogateway.errors import InvalidTypeError
from ractogateway.messages import Message
from ractogateway.redis._memory.values import ConversationChanges, ConversationPage, Erasure, MemoryStats
from ractogateway.redis.blocking.face import Face
from ractogateway.redis.chat_memory import AsyncRedisChatMemory
from ractogateway.redis.config import ChatMemoryConfig, RedisOptions
from ractogateway.redis.encryption import Encryption
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
        encryption: Encryption | None = None,
        namespace: str = "",
        options: RedisOptions | None = None,
    ) -> None:
        refuse_coroutine_functions(config)
        super().__init__(url, client, config=config, encryption=encryption, namespace=namespace, options=options)

    def append(
        self,
        conversation_id: str,
        role: str,
        content: str | list[dict[str, Any]],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Append one message, trim, and start the time to live anew; the new revision."""
        return self._run(self._core.append(conversation_id, role, content, user_id=user_id, request_id=request_id))

    def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Append messages, all or none; the new revision."""
        return self._run(
            self._core.extend(
                conversation_id, messages, user_id=user_id, request_id=request_id, expected_revision=expected_revision
            )
        )

    def check_messages(self, messages: Sequence[Mapping[str, Any] | Message]) -> None:
        """Raise what `extend` would raise for these messages themselves; nothing is sent."""
        self._run(self._core.check_messages(messages))

    def replace(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Put these messages in the place of all that are there; the new revision."""
        return self._run(
            self._core.replace(
                conversation_id, messages, user_id=user_id, request_id=request_id, expected_revision=expected_revision
            )
        )

    def pop(self, conversation_id: str, *, expected_revision: int | None = None) -> dict[str, Any] | None:
        """Take the newest message off and return it; None where there is none."""
        return self._run(self._core.pop(conversation_id, expected_revision=expected_revision))

    def clear(self, conversation_id: str, *, expected_revision: int | None = None) -> None:
        """Delete the messages."""
        self._run(self._core.clear(conversation_id, expected_revision=expected_revision))

    def deliver_evicted(self, conversation_id: str) -> int:
        """Give to ``on_evict`` what waits for it; how many messages it took."""
        return self._run(self._core.deliver_evicted(conversation_id))

    def get_history(self, conversation_id: str, *, last: int | None = None) -> list[dict[str, Any]]:
        """The messages, oldest first, pinned ones before all others."""
        return self._run(self._core.get_history(conversation_id, last=last))

    def get_messages(self, conversation_id: str, *, last: int | None = None) -> list[Message]:
        """`get_history` as `Message` objects."""
        return self._run(self._core.get_messages(conversation_id, last=last))

    def get_page(self, conversation_id: str, *, limit: int = 50, before: int | None = None) -> ConversationPage:
        """A page of the conversation from the end towards the beginning, in whole turns."""
        return self._run(self._core.get_page(conversation_id, limit=limit, before=before))

    def get_changes(self, conversation_id: str, since_revision: int) -> ConversationChanges:
        """What happened after a revision."""
        return self._run(self._core.get_changes(conversation_id, since_revision))

    def count(self, conversation_id: str) -> int:
        """The number of messages kept."""
        return self._run(self._core.count(conversation_id))

    @property
    def stats(self) -> MemoryStats:
        """What this object has skipped, kept above its bound, and not delivered so far."""
        return self._run(self._core.stats())

    def fork(self, source: str, target: str, *, request_id: str | None = None) -> int:
        """Copy a conversation into one that holds no messages; the target's revision."""
        return self._run(self._core.fork(source, target, request_id=request_id))

    def export(self, conversation_id: str) -> str:
        """The messages as JSON Lines."""
        return self._run(self._core.export(conversation_id))

    def import_(
        self,
        conversation_id: str,
        lines: str | bytes | Iterable[str],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
    ) -> int:
        """Fill a conversation that holds no messages from JSON Lines; its revision."""
        return self._run(self._core.import_(conversation_id, lines, user_id=user_id, request_id=request_id))

    def migrate(self, conversation_id: str, *, source_key: str | None = None, user_id: str | None = None) -> int:
        """Bring a conversation over from the older layout; the number of messages."""
        return self._run(self._core.migrate(conversation_id, source_key=source_key, user_id=user_id))

    def conversations(self, user_id: str) -> list[str]:
        """The ids of a user's conversations that hold messages."""
        return self._run(self._core.conversations(user_id))

    def erase(self, conversation_id: str) -> Erasure:
        """Erase a conversation: its messages, those that wait for ``on_evict``, and whom it belonged to."""
        return self._run(self._core.erase(conversation_id))

    def erase_user(self, user_id: str) -> Erasure:
        """Erase all conversations of a user."""
        return self._run(self._core.erase_user(user_id))


def refuse_coroutine_functions(config: ChatMemoryConfig | None) -> None:
    """A blocking call cannot await a hook; said here, before anything is written."""
    for name in ("count_tokens", "redact", "on_evict"):
        if inspect.iscoroutinefunction(getattr(config, name, None)):
            raise InvalidTypeError(f"{name} must be a plain function here; coroutine functions need the async class")
