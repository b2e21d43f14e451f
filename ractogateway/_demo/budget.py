"""Recomputing a rate limiter's decisions from its callers' side.

A charge was made on the server's clock at a moment that the client knows only to lie between ``sent`` and ``received``.
So each function asks what must have been, or cannot have been, whatever the moments were: it accuses only when no order
of events would explain what was seen.

The window slides: a charge made at t counts until t + window. The limiter rounds stamps up to the millisecond, and in a
crowded window it may hold tokens longer by a 96th of the window (``scripts/sliding_window_charge.lua``); never shorter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from ractogateway._demo.records import Charge, Terms

__all__ = ["by_user", "misstated", "overspent", "unjustly_refused"]

_CLOCKS_DIFFER = 0.001
"""By how much two clocks may run at different rates while one of them is corrected: 500 parts in a million, twice."""
_ROUNDING_SECONDS = 0.003
_CROWDED_CELLS = 96


def by_user(charges: Iterable[Charge]) -> list[list[Charge]]:
    """The charges of each user, in the order in which they were sent."""
    users: dict[str, list[Charge]] = {}
    for charge in sorted(charges, key=lambda charge: charge.sent):
        users.setdefault(charge.user, []).append(charge)
    return list(users.values())


def overspent(charges: Sequence[Charge], terms: Terms) -> int:
    """In how many windows one user surely spent more than the budget. A window begins with each charge."""
    window = terms.window_seconds * (1 - _CLOCKS_DIFFER)
    broken = 0
    for index, first in enumerate(charges):
        spent = sum(
            charge.tokens for charge in charges[index:] if charge.allowed and charge.received < first.sent + window
        )
        broken += spent > terms.budget
    return broken


def misstated(charges: Sequence[Charge], terms: Terms) -> int:
    """How many of the limiter's statements of what remains contradict all the charges of this user."""
    broken = 0
    for told in charges:
        if told.allowed is None:
            continue
        own = told.tokens if told.allowed else 0
        least, most = _spent(told, charges, terms)
        broken += not terms.budget - most - own <= told.remaining <= terms.budget - least - own
    return broken


def unjustly_refused(charges: Sequence[Charge], terms: Terms) -> int:
    """How many refusals of one user had no cause, or named a time at which the same tokens were refused again."""
    broken = 0
    for refusal in charges:
        if refusal.allowed is not False:
            continue
        _, most = _spent(refusal, charges, terms)
        fitted = most + refusal.tokens <= terms.budget
        wait = refusal.retry_after_seconds
        never = refusal.tokens > terms.budget
        plausible = wait == inf if never else 0 < wait <= _longest(terms)
        broken += fitted or not plausible or _refused_again(refusal, charges)
    return broken


def _spent(at: Charge, charges: Sequence[Charge], terms: Terms) -> tuple[int, int]:
    """The least and the most that charges other than ``at`` can have counted at that moment."""
    least = most = 0
    window, longest = terms.window_seconds * (1 - _CLOCKS_DIFFER), _longest(terms)
    for charge in charges:
        if charge is at or charge.allowed is False:
            continue
        if charge.sent <= at.received and at.sent <= charge.received + longest:
            most += charge.tokens
            if charge.allowed and charge.received < at.sent and at.received < charge.sent + window:
                least += charge.tokens
    return least, most


def _longest(terms: Terms) -> float:
    """How long a charge can count at most."""
    return terms.window_seconds * (1 + _CLOCKS_DIFFER + 1 / _CROWDED_CELLS) + _ROUNDING_SECONDS


def _refused_again(refusal: Charge, charges: Sequence[Charge]) -> bool:
    """Whether this user came back no earlier than told, with no more tokens and having spent none, and was refused."""
    back_at = refusal.received + refusal.retry_after_seconds
    for again in charges:
        if again.allowed is False and again.sent >= back_at and again.tokens <= refusal.tokens:
            spent = (
                charge.allowed is not False and charge.received > refusal.sent and charge.sent < again.received
                for charge in charges
            )
            if not any(spent):
                return True
    return False
