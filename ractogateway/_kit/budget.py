"""How a kit keeps to whatever it was given as ``rate_limiter=``: an estimate is reserved before, and settled after.

Whatever the end of a call is, its reservation has one: settled to what the provider billed (see `Meter`), or cancelled
where that is nothing. That runs shielded, also for callers who were cancelled or left a stream in the middle.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from ractogateway._checks import MAX_TOKENS
from ractogateway._kit.asking import Asking
from ractogateway._kit.estimating import Estimator, completion_limit
from ractogateway._kit.given import Given
from ractogateway._kit.notes import Notes
from ractogateway._kit.preparing import Request
from ractogateway.errors import InvalidValueError, RateLimitExceeded
from ractogateway.messages import ChatConfig

if TYPE_CHECKING:
    from ractogateway.redis.config import RateLimitDecision

__all__ = ["AsyncRateLimiter", "Budget", "RateLimiter"]

_log = logging.getLogger("ractogateway.kit")

_SETTLE_SECONDS = 5.0
"""How long settling may hold up a caller that was cancelled; a limiter's own time limit is a second."""


class _Reservation(Protocol):
    @property
    def decision(self) -> RateLimitDecision: ...
    def settle(self, actual_tokens: int) -> bool: ...
    def cancel(self) -> bool: ...


class _AsyncReservation(Protocol):
    @property
    def decision(self) -> RateLimitDecision: ...
    def settle(self, actual_tokens: int) -> Awaitable[bool]: ...
    def cancel(self) -> Awaitable[bool]: ...


class RateLimiter(Protocol):
    """As much of a blocking limiter as a kit needs; `RedisRateLimiter` is one."""

    def consume(self, user_id: str, tokens: int = 1) -> RateLimitDecision:
        """Charge at once. A kit does not call it: it tells a blocking limiter from an async one."""
        ...

    def reserve(self, user_id: str, tokens: int) -> _Reservation:
        """Charge an estimate, to be settled."""
        ...


class AsyncRateLimiter(Protocol):
    """The same of an async core; `AsyncRedisRateLimiter` is one."""

    async def consume(self, user_id: str, tokens: int = 1) -> RateLimitDecision:
        """As above."""
        ...

    def reserve(self, user_id: str, tokens: int) -> Awaitable[_AsyncReservation]:
        """Charge an estimate, to be settled."""
        ...


class Budget:
    """The rate limiter of one kit; without one everything is free."""

    def __init__(self, rate_limiter: RateLimiter | AsyncRateLimiter | None, estimator: Estimator) -> None:
        needed = ("reserve", "consume")
        like = "RedisRateLimiter and AsyncRedisRateLimiter"
        self.given = None if rate_limiter is None else Given("rate_limiter", rate_limiter, needed, like=like)
        self.estimator = estimator

    def check(self, config: ChatConfig) -> None:
        """Refuse a request that nobody pays for."""
        if self.given is not None and config.user_id is None:
            raise InvalidValueError("ChatConfig.user_id is needed: the kit has a rate_limiter, and somebody has to pay")

    def charge(self, asking: Asking, request: Request, notes: Notes, *, has_answer: bool = True) -> Charge:
        """The reservation of one call, to be entered. ``has_answer``: whether part of it is for an answer."""
        return Charge(self, asking, request, notes, has_answer=has_answer)


class Charge:
    """A call's reservation: made when it is entered, ended when it is left."""

    def __init__(self, budget: Budget, asking: Asking, request: Request, notes: Notes, *, has_answer: bool) -> None:
        self._has_answer = has_answer
        self._budget = budget
        self._asking = asking
        self._request = request
        self._notes = notes
        self._reservation: Any = None

    async def __aenter__(self) -> Self:
        """Reserve.

        Raises:
            RateLimitExceeded: The user's limits do not allow it. The provider was not asked.
        """
        given, side, request = self._budget.given, self._asking.side, self._request
        if given is None:
            return self
        prompt = await self._budget.estimator.prompt(side, request)
        answer = completion_limit(request.config)
        tokens = min(prompt + answer, MAX_TOKENS)
        reservation = await side.acquire(given, "reserve", request.config.user_id, tokens, undo="cancel")
        # Summed: each round of tools is a reservation of its own.
        self._notes.reserved_tokens = (self._notes.reserved_tokens or 0) + tokens
        self._notes.decision = reservation.decision
        if not reservation.decision.allowed:
            refusal = RateLimitExceeded(reservation.decision, tokens=tokens)
            if self._has_answer:
                whence = "ChatConfig.max_tokens, or what extra says"
                refusal.add_note(f"{answer:,} of the tokens are for the answer: {whence}")
            raise refusal
        self._reservation = reservation
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reservation is None:
            return
        if error is None:  # meanwhile the cache stores the answer
            self._notes.ending.append(await self._asking.side.begin(self._end))
        else:
            await self._asking.side.cleanup(self._end, seconds=_SETTLE_SECONDS)

    async def _end(self) -> None:
        given, side = self._budget.given, self._asking.side
        assert given is not None  # noqa: S101 - or there was nothing to reserve
        try:
            used = await self._asking.meter.tokens(side, self._budget.estimator)
            counted = (
                await side.call(given, "settle", min(used, MAX_TOKENS), of=self._reservation)
                if used
                else await side.call(given, "cancel", of=self._reservation)
            )
        except Exception as failure:  # noqa: BLE001 - an answer that was paid for reaches its caller
            _log.warning("a reservation could not be settled: %s; its estimate stands", type(failure).__name__)
        else:
            if counted:
                self._notes.settled_tokens = (self._notes.settled_tokens or 0) + used
