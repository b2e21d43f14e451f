"""Slots that move while they are in use: every command is executed, once, wherever its keys are by then."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from faces import Maker
from load import BUDGET, Load, Writer
from probing import Callers, get, put
from redis.crc import key_slot
from servers import Server, wait_until
from topologies import BOTH, Cluster, counted

from ractogateway.errors import (
    StoreNotReady,
    StoreTimeout,
)
from ractogateway.redis.keys import LimiterKeys, MemoryKeys
from ractogateway.redis.transport import (
    plain_call,
)

TAGS = [b"tag-%d" % number for number in range(12)]
KEYS = [b"key-%d" % number for number in range(60)]


def test_moved_is_followed_once(nodes, callers):
    key = KEYS[0]
    callers.result([put(one, b"here") for one in KEYS])
    source = nodes.owner(key)
    target = next(node for node in nodes.primaries() if node is not source)
    nodes.move_slot(key_slot(key), target)
    before = counted(source, "MOVED")
    assert [callers.result(get(key)) for _ in range(20)] == [b"here"] * 20
    assert counted(source, "MOVED") == before + 1


@BOTH
def test_a_key_that_has_left_is_asked_for_at_its_new_home_while_the_slot_stays(nodes, callers):
    gone, left = b"{slot}:gone", b"{slot}:left"
    callers.result([put(gone, b"gone"), put(left, b"left")])
    with half_moved(nodes, gone) as (source, target):
        before = counted(source, "ASK"), counted(target, "asking")
        for _ in range(5):
            assert callers.result(get(gone)) == b"gone"
            assert callers.result(get(left)) == b"left"
            assert callers.result([get(left), get(gone), get(KEYS[1]), get(gone)]) == [b"left", b"gone", None, b"gone"]
        assert (counted(source, "ASK"), counted(target, "asking")) == (before[0] + 15, before[1] + 15)
    assert callers.result([get(gone), get(left)]) == [b"gone", b"left"]


def test_a_call_whose_keys_are_apart_waits_until_they_are_together(nodes, callers):
    gone, left = b"{slot}:gone", b"{slot}:left"
    callers.result([put(gone, b"gone"), put(left, b"left")])
    both = plain_call(b"MGET", (gone, left), (), list, replay_safe=True)
    with half_moved(nodes, gone) as (source, _):
        before = counted(source, "TRYAGAIN")
        waiting = callers.start(both)
        wait_until(lambda: counted(source, "TRYAGAIN") > before, what="a TRYAGAIN")
        assert not waiting.done()
    assert waiting.result(10).result == [b"gone", b"left"]


class half_moved:  # noqa: N801 - reads as a phrase
    """A slot of which one key has left already."""

    def __init__(self, nodes: Cluster, key: bytes) -> None:
        self.nodes, self.key, self.slot = nodes, key, key_slot(key)
        self.source = nodes.owner(key)
        self.target = next(node for node in nodes.primaries() if node is not self.source)

    def __enter__(self) -> tuple[Server, Server]:
        source, target = self.source, self.target
        target.command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.nodes.id_of(source))
        source.command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.nodes.id_of(target))
        source.command("MIGRATE", target.host, target.port, self.key, 0, 5000)
        return source, target

    def __exit__(self, *_: object) -> None:
        self.nodes.move_slot(self.slot, self.target)


def test_nodes_that_contradict_one_another_end_the_call_not_the_caller(nodes, callers):
    key, other = KEYS[0], KEYS[1]
    here, there = nodes.owner(key), next(node for node in nodes.primaries() if node is not nodes.owner(key))
    assert callers.result(get(key)) is None
    here.command("CLUSTER", "SETSLOT", key_slot(key), "NODE", nodes.id_of(there))  # which does not know of it
    try:
        with Callers("blocking", nodes.url, 0.3) as hasty:
            before = counted(here, "MOVED") + counted(there, "MOVED")
            refreshed = sum(counted(node, "cluster|slots") for node in nodes.nodes)
            ended = hasty.outcome(get(key))
            # As a rule no time is left for another try; on a busy machine the last one may not be answered in time.
            assert isinstance(ended.result, (StoreNotReady, StoreTimeout))
            assert getattr(ended.result, "code", "MOVED") == "MOVED"
            tries = (counted(here, "MOVED") + counted(there, "MOVED") - before) / 6  # the last one may be cut short
            assert tries < 12, "more redirections than five a try, or tries without a pause"
            assert sum(counted(node, "cluster|slots") for node in nodes.nodes) < refreshed + 10
        assert callers.result(put(other, b"value")) == b"OK"
    finally:
        for node in (there, here):
            node.command("CLUSTER", "SETSLOT", key_slot(key), "NODE", nodes.id_of(here))
    assert callers.result(put(key, b"value")) == b"OK"


@BOTH
def test_slots_move_under_load(nodes):
    with Load(nodes.url, TAGS) as load:
        for tag in TAGS[:8]:
            wait_until(lambda so_far=load.replies: load.replies > so_far + 300, timeout_seconds=20, what="progress")
            nodes.move_on(key_slot(tag))
    assert load.wrong == []
    assert not load.failures
    assert load.replies > 300 * 8
    assert load.left > 100


@pytest.mark.cell("cluster", "limiter", "memory", "blocking")
def test_slots_move_under_the_tools(nodes):
    """Their scripts touch several keys: while those are apart, a call waits. Nothing is lost, nothing happens twice."""
    over = threading.Event()
    with ExitStack() as stack:
        writers = [
            Writer(n, Maker(face, nodes, stack), over) for n, face in enumerate(["blocking url", "async url"] * 2)
        ]
        for writer in writers:
            writer.start()
        try:
            for writer in writers:
                so_far = len(writer.charged)
                wait_until(lambda w=writer, n=so_far: len(w.charged) > n + 20, timeout_seconds=10, what="progress")
                nodes.move_on(key_slot(MemoryKeys.of("ractogateway:memory", "", writer.conversation).state))
                nodes.move_on(key_slot(LimiterKeys.of("ractogateway:ratelimit", writer.user).tokens))
        finally:
            over.set()
            for writer in writers:
                writer.join(20)
        for writer in writers:
            assert not writer.is_alive(), "a caller hangs"
            assert writer.bug is None
            history = [int(message["content"]) for message in writer.memory.get_history(writer.conversation)]
            assert history == list(range(1, len(writer.acknowledged) + 1))
            assert BUDGET - writer.limiter.get_remaining(writer.user) == len(writer.charged)
