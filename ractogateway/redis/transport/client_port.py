"""The port over a blocking client that was given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis import exceptions as redis_errors

from ractogateway.errors import StoreError
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.blocking_port import BlockingPort
from ractogateway.redis.transport.call import Argument, Call, Command
from ractogateway.redis.transport.heartbeats import Heartbeat, pacemaker_of_client
from ractogateway.redis.transport.types import BlockingClient, is_cluster_client

T = TypeVar("T")


def as_words(command: Command) -> tuple[str | Argument, ...]:
    """The command with its name as a ``str``: cluster clients look it up by that."""
    name, *rest = command
    return (name.decode() if isinstance(name, bytes) else name, *rest)


async def perform_with_client(execute: Callable[[Command], Awaitable[Any]], call: Call[T]) -> T:
    """Run one call over a client's own ``execute_command``: its retries and time limits rule, only NOSCRIPT is ours."""
    try:
        try:
            reply = await execute(call.command)
        except redis_errors.ResponseError as error:
            if call.script is None or failures.server_error_code(error) != "NOSCRIPT":
                raise
            reply = await execute(call.as_eval())
    except StoreError:
        raise
    except (redis_errors.RedisError, OSError, AttributeError, LookupError) as error:
        # The last two come from inside redis.asyncio.RedisCluster (8.1): when one task meets a slot that has moved, it
        # closes the connections that other tasks are in the middle of using.
        # redis-py's text may quote the command; a server's error says nothing that ours does not.
        cause = None if failures.is_server_error(error) else error
        raise failures.client_error(error) from cause
    return call.parse(reply)


class ClientPort(BlockingPort):
    """Over a redis-py client that was given, in the calling thread: its pool, instrumentation, cluster or fake."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    @property
    def is_cluster(self) -> bool:
        return is_cluster_client(self._client)

    async def run(self, call: Call[T]) -> T:
        return await perform_with_client(self._execute, call)

    async def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        results: list[Any] = []
        failure: StoreError | None = None
        for call in calls:
            try:
                results.append(await self.run(call))
            except StoreError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return results

    def every(self, interval_seconds: float, call: Call[bool]) -> Heartbeat:
        return pacemaker_of_client(self._client).start(interval_seconds, lambda: self.run(call))

    async def _execute(self, command: Command) -> Any:
        execute: Callable[..., Any] = self._client.execute_command
        return execute(*as_words(command), NEVER_DECODE=True)
