"""Ports: the ways in which a core's commands reach Redis, and the rest of the outside world that a core may touch.

A core is one coroutine for every kind of caller. It awaits nothing but its port:

==================  ============================================  ==========================================
port                caller                                        over
==================  ============================================  ==========================================
`AsyncioPort`       ``await`` in a running loop, ``url=``         the links of that loop
`AsyncClientPort`   ``await``, ``client=redis.asyncio.Redis``     exactly that client, in its own loop
`ThreadPort`        blocking, ``url=``                            the private event-loop thread
`ClientPort`        blocking, ``client=redis.Redis``              exactly that client, in the calling thread
`WorkerThreadPort`  ``await`` on ``.aio`` of a blocking client    a `ClientPort`, in a worker thread
==================  ============================================  ==========================================

The awaitables of `ThreadPort` and `ClientPort` never suspend, so `ractogateway._driving.drive` runs the
same coroutine to its end in the calling thread.
"""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from ractogateway.errors import NotSent, OutcomeUnknown, RactoGatewayError, StoreError, StoreTimeout, StoreUnavailable
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.breaker import Breaker
from ractogateway.redis.transport.call import Call, Command
from ractogateway.redis.transport.exchange import UNANSWERED, SentExchange
from ractogateway.redis.transport.heartbeats import Heartbeat
from ractogateway.redis.transport.waking import Signal

T = TypeVar("T")

_FIRST_BACKOFF_SECONDS = 0.01
_LONGEST_BACKOFF_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds for one call, retries included: with a connection at hand, and while one has to be made."""

    connected: float
    connecting: float


class Loop(Protocol):
    """What a core may know of an event loop, besides which one it is."""

    def is_closed(self) -> bool:
        """Whether nothing runs in it ever again."""
        ...


class Port(ABC):
    """What a core may await."""

    @abstractmethod
    def loop(self) -> Loop | None:
        """The event loop in which the caller runs; None for blocking callers, each of whom is alone in its thread."""

    @abstractmethod
    async def run(self, call: Call[T]) -> T:
        """Send one command and read its reply.

        Raises:
            StoreError: as the tree in `ractogateway.errors` says.
        """

    @abstractmethod
    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """Send several commands in one round trip; the parsed replies in order.

        The commands are independent of one another: all are sent, then the first error, if any, is raised.
        """

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Wait."""

    @abstractmethod
    def now(self) -> float:
        """Seconds of a monotonic clock."""

    @abstractmethod
    def every(self, interval_seconds: float, call: Call[bool]) -> Heartbeat:
        """Send ``call`` in the background, first after one interval, then again and again.

        Until the heartbeat is stopped or forgotten (which is noticed when it is collected), or a reply is False. Errors
        are left to the next beat. Awaiting callers' beats run in their loop, which must run; blocking callers' in the
        private thread, or over a given blocking client in one thread of that client's: also while the caller is busy
        with something else.
        """

    @property
    @abstractmethod
    def is_cluster(self) -> bool:
        """Whether keys without a common hash tag live on different servers."""

    @abstractmethod
    async def wait(self, signal: Signal, seconds: float) -> bool:
        """Wait until it happens, for so long at most; whether it has."""

    @abstractmethod
    async def gather(self) -> None:
        """Let whoever is about to call at this moment come first: the other tasks of this turn of the event loop."""

    @abstractmethod
    async def lead(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Begin work on which others than the caller wait, too: it goes on if the caller is cancelled.

        For awaiting callers it is a task of its own; blocking ones do it here and now. What is returned ends it: the
        caller's part is to wait for a signal from it, and to call this when nobody waits any more.
        """

    @abstractmethod
    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin work on which nobody waits, in a task or a thread of its own."""

    @abstractmethod
    async def call_user(self, function: Callable[..., T | Awaitable[T]], *arguments: Any) -> T:
        """Call a function of the user's without stopping anybody else's work: a coroutine function is awaited, a
        blocking one runs where it may block.
        """

    @abstractmethod
    async def cleanup(self, work: Callable[[], Coroutine[Any, Any, None]], *, seconds: float) -> None:
        """Run ``work`` for at most ``seconds`` even if the caller was cancelled: what must be released is released."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of what the port holds. A client that was given stays open."""


class RetryingPort(Port):
    """A port over connections of ours: the total time and the retries of a call are kept here, once for all of them."""

    def __init__(self, limits: TimeLimits, breaker: Breaker) -> None:
        self._limits = limits
        self._breaker = breaker

    @abstractmethod
    def _send(self, commands: Sequence[Command], *, bulky: bool, deadline: float | None = None) -> SentExchange:
        """Hand the commands to a connection. Without a deadline, the call's time begins now."""

    async def run(self, call: Call[T]) -> T:
        probed = self._breaker.admit(call)
        sent = None
        try:
            sent = self._send((call.command,), bulky=call.bulky)
            await sent.ended
            reply = sent.replies[0]
            # Nearly every call has its reply now; the bookkeeping of retries is for the others.
            if reply is UNANSWERED or isinstance(reply, Exception):
                (reply,) = await self._settle(_Batch((call,)), sent)
        except BaseException as error:
            if sent is not None:
                sent.abandon()
            self._breaker.ended_badly(error, call, probed=probed)
            raise
        self._breaker.succeeded(call)
        return call.parse(reply)

    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        if not calls:
            return []
        probed = self._breaker.admit(*calls)
        try:
            batch = _Batch(calls)
            replies = await self._settle(batch, await self._sent(batch))
        except BaseException as error:
            self._breaker.ended_badly(error, *calls, probed=probed)
            raise
        self._breaker.succeeded(*calls)
        return [call.parse(reply) for call, reply in zip(calls, replies, strict=True)]

    async def _sent(self, batch: _Batch, deadline: float | None = None) -> SentExchange:
        """Send what is open, and wait."""
        sent = self._send(batch.open_commands(), bulky=batch.bulky, deadline=deadline)
        try:
            await sent.ended
        except BaseException:
            sent.abandon()
            raise
        return sent

    async def _settle(self, batch: _Batch, exchange: SentExchange) -> list[Any]:
        """Send again what may be sent again, until all is answered or the time is up."""
        deadline, backoff = exchange.deadline, _FIRST_BACKOFF_SECONDS
        while True:
            trouble = batch.take(exchange)
            if not batch.open:
                return batch.results()
            if trouble is not None:  # else only scripts that the server did not know: EVAL follows at once
                pause = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
                if isinstance(trouble, StoreTimeout) or self.now() + pause >= deadline:
                    raise batch.verdict(trouble)
                await self.sleep(pause)
                backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)
            exchange = await self._sent(batch, deadline)


