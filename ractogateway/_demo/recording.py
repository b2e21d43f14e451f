"""The three tools with a notebook: each writes down what it was asked and what it said, for the checks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ractogateway._demo.records import Asked, Charge, HistoryRead, Log
from ractogateway.errors import StoreError
from ractogateway.messages import ChatConfig, FinishReason, LLMResponse, Message
from ractogateway.openai_developer_kit import OpenAIDeveloperKit
from ractogateway.redis import AsyncRedisChatMemory, AsyncRedisRateLimiter, RateLimitDecision, RateLimitParent

__all__ = ["RecordingKit", "RecordingLimiter", "RecordingMemory"]


class RecordingKit(OpenAIDeveloperKit):
    """A kit that writes to ``asked``."""

    asked: list[Asked]

    async def achat(self, config: ChatConfig) -> LLMResponse:
        """As the kit's."""
        started = time.monotonic()
        answer = await super().achat(config)
        saved = answer.saved_usage.total_tokens if answer.saved_usage else 0
        complete = answer.finish_reason is FinishReason.STOP
        said = (answer.content, complete, answer.cached, answer.usage.total_tokens, saved)
        self.asked.append(Asked(config, started, time.monotonic(), *said))
        return answer


class RecordingLimiter(AsyncRedisRateLimiter):
    """A limiter that writes to ``log.charges``."""

    log: Log

    async def consume(
        self,
        user_id: str,
        tokens: int = 1,
        *,
        request_id: str | None = None,
        parents: Sequence[str | RateLimitParent] = (),
    ) -> RateLimitDecision:
        """As the limiter's."""
        sent = time.monotonic()
        try:
            decision = await super().consume(user_id, tokens, request_id=request_id, parents=parents)
        except StoreError:
            self.log.charges.append(Charge(user_id, tokens, sent, time.monotonic(), allowed=None))
            raise
        said = (decision.allowed, decision.remaining, decision.retry_after_seconds)
        self.log.charges.append(Charge(user_id, tokens, sent, time.monotonic(), *said))
        return decision


class RecordingMemory(AsyncRedisChatMemory):
    """A memory that writes to ``log.reads`` and ``log.turns``. Each call of ``extend`` is one turn."""

    log: Log

    async def get_history(self, conversation_id: str, *, last: int | None = None) -> list[dict[str, Any]]:
        """As the memory's."""
        turns = len(self.log.turns.get(conversation_id, ()))
        history = await super().get_history(conversation_id, last=last)
        self.log.reads.append(HistoryRead(conversation_id, turns, [dict(message) for message in history]))
        return history

    async def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        user_id: str | None = None,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """As the memory's."""
        try:
            revision = await super().extend(
                conversation_id, messages, user_id=user_id, request_id=request_id, expected_revision=expected_revision
            )
        except StoreError:
            self.log.unclear.add(conversation_id)
            raise
        turn = [message.to_dict() if isinstance(message, Message) else dict(message) for message in messages]
        self.log.turns.setdefault(conversation_id, []).append(turn)
        return revision
