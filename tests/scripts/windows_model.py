"""What the scripts over several limits must decide: every charge kept by itself, none merged, refunds on their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from limiter_model import AHEAD_MS


class Answer(NamedTuple):
    """The reply of `acquire.lua` and `peek_all.lua`."""

    admitted: int
    refused: int
    retry_after_ms: int
    reset_after_ms: int
    remaining: tuple[int, ...]


@dataclass
class Charge:
    stamp: int
    tokens: int
    epoch: int


@dataclass
class ExactWindow:
    """The charges of one limit."""

    limit: int
    window_ms: int
    charges: list[Charge] = field(default_factory=list)
    epoch: int = 0

    def look(self, now_us: int, cost: int) -> tuple[int, int, int]:
        """Room, ms until the cost fits (-1 never), ms until nothing is left."""
        now = now_us // 1000
        live = sorted((stamp, charge.tokens) for charge, stamp in self._read(now_us) if stamp > now - self.window_ms)
        room = self.limit - sum(tokens for _, tokens in live)
        # The newest stamp stays if its tokens are refunded, while there are others.
        reset = live[-1][0] + self.window_ms - now if room < self.limit else 0
        if cost > self.limit:
            return room, -1, reset
        missing, retry = cost - room, 0
        for stamp, tokens in live:
            if missing > 0:
                missing -= tokens
                retry = stamp + self.window_ms - now
        return room, retry, reset

    def charge(self, now_us: int, tokens: int) -> Charge:
        self.restamp(now_us)
        last = max((charge.stamp for charge in self.charges), default=0)
        self.charges.append(Charge(max(_up(now_us), last), tokens, self.epoch))
        return self.charges[-1]

    def refund(self, now_us: int, charge: Charge, tokens: int) -> int:
        """What could be given back."""
        if charge.epoch != self.epoch or charge.stamp <= now_us // 1000 - self.window_ms:
            return 0
        charge.tokens -= tokens
        return tokens

    def restamp(self, now_us: int) -> None:
        if self._is_ahead(now_us):
            self.epoch += 1
            for charge in self.charges:
                charge.stamp, charge.epoch = min(charge.stamp, _up(now_us)), -1

    def forget(self) -> None:
        self.charges, self.epoch = [], self.epoch + 1

    def _read(self, now_us: int) -> list[tuple[Charge, int]]:
        ceiling = _up(now_us) if self._is_ahead(now_us) else 2**60
        return [(charge, min(charge.stamp, ceiling)) for charge in self.charges]

    def _is_ahead(self, now_us: int) -> bool:
        return any(charge.stamp > _up(now_us) + AHEAD_MS for charge in self.charges)


@dataclass
class Open:
    """An operation that was admitted: its charges by limit, what they were when made, whether it is settled."""

    charges: list[Charge]
    costs: list[int]
    closed: bool = False
    cancelled: bool = False


class ExactLimits:
    """Several windows, and slots."""

    def __init__(self, budgets: Sequence[tuple[int, int]], slots: int | None) -> None:
        self.windows = [ExactWindow(limit, window_ms) for limit, window_ms in budgets]
        self.slots = slots
        self.leases: dict[object, int] = {}
        self.operations: dict[object, Open] = {}

    def peek(self, now_us: int, costs: Sequence[int]) -> Answer:
        return self._look(now_us, costs, slots=None)

    def acquire(self, now_us: int, costs: Sequence[int], operation: object, lease_ms: int) -> Answer:
        answer = self._look(now_us, costs, self.slots)
        if operation in self.operations and not self.operations[operation].cancelled:
            return self._repeat(now_us, operation, lease_ms, answer)
        if not answer.admitted:
            for window in self.windows:
                window.restamp(now_us)
            return answer
        charges = [window.charge(now_us, cost) for window, cost in zip(self.windows, costs, strict=True)]
        self.operations[operation] = Open(charges, list(costs))
        self._take_slot(now_us, operation, lease_ms)
        after = self._look(now_us, costs, slots=None)
        reset = max(
            charge.stamp + window.window_ms - now_us // 1000
            for charge, window in zip(charges, self.windows, strict=True)
        )
        return Answer(1, 0, 0, max(reset, answer.reset_after_ms), after.remaining)

    def _repeat(self, now_us: int, operation: object, lease_ms: int, answer: Answer) -> Answer:
        if self.operations[operation].closed:
            return Answer(3, 0, 0, answer.reset_after_ms, answer.remaining)
        slots = None if operation in self.leases else self.slots
        wait = self._slot_wait(now_us, slots)
        if wait:
            return Answer(0, len(self.windows) + 1, wait, answer.reset_after_ms, answer.remaining)
        self._take_slot(now_us, operation, lease_ms)
        return Answer(2, 0, 0, answer.reset_after_ms, answer.remaining)

    def _take_slot(self, now_us: int, operation: object, lease_ms: int) -> None:
        if self.slots is None:
            return
        if operation not in self.leases and len(self.leases) >= self.slots:
            self.leases = {name: end for name, end in self.leases.items() if end > now_us // 1000}
        self.leases[operation] = max(self.leases.get(operation, 0), now_us // 1000 + lease_ms)

    def _slot_wait(self, now_us: int, slots: int | None) -> int:
        live = sorted(end for end in self.leases.values() if end > now_us // 1000)
        return live[len(live) - slots] - now_us // 1000 if slots is not None and len(live) >= slots else 0

    def settle(
        self, now_us: int, actual: Sequence[int], operation: object, *, cancelled: bool = False
    ) -> tuple[bool, list[int], list[int]]:
        """Whether it was open, what was given back and what was charged beyond, by limit."""
        known = self.operations[operation]
        refunds, overruns = [0] * len(actual), [0] * len(actual)
        if known.closed:
            return False, refunds, overruns
        known.closed, known.cancelled = True, cancelled
        self.leases.pop(operation, None)
        for place, (window, used) in enumerate(zip(self.windows, actual, strict=True)):
            if used < known.costs[place]:
                refunds[place] = window.refund(now_us, known.charges[place], known.costs[place] - used)
            elif used > known.costs[place]:
                overruns[place] = used - known.costs[place]
                window.charge(now_us, overruns[place])
        return True, refunds, overruns

    def renew(self, now_us: int, operation: object, lease_ms: int) -> bool:
        if operation not in self.leases:
            return False
        self.leases[operation] = now_us // 1000 + lease_ms
        return True

    def reset(self) -> None:
        for window in self.windows:
            window.forget()
        self.leases.clear()

    def _look(self, now_us: int, costs: Sequence[int], slots: int | None) -> Answer:
        looks = [window.look(now_us, cost) for window, cost in zip(self.windows, costs, strict=True)]
        retries = [retry for _, retry, _ in looks]
        if slots is not None:
            retries.append(self._slot_wait(now_us, slots))
        latest = -1 if -1 in retries else max(retries)
        return Answer(
            int(latest == 0),
            0 if latest == 0 else retries.index(latest) + 1,
            latest,
            max(reset for _, _, reset in looks),
            tuple(max(0, room) for room, _, _ in looks),
        )


def _up(now_us: int) -> int:
    return -(-now_us // 1000)
