"""Sentinels with a primary and a replica, and a cluster of six nodes, out of the servers of `servers`.

    from topologies import cluster, sentinels

    with cluster(valkey9) as nodes:
        nodes.url                       # redis+cluster://127.0.0.1:…,…
        nodes.owner(b"key").kill()

Both form in two to three seconds: a node that starts as a primary without a cluster waits two before it serves.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot
from servers import Server, _free_port, wait_until

__all__ = ["BOTH", "SERVICE", "Cluster", "Sentinels", "cluster", "counted", "sentinels", "watcher"]

SLOTS = 16_384
SERVICE = "the-service"
_FAILOVER_SECONDS = 3  # after that, Sentinels give up a failover that does not get on
Make = Callable[..., Server]

_REPLICATION = {"repl-diskless-sync-delay": "0", "repl-ping-replica-period": "1"}


def counted(server: Server, name: str) -> int:
    """How often a server has executed a command (lower case), or answered with an error (upper case)."""
    with server.client() as client:
        entry = client.info("errorstats" if name.isupper() else "commandstats").get(
            f"errorstat_{name}" if name.isupper() else f"cmdstat_{name}"
        )
    # A number in braces or not: releases of redis-py differ.
    found = re.search(r"(?:count|calls)\W+(\d+)", str(entry))
    return int(found.group(1)) if found else 0


def _table(reply: object) -> dict[bytes, bytes]:
    """A map of the server, which older releases of redis-py give as a list."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


# --- Sentinel --------------------------------------------------------------------------------------------------------


class Sentinels:
    """Three Sentinels that watch over two servers."""

    def __init__(self, servers: list[Server], watchers: list[Server]) -> None:
        self.servers = servers
        self.watchers = watchers

    @property
    def hosts(self) -> str:
        return ",".join(f"{watcher.host}:{watcher.port}" for watcher in self.watchers)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.hosts}/{SERVICE}"

    def primary(self) -> Server:
        """The server that the Sentinels call the primary: all of them that can be asked, or an error."""
        ports = {self._told_by(watcher) for watcher in self.watchers if watcher.running}
        assert len(ports) == 1, f"the Sentinels disagree: {ports}"
        return next(server for server in self.servers if server.port in ports)

    def replica(self) -> Server:
        primary = self.primary()
        return next(server for server in self.servers if server is not primary)

    def set_down_after(self, milliseconds: int) -> None:
        """How long a server may be silent before it counts as dead. In a hurry, a busy machine has many deaths."""
        for watcher in self.watchers:
            watcher.revive().command("SENTINEL", "SET", SERVICE, "down-after-milliseconds", milliseconds)

    def fail_over(self) -> None:
        """Make them promote the replica; returns when all of them call it the primary."""
        old, asked_at = self.primary(), -math.inf

        def promoted() -> bool:
            nonlocal asked_at
            if time.monotonic() > asked_at + _FAILOVER_SECONDS and self.agreed() is old and self._accepts_failover():
                asked_at = time.monotonic()
            return self.agreed() not in (None, old)

        wait_until(promoted, timeout_seconds=30, what="the promotion of the replica")

    def wait_until_whole(self) -> None:
        """Both servers run, one is the other's replica, and every Sentinel knows."""
        for server in [*self.servers, *self.watchers]:
            server.revive()
        # With such a short period a Sentinel that has not heard of a failover may undo it: for quiet times only.
        self._debug("INFO-PERIOD", 100, "PUBLISH-PERIOD", 200)
        wait_until(self._whole, timeout_seconds=20, what="a primary, its replica and Sentinels that know them")
        self._debug("PUBLISH-PERIOD", 2000)

    def _debug(self, *settings: object) -> None:
        for watcher in self.watchers:
            watcher.command("SENTINEL", "DEBUG", *settings)

    def agreed(self) -> Server | None:
        """The primary, or None while they disagree."""
        try:
            return self.primary()
        except (AssertionError, redis.RedisError):
            return None

    def _accepts_failover(self) -> bool:
        try:
            self.watchers[0].command("SENTINEL", "FAILOVER", SERVICE)
        except redis.ResponseError:  # no replica that is good enough yet, or one is under way
            return False
        return True

    def _whole(self) -> bool:
        try:
            primary, replica = self.primary(), self.replica()
            role = replica.command("ROLE")
            follows = role[0] == b"slave" and role[2] == primary.port and role[3] == b"connected"
            return follows and primary.command("ROLE")[0] == b"master" and all(map(self._knows_all, self.watchers))
        except (AssertionError, redis.RedisError):  # in the middle of a change
            return False

    def _knows_all(self, watcher: Server) -> bool:
        replicas = watcher.command("SENTINEL", "REPLICAS", SERVICE)
        others = watcher.command("SENTINEL", "SENTINELS", SERVICE)
        flags = {flag for known in [*replicas, *others] for flag in _table(known)[b"flags"].split(b",")}
        whole = len(replicas) == 1 and len(others) == len(self.watchers) - 1
        return whole and not flags & {b"disconnected", b"s_down", b"o_down"}

    @staticmethod
    def _told_by(watcher: Server) -> int:
        return int(watcher.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])


