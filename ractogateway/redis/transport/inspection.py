"""A look at the servers behind a URL, one by one, over a plain connection to each: the eyes of the doctor.

Tools never come here. Their calls go to whichever server has the key; this goes to each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from redis import exceptions as redis_errors
from redis.asyncio import connection as redis_connection

from ractogateway.errors import NotSent, StoreError, StoreNotReady, StoreRefused, StoreTimeout
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.address import Address, ask, disconnect_quietly, open_connection
from ractogateway.redis.transport.cluster_address import ClusterAddress, NodeAddress
from ractogateway.redis.transport.endpoint import address_of
from ractogateway.redis.transport.hosts import Host
from ractogateway.redis.transport.sentinel import SentinelAddress
from ractogateway.redis.transport.slots import SlotMap

_FAREWELL_SECONDS = 0.2
_NO_NODE = "no node of the cluster can be reached"


@dataclass(frozen=True, slots=True)
class Encrypted:
    """How a TLS connection was made. ``expires_at`` is the Unix time at which the server's certificate ends."""

    verified: bool
    host_checked: bool
    expires_at: float | None


class Inspected:
    """One server, over a connection that nobody else uses. ``name`` is its host and port, or its socket."""

    def __init__(self, name: str, connection: Any) -> None:
        self.name = name
        self._connection = connection

    async def ask(self, *words: str) -> Any:
        """The reply to one command, as bytes.

        Raises:
            StoreError: an error reply, or no reply any more.
        """
        try:
            return await ask(self._connection, *words)
        except (redis_errors.RedisError, OSError, EOFError) as error:
            if failures.is_server_error(error):
                raise failures.server_error(error) from None
            raise failures.lost_connection(error) from None

    async def ask_many(self, commands: Sequence[Sequence[str]]) -> list[Any]:
        """The replies to several commands, in one round trip.

        Raises:
            StoreError: the first error reply, or no reply any more.
        """
        try:
            await self._connection.send_packed_command(self._connection.pack_commands(commands))
            replies = [await self._reply() for _ in commands]
        except (redis_errors.RedisError, OSError, EOFError) as error:
            raise failures.lost_connection(error) from None
        for reply in replies:
            if isinstance(reply, Exception):
                raise failures.server_error(reply) from None
        return replies

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True)
        except redis_errors.RedisError as error:
            if not failures.is_server_error(error):
                raise
            return error

    @property
    def encrypted(self) -> Encrypted | None:
        """What TLS looks like from here; None without it."""
        tls: ssl.SSLObject | None = self._extra("ssl_object")
        if tls is None:
            return None
        ends = (tls.getpeercert() or {}).get("notAfter")
        expires_at = float(ssl.cert_time_to_seconds(ends)) if isinstance(ends, str) else None
        context = tls.context
        return Encrypted(context.verify_mode is not ssl.CERT_NONE, context.check_hostname, expires_at)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, so that no network is in between."""
        peer = self._extra("peername")
        if not isinstance(peer, tuple):
            return True  # a Unix socket
        try:
            return ipaddress.ip_address(str(peer[0]).partition("%")[0]).is_loopback
        except ValueError:
            return False

    async def close(self) -> None:
        """Close the connection, and see it closed: the loop may end right after this, and TLS takes its leave."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._connection.disconnect()
        await disconnect_quietly(self._connection)

    def _extra(self, name: str) -> Any:
        writer = getattr(self._connection, "_writer", None)
        return None if writer is None else writer.get_extra_info(name)


@dataclass
class Inspection:
    """What a URL leads to.

    Attributes:
        kind: of the address.
        shown: the address without user, password and options.
        database: its number.
        servers: those that were reached: one, or the nodes of a cluster.
        lost: nodes of a cluster, or Sentinels, that were named and not reached.
        watchers: what each Sentinel that was reached says of the service.
    """

    kind: Literal["server", "embedded", "sentinel", "cluster"]
    shown: str
    database: int = 0
    servers: list[Inspected] = field(default_factory=list)
    lost: dict[str, StoreError] = field(default_factory=dict)
    watchers: dict[str, dict[str, str]] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def inspect_url(url: str | None, seconds: float) -> AsyncIterator[Inspection]:
    """Connect to every server behind ``url`` (None: the default one); close all connections at the end.

    Args:
        url: of any scheme that the tools take.
        seconds: for each connection.

    Raises:
        InvalidTypeError, InvalidValueError: the URL cannot be used.
        StoreError: no server can be reached.
    """
    address = address_of(url)
    found = introduce(address)
    try:
        if isinstance(address, ClusterAddress):
            await _visit_nodes(address, found, seconds)
        elif isinstance(address, SentinelAddress):
            await _visit_primary(address, found, seconds)
        else:
            async with _in_time(seconds):
                found.servers.append(Inspected(found.shown, await address.connect(seconds)))
        yield found
    finally:
        await asyncio.gather(*(server.close() for server in found.servers))


