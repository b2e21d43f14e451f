"""The way from one event loop to a cluster: one link a node, commands routed by the slots of their keys.

To the callers' `Link` this looks like one connection: it "connects" by learning the slot map, and queues, deadlines
and ownership are the link's own. Below it each node has an ordinary `Link`.

A caller's exchange is cut into one `_Part` a node; replies are put back by position. What says that a command belongs
elsewhere (MOVED, ASK) is followed here, unseen by the caller: such a command was not executed. Everything that has to
wait first (TRYAGAIN, CLUSTERDOWN, a node without connection) goes back to the caller's port, which keeps the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import Context
from typing import cast

from ractogateway.errors import RactoGatewayError, StoreError, StoreNotReady
from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.call import Command
from ractogateway.redis.transport.cluster_address import ClusterAddress, NodeAddress
from ractogateway.redis.transport.cluster_map import NodeLink, fetch_slot_map
from ractogateway.redis.transport.credentials import Renewal
from ractogateway.redis.transport.exchange import UNANSWERED, Exchange
from ractogateway.redis.transport.hosts import Host
from ractogateway.redis.transport.link import Link
from ractogateway.redis.transport.slots import ASKING, SLOTS, Redirect, SlotMap, slot_of

MAX_REDIRECTS = 5
"""So often one command is sent elsewhere before its caller hears of it."""

_SHORTEST_GAP_SECONDS = 0.1
_LONGEST_GAP_SECONDS = 1.0


class ClusterLink(Link):
    """A link whose connection is a whole cluster."""

    @property
    def connected(self) -> bool:
        """Whether all nodes in use are connected: which of them the next command needs is not known here."""
        wire = self._wire
        return isinstance(wire, ClusterWire) and wire.connected

    def authenticate(self, exchange: Renewal) -> None:
        """The nodes' links are told themselves."""

    async def _open_wire(self) -> ClusterWire:
        await self._watch_the_loop()
        wire = ClusterWire(cast("ClusterAddress", self._address), self._options, self._on_lost)
        await wire.open()
        return wire