@contextmanager
def sentinels(
    make: Make, *, config: Mapping[str, str] = {}, watching: Mapping[str, str] = {}, down_after_ms: int = 5000
) -> Iterator[Sentinels]:
    """Start them; ``config`` is for the two servers, ``watching`` for the Sentinels."""
    with ExitStack() as stack:
        base = {**_REPLICATION, **config}
        primary = stack.enter_context(make(config=base))
        follow = {"replicaof": f"{primary.host} {primary.port}"}
        if password := config.get("requirepass"):
            follow["masterauth"] = password
        replica = stack.enter_context(make(config={**base, **follow}))
        settings = {
            "sentinel monitor": f"{SERVICE} {primary.host} {primary.port} 2",
            "sentinel down-after-milliseconds": f"{SERVICE} {down_after_ms}",
            "sentinel failover-timeout": f"{SERVICE} {1000 * _FAILOVER_SECONDS}",
            **({"sentinel auth-pass": f"{SERVICE} {password}"} if password else {}),
            **watching,
        }
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ractotest-")))
        watchers = [stack.enter_context(watcher(make, directory, settings)) for _ in range(3)]
        topology = Sentinels([primary, replica], watchers)
        topology.wait_until_whole()
        yield topology


def watcher(make: Make, directory: Path, settings: Mapping[str, str]) -> Server:
    """A Sentinel; ``directory`` is for a link to the program, which is a Sentinel when it is called by that name."""
    server = make(config=settings)
    name = "valkey-sentinel" if "valkey" in Path(server.binary).name else "redis-sentinel"
    with contextlib.suppress(FileExistsError):
        (directory / name).symlink_to(server.binary)
    server.binary = str(directory / name)
    return server


# --- Cluster ---------------------------------------------------------------------------------------------------------


BOTH = pytest.mark.parametrize("kept_cluster", ["valkey9", "redis8"], indirect=True)
"""For tests of a cluster whose other kind of server need not wait for the thorough run."""


