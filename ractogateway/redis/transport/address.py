"""What a URL leads to: the base of all addresses, those of a single server, and how a connection is opened.

=================================  ================  ========================================================
scheme                             class             each new connection leads to
=================================  ================  ========================================================
``redis://  rediss://  unix://``   `ServerAddress`   that server
``embedded://``                    `ServerAddress`   the server of this process, started if need be
``redis+sentinel://  rediss+…``    `SentinelAddress` whatever server is the primary at that moment
``redis+cluster://  rediss+…``     `ClusterAddress`  nothing by itself: its nodes have an address each
=================================  ================  ========================================================
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio.to_thread
from redis import exceptions as redis_errors
from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ractogateway.errors import InvalidValueError, StoreError
from ractogateway.redis.embedded import embedded_url, parse_embedded
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.credentials import Credentials


class Address(ABC):
    """A URL, checked. Errors of the constructor (`InvalidValueError`) never show it: it may hold a password.

    ``credentials`` are for the servers themselves, in the place of a user and password in the URL.
    """

    is_embedded = False
    is_cluster = False

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        self.url = url
        self.credentials = credentials

    @abstractmethod
    async def connect(self, seconds: float) -> Any:
        """A new, connected redis.asyncio connection.

        Args:
            seconds: for one attempt, TLS and authentication included.

        Raises:
            StoreError: it could not be made.
        """

    @abstractmethod
    def resolve(self) -> str:
        """A URL that a blocking redis-py client can use at this moment. May block."""


class ServerAddress(Address):
    """One server, be it one that this process starts itself."""

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        super().__init__(url, credentials)
        self.is_embedded = url.lower().startswith("embedded:")
        if self.is_embedded:
            parse_embedded(url)
        else:
            check_options(url, credentials)

    async def connect(self, seconds: float) -> Any:
        """To the server; an embedded one that has to be started first takes its time apart from ``seconds``."""
        url = await anyio.to_thread.run_sync(self.resolve) if self.is_embedded else self.url
        return await open_connection(url, seconds, credentials=self.credentials)

    def resolve(self) -> str:
        """The URL of the server itself. Starts it, in a fraction of a second, where it is an embedded one."""
        return embedded_url(parse_embedded(self.url)) if self.is_embedded else self.url


def check_options(url: str, credentials: Credentials | None) -> None:
    """Refuse what redis-py would not understand."""
    options: dict[str, Any] = {}
    fault = _fault_of_places(url)
    if fault is None:
        try:
            options = dict(redis_connection.parse_url(url))
            _build(url, 3, None)
        except (ValueError, TypeError, AttributeError, redis_errors.RedisError):
            fault = _fault_of_options(url)
    if fault is not None:
        raise InvalidValueError(f"url has {fault}")
    if credentials is not None and (options.get("username") or options.get("password")):
        raise InvalidValueError("give either a password in url or a credential_provider, not both")


def _fault_of_places(url: str) -> str | None:
    """What is wrong with host, port and database. Their text is not shown: it may be the rest of a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "a host that cannot be read; an IPv6 address stands in brackets"
    try:
        _ = parts.port
    except ValueError:
        return "a port that is no number up to 65535; in a password, characters like / and # are written as %2F and %23"
    database = parts.path.strip("/") if parts.scheme in ("redis", "rediss") else ""
    if database and not (database.isascii() and database.isdigit()):  # redis-py would silently take database 0
        return "a database that is no number"
    return None


def _fault_of_options(url: str) -> str:
    """What is wrong with the query of a URL that redis-py refuses. Names that it does not know are not shown either."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query))
    for name, parse in redis_connection.URL_QUERY_ARGUMENT_PARSERS.items():
        try:
            if name in given:
                parse(given[name])
        except ValueError:
            return f"an option {name} with a value that redis-py does not understand"
    if parts.scheme == "redis" and any(name.startswith("ssl_") for name in given):
        return "an option of TLS, which is for rediss://"
    return "an option that redis-py does not know, or that cannot have this value"


async def open_connection(
    url: str, seconds: float, *, protocol: int = 3, credentials: Credentials | None = None
) -> Any:
    """Connect to the server at ``url``, in one attempt.

    Raises:
        StoreError: it could not be made, or not in time.
    """
    connection = _build(url, protocol, credentials)
    opened: list[Any] = []

    async def greet(connection: Any) -> None:
        opened.append(connection._writer)  # noqa: SLF001 - gone from there when redis-py has closed it
        await connection.on_connect()

    connection.redis_connect_func = greet
    try:
        async with closed_on_failure(connection, seconds):
            await connection.connect()
    except BaseException:
        for writer in opened:
            writer.transport.abort()
        raise
    return connection


@contextlib.asynccontextmanager
async def closed_on_failure(connection: Any, seconds: float) -> AsyncIterator[None]:
    """What happens inside gets ``seconds`` and may fail as redis-py fails; the connection is closed if it does."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except StoreError:
        await disconnect_quietly(connection)
        raise
    except (redis_errors.RedisError, OSError, EOFError) as error:
        await disconnect_quietly(connection)
        raise failures.connect_error(error, failures.place_of(connection)) from error
    except BaseException:
        await disconnect_quietly(connection)
        raise


async def ask(connection: Any, *words: str) -> Any:
    """One question on a connection that nobody else uses; bytes are not decoded. Error replies are raised."""
    await connection.send_command(*words)
    return await connection.read_response(disable_decoding=True)


async def disconnect_quietly(connection: Any) -> None:
    """Close it, whatever its state.

    At once: redis-py begins the farewell of TLS, which takes until the other side answers, and outlives the loop.
    """
    writer = getattr(connection, "_writer", None)
    with contextlib.suppress(Exception):
        await connection.disconnect(nowait=True)
    if writer is not None:
        writer.transport.abort()


def _build(url: str, protocol: int, credentials: Credentials | None) -> Any:
    options: dict[str, Any] = dict(redis_connection.parse_url(url))
    kind = options.pop("connection_class", redis_connection.Connection)
    for pool_option in ("max_connections", "timeout"):
        options.pop(pool_option, None)
    if issubclass(kind, redis_connection.SSLConnection):
        options.setdefault("ssl_check_hostname", True)  # redis-py 5 would take the certificate of any other host
    # Time limits and retries are ours: redis-py's defaults differ in every major release, repeat scripts that timed
    # out, and wrap each reply in a timer that can swallow a cancellation.
    options.update(
        socket_timeout=None,
        socket_connect_timeout=None,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        health_check_interval=0,
        protocol=protocol,
        decode_responses=False,
    )
    if credentials is not None:
        options["credential_provider"] = credentials
    return kind(**options)
