"""The recomputation of a limiter's decisions: it accuses only when no order of events explains what was seen."""

from __future__ import annotations

from math import inf

import pytest

from ractogateway._demo.budget import by_user, misstated, overspent, unjustly_refused
from ractogateway._demo.records import Charge, Terms

TERMS = Terms(budget=100, window_seconds=10.0, max_turns=1, model="m", system_prompt="")


def admitted(at: float, tokens: int, remaining: int = 0, *, took: float = 0.01) -> Charge:
    return Charge("u", tokens, at, at + took, allowed=True, remaining=remaining)


def refused(at: float, tokens: int, remaining: int = 0, *, retry_after: float = 1.0, took: float = 0.01) -> Charge:
    return Charge("u", tokens, at, at + took, allowed=False, remaining=remaining, retry_after_seconds=retry_after)


def unknown(at: float, tokens: int) -> Charge:
    return Charge("u", tokens, at, at + 1, allowed=None)


@pytest.mark.parametrize(
    ("charges", "broken"),
    [
        ([], 0),
        ([admitted(0, 100)], 0),
        ([admitted(0, 101)], 1),
        ([admitted(0, 60), admitted(5, 40)], 0),
        ([admitted(0, 60), admitted(5, 41)], 1),
        ([admitted(0, 100), admitted(10, 100)], 0),
        ([admitted(0, 50), admitted(4, 50), admitted(9, 50), admitted(13, 50)], 1 + 1),
        # Sent within one window, but the first may have been made late enough and the last after it.
        ([admitted(0, 100, took=2), admitted(9.5, 100, took=3)], 0),
        ([admitted(0, 100), refused(5, 100)], 0),
        ([admitted(0, 100), unknown(5, 100)], 0),
    ],
)
def test_overspending(charges, broken):
    assert overspent(charges, TERMS) == broken


@pytest.mark.parametrize(
    ("charges", "broken"),
    [
        ([admitted(0, 60, 40), admitted(5, 40, 0)], 0),
        ([admitted(0, 60, 41)], 1),
        ([admitted(0, 60, 39)], 1),
        ([admitted(0, 60, 40), admitted(5, 30, 70)], 1),  # the first was forgotten
        ([admitted(0, 60, 40), admitted(10.5, 30, 70)], 0),  # the first has left the window
        ([admitted(0, 60, 40), admitted(10.5, 30, 10)], 1),  # and is still counted
        ([admitted(0, 60, 40), refused(5, 50, 40)], 0),
        ([admitted(0, 60, 40), refused(5, 50, 0)], 1),  # the refusal was charged
        ([unknown(0, 60), admitted(5, 40, 0)], 0),  # it may have been charged
        ([unknown(0, 60), admitted(5, 40, 60)], 0),  # or not
        ([unknown(0, 60), admitted(5, 40, 61)], 1),
        # At the same time: either may have been first.
        ([admitted(0, 60, 0, took=1), admitted(0.5, 40, 60, took=1)], 0),
        ([admitted(0, 60, 40, took=1), admitted(0.5, 40, 0, took=1)], 0),
    ],
)
def test_statements_of_what_remains(charges, broken):
    assert misstated(charges, TERMS) == broken


@pytest.mark.parametrize(
    ("charges", "broken"),
    [
        ([admitted(0, 60), refused(5, 50)], 0),
        ([admitted(0, 60), refused(5, 40)], 1),
        ([admitted(0, 60), refused(10.5, 50)], 1),
        ([refused(0, 101, retry_after=inf)], 0),
        ([refused(0, 101, retry_after=5)], 1),
        ([admitted(0, 60), refused(5, 50, retry_after=0)], 1),
        ([admitted(0, 60), refused(5, 50, retry_after=10.2)], 1),
        ([admitted(0, 60), refused(5, 50, retry_after=inf)], 1),
        ([admitted(0, 60), refused(5, 50, retry_after=2), refused(8, 50)], 1),
        ([admitted(0, 60), refused(5, 50, retry_after=2), refused(6, 50)], 0),  # came back too early
        ([admitted(0, 60), refused(5, 50, retry_after=2), refused(8, 60)], 0),  # and wants more
        ([admitted(0, 60), refused(5, 50, retry_after=2), admitted(6, 9), refused(8, 50)], 0),  # has spent meanwhile
        ([admitted(0, 60), refused(5, 50, retry_after=5.1), admitted(10.2, 50)], 0),
    ],
)
def test_refusals(charges, broken):
    assert unjustly_refused(charges, TERMS) == broken


def test_charges_are_sorted_by_user_and_time():
    early, late, other = admitted(1, 1), admitted(2, 1), Charge("v", 1, 0.0, 0.1, allowed=True)
    assert by_user([late, other, early]) == [[other], [early, late]]