class Cluster:
    """Three primaries and a replica of each, to begin with."""

    def __init__(self, nodes: list[Server]) -> None:
        self.nodes = nodes

    @property
    def hosts(self) -> str:
        return ",".join(f"{node.host}:{node.port}" for node in self.nodes)

    @property
    def url(self) -> str:
        return f"redis+cluster://{self.hosts}"

    @property
    def alive(self) -> list[Server]:
        return [node for node in self.nodes if node.running]

    def id_of(self, node: Server) -> str:
        return node.command("CLUSTER", "MYID").decode()

    def owner(self, key: bytes, *, told_by: Server | None = None) -> Server:
        """The primary that serves the key."""
        return self.owner_of_slot(key_slot(key), told_by=told_by)

    def owner_of_slot(self, slot: int, *, told_by: Server | None = None) -> Server:
        for first, last, primary, *_ in self._ranges(told_by or self.alive[0]):
            if first <= slot <= last:
                return self._at(int(primary[1]))
        raise AssertionError(f"slot {slot} is not served")

    def primaries(self) -> list[Server]:
        return [self._at(port) for port in sorted({int(entry[2][1]) for entry in self._ranges(self.alive[0])})]

    def wait_until_whole(self) -> None:
        """All nodes run, all slots are served, all replicas are up to date, and every node says so."""
        for node in self.nodes:
            node.revive()
        wait_until(self._whole, timeout_seconds=30, what="a whole cluster")

    def configure(self, name: str, value: object) -> None:
        """Change a setting of all nodes that run."""
        for node in self.alive:
            node.command("CONFIG", "SET", name, value)

    def set_node_timeout(self, milliseconds: int) -> None:
        """How long a node may be silent before it counts as dead. In a hurry, a busy machine has many deaths."""
        self.configure("cluster-node-timeout", milliseconds)

    def flush(self) -> None:
        for node in self.primaries():
            node.command("FLUSHALL")

    def move_slot(self, slot: int, target: Server, *, batch: int = 10, pause_seconds: float = 0.0) -> None:
        """Hand a slot over while it is in use, key by key, as ``redis-cli --cluster reshard`` does."""
        source = self.owner_of_slot(slot)
        source_id, target_id = self.id_of(source), self.id_of(target)
        with source.client() as out, target.client() as into:
            into.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
            out.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
            while keys := out.execute_command("CLUSTER", "GETKEYSINSLOT", slot, batch):
                out.execute_command("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)
                time.sleep(pause_seconds)
            for client in (into, out):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        for node in self.primaries():
            if node not in (source, target):
                node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    def move_on(self, slot: int) -> None:
        """Hand a slot over to the next primary, without haste."""
        primaries, source = self.primaries(), self.owner_of_slot(slot)
        target = primaries[(primaries.index(source) + 1) % len(primaries)]
        self.move_slot(slot, target, batch=5, pause_seconds=0.002)

    def _at(self, port: int) -> Server:
        return next(node for node in self.nodes if node.port == port)

    @staticmethod
    def _ranges(node: Server) -> list:
        return node.command("CLUSTER", "SLOTS")

    def _whole(self) -> bool:
        try:
            with ThreadPoolExecutor(len(self.nodes)) as pool:
                return all(pool.map(self._content, self.nodes))
        except redis.RedisError:
            return False

    def _content(self, node: Server) -> bool:
        with node.client() as client:
            if b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO", NEVER_DECODE=True):
                return False
            ranges, role = client.execute_command("CLUSTER", "SLOTS"), client.execute_command("ROLE")
        served = sum(last - first + 1 for first, last, *_ in ranges)
        members = {int(member[1]) for entry in ranges for member in entry[2:]}
        up_to_date = role[0] == b"master" or role[3] == b"connected"
        return served == SLOTS and len(members) == len(self.nodes) and up_to_date


@contextmanager
def cluster(
    make: Make, *, config: Mapping[str, str] = {}, node_timeout_ms: int = 1000, replicas: int = 1
) -> Iterator[Cluster]:
    """Start three primaries with ``replicas`` replicas each."""
    settings = {
        **_REPLICATION,
        "cluster-enabled": "yes",
        "cluster-node-timeout": str(node_timeout_ms),
        "cluster-replica-validity-factor": "0",
        "cluster-allow-replica-migration": "no",
        **config,
    }
    with ExitStack() as stack:
        nodes = [make(config={**settings, "cluster-port": str(_free_port())}) for _ in range(3 * (1 + replicas))]
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(stack.enter_context, nodes))
        topology = Cluster(nodes)
        _join(topology)
        topology.wait_until_whole()
        yield topology


def _join(topology: Cluster) -> None:
    first, *others = topology.nodes
    primaries = topology.nodes[:3]
    for number, node in enumerate(primaries):
        node.command("CLUSTER", "ADDSLOTSRANGE", SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1)
        node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in others:
        first.command("CLUSTER", "MEET", node.host, node.port, node.config["cluster-port"])
    for number, node in enumerate(topology.nodes[3:]):
        primary = topology.id_of(primaries[number % 3])
        wait_until(lambda: _replicates(node, primary), what="a node that knows its primary")


def _replicates(node: Server, primary_id: str) -> bool:
    try:
        node.command("CLUSTER", "REPLICATE", primary_id)
    except redis.ResponseError:  # has not heard of it yet
        return False
    return True
