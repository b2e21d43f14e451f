"""Finding out who owns which slots: any node can tell, so whichever answers first is believed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

from ractogateway.errors import NotSent, StoreError, StoreNotReady, StoreRefused, StoreTimeout
from ractogateway.redis.config import RedisOptions
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.cluster_address import NodeAddress
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.exchange import UNANSWERED, Exchange
from ractogateway.redis.transport.link import Link
from ractogateway.redis.transport.slots import WHERE_ARE_THE_SLOTS, SlotMap

_NEXT_AFTER_SECONDS = 0.1
"""After so long without an answer the next node is asked beside the others."""


class NodeLink(Link):
    """The link to one node. It belongs to its cluster alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: NodeAddress, options: RedisOptions) -> None:
        self._owner: Endpoint | None = Endpoint(address, options)  # links refer to their owners weakly
        super().__init__(loop, self._owner)
        self.address = address

    def dismiss(self) -> None:
        """It takes no more commands. Those under way have the grace of all retired links."""
        self._owner = None
        self.retire()


async def fetch_slot_map(nodes: Iterable[NodeLink], seconds: float) -> SlotMap:
    """Ask one node after the other, each for at most ``seconds``, until one answers.

    Raises:
        StoreError: none did. One that refuses (a wrong password, no cluster) settles it for all.
    """
    answers: asyncio.Queue[_Question] = asyncio.Queue()
    questions: list[_Question] = []
    failure: StoreError = NotSent("no node of the cluster can be reached")
    remaining = iter(nodes)
    node = next(remaining, None)
    unanswered = 0
    try:
        while node is not None or unanswered:
            if node is not None:
                questions.append(_Question(node, answers, seconds))
                node.submit(questions[-1])
                node = next(remaining, None)
                unanswered += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NEXT_AFTER_SECONDS if node is not None else None):
                    question = await answers.get()
                unanswered -= 1
                try:
                    return question.read()
                except StoreRefused:
                    raise
                except StoreError as error:
                    failure = error
        raise failure
    finally:
        for question in questions:
            question.abandon()


class _Question(Exchange):
    """CLUSTER SLOTS, to one node."""

    __slots__ = ("_answers", "_node", "_told")

    def __init__(self, node: NodeLink, answers: asyncio.Queue[_Question], seconds: float) -> None:
        super().__init__((WHERE_ARE_THE_SLOTS,), time.monotonic() + seconds)
        self._node = node
        self._answers = answers
        self._told = False

    def wake(self) -> None:
        if not self._told:
            self._told = True
            self._answers.put_nowait(self)

    def expire(self) -> None:
        self.abandon()
        self.failure = self.failure or StoreTimeout("a node of the cluster did not answer", may_have_applied=False)
        self.wake()

    def read(self) -> SlotMap:
        """The map.

        Raises:
            StoreError: there is none to be had from this node.
        """
        reply = self.replies[0]
        if reply is UNANSWERED:
            raise self.failure or NotSent("no answer")
        if isinstance(reply, Exception):
            if "cluster support disabled" in str(reply):
                raise StoreRefused("the server that the url names is not part of a cluster")
            raise failures.server_error(reply)
        try:
            slot_map = SlotMap.of(reply, self._node.address.reached)
        except ValueError:
            raise StoreRefused("the server that the url names does not answer as a cluster does") from None
        if not slot_map.members:
            raise StoreNotReady("no node of the cluster serves any slot", code="CLUSTERDOWN")
        return slot_map
