"""Waiting for a budget: first come, first served."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from ractogateway.errors import StoreError, StoreUnavailable
from ractogateway.redis._limiter.charging import decision_of
from ractogateway.redis.config import RateLimitDecision
from ractogateway.redis.limits import Scope
from ractogateway.redis.outage import OutageLog
from ractogateway.redis.scripts import limiter_calls as calls
from ractogateway.redis.scripts.limiter_calls import Operation
from ractogateway.redis.transport import Port

_LONGEST_SLEEP_MS = 2000
"""A waiter asks again at least so often: it keeps its ticket, and learns of budgets that were freed before their time.
One that has died blocks those behind it for no longer than this and the grace of a ticket."""

_LEAST_SLEEP_SECONDS = 0.001
_PATIENCE_SECONDS = 0.25
_LEAVING_SECONDS = 1.0

Degrade = Callable[[StoreUnavailable, int], RateLimitDecision]


class Turn:
    """One wait of one caller.

    Args:
        deadline: on the clock of the port.
        remembered_ms: how long a charge is recognised at least; here that, and as long as it may be asked for again.
    """

    def __init__(self, port: Port, scope: Scope, tokens: int, deadline: float, remembered_ms: int) -> None:
        self._port = port
        self._deadline = deadline
        self._remembered_ms = remembered_ms
        self._operation = Operation((scope,), os.urandom(16), tokens, reserves=False)
        self._queued = False
        self._late = 0

    async def wait(self, outage: OutageLog, degrade: Degrade) -> RateLimitDecision:
        """Until the budget is charged or the deadline has passed; ``degrade`` decides where Redis cannot."""
        try:
            while True:
                began = outage.began()
                try:
                    decision, sleep_seconds = await self._ask()
                except StoreUnavailable as error:
                    self._queued = False  # if it has a ticket, that ends by itself
                    decision = degrade(error, began)
                    sleep_seconds = decision.retry_after_seconds
                else:
                    outage.succeeded()
                left = self._deadline - self._port.now()
                if decision.allowed or left <= 0:
                    return decision
                pause = min(sleep_seconds, _LONGEST_SLEEP_MS / 1000, left)
                await self._port.sleep(max(pause, _LEAST_SLEEP_SECONDS))
        finally:
            if self._queued:
                await self._port.cleanup(self._leave, seconds=_LEAVING_SECONDS)

    async def _ask(self) -> tuple[RateLimitDecision, float]:
        # Waiters of all replicas that came together would also come back together.
        longest_ms = round(_LONGEST_SLEEP_MS * random.uniform(0.75, 1.0))  # noqa: S311 - jitter, not a secret
        left_ms = max(1, round((self._deadline - self._port.now()) * 1000))
        self._queued = True  # also if no answer comes
        reply = await self._port.run(
            calls.wait_turn(
                self._operation.scopes[0],
                identity=self._operation.identity,
                tokens=self._operation.tokens,
                longest_ms=min(longest_ms, left_ms),
                remembered_ms=left_ms + self._remembered_ms,
            )
        )
        if reply.budget.admitted:
            self._queued = False
        # There is room, and somebody before this one has not come for it: it may have died. All would ask every few ms.
        self._late = self._late + 1 if reply.budget.retry_after_ms == 0 else 0
        sleep_seconds = reply.sleep_ms / 1000
        if self._late > 1:
            sleep_seconds = max(sleep_seconds, min(sleep_seconds * 2.0**self._late, _PATIENCE_SECONDS))
        return decision_of([self._operation], [reply.budget]), sleep_seconds

    async def _leave(self) -> None:
        operation = self._operation
        try:
            await self._port.run(
                calls.leave_queue(operation.scopes[0].keys, identity=operation.identity, tokens=operation.tokens)
            )
        except StoreError:
            return  # the ticket ends by itself