class ClusterWire:
    """All nodes of a cluster as one connection. All methods belong to its loop's thread."""

    def __init__(self, address: ClusterAddress, options: RedisOptions, on_lost: Callable[[ClusterWire], None]) -> None:
        self.usable = True
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._options = options
        self._on_lost = on_lost
        self._nodes: dict[Host, NodeLink] = {}
        self._all_nodes: weakref.WeakSet[NodeLink] = weakref.WeakSet()  # dismissed ones, too
        self._map: SlotMap | None = None
        self._by_slot: list[NodeLink | None] = []  # filled as slots are used; MOVED may be ahead of the map here
        self._in_use: set[NodeLink] = set()
        self._settled = False  # all of those were connected when it was last looked at, and nothing has happened since
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0
        self._gap_seconds = _SHORTEST_GAP_SECONDS

    async def open(self) -> None:
        """Learn the slot map from the nodes that the URL names.

        Raises:
            StoreError: it cannot be learned.
        """
        try:
            self._use(await fetch_slot_map(self._informants(), self._options.connect_timeout_seconds))
        except BaseException:
            await self._close_nodes()
            raise

    async def aclose(self, failure: StoreError) -> None:  # noqa: ARG002 - each node's connection knows its own reason
        """Close the connections to all nodes at once."""
        self.usable = False
        refreshing = self._refreshing
        if refreshing is not None:
            refreshing.cancel()
            await asyncio.wait([refreshing])
        await self._close_nodes()
        self._on_lost(self)

    async def _close_nodes(self) -> None:
        await asyncio.gather(*(node.aclose() for node in self._all_nodes if not node.closed))

    def pending(self) -> Iterable[Exchange]:
        """Nothing: the nodes' links watch over what they were given."""
        return ()

    @property
    def connected(self) -> bool:
        """Whether every node that commands went to so far is connected. Read by other threads, too."""
        if not self._settled:
            self._settled = all(node.connected for node in list(self._in_use))
        return self._settled and self.usable

    # --- commands ----------------------------------------------------------------------------------------------------

    def submit(self, exchange: Exchange) -> None:
        """Send each command to the node that owns its key."""
        if len(exchange.commands) == 1:
            node = self._node_for(exchange.commands[0])
            node.submit(_Part(self, node, exchange, (0,), exchange.commands))
            return
        shares: dict[NodeLink, list[int]] = {}
        for position, command in enumerate(exchange.commands):
            shares.setdefault(self._node_for(command), []).append(position)
        for node, positions in shares.items():
            node.submit(_Part(self, node, exchange, positions, [exchange.commands[index] for index in positions]))

    def settle(self, part: _Part, failure: RactoGatewayError | None) -> None:
        """A node is done with its part: hand out what is final, send on what belongs elsewhere."""
        whole = part.whole
        onward: list[tuple[int, Redirect]] = []
        # An asking part has ASKING in front of its one command.
        for position, reply in zip(part.positions, part.replies[-len(part.positions) :], strict=True):
            if reply is UNANSWERED:
                whole.replies[position] = failure
                self._lost_track()
            elif not isinstance(reply, Exception):
                whole.replies[position] = reply
            elif (redirect := Redirect.of(reply, part.node.address.reached)) is None:
                if failures.server_error_code(reply) == "CLUSTERDOWN":
                    self.refresh_soon()
                whole.replies[position] = reply
            elif part.redirects < MAX_REDIRECTS and self.usable:
                onward.append((position, redirect))
            else:
                whole.replies[position] = StoreNotReady("the nodes of the cluster contradict each other", code="MOVED")
        for position, redirect in onward:
            self._send_on(part, position, redirect)
        if not onward and not any(reply is UNANSWERED for reply in whole.replies):
            whole.finish()

    def _send_on(self, part: _Part, position: int, redirect: Redirect) -> None:
        node, whole = self._node(redirect.host), part.whole
        if not redirect.asking:
            self._assign(redirect.slot, node)
            self.refresh_soon()
        if len(whole.commands) == 1:
            whole.sent = False  # it was refused; whether it may have been executed is open again
        if not whole.abandoned:
            command = whole.commands[position]
            commands = (ASKING, command) if redirect.asking else (command,)
            node.submit(_Part(self, node, whole, (position,), commands, part.redirects + 1))

    def _node_for(self, command: Command) -> NodeLink:
        slot = slot_of(command)
        node = self._by_slot[slot] if slot is not None else None
        return node if node is not None else self._choose_node(slot)

    def _choose_node(self, slot: int | None) -> NodeLink:
        known = cast("SlotMap", self._map)
        owner = known.owners[slot] if slot is not None else None
        if owner is None or slot is None:  # any node will do, or will say what is wrong
            return self._node(random.choice(list(known.members)))  # noqa: S311 - to spread the load
        return self._assign(slot, self._node(owner))

    def _assign(self, slot: int, node: NodeLink) -> NodeLink:
        self._by_slot[slot] = node
        if node not in self._in_use:
            self._in_use.add(node)
            self._settled = False
        return node

    def _node(self, host: Host) -> NodeLink:
        node = self._nodes.get(host)
        if node is None or node.closed:
            address = NodeAddress(self._address, host)
            if self._map is not None:
                address.introduce(self._map.members.get(host), self._map.told_by)
            node = self._nodes[host] = NodeLink(self._loop, address, self._options)
            self._all_nodes.add(node)
        return node

    # --- the map -----------------------------------------------------------------------------------------------------

    def refresh_soon(self) -> None:
        """Something contradicts the map: ask for it again, one question at a time and not too often."""
        if self._refreshing is None and self.usable:
            self._refreshing = self._loop.create_task(self._refresh(), context=Context())

    def _lost_track(self) -> None:
        self._settled = False
        self.refresh_soon()

    async def _refresh(self) -> None:
        try:
            earliest = self._refreshed_at + self._gap_seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            await asyncio.sleep(earliest - self._loop.time())
            before = self._map
            # Where nobody tells, the old map is the best there is, and whoever fails by it will ask again.
            with contextlib.suppress(StoreError):
                self._use(await fetch_slot_map(self._informants(), self._options.connect_timeout_seconds))
            changed = before != self._map
            self._gap_seconds = _SHORTEST_GAP_SECONDS if changed else min(2 * self._gap_seconds, _LONGEST_GAP_SECONDS)
        finally:
            self._refreshed_at = self._loop.time()
            self._refreshing = None

    def _informants(self) -> Iterator[NodeLink]:
        """All nodes that may know the map: connected ones first, the URL's last."""
        members = list(self._map.members) if self._map is not None else []
        random.shuffle(members)
        members.sort(key=lambda host: host not in self._nodes or not self._nodes[host].connected)
        for host in dict.fromkeys([*members, *self._address.seeds]):
            yield self._node(host)

    def _use(self, slot_map: SlotMap) -> None:
        self._map = slot_map
        self._by_slot = [None] * SLOTS
        self._in_use = set()
        for host, node in list(self._nodes.items()):
            if host in slot_map.members:
                node.address.introduce(slot_map.members[host], slot_map.told_by)
            else:  # it has left the cluster, or is one of the URL's and goes by another name there
                del self._nodes[host]
                node.dismiss()


class _Part(Exchange):
    """A node's share of a caller's exchange.

    Args:
        positions: the places of its commands in the whole.
        commands: those commands; an ASKING before them has no place in the whole.
        redirects: how often they were sent elsewhere before.
    """

    __slots__ = ("node", "positions", "redirects", "whole", "wire")

    def __init__(
        self,
        wire: ClusterWire,
        node: NodeLink,
        whole: Exchange,
        positions: Sequence[int],
        commands: Sequence[Command],
        redirects: int = 0,
    ) -> None:
        super().__init__(commands, whole.deadline)
        self.wire = wire
        self.node = node
        self.whole = whole
        self.positions = positions
        self.redirects = redirects

    def claim(self) -> bool:
        """Right before sending; see `Exchange`. Another part of the whole may have been sent before."""
        whole = self.whole
        before, whole.sent = whole.sent, True
        if whole.abandoned:
            whole.sent = before
            return False
        return True

    def finish(self, failure: RactoGatewayError | None = None) -> None:
        """All that this node answers is here."""
        whole, replies = self.whole, self.replies
        if len(whole.replies) == len(replies) == 1 and failure is None and not isinstance(replies[0], Exception):
            whole.replies[0] = replies[0]  # nearly always
            whole.finish()
        else:
            self.wire.settle(self, failure)

    def grant(self, deadline: float) -> bool:
        self.whole.grant(deadline)  # to which another part, or the caller's link, may have come before
        granted = self.whole.deadline > self.deadline
        self.deadline = self.whole.deadline
        return granted

    def expire(self) -> None:
        """The caller's time is up: perhaps this node is frozen, and its successor already elected."""
        self.whole.expire()
        self.wire.refresh_soon()
