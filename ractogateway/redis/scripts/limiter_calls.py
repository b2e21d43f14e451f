"""Every command that the rate limiter sends, as a typed function: keys, arguments with their units, reply parser.

A parser turns what Redis answered into plain values and judges nothing. Replies come as bytes; integers as int.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ractogateway.redis.keys import LimiterKeys
from ractogateway.redis.limits import Limit, Scope
from ractogateway.redis.scripts.loading import load
from ractogateway.redis.scripts.values import nothing
from ractogateway.redis.transport import Call, plain_call, script_call

LOG_ENTRIES = 120
"""Entries of a user's log before neighbours are merged: so the string stays below 4 KB, its allocation included."""

TICKET_GRACE_MS = 1000
"""How late a waiter may come before its ticket is given up. A crashed one blocks the others for so much longer than
its sleep."""


_REPEATED, _CLOSED = 2, 3  # what acquire.lua replies of an operation that was admitted before


class BudgetReply(NamedTuple):
    """What the limiter's scripts answer. ``retry_after_ms`` is -1 where the cost can never pass.

    ``refused`` is the place, from 0, of the limit that refused among all that were asked: windows first, then slots.
    ``remaining`` goes by windows. ``repeated``: it was admitted before; ``closed``: and is settled by now.
    """

    admitted: bool
    refused: int
    retry_after_ms: int
    reset_after_ms: int
    remaining: tuple[int, ...]
    repeated: bool = False
    closed: bool = False


class WaitReply(NamedTuple):
    """``sleep_ms``: how long to wait before asking again, where the budget was not granted."""

    budget: BudgetReply
    sleep_ms: int


class SliceReply(NamedTuple):
    """``granted`` tokens may be spent; 0 when refused."""

    budget: BudgetReply
    granted: int


class Operation:
    """One operation over the scopes that one script touches.

    Attributes:
        scopes: its limits; the record is kept under the keys of the first.
        identity: 16 bytes.
        tokens: what it costs.
        reserves: it is a reservation: it takes slots, and is apart from a charge of the same identity.
        windows: the limits that are windows, as the script numbers them.
        slots: the sets of leases in which it takes a slot, and how many slots these have.
    """

    __slots__ = ("identity", "reserves", "scopes", "slots", "tokens", "windows")

    def __init__(self, scopes: Sequence[Scope], identity: bytes, tokens: int, *, reserves: bool) -> None:
        self.scopes, self.identity, self.tokens, self.reserves = scopes, identity, tokens, reserves
        self.windows = [(scope.keys, limit) for scope in scopes for limit in scope.limits.windows]
        self.slots = [(scope.keys, most) for scope in scopes if reserves and (most := scope.limits.slots) is not None]

    @property
    def record(self) -> bytes:
        """The key that remembers it."""
        keys = self.scopes[0].keys
        return keys.reservation(self.identity) if self.reserves else keys.operation(self.identity)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys of the scripts that charge and settle it."""
        logs = [limit.key_of(keys) for keys, limit in self.windows]
        return (self.record, *logs, *[keys.leases for keys, _ in self.slots])


def charge(
    keys: LimiterKeys, *, identity: bytes, limit: int, window_ms: int, cost: int, remembered_ms: int
) -> Call[BudgetReply]:
    """Charge ``cost`` tokens if the budget allows. The operation's identity makes a second sending harmless."""
    names = (keys.tokens, keys.operation(identity))
    arguments = (limit, window_ms, cost, remembered_ms, LOG_ENTRIES, b"")
    return script_call(load("limiter/consume"), names, arguments, _one_budget, replay_safe=True)


def acquire(
    operation: Operation, *, remembered_ms: int, lease_ms: int = 0, attempt: bytes | None = None
) -> Call[BudgetReply]:
    """Charge an operation to all its limits and take its slots, or do nothing. ``attempt``, 8 bytes, is for `undo`."""
    limits = _limits(operation.windows, operation.tokens)
    arguments = (remembered_ms, LOG_ENTRIES, b"", operation.identity, lease_ms, len(operation.windows))
    slots = [most for _, most in operation.slots]
    name = () if attempt is None else (attempt,)
    return script_call(
        load("limiter/acquire"), operation.keys, (*arguments, *limits, *slots, *name), _budget, replay_safe=True
    )


def settle(operation: Operation, *, actual: int, name: bytes, remembered_ms: int) -> Call[bool]:
    """Settle an operation to what was used; whether this settlement, of that name, is the one that counts."""
    figures = [
        figure
        for _, limit in operation.windows
        for figure in (limit.window_ms, limit.cost(operation.tokens), limit.cost(actual))
    ]
    return _settlement(operation, b"c%b%d" % (name, actual), figures, remembered_ms)


def cancel(operation: Operation, *, name: bytes, remembered_ms: int) -> Call[bool]:
    """Undo an operation as if it had never been; whether it is this cancellation, of that name, that counts."""
    return _undoing(operation, b"x" + name, remembered_ms)


def undo(operation: Operation, *, attempt: bytes, remembered_ms: int) -> Call[bool]:
    """Cancel what this attempt charged, unless another one of the same identity has found it and counts on it."""
    return _undoing(operation, b"x" + attempt, remembered_ms, attempt)


