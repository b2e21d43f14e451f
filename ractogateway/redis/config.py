"""What users configure, and what they get back."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator
from pydantic.json_schema import SkipJsonSchema

from ractogateway._checks import MAX_TOKENS, check_key_prefix, check_ttl, shown_size
from ractogateway._models import InputModel, as_validator

__all__ = [
    "BudgetLeases",
    "ChatMemoryConfig",
    "RateLimitCharge",
    "RateLimitConfig",
    "RateLimitDecision",
    "RateLimitParent",
    "RedisOptions",
]

URL_VARIABLE = "RACTOGATEWAY_REDIS_URL"
DEFAULT_URL = "redis://localhost:6379/0"

CacheOutage = Literal["miss", "raise"]
LimiterOutage = Literal["local", "allow", "deny", "raise"]

_Seconds = Annotated[float, Field(gt=0.0, le=86_400.0, allow_inf_nan=False, strict=True)]
_Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS, strict=True)]
# Plain: pydantic would refuse the lone surrogates that ids and prefixes may hold.
_Prefix = Annotated[str, PlainValidator(as_validator(check_key_prefix), json_schema_input_type=str)]
_Ttl = Annotated[float | None, BeforeValidator(as_validator(partial(check_ttl, "ttl_seconds")))]


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
    """The limits of one user. An operation must fit into all of them, and is charged to all of them or to none.

    Args:
        max_tokens_per_minute: tokens that one user may spend in any window of ``window_seconds``, 1 to 2**53 - 1.
        window_seconds: length of that sliding window, from 1 ms to 31 days.
        max_requests_per_minute: operations in any 60 seconds, whatever ``window_seconds`` is.
        max_tokens_per_day: tokens in any 24 hours.
        max_concurrent: reservations that are open at one time.
        key_prefix: what every key of this limiter starts with.
    """

    max_tokens_per_minute: _Tokens = 10_000
    window_seconds: Annotated[float, Field(ge=0.001, le=31 * 86_400.0, allow_inf_nan=False, strict=True)] = 60.0
    max_requests_per_minute: _Tokens | None = None
    max_tokens_per_day: _Tokens | None = None
    max_concurrent: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = None
    key_prefix: _Prefix = "ractogateway:ratelimit"


class BudgetLeases(_Config):
    """Slices of the budget that one process takes ahead of time and spends without asking, for users it serves often.

    A slice is charged as if all of it were spent at the last moment at which it can be, so the budget holds; what is
    not spent by then is lost to the user for one window. What a decision says to remain is an estimate then.

    Args:
        seconds: how long a slice may be spent, at most 1.
        share: the part of the budget that one slice takes, if so much is left.
    """

    seconds: Annotated[float, Field(ge=0.01, le=1.0, allow_inf_nan=False, strict=True)] = 0.25
    share: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False, strict=True)] = 0.02


class ChatMemoryConfig(_Config):
    """Bounds of a conversation, and what happens to its messages. All replicas should have the same.

    The three functions may be coroutine functions, except in a blocking face. A blocking function that an async core
    calls runs in a worker thread. They get messages in their provider's shape.

    Args:
        max_turns: whole turns kept. A turn starts at a user message that carries no tool result.
        max_tokens: tokens kept, those of system and developer messages included; None for no bound. Whole turns leave
            until the rest fits; one turn that is larger alone is kept, and counted in ``stats``.
        ttl_seconds: how long an untouched conversation lives, to the millisecond; None keeps it for ever.
        key_prefix: what every key of this memory starts with.
        max_message_bytes: the largest message, as JSON in UTF-8.
        count_tokens: the tokens of one message, such as your model counts them; kept beside the message. None takes a
            message for one token in four bytes of its JSON, rounded up.
        redact: called with a copy of each message before it is written; returns the message to write. What it raises
            reaches the caller, and nothing is written.
        on_evict: called with the conversation's id and the messages that were trimmed, in their order: at least once
            each, also if a process dies in between. It is called within the write that trimmed them, so it should be
            quick. If it raises, that is logged and counted, and the next write calls it again.
    """

    max_turns: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 10
    max_tokens: _Tokens | None = None
    ttl_seconds: _Ttl = None
    key_prefix: _Prefix = "ractogateway:memory"
    max_message_bytes: Annotated[int, Field(ge=64, strict=True)] = 1_048_576
    # JSON has no form for functions: they are no part of its schema.
    count_tokens: SkipJsonSchema[Callable[[dict[str, Any]], int | Awaitable[int]] | None] = None
    redact: SkipJsonSchema[Callable[[dict[str, Any]], Mapping[str, Any] | Awaitable[Mapping[str, Any]]] | None] = None
    on_evict: SkipJsonSchema[Callable[[str, list[dict[str, Any]]], object] | None] = None


# In JSON, which has no infinity, "never" is null. Annotations only: the value is the same float in Python.
_Retry = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value is None else value, json_schema_input_type=float | None),
    PlainSerializer(lambda value: None if math.isinf(value) else value, return_type=float | None, when_used="json"),
]


@dataclass(frozen=True, slots=True)
class RateLimitDecision:
    """What a limiter decided.

    Attributes:
        allowed: whether the tokens were charged (`peek`: whether they would be).
        limit: the token budget of one window.
        remaining: tokens that this user could spend now: what is left of the scarcest token budget.
        retry_after_seconds: when the same cost can pass if nobody else spends; 0.0 when it passed, ``math.inf`` (null
            in JSON) when it never can because it is larger than the limit. Of slots: when the next lease ends, if it is
            not renewed.
        reset_after_seconds: when the whole budget is free again if nobody spends; later than true if the newest charge
            was refunded.
        violated: the name of the limit that refused, None when allowed: ``tokens_per_window``, ``requests_per_minute``,
            ``tokens_per_day`` or ``concurrent``; that of a parent as in ``parents[0].tokens_per_window``. If several
            refused, the one that will do so longest. ``queue`` if a `wait` ended and only others were before it.
        degraded: decided without Redis, by ``on_outage``; such decisions stand outside the guarantee.
    """

    allowed: bool
    limit: int
    remaining: int
    retry_after_seconds: _Retry
    reset_after_seconds: float
    violated: str | None = None
    degraded: bool = False

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class RateLimitParent:
    """Somebody above the user whose limits hold, too: an organisation, a model.

    It is the owner ``id`` of a limiter with this ``config``, so such a limiter can look at it and reset it.

    Attributes:
        id: any non-empty string.
        config: its limits, and the prefix of its keys.
    """

    id: str = field(repr=False)
    config: RateLimitConfig


class RateLimitCharge(NamedTuple):
    """One of the operations of `consume_many`, as the arguments of `consume`."""

    user_id: str
    tokens: int = 1
    request_id: str | None = None
    parents: Sequence[str | RateLimitParent] = ()

    def __repr__(self) -> str:
        return f"RateLimitCharge(user_id={shown_size(self.user_id)}, tokens={self.tokens!r})"
