"""The budget while the clock of a real server is set: by libfaketime, which Debian has as a package of that name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from injection import LIBFAKETIME, Clock
from scripts.limiter_model import worst_window
from servers import Server, valkey9

from ractogateway.redis import RateLimitConfig, RedisRateLimiter

BUDGET, WINDOW_SECONDS = 1_000, 0.5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LIBFAKETIME, reason="libfaketime is not installed"),
]


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def faked(clock: Clock) -> Iterator[Server]:
    with valkey9(env=clock.environment) as server:
        yield server


@pytest.mark.cell("clock jump", "limiter", "blocking")
@pytest.mark.parametrize("steps", [(-5.0, -0.3, -1.9, -2.1), (5.0, 0.3, 0.1), (0.0,)], ids=["back", "forward", "none"])
def test_no_window_is_over_while_the_clock_is_set(faked: Server, clock: Clock, steps: tuple[float, ...]):
    """Backward in real time; forward in the time that the server's clock has shown to pass."""
    config = RateLimitConfig(max_tokens_per_minute=BUDGET, window_seconds=WINDOW_SECONDS)
    limiter = RedisRateLimiter(faked.url, config=config, on_outage="raise")
    charges: list[tuple[int, int]] = []
    forward = 0.0
    before = int(faked.command("TIME")[0])
    for step in (0.0, *steps, 0.0):
        clock.step(step)
        forward += max(0.0, step)
        until = time.monotonic() + 1.7 * WINDOW_SECONDS
        while time.monotonic() < until:
            reservation = limiter.reserve("u", 20)
            # The latest moment of a charge in the one direction, the earliest in the other, is an error of some ms.
            now_us = round((time.monotonic() + forward) * 1e6)
            if not reservation.decision.allowed:
                time.sleep(0.002)
                continue
            used = 5 + len(charges) % 16
            room = limiter.get_remaining("u")
            reservation.settle(used)
            refunded = limiter.get_remaining("u") - room > 0
            charges.append((now_us, used if refunded else 20))
    shown = int(faked.command("TIME")[0]) - before
    assert abs(shown - sum(steps) - 1.7 * WINDOW_SECONDS * (len(steps) + 2)) < 3, "the clock was set"
    assert len(charges) > 100
    # 5 ms less than a window: when a charge was made is known to the time of a call.
    assert worst_window(charges, round(WINDOW_SECONDS * 1000) - 5) <= BUDGET
