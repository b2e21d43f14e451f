"""Limits per user that all replicas share, exact over every window: the async core."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Self

from ractogateway._checks import check_duration, check_id, check_tokens, milliseconds, type_name
from ractogateway.errors import InvalidTypeError, InvalidValueError, StoreUnavailable
from ractogateway.redis._core import Core
from ractogateway.redis._limiter.charging import Attempt, charge, decision_of, decision_of_window
from ractogateway.redis._limiter.reservations import AsyncReservation, Holding, PendingReservation
from ractogateway.redis._limiter.slices import Slices
from ractogateway.redis._limiter.waiting import Turn
from ractogateway.redis._limiter.without_redis import CONSEQUENCES, WithoutRedis
from ractogateway.redis.config import (
    BudgetLeases,
    LimiterOutage,
    RateLimitCharge,
    RateLimitConfig,
    RateLimitDecision,
    RateLimitParent,
    RedisOptions,
    default_url,
)
from ractogateway.redis.keys import LimiterKeys, operation_id
from ractogateway.redis.limits import Limits, Scope, scopes_of, together
from ractogateway.redis.outage import OutageLog
from ractogateway.redis.scripts import limiter_calls as calls
from ractogateway.redis.scripts.limiter_calls import Operation
from ractogateway.redis.transport import AsyncClient, TimeLimits

__all__ = ["AsyncRedisRateLimiter"]

_LIMITS = TimeLimits(connected=1.0, connecting=1.0)
_MOST_CHARGES = 1_000
_CLIENTS_OWN_SECONDS = 30.0
"""How long a client that was given may send a command again, by its own timeouts and retries, which we do not know."""


class AsyncRedisRateLimiter(Core):
    """Limits per user, exact over every window: tokens, and if configured requests, tokens of a day, open reservations.

    Tokens charged in any window of ``window_seconds``, net of refunds, never exceed the budget, on the server's clock,
    whatever the number of replicas, and however often a lost reply makes a call be sent again: each operation carries
    an id that the scripts remember. It is charged to all its limits or to none. A refusal charges nothing.

    The method is a cumulative log (timestamp, tokens so far) in one string for each limit of a user: the tokens of a
    window are one subtraction, found by binary search, at most 4 KB however large the budget. See
    ``scripts/sliding_window.lua``.

    **Parents** (``parents=``) are owners of limits above the user: each an id, with this limiter's limits, or a
    `RateLimitParent` with its own. Outside a cluster one script charges the user and all parents, all or nothing. In a
    cluster that is so if all their key prefixes bring the same hash tag (``key_prefix="{app}:ratelimit"``), which puts
    all users on one node; otherwise each owner is asked in its own slot, and whoever admitted is refunded if another
    refused: no budget is ever exceeded, but between the two steps somebody else may be refused too early, and a caller
    that dies in between leaves its charge.

    Args:
        url: ``redis://``, ``rediss://``, ``unix://`` or ``embedded://``; None reads ``RACTOGATEWAY_REDIS_URL``, then
            takes ``redis://localhost:6379/0``.
        client: a ``redis.asyncio`` client to use instead, as it is. It is never closed. Charges are recognised for a
            minute if it sends them again.
        config: the limits.
        on_outage: how to decide without Redis: ``"local"``, this process alone enforces ``local_share`` of the limits;
            ``"allow"``; ``"deny"``; ``"raise"``. Such decisions are marked ``degraded`` and stand outside the
            guarantee; they know nothing of ``max_concurrent``.
        local_share: the part of every limit that this process may spend alone, above 0 and at most 1. With n replicas,
            1/n keeps the sum within the limits.
        budget_leases: let this process take slices of the budgets of users it serves often, and spend them without
            asking Redis. Only for a ``config`` that limits nothing but the tokens of the window.
        options: time limits and the like, with ``url`` only. A call takes at most 1 s.

    Raises:
        InvalidTypeError, InvalidValueError: a wrong argument, before anything is sent.
    """

    def __init__(
        self,
        url: str | None = None,
        client: AsyncClient | None = None,
        config: RateLimitConfig | None = None,
        *,
        on_outage: LimiterOutage = "local",
        local_share: float = 1.0,
        budget_leases: BudgetLeases | None = None,
        options: RedisOptions | None = None,
    ) -> None:
        self._config = _checked(config)
        self._limits = Limits.of(self._config)
        self._window = self._limits.windows[0]
        self._only_window = len(self._limits.windows) == 1
        self._without = WithoutRedis(on_outage, local_share)
        self._slices = Slices.of(budget_leases, self._limits)
        self._outage = OutageLog("rate limiter", CONSEQUENCES[on_outage])
        self._port = self._open_port(url, client, options, _LIMITS)
        self._clustered = _is_clustered(url, client)
        total = options.timeout_seconds if options is not None and options.timeout_seconds else _LIMITS.connecting
        self._total_seconds = total
        # Nothing of ours is sent again after the call's total time; twice that covers what is still under way then.
        self._generated_id_ms = milliseconds(2 * (total if client is None else _CLIENTS_OWN_SECONDS))

    async def check_and_consume(self, user_id: str, tokens: int = 1) -> bool:
        """Charge ``tokens`` if the user's limits allow; whether it did."""
        return (await self.consume(user_id, tokens)).allowed

    async def consume(
        self,
        user_id: str,
        tokens: int = 1,
        *,
        request_id: str | None = None,
        parents: Sequence[str | RateLimitParent] = (),
    ) -> RateLimitDecision:
        """Charge ``tokens`` if the limits of the user and of its parents allow, all or nothing.

        A cost above a limit is a refusal (``retry_after_seconds`` is infinite). Two calls with the same ``request_id``
        within max(window, twice the timeout, with ``client=`` a minute) are one charge, and the second is told that it
        passed; without one, only the library's own retries are recognised.

        Args:
            user_id: any non-empty string.
            tokens: 1 to 2**53 - 1.
            request_id: any non-empty string that names this operation of this user.
            parents: whose limits hold, too; see the class.
        """
        if not self._only_window or parents != ():
            (decision,) = await self._consume_many([RateLimitCharge(user_id, tokens, request_id, parents)])
            return decision
        check_id("user_id", user_id)
        cost = check_tokens("tokens", tokens)
        keys = LimiterKeys.of(self._config.key_prefix, user_id)
        if request_id is not None:
            identity, remembered_ms = self._named(request_id, self._window.window_ms)
        elif self._slices is not None:
            return await self._consume_from_slice(self._slices, keys, cost)
        else:
            identity, remembered_ms = os.urandom(16), self._generated_id_ms
        return await self._charge(keys, cost, identity, remembered_ms)

    async def consume_many(self, charges: Sequence[RateLimitCharge | tuple[str, int]]) -> list[RateLimitDecision]:
        """Several operations in one round trip, each decided on its own, in whatever order they arrive.

        Args:
            charges: as the arguments of `consume`; ``(user_id, tokens)`` will do. 1,000 at most. (A ``client=`` that
                was given sends them as it sends commands: a blocking one waits for each reply.) The time limit is that
                of one call: if it passes, all are decided by ``on_outage``, though some may have been charged.
        """
        if isinstance(charges, (str, bytes)) or not isinstance(charges, Sequence):
            raise InvalidTypeError(f"charges must be a sequence of RateLimitCharge, not {type(charges).__name__}")
        if len(charges) > _MOST_CHARGES:
            raise InvalidValueError(f"charges must be at most {_MOST_CHARGES} in one call, not {len(charges)}")
        return await self._consume_many([_as_charge(number, charge) for number, charge in enumerate(charges)])

    async def peek(self, user_id: str, tokens: int = 0) -> RateLimitDecision:
        """What `consume` would decide now; charges nothing and writes nothing. ``tokens`` may be 0."""
        scope = self._scope(user_id)
        cost = check_tokens("tokens", tokens, minimum=0)
        if self._only_window:
            window = self._window
            call = calls.read_budget(scope.keys, limit=window.most, window_ms=window.window_ms, cost=cost)
        else:
            call = calls.read_budgets(scope, cost)
        began = self._outage.began()
        try:
            reply = await self._port.run(call)
        except StoreUnavailable as error:
            return self._degraded(error, began, [scope], cost, charge=False)
        self._outage.succeeded()
        if self._only_window:
            return decision_of_window(self._window, reply)
        return decision_of([Operation([scope], b"", cost, reserves=False)], [reply])

    async def get_remaining(self, user_id: str) -> int:
        """Tokens that the user could spend now: what is left of the scarcest token budget."""
        return (await self.peek(user_id)).remaining

    def reserve(
        self,
        user_id: str,
        tokens: int,
        *,
        request_id: str | None = None,
        parents: Sequence[str | RateLimitParent] = (),
        lease_seconds: float = 600.0,
    ) -> PendingReservation:
        """Charge an estimate before the work, to be settled to what was used after it.

        Enter it, ``async with limiter.reserve(…) as r``, which raises `RateLimitExceeded` if it was refused; or await
        it for an `AsyncReservation`, whatever was decided: ``r = await limiter.reserve(…)`` never raises for a refusal,
        so look at ``r.decision.allowed``, or ``if not r``, before the work. Who leaves the block without settling, also
        by an exception or a cancellation, keeps the charge; the slot of ``max_concurrent`` is freed.

        Args:
            user_id: any non-empty string.
            tokens: the estimate, 1 to 2**53 - 1.
            request_id: names this reservation of this user: two calls with the same one are one reservation. If that
                has lost its slot, the second takes another one or is refused; if it is settled, the second is allowed
                and has none (``slot_lost``).
            parents: whose limits hold, too; see the class.
            lease_seconds: how long a slot of ``max_concurrent`` outlives the last sign of life of this process, which
                sends one every third of that; and how long after `reserve` a refund is possible at least.
        """
        scopes = scopes_of(self._scope(user_id), parents, self._config.key_prefix)
        cost = check_tokens("tokens", tokens)
        lease_ms = milliseconds(check_duration("lease_seconds", lease_seconds, least=0.01))
        longest_ms = max(scope.limits.windows[0].window_ms for scope in scopes)
        identity = os.urandom(16) if request_id is None else operation_id(check_id("request_id", request_id))
        holding = Holding(
            named=request_id is not None,
            port=self._port,
            outage=self._outage,
            patience_seconds=self._total_seconds,
            operations=self._operations(scopes, identity, cost, reserves=True),
            lease_ms=lease_ms,
            remembered_ms=max(longest_ms, lease_ms, self._generated_id_ms),
            raises=self._without.policy == "raise",
        )
        return PendingReservation(lambda: self._reserve(holding, scopes, cost))

    async def wait(self, user_id: str, tokens: int, *, timeout_seconds: float) -> RateLimitDecision:
        """Charge ``tokens`` as soon as the user's limits allow, at most ``timeout_seconds`` from now.

        First come, first served among all who wait for this user, on whatever replica: a small operation does not pass
        a large one. (A plain `consume` may.) Who waits sleeps until about its turn, and shows every two seconds that it
        is alive. A cost that can never pass is refused at once.

        Args:
            user_id: any non-empty string.
            tokens: 1 to 2**53 - 1.
            timeout_seconds: 0 to 31 days. The answer may come later by the time limit of one call.
        """
        scope = self._scope(user_id)
        cost = check_tokens("tokens", tokens)
        timeout = check_duration("timeout_seconds", timeout_seconds, least=0.0)
        if any(limit.cost(cost) > limit.most for limit in self._limits.windows):
            return await self.peek(user_id, cost)
        turn = Turn(self._port, scope, cost, self._port.now() + timeout, self._generated_id_ms)
        return await turn.wait(self._outage, lambda error, began: self._degraded(error, began, [scope], cost))

    async def reset(self, user_id: str) -> None:
        """Give the user the whole budget back, of every limit. An outage raises, whatever ``on_outage`` says.

        Reservations that are open lose their slots, and are not refunded any more. Slices that other processes have
        taken (``budget_leases=``) may still be spent by them, for as long as they are held.
        """
        scope = self._scope(user_id)
        self._without.forget(scope)
        if self._slices is not None:
            self._slices.forget(scope.keys)
        await self._port.run(calls.forget_charges(scope))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(config={self._config!r}, on_outage={self._without.policy!r})"

    def _share_state_of(self, other: Self) -> None:
        self._outage, self._slices = other._outage, other._slices
        self._without.share_state_of(other._without)

    def _scope(self, user_id: str) -> Scope:
        return Scope(LimiterKeys.of(self._config.key_prefix, check_id("user_id", user_id)), self._limits)

    def _named(self, request_id: str, remembered_ms: int) -> tuple[bytes, int]:
        return operation_id(check_id("request_id", request_id)), max(remembered_ms, self._generated_id_ms)

    def _operations(self, scopes: Sequence[Scope], identity: bytes, cost: int, *, reserves: bool) -> list[Operation]:
        groups = together(scopes, clustered=self._clustered)
        return [Operation(group, identity, cost, reserves=reserves) for group in groups]

    async def _charge(self, keys: LimiterKeys, cost: int, identity: bytes, remembered_ms: int) -> RateLimitDecision:
        """The short way: one limit of one user."""
        window = self._window
        call = calls.charge(
            keys,
            identity=identity,
            limit=window.most,
            window_ms=window.window_ms,
            cost=cost,
            remembered_ms=remembered_ms,
        )
        began = self._outage.began()
        try:
            reply = await self._port.run(call)
        except StoreUnavailable as error:
            return self._degraded(error, began, [Scope(keys, self._limits)], cost)
        self._outage.succeeded()
        return decision_of_window(window, reply)

    async def _consume_many(self, charges: Sequence[RateLimitCharge]) -> list[RateLimitDecision]:
        scopes, attempts = [], []
        for each in charges:
            own = scopes_of(self._scope(each.user_id), each.parents, self._config.key_prefix)
            cost = check_tokens("tokens", each.tokens)
            identity, remembered_ms = os.urandom(16), self._generated_id_ms
            if each.request_id is not None:
                longest_ms = max(scope.limits.windows[0].window_ms for scope in own)
                identity, remembered_ms = self._named(each.request_id, longest_ms)
            scopes.append(own)
            attempts.append(Attempt(self._operations(own, identity, cost, reserves=False), remembered_ms))
        if not attempts:
            return []
        began = self._outage.began()
        try:
            replies = await charge(self._port, attempts, undo_seconds=self._total_seconds)
        except StoreUnavailable as error:
            return [self._degraded(error, began, own, each.tokens) for own, each in zip(scopes, charges, strict=True)]
        self._outage.succeeded()
        return [decision_of(attempt.operations, own) for attempt, own in zip(attempts, replies, strict=True)]

    async def _consume_from_slice(self, slices: Slices, keys: LimiterKeys, cost: int) -> RateLimitDecision:
        now = self._port.now()
        remaining = slices.spend(keys, cost, now)
        if remaining is not None:
            return self._spent(remaining, slices.hold_ms)
        generation = slices.may_take(keys, now)
        if generation is None:
            return await self._charge(keys, cost, os.urandom(16), self._generated_id_ms)
        window = self._window
        call = calls.take_slice(
            keys,
            identity=os.urandom(16),
            limit=window.most,
            window_ms=window.window_ms,
            least=cost,
            most=max(cost, slices.tokens),
            hold_ms=slices.hold_ms,
            remembered_ms=self._generated_id_ms,
        )
        granted = remaining = 0
        began = self._outage.began()
        try:
            reply = await self._port.run(call)
            granted, remaining = reply.granted, reply.budget.remaining[0]
        except StoreUnavailable as error:
            return self._degraded(error, began, [Scope(keys, self._limits)], cost)
        finally:
            slices.took(keys, generation, now, max(0, granted - cost), remaining)
        self._outage.succeeded()
        if granted:
            return self._spent(remaining + granted - cost, slices.hold_ms)
        # While it was asked for, another caller of this process may have brought a slice.
        left = slices.spend(keys, cost, self._port.now())
        return decision_of_window(window, reply.budget) if left is None else self._spent(left, slices.hold_ms)

    def _spent(self, remaining: int, hold_ms: int) -> RateLimitDecision:
        return RateLimitDecision(
            allowed=True,
            limit=self._window.most,
            remaining=remaining,
            retry_after_seconds=0.0,
            reset_after_seconds=(hold_ms + self._window.window_ms) / 1000,
        )

    async def _reserve(self, holding: Holding, scopes: Sequence[Scope], cost: int) -> AsyncReservation:
        attempt = Attempt(holding.operations, holding.remembered_ms, holding.lease_ms)
        began = self._outage.began()
        try:
            ((*replies,),) = await charge(self._port, [attempt], undo_seconds=self._total_seconds)
        except StoreUnavailable as error:
            # Nobody will free the slot that a server may give which was only slow. Under a name, its next use will.
            if error.may_have_applied and holding.with_slots and not holding.named:
                self._port.background(holding.abandon())
            return AsyncReservation(self._degraded(error, began, scopes, cost), cost, None)
        except BaseException:  # cancelled: nobody will settle what may have been charged, nor free its slot
            if not holding.named:
                await self._undo(holding)
            raise
        self._outage.succeeded()
        decision = decision_of(holding.operations, replies)
        closed = any(reply.closed for reply in replies)
        return AsyncReservation(decision, cost, holding if decision.allowed else None, closed=closed)

    async def _undo(self, holding: Holding) -> None:
        undone: list[bool] = []

        async def undo() -> None:
            undone.append(await holding.undo())

        await self._port.cleanup(undo, seconds=self._total_seconds)
        if undone != [True]:
            self._port.background(holding.abandon())

    def _degraded(
        self, error: StoreUnavailable, began: int, scopes: Sequence[Scope], cost: int, *, charge: bool = True
    ) -> RateLimitDecision:
        if self._without.policy == "raise":
            raise error
        self._outage.failed(error, began)
        return self._without.decide(scopes, cost, charge=charge)


def _as_charge(number: int, charge: object) -> RateLimitCharge:
    if not isinstance(charge, tuple):
        raise InvalidTypeError(f"charges[{number}] must be a RateLimitCharge, not {type(charge).__name__}")
    if not 1 <= len(charge) <= len(RateLimitCharge._fields):
        raise InvalidValueError(
            f"charges[{number}] must be (user_id, tokens, request_id, parents), or the first of these"
        )
    return RateLimitCharge(*charge)


def _is_clustered(url: str | None, client: object) -> bool:
    """Whether keys of different slots are out of one script's reach."""
    if client is not None:
        return hasattr(client, "keyslot")
    return (url or default_url()).startswith(("redis+cluster:", "rediss+cluster:"))


def _checked(config: RateLimitConfig | None) -> RateLimitConfig:
    if config is None:
        return RateLimitConfig()
    if not isinstance(config, RateLimitConfig):
        raise InvalidTypeError(f"config must be a RateLimitConfig, not {type_name(config)}")
    return config
