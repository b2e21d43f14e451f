"""What a rate limiter decides while Redis is away: the policies of ``on_outage``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from ractogateway._checks import check_share
from ractogateway.errors import InvalidValueError
from ractogateway.redis._limiter.local_window import LocalBudget, LocalDecision, LocalSlidingWindow
from ractogateway.redis.config import LimiterOutage, RateLimitDecision
from ractogateway.redis.limits import Limit, Scope, name_of

CONSEQUENCES = {
    "local": "this process enforces its share of the budget alone",
    "allow": "everything is allowed",
    "deny": "everything is denied",
    "raise": "calls raise",
}
_RETRY_SECONDS = 1.0


class WithoutRedis:
    """Decisions of one process alone, all of them marked ``degraded``. They know of windows, not of slots.

    Args:
        policy: ``"local"``, ``"allow"``, ``"deny"`` or ``"raise"``.
        local_share: the part of every limit that ``"local"`` enforces, above 0 and at most 1.
    """

    def __init__(self, policy: LimiterOutage, local_share: float) -> None:
        if policy not in get_args(LimiterOutage):
            raise InvalidValueError("on_outage must be 'local', 'allow', 'deny' or 'raise'")
        self.policy = policy
        self._share = check_share("local_share", local_share)
        self._local = LocalSlidingWindow()

    def decide(self, scopes: Sequence[Scope], tokens: int, *, charge: bool) -> RateLimitDecision:
        """Whether an operation may pass."""
        limits = [(scope, limit) for scope in scopes for limit in scope.limits.windows]
        if self.policy == "local":
            return self._decide_locally(limits, tokens, charge=charge)
        # A cost above the limit can never pass, with or without Redis.
        never = next((name_of(scope, limit) for scope, limit in limits if limit.cost(tokens) > limit.most), None)
        allowed = self.policy == "allow" and never is None
        most = scopes[0].limits.windows[0].most
        return RateLimitDecision(
            allowed=allowed,
            limit=most,
            remaining=most if self.policy == "allow" else 0,
            retry_after_seconds=0.0 if allowed else math.inf if never else _RETRY_SECONDS,
            reset_after_seconds=0.0 if allowed else _RETRY_SECONDS,
            violated=None if allowed else never or name_of(*limits[0]),
            degraded=True,
        )

    def forget(self, scope: Scope) -> None:
        """Give one owner its whole share back."""
        for limit in scope.limits.windows:
            self._local.forget(limit.key_of(scope.keys))

    def share_state_of(self, other: WithoutRedis) -> None:
        """Spend the same share as another limiter of this process."""
        self._local = other._local

    def _decide_locally(self, limits: Sequence[tuple[Scope, Limit]], tokens: int, *, charge: bool) -> RateLimitDecision:
        budgets = [
            LocalBudget(limit.key_of(scope.keys), limit.cost(tokens), self._share_of(limit), limit.window_ms / 1000)
            for scope, limit in limits
        ]
        decisions = self._local.consume_all(budgets, charge=charge)
        latest = max(range(len(limits)), key=lambda index: (not decisions[index].allowed, _wait(decisions[index])))
        allowed = all(decision.allowed for decision in decisions)
        return RateLimitDecision(
            allowed=allowed,
            limit=self._share_of(limits[0][1]),
            remaining=min(
                decision.remaining
                for decision, (_, limit) in zip(decisions, limits, strict=True)
                if not limit.per_request
            ),
            retry_after_seconds=decisions[latest].retry_after_seconds,
            reset_after_seconds=max(decision.reset_after_seconds for decision in decisions),
            violated=None if allowed else name_of(*limits[latest]),
            degraded=True,
        )

    def _share_of(self, limit: Limit) -> int:
        return max(1, math.floor(limit.most * self._share))


def _wait(decision: LocalDecision) -> float:
    return decision.retry_after_seconds
