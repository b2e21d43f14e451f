"""A primary behind Sentinels that freezes, a node of a cluster that is killed, under the same load as everything else:
what the surviving side has acknowledged is applied once, by the ids of the operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import redis
from servers import FACTORIES, Server, ServerNotInstalled, wait_until
from topologies import Cluster, Sentinels, cluster, sentinels
from traffic import FACES, Traffic

from ractogateway.redis.keys import MemoryKeys

DOWN_AFTER_MS = 1_000
MARGIN_SECONDS = 1.0
"""Replication is asynchronous: what a primary acknowledged so shortly before it went may be gone with it."""


@dataclass
class Gone:
    """What the callers have lived through."""

    traffic: Traffic
    row: str


@contextmanager
def sentinel_failover(make: Callable[..., Server]) -> Iterator[tuple[str, Callable]]:
    with sentinels(make, down_after_ms=DOWN_AFTER_MS) as watched:
        try:
            yield watched.url, lambda _traffic: frozen_until_replaced(watched)
        finally:
            for server in watched.servers:  # the old primary would serve for a second yet: not the surviving side
                server.thaw()


@contextmanager
def frozen_until_replaced(watched: Sentinels) -> Iterator[None]:
    old = watched.primary()
    old.freeze()
    look_for(lambda: watched.agreed() not in (None, old), "the next primary")
    yield


def look_for(condition: Callable[[], bool], what: str) -> None:
    """Not all the time: each look takes the interpreter from the callers."""

    def look() -> bool:
        time.sleep(0.05)
        return condition()

    wait_until(look, timeout_seconds=30, what=what)


@contextmanager
def cluster_node(make: Callable[..., Server]) -> Iterator[tuple[str, Callable]]:
    with cluster(make, node_timeout_ms=DOWN_AFTER_MS) as nodes:
        yield nodes.url, lambda traffic: killed_until_replaced(nodes, traffic)


@contextmanager
def killed_until_replaced(nodes: Cluster, traffic: Traffic) -> Iterator[None]:
    """The node that holds the conversation which all share."""
    key = MemoryKeys.of("ractogateway:memory", "", "shared").messages
    victim = nodes.owner(key)
    victim.kill()

    def replaced() -> bool:
        try:
            return nodes.owner(key) is not victim
        except (AssertionError, redis.RedisError):  # in the middle of a change
            return False

    look_for(replaced, "a replica that takes over")
    yield


CASES = {"Sentinel failover": sentinel_failover, "cluster": cluster_node}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((row, kind), marks=[pytest.mark.cell(row), *([] if kind == "valkey9" else [pytest.mark.slow])])
        for row in CASES
        for kind in ("valkey9", "redis8", "redis7")
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def gone(request: pytest.FixtureRequest) -> Iterator[Gone]:
    row, kind = request.param
    try:
        FACTORIES[kind]()
    except ServerNotInstalled as reason:
        pytest.skip(str(reason))
    with ExitStack() as stack:
        url, raging = stack.enter_context(CASES[row](FACTORIES[kind]))
        traffic = Traffic(url, stack, forgets="the last moments", margin_seconds=MARGIN_SECONDS)
        traffic.live_through(lambda: raging(traffic), seconds=0.2)
        traffic.settle_accounts()
        yield Gone(traffic, row)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    "tool", [pytest.param(tool, marks=pytest.mark.column(tool)) for tool in ("cache", "limiter", "memory")]
)
def test_what_the_surviving_side_acknowledged_is_applied_once(gone, tool, face, figures):
    book = gone.traffic.books[tool, face]
    figures(**book.figures(gone.traffic.overslept))
    assert (book.wrong, book.lost, book.double) == ([], [], [])
    assert book.failed or tool == "cache"
    assert book.outage < 25


@pytest.mark.column("cache", "limiter", "blocking")
def test_each_outage_is_followed_by_a_recovery_in_the_log(gone):
    lines = gone.traffic.lines
    assert {line.partition(":")[0] for _, line, _ in lines} <= {"exact cache", "rate limiter"}
    levels = [level for level, _, _ in lines]
    assert levels.count("WARNING") == levels.count("INFO")