class _Batch:
    """The calls of one `RetryingPort` call that still need an answer."""

    def __init__(self, calls: Sequence[Call[Any]]) -> None:
        self._calls = calls
        self._commands = [call.command for call in calls]
        self._replies: list[Any] = [UNANSWERED] * len(calls)
        self.open: Sequence[int] = range(len(calls))
        self.bulky = any(call.bulky for call in calls)
        self._in_doubt = False

    def open_commands(self) -> list[Command]:
        return [self._commands[index] for index in self.open]

    def take(self, exchange: SentExchange) -> StoreUnavailable | None:
        """Sort the replies; what stays open may be sent again. Returns the reason to pause before that, if any.

        Raises:
            StoreError: when an open call must not be sent again, or it would be futile.
        """
        trouble = None
        still_open = []
        for index, reply in zip(self.open, exchange.replies, strict=True):
            if reply is UNANSWERED or isinstance(reply, StoreError):
                own = reply if isinstance(reply, StoreError) else exchange.failure
                trouble = self._unanswered(self._calls[index], own)
                self._in_doubt = self._in_doubt or trouble.may_have_applied
                still_open.append(index)
            elif not isinstance(reply, Exception):
                self._replies[index] = reply
            elif (code := failures.server_error_code(reply)) == "NOSCRIPT" and self._commands[index][0] == b"EVALSHA":
                self._commands[index] = self._calls[index].as_eval()
                still_open.append(index)
            elif code in failures.RETRY_LATER:
                trouble = cast("StoreUnavailable", failures.server_error(reply))
                still_open.append(index)
            else:
                self._replies[index] = failures.server_error(reply)
        self.open = still_open
        return trouble

    @staticmethod
    def _unanswered(call: Call[Any], shared: RactoGatewayError | None) -> StoreUnavailable:
        if shared is None:
            raise RactoGatewayError("a reply is missing and nobody says why")
        # Everybody who waited on the connection was handed the same object; raised by many, it would collect the
        # tracebacks of all of them.
        failure = copy.copy(shared)
        failure.__cause__ = shared.__cause__
        if not isinstance(failure, StoreUnavailable):
            raise failure
        if failure.may_have_applied and not call.replay_safe:
            raise failure
        return failure

    def verdict(self, trouble: StoreUnavailable) -> StoreUnavailable:
        """The error of a call whose last try failed so. An earlier one may have been executed nevertheless."""
        if self._in_doubt and isinstance(trouble, NotSent):
            unknown = OutcomeUnknown("the connection to Redis was lost in mid-call and could not be made again in time")
            unknown.__cause__ = trouble
            return unknown
        trouble.may_have_applied = trouble.may_have_applied or self._in_doubt
        return trouble

    def results(self) -> list[Any]:
        for reply in self._replies:
            if isinstance(reply, StoreError):
                raise reply
        return self._replies
