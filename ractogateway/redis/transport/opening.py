"""From the ``url=``, ``client=`` and ``options=`` of a public class to its port."""

from __future__ import annotations

from typing import cast

from ractogateway._checks import type_name
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport.asyncio_port import AsyncClientPort, AsyncioPort, WorkerThreadPort
from ractogateway.redis.transport.breaker import Breaker
from ractogateway.redis.transport.client_port import ClientPort
from ractogateway.redis.transport.credentials import credentials_of
from ractogateway.redis.transport.endpoint import Endpoint, endpoint_for
from ractogateway.redis.transport.port import Port, TimeLimits
from ractogateway.redis.transport.thread_port import ThreadPort
from ractogateway.redis.transport.types import AsyncClient, BlockingClient, check_async_client, check_blocking_client

_EMBEDDED_START_SECONDS = 10.0
"""The first call to an embedded server starts it, whatever time limit the tool is used to."""


def open_async_port(url: str | None, client: object, options: RedisOptions | None, limits: TimeLimits) -> Port:
    """The port of an async core: over ``url``, or over a redis.asyncio ``client``."""
    if client is None:
        return AsyncioPort(*_ways(url, options, limits))
    _refuse_both(url, options)
    check_async_client(client)
    return AsyncClientPort(cast("AsyncClient", client))


def open_blocking_port(url: str | None, client: object, options: RedisOptions | None, limits: TimeLimits) -> Port:
    """The port of a blocking face: over ``url``, or over a redis-py ``client``."""
    if client is None:
        return ThreadPort(*_ways(url, options, limits))
    return _client_port(url, client, options)


def open_worker_port(url: str | None, client: object, options: RedisOptions | None, limits: TimeLimits) -> Port:
    """The port of ``.aio`` of a blocking face: the same server, awaitable."""
    if client is None:
        return open_async_port(url, None, options, limits)
    return WorkerThreadPort(_client_port(url, client, options))


def _client_port(url: str | None, client: object, options: RedisOptions | None) -> ClientPort:
    _refuse_both(url, options)
    check_blocking_client(client)
    return ClientPort(cast("BlockingClient", client))


def _ways(url: str | None, options: RedisOptions | None, limits: TimeLimits) -> tuple[Endpoint, TimeLimits, Breaker]:
    if options is None:
        options = RedisOptions()
    elif not isinstance(options, RedisOptions):
        raise InvalidTypeError(f"options must be a RedisOptions, not {type_name(options)}")
    # Patience is each object's own affair; objects that differ in nothing else share their connections.
    shared = RedisOptions(**options.model_dump(exclude={"timeout_seconds", "breaker_failures", "breaker_seconds"}))
    provider = options.credential_provider  # left out of the dump
    endpoint = endpoint_for(url, shared, None if provider is None else credentials_of(provider))
    if options.timeout_seconds is not None:
        limits = TimeLimits(options.timeout_seconds, options.timeout_seconds)
    if endpoint.address.is_embedded:
        limits = TimeLimits(limits.connected, max(limits.connecting, _EMBEDDED_START_SECONDS))
    return endpoint, limits, Breaker(options.breaker_failures, options.breaker_seconds, patience=limits.connecting)


def _refuse_both(url: str | None, options: RedisOptions | None) -> None:
    if url is not None:
        raise InvalidValueError("give either url= or client=, not both")
    if options is not None:
        raise InvalidValueError("options= goes with url=: a given client keeps its own timeouts, retries and pool")
