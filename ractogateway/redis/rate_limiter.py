"""A sliding-window token budget per user that all replicas share: the async core."""

from __future__ import annotations

import math
import os
from typing import get_args

from ractogateway._checks import check_id, check_share, check_tokens, milliseconds
from ractogateway.errors import InvalidTypeError, InvalidValueError, StoreUnavailable
from ractogateway.redis._core import Core
from ractogateway.redis._local_limiter import LocalSlidingWindow
from ractogateway.redis.config import LimiterOutage, RateLimitConfig, RateLimitDecision, RedisOptions
from ractogateway.redis.keys import LimiterKeys, operation_id
from ractogateway.redis.outage import OutageLog
from ractogateway.redis.scripts import limiter_calls as calls
from ractogateway.redis.scripts.limiter_calls import BudgetReply
from ractogateway.redis.transport import AsyncClient, Call, TimeLimits

__all__ = ["AsyncRedisRateLimiter"]

_LIMITS = TimeLimits(connected=1.0, connecting=1.0)

TOKENS_PER_WINDOW = "tokens_per_window"
"""How a decision names this limit in ``violated``."""

_CONSEQUENCES = {
    "local": "this process enforces its share of the budget alone",
    "allow": "everything is allowed",
    "deny": "everything is denied",
    "raise": "calls raise",
}
_RETRY_IN_OUTAGE_SECONDS = 1.0


