"""The rate limiter for blocking callers."""

from __future__ import annotations

from collections.abc import Sequence

from ractogateway.redis.blocking.face import Face
from ractogateway.redis.blocking.reservation import Reservation
from ractogateway.redis.config import (
    BudgetLeases,
    LimiterOutage,
    RateLimitCharge,
    RateLimitConfig,
    RateLimitDecision,
    RateLimitParent,
    RedisOptions,
)
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
        budget_leases: BudgetLeases | None = None,
        options: RedisOptions | None = None,
    ) -> None:
        super().__init__(
            url,
            client,
            config=config,
            on_outage=on_outage,
            local_share=local_share,
            budget_leases=budget_leases,
            options=options,
        )

    def check_and_consume(self, user_id: str, tokens: int = 1) -> bool:
        """Charge ``tokens`` if the user's limits allow; whether it did."""
        return self._run(self._core.check_and_consume(user_id, tokens))

    def consume(
        self,
        user_id: str,
        tokens: int = 1,
        *,
        request_id: str | None = None,
        parents: Sequence[str | RateLimitParent] = (),
    ) -> RateLimitDecision:
        """Charge ``tokens`` if the limits of the user and of its parents allow, all or nothing."""
        return self._run(self._core.consume(user_id, tokens, request_id=request_id, parents=parents))

    def consume_many(self, charges: Sequence[RateLimitCharge | tuple[str, int]]) -> list[RateLimitDecision]:
        """Several operations in one round trip, each decided on its own, in whatever order they arrive."""
        return self._run(self._core.consume_many(charges))

    def peek(self, user_id: str, tokens: int = 0) -> RateLimitDecision:
        """What `consume` would decide now; charges nothing."""
        return self._run(self._core.peek(user_id, tokens))

    def get_remaining(self, user_id: str) -> int:
        """Tokens that the user could spend now."""
        return self._run(self._core.get_remaining(user_id))

    def reserve(
        self,
        user_id: str,
        tokens: int,
        *,
        request_id: str | None = None,
        parents: Sequence[str | RateLimitParent] = (),
        lease_seconds: float = 600.0,
    ) -> Reservation:
        """Charge an estimate before the work, to be settled to what was used after it.

        ``with limiter.reserve(…) as r`` raises `RateLimitExceeded` if it was refused. ``r = limiter.reserve(…)`` does
        not: look at ``r.decision.allowed``, or ``if not r``, before the work.
        """
        pending = self._core.reserve(
            user_id, tokens, request_id=request_id, parents=parents, lease_seconds=lease_seconds
        )
        return Reservation(self._run(pending.made()))

    def wait(self, user_id: str, tokens: int, *, timeout_seconds: float) -> RateLimitDecision:
        """Charge ``tokens`` as soon as the user's limits allow, first come, first served."""
        return self._run(self._core.wait(user_id, tokens, timeout_seconds=timeout_seconds))

    def reset(self, user_id: str) -> None:
        """Give the user the whole budget back, of every limit."""
        self._run(self._core.reset(user_id))
