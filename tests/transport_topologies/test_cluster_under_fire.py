"""Nodes that freeze and nodes that die: an outage of their keys alone, until a replica takes over."""

from __future__ import annotations

import time

import pytest
from load import Load
from probing import AT_ONCE_SECONDS, Callers, Watch, get, incr, put
from redis.crc import key_slot
from servers import wait_until

from ractogateway.errors import (
    OutcomeUnknown,
    StoreTimeout,
    StoreUnavailable,
)

NERVOUS_MS = 700
TAGS = [b"tag-%d" % number for number in range(12)]
KEYS = [b"key-%d" % number for number in range(60)]


def test_a_frozen_node_stops_nobody_else(nodes):
    frozen = nodes.owner(KEYS[0])
    there = [key for key in KEYS if nodes.owner(key) is frozen]
    elsewhere = [key for key in KEYS if nodes.owner(key) is not frozen]
    for kind in Callers.KINDS:
        with Callers(kind, nodes.url, 0.3) as callers, Watch() as watch:
            callers.result([put(key, key) for key in KEYS])
            with frozen.frozen():
                stuck = [callers.start(get(key)) for key in there]
                mixed = callers.start([get(key) for key in KEYS])
                assert callers.result([get(key) for key in elsewhere]) == elsewhere
                for ended in [future.result(10) for future in [*stuck, mixed]]:
                    assert isinstance(ended.result, StoreTimeout)
                    watch.assert_kept(0.3, ended.seconds)
            assert callers.result([get(key) for key in there]) == there


def test_all_nodes_frozen(nodes):
    with Callers("blocking", nodes.url, 0.2) as callers:
        callers.result([put(key, key) for key in KEYS])
        for node in nodes.nodes:
            node.freeze()
        try:
            ended = callers.outcome([get(key) for key in KEYS])
        finally:
            for node in nodes.nodes:
                node.thaw()
        assert isinstance(ended.result, StoreTimeout)
        assert callers.result([get(key) for key in KEYS]) == KEYS


def test_a_call_that_was_left_before_it_could_be_sent_is_never_sent(nodes):
    key = KEYS[0]
    owner = nodes.owner(key)
    with Callers("awaiting", nodes.url, 0.2) as hasty, Callers("awaiting", nodes.url, 5.0) as patient:
        patient.result(get(next(one for one in KEYS if nodes.owner(one) is not owner)))  # the map, not that node
        with owner.frozen():
            ended = hasty.outcome(incr(key)).result
            assert isinstance(ended, StoreUnavailable)
            assert not ended.may_have_applied
        assert patient.result(get(key)) is None


# --- nodes that die (last: one that comes back waits two seconds before it serves) ------------------------------------


def test_a_primary_dies_under_load(nodes):
    nodes.set_node_timeout(NERVOUS_MS)
    victim = nodes.owner(TAGS[0])
    with Load(nodes.url, TAGS, lossy=True) as load, Callers("blocking", nodes.url, 20.0) as patient:
        wait_until(lambda: load.replies > 1000, timeout_seconds=20, what="a load")
        assert patient.result(put(TAGS[0], b"before")) == b"OK"
        start = time.monotonic()
        victim.kill()
        assert patient.result(put(TAGS[0], b"after")) == b"OK"
        seconds = time.monotonic() - start
        so_far = load.replies
        wait_until(lambda: load.replies > so_far + 1000, timeout_seconds=20, what="progress after the failover")
        assert patient.result(get(TAGS[0])) == b"after"
    assert load.wrong == []
    assert seconds < 10


def test_what_happens_to_a_call_is_told_for_that_call(nodes):
    """Of two commands in one batch, one was sent and its node cut off: only that one may have been executed."""
    lost = nodes.owner(KEYS[0])
    other = next(key for key in KEYS if nodes.owner(key) is not lost)
    kept = nodes.owner(other)
    with Callers("awaiting", nodes.url, 5.0) as callers:
        callers.result([put(KEYS[0], b"0"), put(other, b"0")])
        lost.freeze()
        started = callers.start([incr(KEYS[0]), incr(other)])
        wait_until(lambda: kept.command("GET", other) == b"1", what="the other half")
        lost.kill()
        ended = started.result(10)
    assert isinstance(ended.result, OutcomeUnknown)
    assert ended.seconds < AT_ONCE_SECONDS, "it was not told at once"
    assert kept.command("GET", other) == b"1"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_long_storm(nodes):
    """Slots move, primaries die and come back, again and again."""
    nodes.set_node_timeout(NERVOUS_MS)
    with Load(nodes.url, TAGS, lossy=True) as load:
        for turn in range(12):
            victim = nodes.owner(TAGS[turn])
            nodes.move_on(key_slot(TAGS[turn - 1]))
            victim.kill()
            wait_until(lambda so_far=load.replies: load.replies > so_far + 5000, timeout_seconds=60, what="progress")
            nodes.wait_until_whole()
            nodes.set_node_timeout(NERVOUS_MS)
    assert load.wrong == []
    assert load.replies > 60_000
