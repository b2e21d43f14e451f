"""The rate limiter for blocking callers."""

from __future__ import annotations

from ractogateway.redis.blocking.face import Face
from ractogateway.redis.config import LimiterOutage, RateLimitConfig, RateLimitDecision, RedisOptions
from ractogateway.redis.rate_limiter import AsyncRedisRateLimiter
from ractogateway.redis.transport import BlockingClient, open_blocking_port, open_worker_port

__all__ = ["RedisRateLimiter"]


class _DrivenRateLimiter(AsyncRedisRateLimiter):
    _open_port = staticmethod(open_blocking_port)


class _AwaitedRateLimiter(AsyncRedisRateLimiter):
    _open_port = staticmethod(open_worker_port)


class RedisRateLimiter(Face[AsyncRedisRateLimiter]):
    """A sliding-window token budget per user for blocking callers.

    See `AsyncRedisRateLimiter` for the arguments and the meaning of every method; ``client`` is a ``redis.Redis`` here.
    """

    _driven = _DrivenRateLimiter
    _awaited = _AwaitedRateLimiter

    def __init__(
        self,
        url: str | None = None,
        client: BlockingClient | None = None,
        config: RateLimitConfig | None = None,
        *,
        on_outage: LimiterOutage = "local",
        local_share: float = 1.0,
        options: RedisOptions | None = None,
    ) -> None:
        super().__init__(url, client, config=config, on_outage=on_outage, local_share=local_share, options=options)

    def check_and_consume(self, user_id: str, tokens: int = 1) -> bool:
        """Charge ``tokens`` if the user's budget allows; whether it did."""
        return self._run(self._core.check_and_consume(user_id, tokens))

    def consume(self, user_id: str, tokens: int = 1, *, request_id: str | None = None) -> RateLimitDecision:
        """Charge ``tokens`` if the user's budget allows, all or nothing."""
        return self._run(self._core.consume(user_id, tokens, request_id=request_id))

    def peek(self, user_id: str, tokens: int = 0) -> RateLimitDecision:
        """What `consume` would decide now; charges nothing."""
        return self._run(self._core.peek(user_id, tokens))

    def get_remaining(self, user_id: str) -> int:
        """Tokens that the user could spend now."""
        return self._run(self._core.get_remaining(user_id))

    def reset(self, user_id: str) -> None:
        """Give the user the whole budget back."""
        self._run(self._core.reset(user_id))
