"""Operations on their way through the scripts: charged together, undone together, and what users are told."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

from ractogateway.errors import StoreError
from ractogateway.redis.config import RateLimitDecision
from ractogateway.redis.limits import CONCURRENT, TOKENS_PER_WINDOW, Limit, name_of
from ractogateway.redis.scripts import limiter_calls as calls
from ractogateway.redis.scripts.limiter_calls import BudgetReply, Operation
from ractogateway.redis.transport import Call, Port

WAITING = "queue"
"""How a decision of `wait` names what held it back, if that was only somebody before it."""


class Attempt(NamedTuple):
    """One operation of a user: in a cluster, one for each slot in which its limits are."""

    operations: Sequence[Operation]
    remembered_ms: int
    lease_ms: int = 0


async def charge(port: Port, attempts: Sequence[Attempt], *, undo_seconds: float) -> list[list[BudgetReply]]:
    """Charge each attempt to all its limits, or to none; what each slot answered.

    An attempt that one slot refused is undone in the others, for at most ``undo_seconds``: what cannot be undone then
    stays charged, so no limit is ever exceeded. What a concurrent retry of the same operation has found charged is not
    undone either: that one counts on it.
    """
    # Parts that may have to be undone bear a name: a retry that finds one charged takes it over.
    names = [os.urandom(8) if len(attempt.operations) > 1 else None for attempt in attempts]
    pending = [
        calls.acquire(operation, remembered_ms=attempt.remembered_ms, lease_ms=attempt.lease_ms, attempt=name)
        for attempt, name in zip(attempts, names, strict=True)
        for operation in attempt.operations
    ]
    answers = iter([await port.run(pending[0])] if len(pending) == 1 else await port.run_many(pending))
    replies = [[next(answers) for _ in attempt.operations] for attempt in attempts]
    undone = [
        calls.undo(operation, attempt=name, remembered_ms=attempt.remembered_ms)
        for attempt, name, own in zip(attempts, names, replies, strict=True)
        if name is not None and not all(reply.admitted for reply in own)
        for operation, reply in zip(attempt.operations, own, strict=True)
        if reply.admitted and not reply.repeated
    ]
    if undone:
        await port.cleanup(lambda: _undo(port, undone), seconds=undo_seconds)
    return replies


async def _undo(port: Port, undone: Sequence[Call[bool]]) -> None:
    try:
        await port.run_many(undone)
    except StoreError:
        return  # they stay charged


def decision_of_window(window: Limit, reply: BudgetReply) -> RateLimitDecision:
    """What a user is told who has nothing but the limit of the window."""
    return RateLimitDecision(
        allowed=reply.admitted,
        limit=window.most,
        remaining=reply.remaining[0],
        retry_after_seconds=math.inf if reply.retry_after_ms < 0 else reply.retry_after_ms / 1000,
        reset_after_seconds=reply.reset_after_ms / 1000,
        violated=None if reply.admitted else TOKENS_PER_WINDOW,
    )


def decision_of(operations: Sequence[Operation], replies: Sequence[BudgetReply]) -> RateLimitDecision:
    """What a user is told of an operation that these slots have answered."""
    if len(replies) == 1 and replies[0].admitted:
        (operation,), (reply,) = operations, replies
        return RateLimitDecision(
            allowed=True,
            limit=operation.windows[0][1].most,
            remaining=_tokens_left(operation, reply, undone=False),
            retry_after_seconds=0.0,
            reset_after_seconds=reply.reset_after_ms / 1000,
        )
    waits = [math.inf if reply.retry_after_ms < 0 else reply.retry_after_ms / 1000 for reply in replies]
    allowed = all(reply.admitted for reply in replies)
    latest = max(range(len(replies)), key=lambda slot: (not replies[slot].admitted, waits[slot]))
    return RateLimitDecision(
        allowed=allowed,
        limit=operations[0].windows[0][1].most,
        remaining=min(_tokens_left(*each, undone=not allowed) for each in zip(operations, replies, strict=True)),
        retry_after_seconds=waits[latest],
        reset_after_seconds=max(reply.reset_after_ms for reply in replies) / 1000,
        violated=None if allowed else _name(operations[latest], replies[latest].refused),
    )


def _tokens_left(operation: Operation, reply: BudgetReply, *, undone: bool) -> int:
    given_back = operation.tokens if undone and reply.admitted and not reply.repeated else 0
    rooms = zip(reply.remaining, operation.windows, strict=True)
    return given_back + min([left for left, (_, limit) in rooms if not limit.per_request])


def _name(operation: Operation, refused: int) -> str:
    names = [name_of(scope, limit) for scope in operation.scopes for limit in scope.limits.windows]
    names += [scope.place + CONCURRENT for scope in operation.scopes if scope.limits.slots is not None]
    return names[refused] if refused >= 0 else WAITING
