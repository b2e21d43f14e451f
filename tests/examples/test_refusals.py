"""How the example service says this library's errors in HTTP."""

from __future__ import annotations

import importlib.util
import math

import pytest
from examples.web_apps import EXAMPLES

from ractogateway import errors
from ractogateway.redis import RateLimitDecision

_found = importlib.util.spec_from_file_location("chat_service", EXAMPLES / "chat_service.py")
chat_service = importlib.util.module_from_spec(_found)
_found.loader.exec_module(chat_service)


def refused(seconds: float) -> errors.RateLimitExceeded:
    return errors.RateLimitExceeded(RateLimitDecision(False, 10, 0, seconds, seconds))


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (refused(0.001), 429, "1"),
        (refused(59.2), 429, "60"),
        (refused(math.inf), 413, None),
        (errors.RevisionConflict(1, 2), 409, None),
        (errors.InvalidValueError("too large"), 422, None),
        (errors.StoreTimeout("late", may_have_applied=True), 503, "1"),
        (errors.BreakerOpen("later"), 503, "1"),
        (errors.StoreRefused("no"), 500, None),
        (errors.ProviderRateLimited("too fast", retry_after_seconds=2.5), 503, "3"),
        (errors.ProviderRateLimited("too fast"), 503, "1"),
        (errors.ProviderTimeout("late"), 504, None),
        (errors.ProviderUnavailable("down"), 502, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_every_error_has_its_status_and_those_of_the_server_are_logged(error, status, retry_after, caplog):
    refusal = chat_service.refusal_of(error)
    assert (refusal.status, refusal.headers.get("Retry-After")) == (status, retry_after)
    assert str(error) not in refusal.detail
    assert caplog.messages == ([f"{type(error).__name__}: {error}"] if status >= 500 else [])


def test_names_of_conversations_do_not_collide():
    names = {chat_service.conversation_name(*pair) for pair in [("a", "b"), ('a", "b', ""), ("", 'a", "b'), ("ab", "")]}
    assert len(names) == 4
