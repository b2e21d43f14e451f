"""What users configure, and what they get back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, field_validator

from ractogateway._checks import MAX_TOKENS, check_key_prefix, check_ttl
from ractogateway._models import InputModel

__all__ = ["ChatMemoryConfig", "RateLimitConfig", "RateLimitDecision", "RedisOptions"]

URL_VARIABLE = "RACTOGATEWAY_REDIS_URL"
DEFAULT_URL = "redis://localhost:6379/0"

CacheOutage = Literal["miss", "raise"]
LimiterOutage = Literal["local", "allow", "deny", "raise"]

_Seconds = Annotated[float, Field(gt=0.0, le=86_400.0, allow_inf_nan=False, strict=True)]
_Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS, strict=True)]
# Plain: pydantic would refuse the lone surrogates that ids and prefixes may hold.
_Prefix = Annotated[str, PlainValidator(check_key_prefix)]


def default_url() -> str:
    """The URL that ``url=None`` stands for."""
    return os.environ.get(URL_VARIABLE) or DEFAULT_URL


class _Config(InputModel):
    model_config = ConfigDict(frozen=True)


class RedisOptions(_Config):
    """How to talk to Redis. Only for ``url=``: a given client keeps its own timeouts, retries and pool.

    Args:
        timeout_seconds: the total for one call, retries included. None means the tool's own: cache 0.1 (0.4 while it
            connects), limiter 1.0, memory 5.0.
        connect_timeout_seconds: for one attempt at a connection, TLS and authentication included.
        stall_seconds: a connection that owes replies and delivers no byte for so long is given up.
        max_in_flight: commands sent and not yet answered on one connection; later ones wait their turn.
        breaker_failures: so many calls of one object failing in a row make it stop trying.
        breaker_seconds: for so long; then one call at a time finds out whether Redis is back.
        credential_provider: a ``redis.CredentialProvider`` in the place of a user and password in the URL, asked for
            each connection. What a streaming one renews is sent to the connections that are open.
    """

    timeout_seconds: _Seconds | None = None
    connect_timeout_seconds: _Seconds = 1.0
    stall_seconds: _Seconds = 2.0
    max_in_flight: Annotated[int, Field(ge=1, strict=True)] = 4096
    breaker_failures: Annotated[int, Field(ge=1, strict=True)] = 10
    breaker_seconds: _Seconds = 1.0
    credential_provider: Annotated[Any, Field(exclude=True, repr=False)] = None


class RateLimitConfig(_Config):
    """A token budget per user.

    Args:
        max_tokens_per_minute: tokens that one user may spend in any window of ``window_seconds``, 1 to 2**53 - 1.
        window_seconds: length of the sliding window, from 1 ms to 31 days.
        key_prefix: what every key of this limiter starts with.
    """

    max_tokens_per_minute: _Tokens = 10_000
    window_seconds: Annotated[float, Field(ge=0.001, le=31 * 86_400.0, allow_inf_nan=False, strict=True)] = 60.0
    key_prefix: _Prefix = "ractogateway:ratelimit"


class ChatMemoryConfig(_Config):
    """Bounds of a conversation.

    Args:
        max_turns: whole turns kept. A turn starts at a user message that carries more than tool results.
        ttl_seconds: how long an untouched conversation lives, to the millisecond; None keeps it for ever.
        key_prefix: what every key of this memory starts with.
        max_message_bytes: the largest message, as stored.
    """

    max_turns: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 10
    ttl_seconds: float | None = None
    key_prefix: _Prefix = "ractogateway:memory"
    max_message_bytes: Annotated[int, Field(ge=64, strict=True)] = 1_048_576

    @field_validator("ttl_seconds", mode="before")
    @classmethod
    def _usable_ttl(cls, value: object) -> float | None:
        return check_ttl("ttl_seconds", value)


@dataclass(frozen=True, slots=True)
class RateLimitDecision:
    """What a limiter decided.

    Attributes:
        allowed: whether the tokens were charged (`peek`: whether they would be).
        limit: the budget of one window.
        remaining: tokens that this user could spend now.
        retry_after_seconds: when the same cost can pass if nobody else spends; 0.0 when it passed, ``math.inf`` when it
            never can because it is larger than the limit.
        reset_after_seconds: when the whole budget is free again if nobody spends.
        violated: the name of the limit that refused, None when allowed.
        degraded: decided without Redis, by ``on_outage``; such decisions stand outside the guarantee.
    """

    allowed: bool
    limit: int
    remaining: int
    retry_after_seconds: float
    reset_after_seconds: float
    violated: str | None = None
    degraded: bool = False

    def __bool__(self) -> bool:
        return self.allowed
