"""`get_or_compute`: from a question to an answer, whoever computes it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
from functools import partial
from typing import Final, NamedTuple

from ractogateway._checks import type_name
from ractogateway.cache.policy import is_storable
from ractogateway.errors import InvalidTypeError, StoreError
from ractogateway.messages import LLMResponse
from ractogateway.redis._cache.counts import Counts
from ractogateway.redis._cache.flights import BEAT_SECONDS, LEASE_SECONDS, Flight, Lookups, Question, Reply, is_above
from ractogateway.redis._cache.store import AnswerStore
from ractogateway.redis.outage import OutageLog
from ractogateway.redis.scripts import cache_calls as calls
from ractogateway.redis.scripts.cache_calls import Found, Status
from ractogateway.redis.stamps import TOKEN_BYTES
from ractogateway.redis.transport import Call, Port

logger = logging.getLogger("ractogateway.redis")

_LEASE_MS: Final = round(LEASE_SECONDS * 1000)
_LONG_SECONDS: Final = 3600.0
_DISAPPOINTMENTS: Final = 2
"""So many computations of others are waited for in vain before a call of one's own."""
_COMPLETE: Final = LLMResponse(content="an answer")


class Answered(NamedTuple):
    """An answer; and where the caller has just computed it, the flight that stores it."""

    response: LLMResponse
    storing: Flight | None = None