def abandon(operation: Operation, *, remembered_ms: int) -> Call[bool]:
    """Undo an operation of which no answer came, now or, if it has not arrived yet, then; False: it was settled."""
    return _undoing(operation, b"a", remembered_ms)


def _undoing(operation: Operation, mark: bytes, remembered_ms: int, *attempt: bytes) -> Call[bool]:
    figures = [
        figure for _, limit in operation.windows for figure in (limit.window_ms, limit.cost(operation.tokens), 0)
    ]
    return _settlement(operation, mark, [*figures, *attempt], remembered_ms)


def _settlement(operation: Operation, mark: bytes, figures: Sequence[int | bytes], remembered_ms: int) -> Call[bool]:
    arguments = (remembered_ms, LOG_ENTRIES, b"", operation.identity, mark, len(operation.windows))
    return script_call(load("limiter/settle"), operation.keys, (*arguments, *figures), bool, replay_safe=True)


def renew(operation: Operation, *, remembered_ms: int, lease_ms: int) -> Call[bool]:
    """Keep the slots of an open reservation for another lease; False when they are gone."""
    names = (operation.record, *(keys.leases for keys, _ in operation.slots))
    return script_call(
        load("limiter/renew"), names, (remembered_ms, lease_ms, operation.identity, b""), bool, replay_safe=True
    )


def read_budget(keys: LimiterKeys, *, limit: int, window_ms: int, cost: int) -> Call[BudgetReply]:
    """What `charge` would answer, without charging."""
    return script_call(
        load("limiter/peek", reads_only=True),
        (keys.tokens,),
        (limit, window_ms, cost, b""),
        _one_budget,
        replay_safe=True,
    )


def read_budgets(scope: Scope, tokens: int) -> Call[BudgetReply]:
    """What `acquire` would answer, without charging."""
    windows = [(scope.keys, limit) for limit in scope.limits.windows]
    logs = [limit.key_of(keys) for keys, limit in windows]
    return script_call(
        load("limiter/peek_all", reads_only=True),
        (logs[0], *logs),
        (b"", *_limits(windows, tokens)),
        _budget,
        replay_safe=True,
    )


def take_slice(
    keys: LimiterKeys,
    *,
    identity: bytes,
    limit: int,
    window_ms: int,
    least: int,
    most: int,
    hold_ms: int,
    remembered_ms: int,
) -> Call[SliceReply]:
    """Charge as much as is left, from ``least`` to ``most``, as if it were spent ``hold_ms`` from now."""
    names = (keys.tokens, keys.operation(identity))
    arguments = (limit, window_ms, least, most, hold_ms, remembered_ms, LOG_ENTRIES, b"")
    return script_call(load("limiter/take_slice"), names, arguments, _slice, replay_safe=True)


def wait_turn(scope: Scope, *, identity: bytes, tokens: int, longest_ms: int, remembered_ms: int) -> Call[WaitReply]:
    """Charge if it is this waiter's turn and the budget allows, else keep its place in the queue."""
    operation = Operation((scope,), identity, tokens, reserves=False)
    limits = _limits(operation.windows, tokens)
    counted = [limit.per_request for _, limit in operation.windows]
    by_request = counted.index(True) + 1 if True in counted else 0
    names = (*operation.keys, *scope.keys.queue)
    arguments = (remembered_ms, LOG_ENTRIES, b"", identity, longest_ms, TICKET_GRACE_MS, by_request, len(counted))
    return script_call(load("limiter/wait_turn"), names, (*arguments, *limits), _turn, replay_safe=True)


def leave_queue(keys: LimiterKeys, *, identity: bytes, tokens: int) -> Call[None]:
    """Give a place in the queue up."""
    ticket = identity + b"%d" % tokens
    return script_call(load("limiter/leave_queue"), keys.queue, (ticket,), nothing, replay_safe=True)


def forget_charges(scope: Scope) -> Call[None]:
    """Give a user the whole budget back, of every limit that there can be, and free all slots."""
    keys = scope.keys
    names = (keys.tokens, keys.requests, keys.tokens_of_day, keys.leases)
    return plain_call(b"UNLINK", names, (), nothing, replay_safe=True)


def _limits(windows: Sequence[tuple[LimiterKeys, Limit]], tokens: int) -> list[int]:
    return [figure for _, limit in windows for figure in (limit.most, limit.window_ms, limit.cost(tokens))]


def _one_budget(reply: Any) -> BudgetReply:
    admitted, remaining, retry_after_ms, reset_after_ms = reply
    return BudgetReply(admitted == 1, 0, retry_after_ms, reset_after_ms, (remaining,))


def _budget(reply: Any) -> BudgetReply:
    admitted, refused, retry_after_ms, reset_after_ms, *remaining = reply
    left = tuple(remaining)
    repeated, closed = admitted in (_REPEATED, _CLOSED), admitted == _CLOSED
    return BudgetReply(admitted > 0, refused - 1, retry_after_ms, reset_after_ms, left, repeated, closed)


def _slice(reply: Any) -> SliceReply:
    granted, *budget = reply
    return SliceReply(_one_budget(budget), granted)


def _turn(reply: Any) -> WaitReply:
    sleep_ms, *budget = reply
    return WaitReply(_budget(budget), sleep_ms)
