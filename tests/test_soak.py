"""Nothing grows: memory, connections, descriptors, threads, tasks and keys are flat under traffic that goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from probing import own_server
from servers import no_key_without_ttl

SOAK = Path(__file__).with_name("soak.py")

MAY_GROW = {"rss_mb": 6.0, "connections": 6, "descriptors": 12, "threads": 1, "tasks": 1, "objects": 4_000}
"""From one plateau to the other: what is about to close at one rest and not at another. A connection that stayed for
each one killed would add dozens within seconds.
"""

KEYS_MAY_GROW = 0.2


def run(seconds: float, rests: int) -> dict[str, Any]:
    """The soak's report; of the server, only that no key is left for ever."""
    with own_server() as server:
        finished = subprocess.run(
            [sys.executable, str(SOAK), server.url, str(seconds), str(rests)],
            env={**os.environ, "PYTHONPATH": str(SOAK.parents[1]), "MALLOC_ARENA_MAX": "2"},
            capture_output=True,
            text=True,
            timeout=seconds + 100,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        no_key_without_ttl(server.url, "")
        return json.loads(finished.stdout)


def growth(samples: list[dict[str, float]]) -> dict[str, float]:
    """From the second quarter of the samples to the last, after a first one to warm up.

    At a rest, some connections may still be about to close, so of counts the lowest of a quarter is what is kept.
    """
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    middle = {"rss_mb": median, "objects": median}
    return {
        name: middle.get(name, min)(each[name] for each in after) - middle.get(name, min)(each[name] for each in before)
        for name in samples[0]
    }


def grown(samples: list[dict[str, float]]) -> dict[str, float]:
    """What grew more than it may."""
    return {name: more for name, more in growth(samples).items() if more > MAY_GROW.get(name, float("inf"))}


def test_nothing_grows_in_ten_seconds():
    report = run(6.0, 8)
    assert not report["bugs"], report["bugs"][0]
    assert report["done"].keys() >= {"request", "read", "odd", "awaited request", "cancelled", "loop", "kill"}
    assert not grown(report["samples"]), report["samples"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_grows_in_an_hour_of_four_minutes(capsys):
    report = run(240.0, 24)
    with capsys.disabled():
        print(json.dumps(report, indent=1))
    assert not report["bugs"], report["bugs"][0]
    assert not grown(report["samples"]), report["samples"]
    # How much is done changes with what else this machine has to do. What the work of a lease's time leaves does not.
    ratios = [
        after["keys"] / (after["done"] - before["done"])
        for before, after in zip(report["samples"], report["samples"][4:], strict=False)
    ]
    quarter = len(ratios) // 4
    assert median(ratios[-quarter:]) <= (1 + KEYS_MAY_GROW) * median(ratios[quarter : 2 * quarter]), ratios


@pytest.mark.parametrize("name", MAY_GROW)
def test_a_leak_would_be_seen(name):
    flat = dict.fromkeys([*MAY_GROW, "keys"], 100.0)
    assert not grown([flat] * 24)
    step = 2 * MAY_GROW[name] / 12
    assert grown([{**flat, name: 100.0 + step * number} for number in range(24)]).keys() == {name}
