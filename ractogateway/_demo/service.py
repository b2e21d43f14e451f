"""What a user of this library would write: a chat service out of a kit, a cache, a rate limiter and a chat memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ractogateway.errors import RateLimitExceeded
from ractogateway.messages import ChatConfig, LLMResponse, Message, MessageRole
from ractogateway.openai_developer_kit import OpenAIDeveloperKit
from ractogateway.redis import AsyncRedisChatMemory, AsyncRedisRateLimiter

__all__ = ["ChatService", "estimated_tokens"]

_CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English: https://help.openai.com/en/articles/4936856"""


class ChatService:
    """Answers users' messages. Any number of these, on any number of machines, share budgets, answers and histories.

    Args:
        kit: asks the model, through its exact cache.
        limiter: every user's budget.
        memory: every conversation.
    """

    def __init__(self, kit: OpenAIDeveloperKit, limiter: AsyncRedisRateLimiter, memory: AsyncRedisChatMemory) -> None:
        self.kit = kit
        self.limiter = limiter
        self.memory = memory

    async def reply(self, user: str, conversation: str, question: str, answer_tokens: int) -> LLMResponse:
        """The answer to ``question``, which joins the conversation together with it.

        Raises:
            RateLimitExceeded: the user's budget is spent; its ``decision`` says when to come back.
        """
        history = await self.memory.get_history(conversation)
        tokens = estimated_tokens(history, question) + answer_tokens
        decision = await self.limiter.consume(user, tokens)
        if not decision.allowed:
            raise RateLimitExceeded(decision, tokens=tokens)
        answer = await self.kit.achat(ChatConfig(user_message=question, history=history))
        turn = [
            Message(role=MessageRole.USER, content=question),
            Message(role=MessageRole.ASSISTANT, content=answer.content),
        ]
        await self.memory.extend(conversation, turn)  # one call, so that the turn is there as a whole or not at all
        return answer


def estimated_tokens(history: Iterable[Mapping[str, Any]], question: str) -> int:
    """About what a prompt costs, before anybody has counted."""
    return (sum(len(message["content"]) for message in history) + len(question)) // _CHARACTERS_PER_TOKEN