def introduce(address: Address) -> Inspection:
    """What is known before any server was asked. The URL is shown without what may be secret: put together from its
    parts, never cut out of its text.
    """
    scheme = address.url.partition("://")[0].lower()
    if isinstance(address, ClusterAddress):
        return Inspection("cluster", f"{scheme}://{_listed(address.seeds)}")
    if isinstance(address, SentinelAddress):
        place = f"{_listed(address.sentinels)}/{address.service}/{address.database}"
        return Inspection("sentinel", f"{scheme}://{place}", int(address.database))
    if address.is_embedded:
        return Inspection("embedded", "embedded://")
    parts: dict[str, Any] = dict(redis_connection.parse_url(address.url))
    database = int(parts.get("db") or 0)
    place = parts.get("path") or f"{Host(parts.get('host') or 'localhost', parts.get('port') or 6379)}/{database}"
    return Inspection("server", f"{scheme}://{place}", database)


def _listed(hosts: Iterable[Host]) -> str:
    return ",".join(map(str, hosts))


async def _visit_primary(address: SentinelAddress, found: Inspection, seconds: float) -> None:
    for host in address.sentinels:
        try:
            async with _in_time(seconds):
                found.watchers[str(host)] = pairs(await address.told_by(host))
        except StoreError as error:
            found.lost[str(host)] = error
    async with _in_time(seconds):
        primary, connection = await address.find(seconds)
    found.servers.append(Inspected(str(primary), connection))


async def _visit_nodes(address: ClusterAddress, found: Inspection, seconds: float) -> None:
    known = await _slot_map(address, seconds)

    async def visit(host: Host, node_id: bytes | None) -> None:
        node = NodeAddress(address, host)
        node.introduce(node_id, known.told_by)
        try:
            async with _in_time(seconds):
                found.servers.append(Inspected(str(host), await node.connect(seconds)))
        except StoreError as error:
            found.lost[str(host)] = error

    await asyncio.gather(*(visit(host, node_id) for host, node_id in known.members.items()))
    found.servers.sort(key=lambda server: server.name)
    if not found.servers:
        raise NotSent(_NO_NODE)


async def _slot_map(address: ClusterAddress, seconds: float) -> SlotMap:
    failure: StoreError = NotSent(_NO_NODE)
    for seed in address.seeds:
        try:
            async with _in_time(seconds):
                connection = await open_connection(address.url_of(seed), seconds)
            node = Inspected(str(seed), connection)
            try:
                async with _in_time(seconds):
                    return _members(await node.ask("CLUSTER", "SLOTS"), seed)
            finally:
                await node.close()
        except StoreRefused:
            raise
        except NotSent:
            continue
        except StoreError as error:
            failure = error
    raise failure


def _members(reply: Any, seed: Host) -> SlotMap:
    try:
        known = SlotMap.of(reply, seed.name)
    except ValueError:
        raise StoreRefused("the server that the url names does not answer as a cluster does") from None
    if not known.members:
        raise StoreNotReady("no node of the cluster serves any slot", code="CLUSTERDOWN")
    return known


@contextlib.asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    """Connecting takes its time limit as an argument, and a server may stop answering right after."""
    try:
        async with asyncio.timeout(2 * seconds):
            yield
    except TimeoutError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreTimeout("Redis did not answer in time", may_have_applied=False) from None


def pairs(reply: Iterable[Any]) -> dict[str, str]:
    """A map of the server, which under RESP2 is a list of names and values, as text."""
    flat = [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else list(reply)
    texts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=False))
