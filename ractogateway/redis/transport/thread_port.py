"""The port of blocking callers without a client of their own.

Where no private thread can be had, a plain redis-py client stands in for it: late in the exit of the interpreter, and
in processes whose threads are greenlets (gevent, eventlet), where its sockets let the other greenlets run. It does so,
too, for a call inside a call: of a signal handler, or of a finalizer that the garbage collector runs there. The thread
may hold a lock that the inner call, or the private thread for it, would wait for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Coroutine, Generator, Sequence
from typing import Any, TypeVar

import redis
import redis.cluster
from redis.backoff import NoBackoff
from redis.retry import Retry

from ractogateway._forking import renewed_after_fork
from ractogateway.errors import InvalidValueError, NotSent, RactoGatewayError, StoreTimeout
from ractogateway.redis.transport.asyncio_port import AsyncioPort
from ractogateway.redis.transport.blocking_port import BlockingPort
from ractogateway.redis.transport.breaker import Breaker
from ractogateway.redis.transport.call import Call, Command
from ractogateway.redis.transport.client_port import ClientPort
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import UNANSWERED, Exchange, SentExchange
from ractogateway.redis.transport.heartbeats import Heartbeat, LoopPacemaker
from ractogateway.redis.transport.link import Link
from ractogateway.redis.transport.links import close_endpoint
from ractogateway.redis.transport.loop_thread import Lane, LoopThread, NoThread, threads_are_patched
from ractogateway.redis.transport.port import RetryingPort, TimeLimits
from ractogateway.redis.transport.sentinel import SentinelAddress
from ractogateway.redis.transport.types import BlockingClient

T = TypeVar("T")


class _Callers:
    """The threads that are in the middle of a call."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        renewed_after_fork(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the others do not exist."""
        self.threads.intersection_update({threading.get_ident()})


_callers = _Callers()


