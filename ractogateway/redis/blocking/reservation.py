"""Reservations for blocking callers."""

from __future__ import annotations

from typing import Self

from ractogateway._refusing import OfOneProcess
from ractogateway.redis._limiter.reservations import AsyncReservation
from ractogateway.redis.blocking.face import run_blocking
from ractogateway.redis.config import RateLimitDecision

__all__ = ["Reservation"]


class Reservation(OfOneProcess):
    """Tokens that were charged for work to come: `AsyncReservation` for blocking callers.

    The first of `settle` and `cancel` counts. A block (``with``) that ends without either keeps the charge. Entering a
    refused one raises `RateLimitExceeded`. Whoever does not enter it looks at ``decision.allowed``, which is also the
    truth of the reservation: ``if not reservation``.
    """

    def __init__(self, core: AsyncReservation) -> None:
        self._core = core

    @property
    def decision(self) -> RateLimitDecision:
        """What the limiter decided."""
        return self._core.decision

    @property
    def tokens(self) -> int:
        """The estimate."""
        return self._core.tokens

    @property
    def slot_lost(self) -> bool:
        """Whether this reservation's slot was given to somebody else."""
        return self._core.slot_lost

    def settle(self, actual_tokens: int) -> bool:
        """Replace the estimate by what was used; whether this call was the one that counts."""
        return run_blocking(self._core.settle(actual_tokens))

    def cancel(self) -> bool:
        """Give everything back, as if it had never been; whether this call was the one that counts."""
        return run_blocking(self._core.cancel())

    def __bool__(self) -> bool:
        return bool(self._core)

    def __enter__(self) -> Self:
        run_blocking(self._core.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        run_blocking(self._core.__aexit__(*error))

    def __repr__(self) -> str:
        return repr(self._core).replace(type(self._core).__name__, type(self).__name__, 1)
