"""Addresses of a cluster, ``redis+cluster://h1:p1,h2:p2[/0]`` (``rediss+cluster://`` for TLS), and of its nodes."""

from __future__ import annotations

import contextlib
from typing import Any

import redis
from redis import exceptions as redis_errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from ractogateway.errors import InvalidValueError, NotSent
from ractogateway.redis.transport.address import Address, ask, check_options, closed_on_failure, open_connection
from ractogateway.redis.transport.credentials import Credentials
from ractogateway.redis.transport.hosts import Host, HostsUrl

_DEFAULT_PORT = 6379
_PING_SECONDS = 0.5


class ClusterAddress(Address):
    """A cluster, by some of its nodes. User, password and options are the same for all of them."""

    is_cluster = True

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        super().__init__(url, credentials)
        self._url = parts = HostsUrl.parse(url, _DEFAULT_PORT)
        if parts.path not in ((), ("0",)) or parts.option("db") not in (None, "0"):
            raise InvalidValueError("url names a database, and a cluster has only database 0")
        self.seeds = parts.hosts
        check_options(self.url_of(self.seeds[0]), credentials)

    def url_of(self, host: Host) -> str:
        """The URL of one node."""
        return self._url.of_server(host)

    async def connect(self, seconds: float) -> Any:
        """Not to be called: commands go to nodes."""
        raise NotImplementedError

    def resolve(self) -> str:
        """The URL of a node that answers, for a cluster client to start from."""
        for host in self.seeds:
            url = self.url_of(host)
            options = {"socket_timeout": _PING_SECONDS, "socket_connect_timeout": _PING_SECONDS}
            with (
                contextlib.suppress(redis_errors.RedisError, OSError),
                redis.Redis.from_url(
                    url, retry=Retry(NoBackoff(), 0), credential_provider=self.credentials, **options
                ) as client,
            ):
                client.ping()
                return url
        return self.url_of(self.seeds[0])


class NodeAddress(Address):
    """One node of a cluster, under the name by which the cluster knows it.

    Behind address translation (containers, port forwarding) that name may lead nowhere from here, while the same port
    of the host that told us of it does. So where connecting to the name fails, that host is tried, and used if the
    server there has the node's id: another one's replies would be taken for this one's.
    """

    def __init__(self, cluster: ClusterAddress, host: Host) -> None:
        super().__init__(cluster.url_of(host), cluster.credentials)
        self._cluster = cluster
        self._host = host
        self._told_by: str | None = None
        self._id: bytes | None = None
        self.reached = host.name
        """The name by which it was reached last."""

    def introduce(self, node_id: bytes | None, told_by: str) -> None:
        """What a node reached as ``told_by`` says about this one."""
        self._id, self._told_by = node_id, told_by

    async def connect(self, seconds: float) -> Any:
        """To the node, by its name or by its stand-in's."""
        other = self._told_by
        if other is None or self._id is None or other == self._host.name:
            return await open_connection(self.url, seconds, credentials=self.credentials)
        if self.reached == other:
            with contextlib.suppress(NotSent):
                return await self._connect_by(other, seconds / 2)
        try:
            connection = await open_connection(self.url, seconds / 2, credentials=self.credentials)
        except NotSent:
            return await self._connect_by(other, seconds / 2)
        self.reached = self._host.name
        return connection

    def resolve(self) -> str:
        """The node's URL."""
        return self.url

    async def _connect_by(self, name: str, seconds: float) -> Any:
        url = self._cluster.url_of(Host(name, self._host.port))
        connection = await open_connection(url, seconds, credentials=self.credentials)
        async with closed_on_failure(connection, seconds):
            if await ask(connection, "CLUSTER", "MYID") != self._id:
                raise NotSent("a node of the cluster cannot be reached by the name that the cluster gives it")
        self.reached = name
        return connection
