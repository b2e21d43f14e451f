"""A bounded conversation history that all replicas share: the async core."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ractogateway._checks import check_id, check_revision, check_role, check_text, milliseconds
from ractogateway.errors import InvalidTypeError, InvalidValueError, RevisionConflict, StoreRefused
from ractogateway.messages import Message
from ractogateway.redis._core import Core
from ractogateway.redis.config import ChatMemoryConfig, RedisOptions
from ractogateway.redis.keys import MemoryKeys, operation_id
from ractogateway.redis.scripts import memory_calls as calls
from ractogateway.redis.transport import AsyncClient, TimeLimits
from ractogateway.redis.turns import check_message, decode_entry, encode_entry

__all__ = ["AsyncRedisChatMemory"]

_LIMITS = TimeLimits(connected=5.0, connecting=5.0)


class AsyncRedisChatMemory(Core):
    """Conversations in Redis, bounded in whole turns.

    A turn starts at a user message that carries more than tool results; what comes before the first such message is one
    turn. When a conversation has more than ``max_turns`` turns, the oldest leave as a whole, so that a tool result is
    never separated from its call. System and developer messages are pinned: they come first, in their order, and are
    never dropped. One turn larger than any bound is kept.

    An acknowledged message is there once and in order: every write carries an id that the script remembers, so a write
    that is sent again after a lost reply is not applied again.

    An outage raises `StoreUnavailable`; it is never an empty history.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``; None reads ``RACTOGATEWAY_REDIS_URL``, then
            takes ``redis://localhost:6379/0``.
        client: a ``redis.asyncio`` client to use instead, as it is. It is never closed.
        config: bounds and time to live.
        namespace: separates tenants under one prefix: the same id in two namespaces is two conversations.
        options: time limits and the like, with ``url`` only. A call takes at most 5 s.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, before anything is sent.
    """

    def __init__(
        self,
        url: str | None = None,
        client: AsyncClient | None = None,
        config: ChatMemoryConfig | None = None,
        *,
        namespace: str = "",
        options: RedisOptions | None = None,
    ) -> None:
        if config is None:
            config = ChatMemoryConfig()
        elif not isinstance(config, ChatMemoryConfig):
            raise InvalidTypeError(f"config must be a ChatMemoryConfig, not {type(config).__name__}")
        self._config = config
        self._ttl_ms = None if config.ttl_seconds is None else milliseconds(config.ttl_seconds)
        self._namespace = check_text("namespace", namespace)
        self._port = self._open_port(url, client, options, _LIMITS)

    async def append(
        self,
        conversation_id: str,
        role: str,
        content: str | list[dict[str, Any]] | None,
        *,
        request_id: str | None = None,
    ) -> int:
        """Append one message, trim, and start the time to live anew, in one call.

        Args:
            conversation_id: any non-empty string.
            role: system, developer, user, assistant, model, tool or function.
            content: text, a list of content parts, or None.
            request_id: names this write; the same id again (among the last 64 writes of the conversation) writes
                nothing.

        Returns:
            The conversation's revision after this write; for a replay, the one that the write had made.
        """
        message = {"role": check_role(role), "content": content}
        return await self.extend(conversation_id, [message], request_id=request_id)

    async def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Append messages, all or none, in one call; a whole turn belongs in one.

        Args:
            conversation_id: any non-empty string.
            messages: at least one, each in its provider's shape (OpenAI, Anthropic, Gemini) or a `Message`.
            request_id: as in `append`.
            expected_revision: write only if this is still the conversation's revision (0: never written to).

        Returns:
            The new revision.

        Raises:
            RevisionConflict: the conversation has moved on; nothing was written.
            InvalidValueError: it would hold more than 64 system and developer messages; nothing was written.
        """
        keys = self._keys(conversation_id)
        if isinstance(messages, (str, bytes, Mapping, Message)) or not isinstance(messages, Sequence):
            raise InvalidTypeError(f"messages must be a sequence of messages, not {type(messages).__name__}")
        if not messages:
            raise InvalidValueError("messages must not be empty")
        limit = self._config.max_message_bytes
        entries = [encode_entry(check_message(message, max_message_bytes=limit)) for message in messages]
        call = calls.extend_conversation(
            keys,
            entries,
            operation=_operation(request_id),
            max_turns=self._config.max_turns,
            ttl_ms=self._ttl_ms,
            expected_revision=check_revision("expected_revision", expected_revision),
        )
        try:
            reply = await self._port.run(call)
        except StoreRefused as error:
            if error.code != "PINNEDLIMIT":
                raise
            raise InvalidValueError(
                f"a conversation holds at most {calls.MAX_PINNED} system and developer messages: they are never trimmed"
            ) from None
        return self._revision(reply, expected_revision)

    async def get_history(self, conversation_id: str) -> list[dict[str, Any]]:
        """The messages, oldest first, pinned ones before all others, each as it was given.

        A plain message is exactly ``{"role": …, "content": …}``. An unknown conversation is an empty list.
        """
        entries = await self._port.run(calls.read_conversation(self._keys(conversation_id)))
        messages = (decode_entry(entry) for entry in entries)
        return [message for message in messages if message is not None]

    async def count(self, conversation_id: str) -> int:
        """The number of messages kept."""
        return await self._port.run(calls.count_messages(self._keys(conversation_id)))

    async def clear(self, conversation_id: str, *, expected_revision: int | None = None) -> None:
        """Delete the messages.

        The revision advances and is remembered for a day at least, so that a slow replica whose write expects an older
        one cannot bring the conversation back.
        """
        call = calls.clear_conversation(
            self._keys(conversation_id),
            operation=os.urandom(16),
            ttl_ms=self._ttl_ms,
            expected_revision=check_revision("expected_revision", expected_revision),
        )
        self._revision(await self._port.run(call), expected_revision)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(config={self._config!r})"

    def _share_state_of(self, other: AsyncRedisChatMemory) -> None:
        """A memory keeps nothing in the process."""

    def _keys(self, conversation_id: str) -> MemoryKeys:
        return MemoryKeys.of(self._config.key_prefix, self._namespace, check_id("conversation_id", conversation_id))

    @staticmethod
    def _revision(reply: calls.MemoryReply, expected: int | None) -> int:
        if reply.conflict:
            raise RevisionConflict(expected or 0, reply.revision)
        return reply.revision


def _operation(request_id: str | None) -> bytes:
    return os.urandom(16) if request_id is None else operation_id(check_id("request_id", request_id))