class Computations:
    """Answers for one core.

    Args:
        early: ``beta`` of the early refresh; None for none.
        max_wait_seconds: how long a caller waits for others' computations.
        raises: whether an outage is the caller's business.
    """

    def __init__(
        self,
        port: Port,
        store: AnswerStore,
        lookups: Lookups,
        counts: Counts,
        outage: OutageLog,
        *,
        early: float | None,
        max_wait_seconds: float,
        raises: bool,
    ) -> None:
        self._port = port
        self._store = store
        self._lookups = lookups
        self._counts = counts
        self._outage = outage
        self._early = early
        self._max_wait_seconds = max_wait_seconds
        self._raises = raises

    async def answer(self, question: Question) -> Answered:
        """The stored answer, or one that is computed now, by this caller or by another one.

        Raises:
            StoreError: only where outages raise.
            Exception: what the caller's own computation raised.
        """
        if not _may_be_shared(question, _COMPLETE):
            response, _ = await self._read(question, 0.0)
            return Answered(response or await self._alone(question))
        early = self._sooner()
        if self._store.near is None:
            return await self._arrange(question, early)
        response, is_down = await self._read_near(question, early or 0.0)
        if response is not None:
            return Answered(response)
        # Whoever has just waited in vain for Redis does not do it again.
        return await self._arrange(question, early, is_down=is_down)

    async def stored(self, flight: Flight) -> None:
        """Until the answer of a computation is stored, or that has failed. Nothing depends on who waits."""
        while not await self._port.wait(flight.done, _LONG_SECONDS):
            pass

    async def _arrange(self, question: Question, early: float | None, *, is_down: bool = False) -> Answered:
        """Ask, wait and compute, until there is an answer."""
        deadline = self._port.now() + self._max_wait_seconds
        in_vain: set[bytes] = set()
        unreadable, pause = 0, 0.0
        while True:
            token = os.urandom(TOKEN_BYTES)
            reply = None if is_down else await self._ask(question, early, token, again=bool(in_vain))
            found, own = (None, False) if reply is None else (reply.found, reply.own)
            is_down = False
            if found is not None and found.status in (Status.HIT, Status.STALE):
                response = await self._taken(question, found, token if own else b"", waited=bool(in_vain))
                if response is not None:
                    return Answered(response)
                unreadable += 1
                if unreadable >= _DISAPPOINTMENTS:  # it cannot be deleted, or comes again
                    return Answered(await self._alone(question))
                continue
            flight, leads = self._flight_for(question, found, token if own else b"")
            if leads and flight is not None:
                return Answered(await self._lead(question, flight), flight)
            # Without Redis, one computation has the name of the next.
            name = token if found is None else found.value
            left = deadline - self._port.now()
            if left <= 0 or len(in_vain - {name}) >= _DISAPPOINTMENTS or not self._may_wait(name, flight):
                if flight is not None:
                    self._lookups.table.leave(flight)
                return Answered(await self._alone(question))
            in_vain.add(name)
            if flight is None:
                pause = await self._await_lease(question, reply, left, pause)
            elif (shared := await self._wait_for(flight, left)) is not None:
                return Answered(shared)

    def _flight_for(self, question: Question, found: Found | None, token: bytes) -> tuple[Flight | None, bool]:
        """The computation in this process that a reply is about, if there is one, and whether it is this caller's own.

        With a token if the reply is that of the caller's own question.
        """
        table = self._lookups.table
        if found is None:
            return table.join_or_begin(question.fingerprint, self._port.loop())
        if found.status is Status.OWN and found.value == token:
            return table.flights[token], True
        return table.join(found.value), False

    def _may_wait(self, name: bytes, flight: Flight | None) -> bool:
        """Whether the computation of this name, here or elsewhere, can end while this caller waits."""
        if flight is None:
            return not is_above(name)
        return flight.may_be_awaited(blocking=self._port.loop() is None)

    # --- the store ---------------------------------------------------------------------------------------------------

    async def _ask(self, question: Question, early: float | None, token: bytes, *, again: bool) -> Reply | None:
        """What Redis says; None where it says nothing."""
        began = self._outage.began()
        ttl_ms, grace_ms = question.life.ttl_ms, question.life.grace_ms
        try:
            reply = await self._lookups.ask(
                question,
                life_ms=None if ttl_ms is None else max(ttl_ms + grace_ms, _LEASE_MS),
                early=early,
                stale=bool(grace_ms),
                token=token,
                again=again,
            )
        except StoreError as error:
            self._failed(error, began)
            return None
        self._outage.succeeded()
        return reply

    async def _taken(self, question: Question, found: Found, token: bytes, *, waited: bool) -> LLMResponse | None:
        """The answer that was found, and its renewal if that was asked for under this token; None, and it is gone,
        where it cannot be read.
        """
        flight = self._lookups.table.flights.get(token) if found.stamp else None
        response = self._store.open_entry(found.value, question.fingerprint)
        if response is None:
            if flight is not None:
                self._lookups.table.end(flight)
            began = self._outage.began()
            try:
                await self._store.forget(question.fingerprint)
            except StoreError as error:
                self._failed(error, began)
            return None
        if flight is not None:
            self._port.background(self._renew(question, flight))
        name = "stale" if found.status is Status.STALE else "coalesced" if waited else "hits"
        self._count(name, response)
        return response

    async def _read(self, question: Question, early: float) -> tuple[LLMResponse | None, bool]:
        """A fresh answer, or None; and whether Redis could not be asked."""
        began = self._outage.began()
        try:
            response = await self._store.read(question.fingerprint, early)
        except StoreError as error:
            self._failed(error, began)
            return None, True
        self._outage.succeeded()
        if response is not None:
            self._count("hits", response)
        return response, False

    async def _read_near(self, question: Question, early: float) -> tuple[LLMResponse | None, bool]:
        near = self._store.near
        response = None if near is None else near.find(question.fingerprint, early)
        if response is None:
            return await self._read(question, early)
        self._count("hits", response)
        return response, False

    async def _await_lease(self, question: Question, reply: Reply | None, seconds: float, pause: float) -> float:
        if reply is None:
            return pause
        began = self._outage.began()
        try:
            return await self._lookups.await_lease(question, reply, seconds, pause)
        except StoreError as error:
            self._failed(error, began)
            return pause

    def _failed(self, error: StoreError, began: int) -> None:
        if self._raises:
            raise error
        self._outage.failed(error, began)
        self._counts.add("errors")

    # --- computing ---------------------------------------------------------------------------------------------------

    async def _lead(self, question: Question, flight: Flight) -> LLMResponse:
        """Compute, for everybody; alive until nobody waits any more. The answer may not be stored yet."""
        self._counts.add("misses")
        try:
            flight.cancel = await self._port.lead(self._fly(question, flight))
            while not await self._port.wait(flight.answered, _LONG_SECONDS):
                pass
        finally:
            self._lookups.table.leave(flight)
        error, flight.error = flight.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback leads here
        if flight.result is None:
            raise RuntimeError("a computation ended without an answer or an error")
        return flight.result

    async def _wait_for(self, flight: Flight, seconds: float) -> LLMResponse | None:
        """The answer of somebody's computation in this process; None where there is none for others."""
        try:
            end = self._port.now() + seconds
            while (left := end - self._port.now()) > 0 and not flight.is_lost:
                if await self._port.wait(flight.done, min(left, LEASE_SECONDS)):
                    break
        finally:
            self._lookups.table.leave(flight)
        response = None if flight.shared is None else flight.shared()
        if response is None:
            return None
        self._count("coalesced", response)
        return response

    async def _alone(self, question: Question) -> LLMResponse:
        """Compute for oneself; the answer is not stored, for it has no lease that says that it may be."""
        self._counts.add("misses")
        return _checked(await self._port.call_user(question.compute))

    async def _renew(self, question: Question, flight: Flight) -> None:
        """Compute while a stored answer serves. Nobody is there to whom anything could be raised."""
        await self._fly(question, flight, renews=True)
        if flight.error is not None:
            # The type alone: its text may quote the question. The stored answer serves on.
            logger.warning("exact cache: an answer could not be refreshed: %s", type(flight.error).__name__)
            flight.error = None

    async def _fly(self, question: Question, flight: Flight, *, renews: bool = False) -> None:
        """One computation, whatever comes of it; nothing is raised but what ends tasks and threads.

        The lease of one that ``renews`` an answer in vain is left to end by itself: for so long nobody tries again.
        Given up, it would go to the next reader, and a provider in trouble would get a call for every hit.
        """
        beat = None
        settled = not flight.claim or renews
        try:
            if flight.claim:
                beat = self._port.every(BEAT_SECONDS, self._sign_of_life(question, flight))
            began = self._port.now()
            with flight.entered():
                flight.result = _checked(await self._port.call_user(question.compute))
            flight.answered.happen()
            settled = await self._keep(question, flight, self._port.now() - began) or settled
        except BaseException as error:
            flight.error = error
            if not isinstance(error, Exception):
                settled = not flight.claim  # it was ended, and has not failed
                raise
        finally:
            if beat is not None:
                beat.stop()
            try:
                if not settled:
                    await self._lookups.release(question, flight.token)
            finally:
                self._lookups.table.end(flight)

    def _sign_of_life(self, question: Question, flight: Flight) -> Call[bool]:
        return calls.renew_lease(
            question.keys, question.fingerprint, claim=flight.claim, lease_ms=_LEASE_MS, tags=question.tags
        )

    async def _keep(self, question: Question, flight: Flight, seconds: float) -> bool:
        """Share and store an answer that deserves it; whether its lease needs no further care."""
        response = flight.result
        if response is None or not _may_be_shared(question, response):
            return False
        began = self._outage.began()
        try:
            envelope = self._store.seal(response, question.fingerprint)
            # What whoever comes a moment later finds in the store. Mostly nobody waits, so each makes its own of it.
            flight.shared = partial(self._store.open, envelope, question.fingerprint)
            if flight.claim:
                compute_ms, claim = math.ceil(seconds * 1000), flight.claim
                await self._store.write(
                    question.fingerprint, envelope, question.life, question.tags, compute_ms=compute_ms, claim=claim
                )
        except StoreError as error:
            # Its lease ends by itself: whoever has just waited in vain for Redis does not do it again.
            self._outage.failed(error, began)
            self._counts.add("errors")
        except Exception as error:  # noqa: BLE001 - it was paid for, so it is returned all the same
            logger.warning("exact cache: an answer could not be stored: %s", type(error).__name__)
            self._counts.add("errors")
            with contextlib.suppress(Exception):  # nor, perhaps, copied
                flight.shared = response.as_stored().as_hit
            return False
        return True

    # --- small things ------------------------------------------------------------------------------------------------

    def _sooner(self) -> float | None:
        """How many times its computing time before its end an answer is renewed: drawn anew each time, so that one of
        many readers comes first (XFetch; Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede
        Prevention", 2015).
        """
        return None if self._early is None else -math.log(1.0 - random.random()) * self._early  # noqa: S311

    def _count(self, name: str, response: LLMResponse) -> None:
        saved = response.saved_usage
        self._counts.add(name, saved.total_tokens if saved is not None else 0)


def _may_be_shared(question: Question, response: LLMResponse) -> bool:
    return is_storable(response, temperature=question.temperature, max_temperature=question.max_temperature)


def _checked(response: object) -> LLMResponse:
    if not isinstance(response, LLMResponse):
        raise InvalidTypeError(f"compute must return an LLMResponse, not {type_name(response)}")
    return response
