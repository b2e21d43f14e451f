"""A chat service for any number of processes and machines: what they share is in Redis.

It knows nothing of a web framework; `fastapi_app` and `aiohttp_app` put it behind one. A kit that is given all three
tools does most of this in one call; here each step is seen, and a stream is refused before its status line leaves.

Its settings are read from the environment: ``RACTOGATEWAY_REDIS_URL``, ``OPENAI_API_KEY``, ``OPENAI_BASE_URL`` (another
server of OpenAI's protocol), ``CHAT_MODEL``, ``CHAT_TOKENS_PER_MINUTE``.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple, Self

from pydantic import BaseModel, Field

from ractogateway import ChatConfig, LLMResponse, RactoPrompt
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    RactoGatewayError,
    RateLimitExceeded,
    RevisionConflict,
    StoreUnavailable,
)
from ractogateway.openai_developer_kit import OpenAIDeveloperKit
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    AsyncReservation,
    ChatMemoryConfig,
    RateLimitConfig,
)

log = logging.getLogger("chat_service")

ANSWER_TOKENS = 500
BYTES_PER_TOKEN = 4  # a rule of thumb for the estimate; what is charged in the end is what the provider counts


class Question(BaseModel):
    """What a user sends."""

    text: str = Field(min_length=1, max_length=20_000)


class ChatService:
    """Answers users' messages within their budgets, and remembers what was said."""

    def __init__(self, kit: OpenAIDeveloperKit, limiter: AsyncRedisRateLimiter, memory: AsyncRedisChatMemory) -> None:
        self.kit = kit
        self.limiter = limiter
        self.memory = memory

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[Self]:
        """The service as long as the application runs, which opens it in its lifespan."""
        limits = RateLimitConfig(
            max_tokens_per_minute=int(os.environ.get("CHAT_TOKENS_PER_MINUTE", "20000")),
            max_concurrent=4,
        )
        bounds = ChatMemoryConfig(max_turns=20, max_tokens=4_000, ttl_seconds=7 * 86_400.0)
        async with (
            AsyncRedisExactCache(ttl_seconds=3_600) as cache,
            AsyncRedisRateLimiter(config=limits) as limiter,
            AsyncRedisChatMemory(config=bounds) as memory,
            OpenAIDeveloperKit(
                model=os.environ.get("CHAT_MODEL", "gpt-4o"),
                default_prompt=RactoPrompt(role="You are a helpful assistant.", aim="Answer briefly."),
                exact_cache=cache,
            ) as kit,
        ):
            yield cls(kit, limiter, memory)

    async def begin(self, user_id: str, conversation: str, text: str) -> Turn:
        """Read what was said, and reserve what the answer may cost. Whoever begins a turn enters it: ``async with``.

        Raises:
            RateLimitExceeded: the user's budget is spent, before anything was sent to the model.
            StoreUnavailable: the conversation could not be read. It is not taken for an empty one.
        """
        name = conversation_name(user_id, conversation)
        so_far = await self.memory.get_changes(name, 0)
        asked_bytes = len(text.encode()) + sum(len(json.dumps(message)) for message in so_far.messages)
        reservation = await self.limiter.reserve(
            user_id, ANSWER_TOKENS + asked_bytes // BYTES_PER_TOKEN, lease_seconds=60.0
        )
        if not reservation.decision.allowed:
            raise RateLimitExceeded(reservation.decision)
        config = ChatConfig(user_message=text, history=so_far.messages, max_tokens=ANSWER_TOKENS)
        return Turn(self, reservation, user_id, name, so_far.revision, config)

    async def forget(self, user_id: str, conversation: str) -> None:
        """Delete a conversation. An answer to it that is still under way is not written to it any more."""
        await self.memory.clear(conversation_name(user_id, conversation))


class Turn:
    """A question, and the answer to it. Left without one, the user gets the slot back and keeps the charge, unless the
    provider said that it did nothing.
    """

    def __init__(
        self,
        service: ChatService,
        reservation: AsyncReservation,
        user_id: str,
        name: str,
        revision: int,
        config: ChatConfig,
    ) -> None:
        self._service = service
        self._reservation = reservation
        self._user_id = user_id
        self._name = name
        self._revision = revision
        self._config = config

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._give_back(error)
        await self._reservation.__aexit__(kind, error, trace)

    async def answer(self) -> LLMResponse:
        """The whole answer, when it has been charged and remembered."""
        answer = await self._service.kit.achat(self._config)
        await self._keep(answer)
        return answer

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events: pieces as they come, then one that says that it was kept."""
        try:
            async with aclosing(self._service.kit.astream(self._config)) as chunks:
                async for chunk in chunks:
                    if chunk.response is not None:
                        await self._keep(chunk.response)
                        yield event(done=True, cached=chunk.response.cached)
                    elif chunk.delta:
                        yield event(delta=chunk.delta)
        except RactoGatewayError as error:  # the status line has left: only an event can tell
            await self._give_back(error)
            yield event(error=refusal_of(error).detail)

    async def _give_back(self, error: BaseException | None) -> None:
        if isinstance(error, ProviderError) and error.status is not None:  # what it answers so, it does not bill
            await self._reservation.cancel()

    async def _keep(self, answer: LLMResponse) -> None:
        await self._reservation.settle(answer.usage.total_tokens)  # of a cached answer nothing is charged
        said = [
            {"role": "user", "content": self._config.user_message},
            {"role": "assistant", "content": answer.content or ""},
        ]
        # Only after what it was asked with: not beside another turn of this conversation, nor after its deletion.
        await self._service.memory.extend(self._name, said, expected_revision=self._revision, user_id=self._user_id)


class Refusal(NamedTuple):
    """An error as HTTP says it."""

    status: int
    detail: str
    headers: dict[str, str]


def refusal_of(error: RactoGatewayError) -> Refusal:
    """What to answer. Of what is not the user's doing the log tells more: no error of this library quotes a prompt, but
    their texts are not for users.
    """
    seconds: float | None = None
    match error:
        case RateLimitExceeded(decision=decision) if math.isinf(decision.retry_after_seconds):
            status, detail = 413, "The question is larger than the whole budget."
        case RateLimitExceeded(decision=decision):
            status, detail, seconds = 429, "The budget is spent.", decision.retry_after_seconds
        case RevisionConflict():
            status, detail = 409, "The conversation has gone on meanwhile. Please ask again."
        case InvalidValueError() | InvalidTypeError():
            status, detail = 422, "The question cannot be processed."
        case StoreUnavailable():
            status, detail, seconds = 503, "Please try again in a moment.", 1.0
        case ProviderRateLimited(retry_after_seconds=asked):
            status, detail, seconds = 503, "The model is busy.", asked or 1.0
        case ProviderTimeout():
            status, detail = 504, "The model did not answer in time."
        case ProviderError():
            status, detail = 502, "The model did not answer."
        case _:
            status, detail = 500, "Something is wrong on our side."
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s: %s", type(error).__name__, error)
    return Refusal(status, detail, {} if seconds is None else {"Retry-After": f"{math.ceil(seconds)}"})


def conversation_name(user_id: str, conversation: str) -> str:
    """A name that no other user can spell, whatever either of the two holds."""
    return json.dumps([user_id, conversation])


def event(**fields: object) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(fields)}\n\n".encode()
