"""The three tools around a kit in tests, over one server, and what they were told."""

from __future__ import annotations

from typing import Any

from ractogateway import ChatConfig
from ractogateway._driving import drive
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    ChatMemoryConfig,
    RateLimitConfig,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)

LIMIT = 100_000
USER, CONVERSATION = "CANARY-user", "CANARY-conversation"
PATIENT = RedisOptions(timeout_seconds=20.0)
"""On a busy machine a cache's 0.1 s are over soon, and what was to be a hit is none."""
ARGUMENTS = ("exact_cache", "rate_limiter", "memory")

_BLOCKING = dict(zip(ARGUMENTS, (RedisExactCache, RedisRateLimiter, RedisChatMemory), strict=True))
_ASYNC = dict(zip(ARGUMENTS, (AsyncRedisExactCache, AsyncRedisRateLimiter, AsyncRedisChatMemory), strict=True))


class Tools:
    """Makes tools over one server, and looks at what is there by blocking ones of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._limiter = self.make("rate_limiter")
        self._memory = self.make("memory")

    def make(self, argument: str, *, is_async: bool = False, url: str | None = None, **settings: Any) -> Any:
        """One tool, by the name of a kit's argument."""
        if argument == "rate_limiter":
            settings = {"config": RateLimitConfig(max_tokens_per_minute=LIMIT), **settings}
        elif argument == "memory":
            settings = {"config": ChatMemoryConfig(max_turns=50, ttl_seconds=60), **settings}
        else:
            settings = {"ttl_seconds": 60, **settings}
        settings.setdefault("options", PATIENT)
        return (_ASYNC if is_async else _BLOCKING)[argument](url=url or self._url, **settings)

    def all(self, *arguments: str, is_async: bool = False) -> dict[str, Any]:
        """Several tools, or all three, as arguments of a kit."""
        return {argument: self.make(argument, is_async=is_async) for argument in arguments or ARGUMENTS}

    def spent(self, user_id: str = USER) -> int:
        """Tokens that a user is charged now."""
        return LIMIT - self._limiter.get_remaining(user_id)

    def said(self, conversation_id: str = CONVERSATION) -> list[dict[str, Any]]:
        """The messages of a conversation."""
        return self._memory.get_history(conversation_id)

    def revision(self, conversation_id: str = CONVERSATION) -> int:
        return self._memory.get_changes(conversation_id, 0).revision


def question(text: str = "Why is the sky blue?", **fields: Any) -> ChatConfig:
    """A request of one user in one conversation."""
    return ChatConfig(
        **{"user_message": text, "user_id": USER, "conversation_id": CONVERSATION, "max_tokens": 200, **fields}
    )


def estimate(kit: Any, config: ChatConfig) -> int:
    """What the kit takes the prompt of a request for, without anything that a memory adds."""
    return drive(kit._flow._budget.estimator.prompt(kit._blocking, kit._prepare(config)))
