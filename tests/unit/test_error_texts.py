"""What errors say to somebody who meets them for the first time."""

from __future__ import annotations

import math
import pickle
from types import SimpleNamespace

import pytest

from ractogateway.errors import RateLimitExceeded
from ractogateway.redis import RateLimitDecision


def refused(violated: str | None, seconds: float, *, degraded: bool = False) -> RateLimitDecision:
    return RateLimitDecision(False, 4_000, 4_000, seconds, 0.0, violated, degraded)


@pytest.mark.parametrize(
    ("decision", "tokens", "text"),
    [
        (refused("requests_per_minute", 3.25), 10, " (requests_per_minute); retry after 3.250 s"),
        (refused(None, 3.25), None, "; retry after 3.250 s"),
        (
            refused("tokens_per_window", math.inf),
            4_101,
            ": a cost of 4,101 tokens is above tokens_per_window (4,000), so no retry can help",
        ),
        (
            refused("parents[0].tokens_per_day", math.inf),
            4_101,
            ": a cost of 4,101 tokens is above parents[0].tokens_per_day, so no retry can help",
        ),
        (refused(None, math.inf), None, ": the cost is above the limit, so no retry can help"),
        (
            refused("tokens_per_window", math.inf, degraded=True),
            None,
            ": the cost is above tokens_per_window (4,000), so no retry can help while Redis is away",
        ),
    ],
)
def test_a_refusal_says_when_a_retry_helps_and_when_none_does(decision, tokens, text):
    refusal = RateLimitExceeded(decision, tokens=tokens)
    assert str(refusal) == f"rate limit exceeded{text}"
    again = pickle.loads(pickle.dumps(refusal))
    assert (str(again), again.decision, again.tokens) == (str(refusal), decision, tokens)


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        (SimpleNamespace(allowed=False, retry_after_seconds=1.5), "; retry after 1.500 s"),
        (
            SimpleNamespace(allowed=False, retry_after_seconds=math.inf),
            ": the cost is above the limit, so no retry can help",
        ),
        (
            SimpleNamespace(allowed=False, retry_after_seconds=math.inf, violated="tokens_per_window"),
            ": the cost is above tokens_per_window, so no retry can help",
        ),
        (SimpleNamespace(allowed=False), ""),
    ],
)
def test_a_decision_of_somebody_elses_limiter_may_say_less(decision, text):
    assert str(RateLimitExceeded(decision)) == f"rate limit exceeded{text}"
