"""A primary behind Sentinels: ``redis+sentinel://h1[:26379],h2/service[/db]``, ``rediss+sentinel://`` for TLS to all.

The address asks for the primary each time a connection is made. A link makes a new one when the old one is lost, says
READONLY or is cut by `sentinel_watch`, so it follows a failover without knowing of it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from ractogateway.errors import InvalidValueError, NotSent, StoreError, StoreRefused, StoreUnavailable
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.address import (
    Address,
    ask,
    check_options,
    closed_on_failure,
    disconnect_quietly,
    open_connection,
)
from ractogateway.redis.transport.credentials import Credentials
from ractogateway.redis.transport.hosts import Host, HostsUrl
from ractogateway.redis.transport.sentinel_watch import watch_over

_DEFAULT_PORT = 26_379
_SENTINEL_SECONDS = 0.25
"""How long one Sentinel may take: it answers from memory, and the next one may be better off."""

_QUESTION = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


class SentinelAddress(Address):
    """Wherever the primary of a service is.

    ``user:password@`` are for the servers, ``?sentinel_username=&sentinel_password=`` for the Sentinels; the other
    options of redis-py (``ssl_ca_certs`` …) for both.
    """

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        super().__init__(url, credentials)
        self._url = parts = HostsUrl.parse(url, _DEFAULT_PORT)
        if len(parts.path) not in (1, 2) or not parts.path[0]:
            raise InvalidValueError("url must name the service: redis+sentinel://host,host/service or …/service/db")
        self.service = parts.path[0]
        self.database = parts.path[1] if len(parts.path) > 1 else "0"
        if not (self.database.isascii() and self.database.isdigit()):
            raise InvalidValueError("url has a database that is not a number")
        user, password = parts.option("sentinel_username"), parts.option("sentinel_password")
        self._sentinel_credentials = f"{quote(user or '', safe='')}:{quote(password, safe='')}" if password else ""
        self.sentinels = parts.hosts
        check_options(self._server_url(self.sentinels[0]), credentials)

    async def connect(self, seconds: float) -> Any:
        """To the primary, for as long as it is the primary."""
        primary, connection = await self.find(seconds)
        watch_over(connection, primary, self)
        return connection

    async def find(self, seconds: float) -> tuple[Host, Any]:
        """A server that a Sentinel calls the primary and that calls itself so, and a connection to it.

        Sentinels may be behind the times for a moment, so as long as no connection comes of it, the next one is asked.

        Raises:
            StoreError: there is none that can be reached.
        """
        tried: set[Host] = set()
        failure: StoreUnavailable | None = None
        for host in self.sentinels:
            try:
                primary = await self._ask(host)
                if primary is None or primary in tried:
                    continue
                tried.add(primary)
                connection = await self._open_primary(primary, seconds)
            except StoreUnavailable as error:
                failure = error
            else:
                self._prefer(host)
                return primary, connection
        raise self._verdict(failure)

    async def open_sentinel(self) -> Any:
        """A connection to the first Sentinel that answers.

        Raises:
            StoreError: none does.
        """
        failure: StoreUnavailable | None = None
        for host in self.sentinels:
            try:
                return await self._open_sentinel(host)
            except StoreUnavailable as error:
                failure = error
        raise self._verdict(failure)

    async def named_by(self, sentinel: Any) -> Host | None:
        """What the Sentinel at the other end of this connection calls the primary; None if it knows none.

        Raises:
            StoreError: it does not answer; the connection is closed then.
        """
        async with closed_on_failure(sentinel, _SENTINEL_SECONDS):
            return _host(await ask(sentinel, *_QUESTION, self.service))

    async def told_by(self, host: Host) -> Any:
        """What the Sentinel there knows of the service: names and values, by turns.

        Raises:
            StoreError: it cannot be reached, or has not heard of the service.
        """
        sentinel = await self._open_sentinel(host)
        async with closed_on_failure(sentinel, _SENTINEL_SECONDS):
            known = await ask(sentinel, "SENTINEL", "MASTER", self.service)
        await disconnect_quietly(sentinel)
        return known

    def resolve(self) -> str:
        """The URL of the primary, as the first Sentinel tells that answers."""
        failure: Exception | None = None
        for host in self.sentinels:
            options = {"socket_timeout": _SENTINEL_SECONDS, "socket_connect_timeout": _SENTINEL_SECONDS}
            try:
                with redis.Redis.from_url(
                    self._sentinel_url(host), protocol=2, retry=Retry(NoBackoff(), 0), **options
                ) as client:
                    primary = _host(client.execute_command(*_QUESTION, self.service, NEVER_DECODE=True))
            except (redis_errors.RedisError, OSError) as error:
                failure = error
            else:
                if primary is not None:
                    return self._server_url(primary)
        raise self._verdict(failures.connect_error(failure) if failure is not None else None)

    async def _open_sentinel(self, host: Host) -> Any:
        return await open_connection(self._sentinel_url(host), _SENTINEL_SECONDS, protocol=2)

    async def _ask(self, host: Host) -> Host | None:
        sentinel = await self._open_sentinel(host)
        primary = await self.named_by(sentinel)
        await disconnect_quietly(sentinel)
        return primary

    async def _open_primary(self, primary: Host, seconds: float) -> Any:
        connection = await open_connection(self._server_url(primary), seconds, credentials=self.credentials)
        async with closed_on_failure(connection, seconds):
            if not await _may_be_primary(connection):
                raise NotSent("a Sentinel named a server that is not the primary any more")
        return connection

    @staticmethod
    def _verdict(failure: StoreError | None) -> StoreError:
        if failure is None:
            return StoreRefused("no Sentinel knows a service of the name that the url gives")
        if not isinstance(failure, NotSent):
            return failure
        verdict = NotSent("no Sentinel led to a primary that can be reached")
        verdict.__cause__ = failure
        return verdict

    def _prefer(self, host: Host) -> None:
        """Ask the one that was right first next time: a dead one would cost its time limit again."""
        self.sentinels = tuple(sorted(self.sentinels, key=lambda known: known != host))

    def _server_url(self, host: Host) -> str:
        return self._url.of_server(host, database=self.database)

    def _sentinel_url(self, host: Host) -> str:
        return self._url.of_sentinel(host, self._sentinel_credentials)


def _host(reply: Any) -> Host | None:
    if not isinstance(reply, (list, tuple)) or len(reply) != 2:  # noqa: PLR2004 - address and port
        return None
    try:
        return Host(bytes(reply[0]).decode(), int(reply[1]))
    except (ValueError, TypeError):
        return None


async def _may_be_primary(connection: Any) -> bool:
    try:
        role = await ask(connection, "ROLE")
    except redis_errors.ResponseError as error:
        if failures.server_error_code(error) != "NOPERM":
            raise
        return True  # a replica will answer READONLY to the first write
    return isinstance(role, list) and bool(role) and role[0] == b"master"
