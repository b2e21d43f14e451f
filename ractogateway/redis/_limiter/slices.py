"""Slices of budgets that this process has taken ahead of time: what is left of them, and for how long."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from ractogateway._checks import milliseconds, type_name
from ractogateway._forking import renewed_after_fork
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis.config import BudgetLeases
from ractogateway.redis.keys import LimiterKeys
from ractogateway.redis.limits import Limits

_MOST_USERS = 10_000


@dataclass(slots=True)
class _User:
    """What is known of one user; times on the clock of the port."""

    slices: list[tuple[float, int]] = field(default_factory=list)  # (spendable until, tokens left)
    remaining: int = 0  # at the server, when it was last asked
    asked_at: float = 0.0
    taking: bool = False
    generation: int = 0  # tells it from one of the same name that was forgotten


class Slices:
    """Any thread may call; a call holds one lock for microseconds."""

    def __init__(self, seconds: float, tokens: int) -> None:
        self.hold_ms = milliseconds(seconds)
        self.tokens = tokens
        self._users: OrderedDict[bytes, _User] = OrderedDict()
        self._generations = 0
        self._lock = threading.Lock()
        renewed_after_fork(self)

    @classmethod
    def of(cls, leases: BudgetLeases | None, limits: Limits) -> Slices | None:
        """What a limiter was given; None if it takes no slices."""
        if leases is None:
            return None
        if not isinstance(leases, BudgetLeases):
            raise InvalidTypeError(f"budget_leases must be a BudgetLeases, not {type_name(leases)}")
        window, *others = limits.windows
        if others:
            raise InvalidValueError("budget_leases= goes with a limit of the tokens of the window, and no other window")
        return cls(leases.seconds, max(1, int(window.most * leases.share)))

    def spend(self, keys: LimiterKeys, tokens: int, now: float) -> int | None:
        """Spend from a slice at hand; what remains then, here and at the server. None: there is not enough here."""
        with self._lock:
            user = self._users.get(keys.tokens)
            if user is None:
                return None
            user.slices = [each for each in user.slices if each[0] > now]
            for place, (until, left) in enumerate(user.slices):
                if left >= tokens:
                    user.slices[place] = (until, left - tokens)
                    return user.remaining + sum(left for _, left in user.slices)
            return None

    def may_take(self, keys: LimiterKeys, now: float) -> int | None:
        """Whether to ask for a slice: this user was served a moment ago, and nobody is asking.

        Then `took` must follow, with the number that this returns; else None. A user who comes seldom would leave most
        of a slice unspent.
        """
        with self._lock:
            user = self._users.get(keys.tokens)
            if user is None:
                self._generations += 1
                user = self._users[keys.tokens] = _User(generation=self._generations)
                if len(self._users) > _MOST_USERS:
                    self._users.popitem(last=False)
            self._users.move_to_end(keys.tokens)
            often = now - user.asked_at < self.hold_ms / 1000
            user.asked_at = now
            if user.taking or not often:
                return None
            user.taking = True
            return user.generation

    def took(self, keys: LimiterKeys, generation: int, asked_at: float, tokens: int, remaining: int) -> None:
        """A slice was granted (0: none was) that was asked for at that time."""
        with self._lock:
            user = self._users.get(keys.tokens)
            if user is None or user.generation != generation:  # forgotten meanwhile, and with it the slice
                return
            user.taking, user.remaining = False, remaining
            if tokens:
                user.slices.append((asked_at + self.hold_ms / 1000, tokens))

    def forget(self, keys: LimiterKeys) -> None:
        """Spend nothing more of what was taken for this user."""
        with self._lock:
            self._users.pop(keys.tokens, None)

    def renew_after_fork(self) -> None:
        # The parent spends its slices; the child must not spend them again.
        self._lock = threading.Lock()
        self._users = OrderedDict()