class ThreadPort(BlockingPort, RetryingPort):
    """The core's coroutine runs in the calling thread, its commands on the private event-loop thread."""

    def __init__(self, endpoint: Endpoint, limits: TimeLimits, breaker: Breaker) -> None:
        super().__init__(limits, breaker)
        self._endpoint = endpoint
        self._lanes: list[Lane | None] = [None, None]
        self._closed = False
        endpoint.users.add(self)
        self._spare: tuple[ClientPort, BlockingClient] | None = None

    @property
    def is_cluster(self) -> bool:
        return self._endpoint.address.is_cluster

    # Not coroutine functions: one more coroutine around each call would cost as much as all else that is done here.

    def run(self, call: Call[T]) -> Coroutine[Any, Any, T]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().run(call) if self._thread_serves() else self._spare_port().run(call)

    def run_many(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, calls: Sequence[Call[Any]]
    ) -> Coroutine[Any, Any, list[Any]]:
        return super().run_many(calls) if self._thread_serves() else self._spare_port().run_many(calls)

    def every(self, interval_seconds: float, call: Call[bool]) -> Heartbeat:
        try:
            loop = LoopThread.get().loop
        except NoThread:
            return self._spare_port().every(interval_seconds, call)
        port = _OnTheLoop(self._endpoint, self._limits, self._breaker)
        return LoopPacemaker.of(loop).start(interval_seconds, lambda: port.run(call))

    def _lane(self, *, bulky: bool) -> Lane:
        """The way to where commands go now."""
        if self._closed:
            self._closed = False
            self._endpoint.users.add(self)
        lane = self._lanes[bulky]
        if lane is None or lane.thread is not LoopThread.current or not lane.thread.alive:
            try:
                lane = self._lanes[bulky] = Lane(LoopThread.get(), self._endpoint, bulky)
            except NoThread:  # it ended in the middle of this call
                raise NotSent("the process is exiting") from None
        return lane

    @staticmethod
    def _thread_serves() -> bool:
        """Whether there is a private thread for this caller."""
        thread, own = LoopThread.current, threading.get_ident()
        if own in _callers.threads or (thread is not None and thread.ident == own):
            return False
        if thread is None or not thread.alive:
            try:
                LoopThread.get()
            except NoThread:
                return False
        return True

    async def aclose(self) -> None:
        self._closed = True
        self._endpoint.users.discard(self)
        spare, self._spare = self._spare, None
        if spare is not None:
            spare[1].close()
        thread = LoopThread.current
        if not self._endpoint.users and thread is not None:
            thread.wait_for(close_endpoint(self._endpoint))

    def _send(self, commands: Sequence[Command], *, bulky: bool, deadline: float | None = None) -> SentExchange:
        """Send and wait: time passes here, in the calling thread, and whoever awaits the result does not wait."""
        own = threading.get_ident()
        try:
            _callers.threads.add(own)
            return self._send_and_wait(commands, bulky=bulky, deadline=deadline)
        finally:
            _callers.threads.discard(own)

    def _send_and_wait(self, commands: Sequence[Command], *, bulky: bool, deadline: float | None) -> SentExchange:
        lane = self._lane(bulky=bulky)
        link = lane.link()
        now = time.monotonic()
        if deadline is None:
            limits = self._limits
            deadline = now + (limits.connected if link is not None and link.connected else limits.connecting)
        exchange = _LockExchange(commands, deadline)
        try:
            wire = lane.thread.hand_over(lane, link, exchange)
            if wire is not None:
                if wire.read(exchange, deadline):
                    return exchange
                now = time.monotonic()
            if exchange.answered.acquire(timeout=max(0.0, deadline - now)):
                return exchange
        except BaseException:  # KeyboardInterrupt: the caller is gone, the connection stays usable
            exchange.abandon()
            raise
        # The loop may still be writing into the abandoned exchange, so the verdict goes into one of its own.
        verdict = _LockExchange(commands, deadline)
        verdict.failure = StoreTimeout("Redis did not answer in time", may_have_applied=exchange.abandon())
        return verdict

    def _spare_port(self) -> ClientPort:
        spare = self._spare
        if spare is None:
            client = self._plain_client()
            spare = self._spare = ClientPort(client), client
        return spare[0]

    def _plain_client(self) -> BlockingClient:
        address = self._endpoint.address
        if isinstance(address, SentinelAddress) and threads_are_patched():
            raise InvalidValueError(
                "redis+sentinel:// needs threads, and this process made greenlets of them: give "
                "client=redis.sentinel.Sentinel(...).master_for(service), which follows a failover"
            )
        url = address.resolve()
        # redis-py 5 would take the certificate of any other host; options in the URL win over this one.
        options: dict[str, Any] = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}
        options |= {
            "socket_timeout": self._limits.connected,
            "socket_connect_timeout": self._endpoint.options.connect_timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
            "credential_provider": address.credentials,
            "max_connections": self._endpoint.options.max_in_flight,
        }
        if address.is_cluster:
            return redis.cluster.RedisCluster.from_url(url, **options)
        # Whoever finds all connections busy waits for one, as over a connection of ours.
        pool = redis.BlockingConnectionPool.from_url(url, timeout=self._limits.connected, **options)
        return redis.Redis.from_pool(pool)


class _OnTheLoop(AsyncioPort):
    """The same way to Redis for what runs in the private thread itself."""

    def __init__(self, endpoint: Endpoint, limits: TimeLimits, breaker: Breaker) -> None:
        super().__init__(endpoint, limits, breaker)
        endpoint.users.discard(self)  # a heartbeat that outlives the object that began it keeps no connection open

    def _link(self, *, bulky: bool) -> Link:
        link = super()._link(bulky=bulky)
        link.short_cut = True  # whoever uses it first, blocking callers will, too
        return link


class _AtOnce(Awaitable[None]):
    """Awaited, it does not suspend."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


class _LockExchange(Exchange):
    __slots__ = ("answered",)

    ended: Awaitable[None] = _AtOnce()

    def __init__(self, commands: Sequence[Command], deadline: float) -> None:
        # As the base does; spelled out, for one is made with every command.
        self.commands, self.deadline = commands, deadline
        self.replies = [UNANSWERED] * len(commands)
        self.failure, self.sent, self.abandoned = None, False, False
        self.answered = threading.Lock()
        self.answered.acquire()

    def finish(self, failure: RactoGatewayError | None = None) -> None:
        self.failure = failure
        self.answered.release()
