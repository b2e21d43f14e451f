"""Every command that the rate limiter sends, as a typed function: keys, arguments with their units, reply parser.

A parser turns what Redis answered into plain values and judges nothing. Replies come as bytes; integers as int.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ractogateway.redis.keys import LimiterKeys
from ractogateway.redis.scripts.loading import load
from ractogateway.redis.scripts.values import nothing
from ractogateway.redis.transport import Call, plain_call, script_call

LOG_ENTRIES = 120
"""Entries of a user's log before neighbours are merged: so the string stays below 4 KB, its allocation included."""


class BudgetReply(NamedTuple):
    """What the limiter's scripts answer. ``retry_after_ms`` is -1 where the cost can never pass."""

    admitted: bool
    remaining: int
    retry_after_ms: int
    reset_after_ms: int


def charge(
    keys: LimiterKeys, *, operation: bytes, limit: int, window_ms: int, cost: int, operation_ttl_ms: int
) -> Call[BudgetReply]:
    """Charge ``cost`` tokens if the budget allows. The operation id makes a second sending harmless."""
    names = (keys.log, keys.operation(operation))
    arguments = (limit, window_ms, cost, operation_ttl_ms, LOG_ENTRIES, b"")
    return script_call(load("consume"), names, arguments, _budget, replay_safe=True)


def read_budget(keys: LimiterKeys, *, limit: int, window_ms: int, cost: int) -> Call[BudgetReply]:
    """What `charge` would answer, without charging."""
    return script_call(load("peek"), (keys.log,), (limit, window_ms, cost, b""), _budget, replay_safe=True)


def forget_charges(keys: LimiterKeys) -> Call[None]:
    """Give a user the whole budget back."""
    return plain_call(b"UNLINK", (keys.log,), (), nothing, replay_safe=True)


def _budget(reply: Any) -> BudgetReply:
    admitted, remaining, retry_after_ms, reset_after_ms = reply
    return BudgetReply(admitted == 1, remaining, retry_after_ms, reset_after_ms)
