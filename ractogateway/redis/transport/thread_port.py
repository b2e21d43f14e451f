"""The port of blocking callers without a client of their own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ractogateway.errors import NotSent, StoreTimeout
from ractogateway.redis.transport.blocking_port import BlockingPort
from ractogateway.redis.transport.call import Call, Command
from ractogateway.redis.transport.client_port import ClientPort
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import Exchange
from ractogateway.redis.transport.loop_thread import LoopThread
from ractogateway.redis.transport.port import RetryingPort, TimeLimits

T = TypeVar("T")


class ThreadPort(BlockingPort, RetryingPort):
    """The core's coroutine runs in the calling thread, its commands on the private event-loop thread."""

    def __init__(self, endpoint: Endpoint, limits: TimeLimits) -> None:
        super().__init__(limits)
        self._endpoint = endpoint
        self._spare: ClientPort | None = None

    def _connected(self) -> bool:
        thread = LoopThread.current
        return thread is not None and thread.is_connected(self._endpoint)

    async def run(self, call: Call[T]) -> T:
        spare = self._spare_if_exiting()
        return await (spare.run(call) if spare else super().run(call))

    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        spare = self._spare_if_exiting()
        return await (spare.run_many(calls) if spare else super().run_many(calls))

    async def _exchange(self, commands: Sequence[Command], deadline: float) -> Exchange:
        exchange = _LockExchange(commands)
        try:
            LoopThread.get().hand_over(self._endpoint, exchange)
        except RuntimeError:
            exchange.finish(NotSent("the process is exiting"))
        try:
            answered = exchange.answered.acquire(timeout=max(0.0, deadline - self.now()))
        except BaseException:  # KeyboardInterrupt: the caller is gone, the connection stays usable
            exchange.abandon()
            raise
        if answered:
            return exchange
        # The loop may still be writing into the abandoned exchange, so the verdict goes into one of its own.
        verdict = Exchange(commands)
        sent = exchange.abandon()
        verdict.failure = StoreTimeout("Redis did not answer in time", may_have_applied=sent)
        return verdict

    def _spare_if_exiting(self) -> ClientPort | None:
        """Late in the exit of the interpreter no thread can be started any more: then a plain client has to do."""
        try:
            LoopThread.get()
        except RuntimeError:
            if self._spare is None:
                self._spare = ClientPort(self._plain_client())
            return self._spare
        return None

    def _plain_client(self) -> redis.Redis:
        return redis.Redis.from_url(
            self._endpoint.address.resolve(),
            socket_timeout=self._limits.connected,
            socket_connect_timeout=self._endpoint.options.connect_timeout_seconds,
            retry=Retry(NoBackoff(), 0),
        )


class _LockExchange(Exchange):
    __slots__ = ("answered",)

    def __init__(self, commands: Sequence[Command]) -> None:
        super().__init__(commands)
        self.answered = threading.Lock()
        self.answered.acquire()

    def wake(self) -> None:
        self.answered.release()
