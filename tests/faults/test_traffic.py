"""All tools over both faces, under load, through one fault after the other: each keeps its promise, in time, and goes
on unaided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from books import GRACE_SECONDS, Book
from injection import FAULTS, Fault, scene_of
from servers import ServerNotInstalled
from traffic import FACES, SECONDS, TOOLS, Traffic

LATE_SECONDS = 1.0
"""Past its deadline no call may be on any machine. One that is late may have met a machine that was; when most of those
that use up their time are, it is our doing."""
UNSEEN = {"connections cut", "slow network", "scripts flushed", "clock stepping"}
"""Faults that a caller does not notice; but for one call in a hundred, whose short time a busy machine may use up."""
ONE_OUTAGE = {"freeze", "partition"}
"""Faults that are one outage for each object. Where the machine stood still meanwhile, some may have seen another."""


@dataclass
class Storm:
    """A fault that has passed, and what the callers of the time have to tell."""

    fault: Fault
    traffic: Traffic

    def book(self, tool: str, face: str) -> Book:
        return self.traffic.books[tool, face]


@pytest.fixture(scope="module")
def storm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, rage_seconds: float) -> Iterator:
    kind, name = request.param
    fault = FAULTS[name]
    with ExitStack() as stack:
        try:
            scene = stack.enter_context(scene_of(fault, kind, tmp_path_factory.mktemp("scene")))
        except ServerNotInstalled as reason:
            pytest.skip(str(reason))
        traffic = Traffic(scene.url, stack, forgets=fault.forgets, options={"breaker_seconds": 0.2, **scene.options})
        traffic.live_through(lambda: fault.raging(scene), seconds=rage_seconds, stops=fault.stops)
        traffic.settle_accounts()
        yield Storm(fault, traffic)


def storms() -> list:
    """Each fault on one kind of server, in turn; on the others in the long run."""
    params = []
    for number, fault in enumerate(FAULTS.values()):
        for place, kind in enumerate(fault.kinds):
            slow = [] if place == number % len(fault.kinds) else [pytest.mark.slow]
            marks = [pytest.mark.cell(fault.row), *slow]
            params.append(pytest.param((kind, fault.name), marks=marks, id=f"{fault.name}-{kind}"))
    return params


pytestmark = pytest.mark.parametrize("storm", storms(), indirect=True, scope="module")
on_each_face = pytest.mark.parametrize("face", FACES)


def judged(storm: Storm, tool: str, face: str, figures) -> Book:
    """What every tool owes."""
    book = storm.book(tool, face)
    figures(**book.figures(storm.traffic.overslept))
    assert book.wrong == []
    assert book.double == []
    assert book.lost == []
    assert book.late < LATE_SECONDS + 10 * storm.traffic.overslept
    assert book.overrun < GRACE_SECONDS + SECONDS[tool] / 2, "calls end late, and the machine is not why"
    if storm.fault.stops == "all":
        assert book.failed, "there was no outage"
    if storm.fault.name in UNSEEN:
        early = book.failed.total() - book.failed["StoreTimeout"]  # a busy machine uses up the time of a call
        assert early <= book.calls / 100, book.failed
    return book


@pytest.mark.column("cache")
@on_each_face
def test_the_cache_misses_and_is_never_wrong(storm, face, figures):
    book = judged(storm, "cache", face, figures)
    if storm.fault.stops == "writes":
        assert book.read_meanwhile > 0


@pytest.mark.column("limiter")
@on_each_face
def test_the_limiter_charges_once_and_decides_by_its_policy(storm, face, figures):
    book = judged(storm, "limiter", face, figures)
    if storm.fault.stops != "nothing":
        assert book.degraded > 0, "nobody was served by the policy"


@pytest.mark.column("memory")
@on_each_face
def test_the_memory_raises_and_keeps_what_it_acknowledged(storm, face, figures):
    book = judged(storm, "memory", face, figures)
    if storm.fault.stops == "writes":
        assert book.failed, "there was no outage"
        assert book.read_meanwhile > 0


@pytest.mark.column("cache", "limiter", "blocking")
def test_each_change_of_state_makes_one_line(storm):
    """As many recoveries as outages, neither more than there were calls to tell of them."""
    traffic = storm.traffic
    said = Counter((level, line.partition(":")[0]) for level, line, _ in traffic.lines)
    tools = {tool for _, tool in said}
    assert tools <= {"exact cache", "rate limiter"}, traffic.lines
    for tool in tools:
        assert said["WARNING", tool] == said["INFO", tool], traffic.lines
    if storm.fault.stops == "all":
        assert tools == {"exact cache", "rate limiter"}
    if storm.fault.row in ONE_OUTAGE and traffic.overslept < GRACE_SECONDS:
        objects = len(traffic.callers) // len(TOOLS)  # of each tool: one that shows no outage for each caller
        # Before and after, the short time of a call may end on a busy machine: an outage, too, as far as that can tell.
        until = traffic.ended_at + max(SECONDS.values())
        meanwhile = Counter(
            (level, line.partition(":")[0]) for level, line, at in traffic.lines if traffic.began_at <= at <= until
        )
        for tool in tools:
            assert said["WARNING", tool] >= objects, traffic.lines
            assert meanwhile["WARNING", tool] < 2 * objects, traffic.lines
