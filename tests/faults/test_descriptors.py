"""What connections leave behind in the process that are cut, or given up, by the hundred: nothing."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from injection import FAULTS, scene_of
from servers import wait_until
from traffic import Traffic

DESCRIPTORS = Path("/proc/self/fd")


def descriptors() -> int:
    return sum(1 for _ in DESCRIPTORS.iterdir())


def live_through(name: str, directory: Path) -> None:
    fault = FAULTS[name]
    directory.mkdir()
    with ExitStack() as stack:
        scene = stack.enter_context(scene_of(fault, "valkey9", directory))
        traffic = Traffic(scene.url, stack, options={"breaker_seconds": 0.05, **scene.options})
        traffic.live_through(lambda: fault.raging(scene), seconds=0.3, stops=fault.stops)


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="descriptors are counted where Linux lists them")
@pytest.mark.parametrize("name", ["connections cut", "frozen"])
def test_no_descriptor_outlives_its_connection(name, tmp_path):
    """The first storm opens what a process keeps: the loop of the blocking faces."""
    live_through(name, tmp_path / "first")
    before = descriptors()
    live_through(name, tmp_path / "second")
    wait_until(lambda: descriptors() <= before, timeout_seconds=10, what=f"as few descriptors as {before}")
