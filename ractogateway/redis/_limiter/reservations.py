"""Reservations: an estimate that was charged before the work, to be settled to what was used."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from ractogateway._checks import check_tokens
from ractogateway._refusing import AsyncOnly, OfOneProcess
from ractogateway.errors import InvalidTypeError, InvalidValueError, RateLimitExceeded, StoreError, StoreUnavailable
from ractogateway.redis.config import RateLimitDecision
from ractogateway.redis.outage import OutageLog
from ractogateway.redis.scripts import limiter_calls as calls
from ractogateway.redis.scripts.limiter_calls import Operation
from ractogateway.redis.transport import Heartbeat, Port

__all__ = ["AsyncReservation", "PendingReservation"]

_BEATS_A_LEASE = 3
_ABANDONING_SECONDS = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True, slots=True)
class Holding:
    """What a reservation needs of its limiter.

    Attributes:
        patience_seconds: how long a slot is tried to be freed when a block is left.
        operations: one for each slot of the cluster that holds limits of it.
        remembered_ms: how long its record is kept, open or settled: who was not answered may settle again much later.
        named: the caller chose its identity, so somebody else may hold the same reservation.
        raises: whether an outage raises.
    """

    port: Port
    outage: OutageLog
    patience_seconds: float
    operations: Sequence[Operation]
    lease_ms: int
    remembered_ms: int
    named: bool
    raises: bool

    @property
    def with_slots(self) -> list[Operation]:
        """The operations that hold slots."""
        return [operation for operation in self.operations if operation.slots]

    def heartbeats(self) -> list[Heartbeat]:
        """Begin to renew the slots."""
        interval = self.lease_ms / 1000 / _BEATS_A_LEASE
        return [
            self.port.every(interval, calls.renew(operation, remembered_ms=self.remembered_ms, lease_ms=self.lease_ms))
            for operation in self.with_slots
        ]

    async def close(self, used: int | None, name: bytes) -> bool:
        """Settle all operations to what was used, or cancel them (None); whether this call is the one that counts."""
        pending = [
            calls.cancel(operation, name=name, remembered_ms=self.remembered_ms)
            if used is None
            else calls.settle(operation, actual=used, name=name, remembered_ms=self.remembered_ms)
            for operation in self.operations
        ]
        if len(pending) == 1:
            return await self.port.run(pending[0])
        return any(await self.port.run_many(pending))

    async def undo(self) -> bool:
        """Undo what may have been charged, and what may still arrive at the server; whether that is done."""
        pending = [calls.abandon(operation, remembered_ms=self.remembered_ms) for operation in self.operations]
        try:
            await self.port.run_many(pending)
        except StoreError:
            return False
        return True

    async def abandon(self) -> None:
        """Undo it as soon as the server answers. What fails for half a minute, the end of the lease will do."""
        for pause_seconds in _ABANDONING_SECONDS:
            await self.port.sleep(pause_seconds)
            if await self.undo():
                return


class AsyncReservation(OfOneProcess, AsyncOnly):
    """Tokens that were charged for work to come, and a slot if the limiter counts open reservations.

    The first of `settle` and `cancel` counts, from whatever task and however often it is sent. A block
    (``async with``) that ends without either keeps the charge.

    Entering a refused one raises `RateLimitExceeded`. Whoever does not enter it looks at ``decision.allowed``, which is
    also the truth of the reservation: ``if not reservation``.

    Attributes:
        decision: what the limiter decided. A refused or ``degraded`` reservation has nothing to settle.
        tokens: the estimate.
    """

    def __init__(
        self, decision: RateLimitDecision, tokens: int, holding: Holding | None, *, closed: bool = False
    ) -> None:
        self.decision = decision
        self.tokens = tokens
        self._holding = holding
        self._name = os.urandom(8)  # by which the server knows this holder's settlement when it is sent again
        self._closed = closed  # by another holder, before this one came
        self._heartbeats = holding.heartbeats() if holding is not None and not closed else []

    async def settle(self, actual_tokens: int) -> bool:
        """Replace the estimate by what was used, 0 or more tokens; whether this call was the one that counts.

        Less than the estimate: the rest is given back, as long as the charge is younger than the window (after that the
        window has given it back already). More: the difference is charged now, even beyond the limit. Without Redis,
        False, and it may be tried again, for as long as the lease or the window lasts: it is applied once. With
        ``on_outage="raise"`` it raises.
        """
        return await self._close(check_tokens("actual_tokens", actual_tokens, minimum=0))

    async def cancel(self) -> bool:
        """Give everything back, the request too, as if it had never been; whether this call was the one that counts.

        The ``request_id`` may be used anew.

        Only for work that cost nothing: who is refunded whenever a client hangs up can be used without limit.
        """
        return await self._close(None)

    @property
    def slot_lost(self) -> bool:
        """Whether this open reservation has no slot: it could not be renewed in time and was given to somebody else, or
        it was freed when another holder of the same ``request_id`` settled.
        """
        if self._holding is None:
            return False
        return (self._closed and bool(self._holding.with_slots)) or any(beat.ended for beat in self._heartbeats)

    def __bool__(self) -> bool:
        return self.decision.allowed

    async def __aenter__(self) -> Self:
        if not self.decision.allowed:
            raise RateLimitExceeded(self.decision, tokens=self.tokens)
        return self

    async def __aexit__(self, *_: object) -> None:
        holding = self._holding
        if holding is None:
            return
        if holding.with_slots:
            await holding.port.cleanup(self._release, seconds=holding.patience_seconds)
        self._holding = None

    def __repr__(self) -> str:
        state = "open" if self._holding is not None else "closed"
        return f"<{type(self).__name__} of {self.tokens} tokens, {state}>"

    async def _close(self, used: int | None) -> bool:
        # Taken before the call: of two tasks, one sends.
        holding, self._holding = self._holding, None
        if holding is None:
            return False
        began = holding.outage.began()
        try:
            counted = await holding.close(used, self._name)
        except BaseException as error:
            self._holding = holding  # nothing is known to have been settled: it may be tried again
            if isinstance(error, StoreUnavailable) and not holding.raises:
                holding.outage.failed(error, began)
                return False
            raise
        holding.outage.succeeded()
        self._stop()
        return counted

    async def _release(self) -> None:
        """Free the slot and keep the charge. What fails here, the end of the lease will do."""
        try:
            await self._close(self.tokens)
        except StoreUnavailable:
            pass
        finally:
            self._stop()

    def _stop(self) -> None:
        for heartbeat in self._heartbeats:
            heartbeat.stop()


class PendingReservation(AsyncOnly, Awaitable[AsyncReservation]):
    """A reservation that is made when it is awaited, or entered: ``async with limiter.reserve(…) as reservation``.

    Once: a second time it would be the same operation, which was charged, and perhaps settled.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, AsyncReservation]]) -> None:
        self._make: Callable[[], Coroutine[Any, Any, AsyncReservation]] | None = make
        self._entered: AsyncReservation | None = None

    def made(self) -> Coroutine[Any, Any, AsyncReservation]:
        """Make it.

        Raises:
            InvalidValueError: it was made before.
        """
        make, self._make = self._make, None
        if make is None:
            raise InvalidValueError("a reservation is awaited or entered once; call reserve() again for another one")
        return make()

    def __await__(self) -> Generator[Any, Any, AsyncReservation]:
        return self.made().__await__()

    def __bool__(self) -> NoReturn:
        # Nothing is decided yet, and of an object that was never awaited no warning would tell.
        raise InvalidTypeError("limiter.reserve(...) has to be awaited, or entered by async with, before it is decided")

    async def __aenter__(self) -> AsyncReservation:
        self._entered = await self.made()
        return await self._entered.__aenter__()

    async def __aexit__(self, *error: object) -> None:
        if self._entered is not None:
            await self._entered.__aexit__(*error)