class AsyncRedisRateLimiter(Core):
    """A token budget per user, exact over every window.

    Tokens charged in any window of ``window_seconds`` never exceed the budget, on the server's clock, whatever the
    number of replicas, and however often a lost reply makes a call be sent again: each charge carries an id that the
    script remembers. A refusal charges nothing.

    The method is a cumulative log (timestamp, tokens so far) in one string per user: the tokens of a window are one
    subtraction, found by binary search, at most 4 KB a user however large the budget. See ``scripts/consume.lua``.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``; None reads ``RACTOGATEWAY_REDIS_URL``, then
            takes ``redis://localhost:6379/0``.
        client: a ``redis.asyncio`` client to use instead, as it is. It is never closed.
        config: the budget and the window.
        on_outage: how to decide without Redis: ``"local"``, this process alone enforces ``local_share`` of the budget;
            ``"allow"``; ``"deny"``; ``"raise"``. Such decisions are marked ``degraded`` and stand outside the
            guarantee.
        local_share: the part of the budget that this process may spend alone, above 0 and at most 1. With n replicas,
            1/n keeps the sum within the budget.
        options: time limits and the like, with ``url`` only. A call takes at most 1 s.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, before anything is sent.
    """

    def __init__(
        self,
        url: str | None = None,
        client: AsyncClient | None = None,
        config: RateLimitConfig | None = None,
        *,
        on_outage: LimiterOutage = "local",
        local_share: float = 1.0,
        options: RedisOptions | None = None,
    ) -> None:
        self._config = _checked(config)
        if on_outage not in get_args(LimiterOutage):
            raise InvalidValueError("on_outage must be 'local', 'allow', 'deny' or 'raise'")
        self._on_outage = on_outage
        self._window_ms = milliseconds(self._config.window_seconds)
        self._local_limit = max(
            1, math.floor(self._config.max_tokens_per_minute * check_share("local_share", local_share))
        )
        self._local = LocalSlidingWindow()
        self._outage = OutageLog("rate limiter", _CONSEQUENCES[on_outage])
        self._port = self._open_port(url, client, options, _LIMITS)
        total = options.timeout_seconds if options is not None and options.timeout_seconds else _LIMITS.connecting
        # Nothing of ours is sent again after the call's total time; twice that covers what is still under way then.
        self._generated_id_ms = milliseconds(2 * total)

    async def check_and_consume(self, user_id: str, tokens: int = 1) -> bool:
        """Charge ``tokens`` if the user's budget allows; whether it did."""
        return (await self.consume(user_id, tokens)).allowed

    async def consume(self, user_id: str, tokens: int = 1, *, request_id: str | None = None) -> RateLimitDecision:
        """Charge ``tokens`` if the user's budget allows, all or nothing.

        A cost above the limit is a refusal (``retry_after_seconds`` is infinite). Two calls with the same
        ``request_id`` within max(window, twice the timeout) are one charge, and the second gets the first one's
        decision; without one, only the library's own retries are recognised.

        Args:
            user_id: any non-empty string.
            tokens: 1 to 2**53 - 1.
            request_id: any non-empty string that names this operation of this user.
        """
        check_id("user_id", user_id)
        cost = check_tokens("tokens", tokens)
        keys = LimiterKeys.of(self._config.key_prefix, user_id)
        operation, remembered_ms = os.urandom(16), self._generated_id_ms
        if request_id is not None:
            operation = operation_id(check_id("request_id", request_id))
            remembered_ms = max(self._window_ms, self._generated_id_ms)
        call = calls.charge(
            keys,
            operation=operation,
            limit=self._config.max_tokens_per_minute,
            window_ms=self._window_ms,
            cost=cost,
            operation_ttl_ms=remembered_ms,
        )
        return await self._decide(call, keys, cost, charge=True)

    async def peek(self, user_id: str, tokens: int = 0) -> RateLimitDecision:
        """What `consume` would decide now; charges nothing and writes nothing. ``tokens`` may be 0."""
        check_id("user_id", user_id)
        cost = check_tokens("tokens", tokens, minimum=0)
        keys = LimiterKeys.of(self._config.key_prefix, user_id)
        call = calls.read_budget(keys, limit=self._config.max_tokens_per_minute, window_ms=self._window_ms, cost=cost)
        return await self._decide(call, keys, cost, charge=False)

    async def get_remaining(self, user_id: str) -> int:
        """Tokens that the user could spend now."""
        return (await self.peek(user_id)).remaining

    async def reset(self, user_id: str) -> None:
        """Give the user the whole budget back. An outage raises, whatever ``on_outage`` says."""
        check_id("user_id", user_id)
        keys = LimiterKeys.of(self._config.key_prefix, user_id)
        self._local.forget(keys.log)
        await self._port.run(calls.forget_charges(keys))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(config={self._config!r}, on_outage={self._on_outage!r})"

    def _share_state_of(self, other: AsyncRedisRateLimiter) -> None:
        self._local, self._outage = other._local, other._outage

    async def _decide(
        self, call: Call[BudgetReply], keys: LimiterKeys, cost: int, *, charge: bool
    ) -> RateLimitDecision:
        began = self._outage.began()
        try:
            reply = await self._port.run(call)
        except StoreUnavailable as error:
            if self._on_outage == "raise":
                raise
            self._outage.failed(error, began)
            return self._degraded(keys, cost, charge=charge)
        self._outage.succeeded()
        return RateLimitDecision(
            allowed=reply.admitted,
            limit=self._config.max_tokens_per_minute,
            remaining=reply.remaining,
            retry_after_seconds=math.inf if reply.retry_after_ms < 0 else reply.retry_after_ms / 1000,
            reset_after_seconds=reply.reset_after_ms / 1000,
            violated=None if reply.admitted else TOKENS_PER_WINDOW,
        )

    def _degraded(self, keys: LimiterKeys, cost: int, *, charge: bool) -> RateLimitDecision:
        limit = self._config.max_tokens_per_minute
        if self._on_outage == "local":
            local = self._local.consume(keys.log, cost, self._local_limit, self._config.window_seconds, charge=charge)
            return RateLimitDecision(
                allowed=local.allowed,
                limit=self._local_limit,
                remaining=local.remaining,
                retry_after_seconds=local.retry_after_seconds,
                reset_after_seconds=local.reset_after_seconds,
                violated=None if local.allowed else TOKENS_PER_WINDOW,
                degraded=True,
            )
        # A cost above the limit can never pass, with or without Redis.
        allowed = self._on_outage == "allow" and cost <= limit
        never = cost > limit
        return RateLimitDecision(
            allowed=allowed,
            limit=limit,
            remaining=limit if self._on_outage == "allow" else 0,
            retry_after_seconds=0.0 if allowed else math.inf if never else _RETRY_IN_OUTAGE_SECONDS,
            reset_after_seconds=0.0 if allowed else _RETRY_IN_OUTAGE_SECONDS,
            violated=None if allowed else TOKENS_PER_WINDOW,
            degraded=True,
        )


def _checked(config: RateLimitConfig | None) -> RateLimitConfig:
    if config is None:
        return RateLimitConfig()
    if not isinstance(config, RateLimitConfig):
        raise InvalidTypeError(f"config must be a RateLimitConfig, not {type(config).__name__}")
    return config
