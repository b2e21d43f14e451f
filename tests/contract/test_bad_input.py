"""Wrong arguments: a clear error of the right type, from every face, before anything is written."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from faces import FACES, Maker
from secrecy import SECRET_ANSWER, SECRET_PROMPT, SECRET_USER

from ractogateway.errors import RactoGatewayError
from ractogateway.messages import LLMResponse
from ractogateway.redis import BudgetLeases, RateLimitCharge, RateLimitConfig, RateLimitParent

REQUEST = (SECRET_PROMPT, "", "gpt-4o", 0.0, 256)
ANSWER = LLMResponse(content=SECRET_ANSWER)

BAD_IDS = [(None, TypeError), (7, TypeError), (b"x", TypeError), ("", ValueError)]
BAD_TOKENS = [
    (0, ValueError),
    (-1, ValueError),
    (True, TypeError),
    (1.0, TypeError),
    (float("nan"), TypeError),
    ("5", TypeError),
    (None, TypeError),
    (2**53, ValueError),
    (10**400, ValueError),
]
BAD_TTLS = [
    (0, ValueError),
    (0.0, ValueError),
    (-1, ValueError),
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (0.0009, ValueError),
    (True, TypeError),
    ("60", TypeError),
]


@pytest.fixture(params=FACES)
def make(request, any_server):
    """Every face, one server: nothing here gets as far as a server, which is checked."""
    with ExitStack() as stack:
        yield Maker(request.param, any_server, stack)
        if "fake" not in request.param:
            assert any_server.command("DBSIZE") == 0


def refused(kind, function, *arguments, **named):
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    assert isinstance(caught.value, RactoGatewayError)
    assert str(caught.value)


@pytest.mark.parametrize(("bad", "kind"), BAD_IDS)
def test_ids(make, bad, kind):
    limiter, memory = make("limiter"), make("memory")
    refused(kind, limiter.check_and_consume, bad)
    refused(kind, limiter.consume, bad, 1)
    refused(kind, limiter.get_remaining, bad)
    refused(kind, limiter.reset, bad)
    refused(kind, limiter.reserve, bad, 1)
    refused(kind, limiter.wait, bad, 1, timeout_seconds=1)
    refused(kind, limiter.consume_many, [(SECRET_USER, 1), (bad, 1)])
    refused(kind, limiter.consume, SECRET_USER, 1, parents=["org", bad])
    refused(kind, limiter.reserve, SECRET_USER, 1, parents=[RateLimitParent(bad, RateLimitConfig())])
    refused(kind, memory.append, bad, "user", "hi")
    refused(kind, memory.get_history, bad)
    refused(kind, memory.count, bad)
    refused(kind, memory.clear, bad)
    if bad is not None:  # None: no request id
        refused(kind, limiter.consume, SECRET_USER, 1, request_id=bad)
        refused(kind, limiter.reserve, SECRET_USER, 1, request_id=bad)
        refused(kind, limiter.consume_many, [RateLimitCharge(SECRET_USER, 1, bad)])
        refused(kind, memory.append, "c", "user", "hi", request_id=bad)


@pytest.mark.parametrize(("bad", "kind"), BAD_TOKENS)
def test_token_counts(make, bad, kind):
    limiter = make("limiter")
    refused(kind, limiter.check_and_consume, SECRET_USER, bad)
    refused(kind, limiter.consume, SECRET_USER, bad)
    refused(kind, limiter.consume, SECRET_USER, bad, parents=["org"])
    refused(kind, limiter.reserve, SECRET_USER, bad)
    refused(kind, limiter.wait, SECRET_USER, bad, timeout_seconds=1)
    refused(kind, limiter.consume_many, [(SECRET_USER, 1), (SECRET_USER, bad)])
    if bad != 0 or isinstance(bad, bool):
        refused(kind, limiter.peek, SECRET_USER, bad)
    refused(kind, make("cache").put, "q", "", "m", 0.0, bad, ANSWER)


@pytest.mark.parametrize(("bad", "kind"), BAD_TTLS)
def test_times_to_live(make, bad, kind):
    refused(kind, make, "cache", ttl_seconds=bad)
    refused(kind, make("cache").put, *REQUEST, ANSWER, ttl_seconds=bad)


@pytest.mark.parametrize("role", ["", "User", "bot", " user", "system\n", "💥"])
def test_unknown_roles(make, role):
    refused(ValueError, make("memory").append, "c", role, "hi")
    refused(ValueError, make("memory").extend, "c", [{"role": role, "content": "hi"}])


@pytest.mark.parametrize("role", [None, 1, b"user"])
def test_roles_that_are_no_strings(make, role):
    refused(TypeError, make("memory").append, "c", role, "hi")


@pytest.mark.parametrize("content", [1, b"bytes", {"a": 1}, [1], object()])
def test_contents_of_a_wrong_type(make, content):
    refused(TypeError, make("memory").append, "c", "user", content)


@pytest.mark.parametrize("messages", ["text", {"role": "user", "content": "x"}, None, 5, [None], ["text"], [{}]])
def test_messages_that_are_none(make, messages):
    refused((TypeError, ValueError), make("memory").extend, "c", messages)


def test_no_messages(make):
    refused(ValueError, make("memory").extend, "c", [])


@pytest.mark.parametrize("revision", [-1, 1.0, True, "1"])
def test_expected_revisions(make, revision):
    refused((TypeError, ValueError), make("memory").extend, "c", [{"role": "user"}], expected_revision=revision)
    refused((TypeError, ValueError), make("memory").clear, "c", expected_revision=revision)


@pytest.mark.parametrize(
    "request_",
    [
        (None, "", "m", 0.0, 1),
        ("q", None, "m", 0.0, 1),
        ("q", "", None, 0.0, 1),
        ("q", "", "m", "0", 1),
        ("q", "", "m", float("nan"), 1),
        ("q", "", "m", 0.0, 0),
        ("q", "", "m", 0.0, 1.5),
        (b"q", "", "m", 0.0, 1),
    ],
)
def test_requests_with_wrong_fields(make, request_):
    cache = make("cache")
    refused((TypeError, ValueError), cache.get, *request_)
    refused((TypeError, ValueError), cache.put, *request_, ANSWER)
    refused((TypeError, ValueError), cache.invalidate, *request_)


@pytest.mark.parametrize("context", [5, "x", [1], {"f": object()}, {"f": len}, {1.5: "x"}])
def test_contexts_that_cannot_be_compared(make, context):
    refused((TypeError, ValueError), make("cache").put, *REQUEST, ANSWER, context=context)


@pytest.mark.parametrize("response", [None, "text", {"content": "x"}, LLMResponse])
def test_things_that_are_no_response(make, response):
    refused(TypeError, make("cache").put, *REQUEST, response)


def test_an_answer_that_json_cannot_hold(make):
    refused(TypeError, make("cache").put, *REQUEST, LLMResponse(content="x", parsed=object()))


@pytest.mark.parametrize("prefix", ["", None, 5, "app{}", "{}x"])
def test_prefixes(make, prefix):
    with pytest.raises((TypeError, ValueError)):
        make("cache", key_prefix=prefix)
    with pytest.raises((TypeError, ValueError), match="key_prefix"):
        RateLimitConfig(key_prefix=prefix)


def test_outage_policies_that_do_not_exist(make):
    refused(ValueError, make, "cache", on_outage="ignore")
    refused(ValueError, make, "limiter", on_outage="open")


@pytest.mark.parametrize(("share", "kind"), [(0, ValueError), (1.1, ValueError), (True, TypeError), ("1", TypeError)])
def test_local_shares(make, share, kind):
    refused(kind, make, "limiter", local_share=share)


@pytest.mark.parametrize(("bad", "kind"), [*BAD_TTLS, (32 * 86_400, ValueError), (None, TypeError)])
def test_durations(make, bad, kind):
    limiter = make("limiter")
    refused(kind, limiter.reserve, SECRET_USER, 1, lease_seconds=bad)
    if bad not in (0, 0.0009) or isinstance(bad, bool):  # not to wait at all is legal
        refused(kind, limiter.wait, SECRET_USER, 1, timeout_seconds=bad)


@pytest.mark.parametrize(
    ("parents", "kind"),
    [
        ("org", TypeError),
        (b"org", TypeError),
        ({"org"}, TypeError),
        (None, TypeError),
        ([SECRET_USER], ValueError),
        (["org", "org"], ValueError),
        ([RateLimitParent("org", {"max_tokens_per_minute": 1})], TypeError),
    ],
)
def test_parents_that_are_none(make, parents, kind):
    limiter = make("limiter", config=RateLimitConfig(max_tokens_per_day=1))
    refused(kind, limiter.consume, SECRET_USER, 1, parents=parents)
    refused(kind, limiter.reserve, SECRET_USER, 1, parents=parents)


@pytest.mark.parametrize(
    "charges", [SECRET_USER, {"u": 1}, None, [SECRET_USER], [()], [(SECRET_USER, 1, None, (), 5)], [[SECRET_USER, 1]]]
)
def test_charges_that_are_none(make, charges):
    refused((TypeError, ValueError), make("limiter").consume_many, charges)


def test_more_charges_than_one_round_trip_should_hold(make):
    refused(ValueError, make("limiter").consume_many, [(SECRET_USER, 1)] * 1_001)


def test_what_was_used(make):
    for bad, kind in BAD_TOKENS[1:]:
        reservation = make("limiter", on_outage="raise").reserve(SECRET_USER, 2)
        refused(kind, reservation.settle, bad)
        assert reservation.cancel()
    make("limiter").reset(SECRET_USER)
    if "fake" not in make.face:
        make._server.flush()  # records of what was cancelled


@pytest.mark.parametrize(
    "limits", [{"max_requests_per_minute": 0}, {"max_tokens_per_day": 1.5}, {"max_concurrent": True}, {"max_rpm": 1}]
)
def test_limits_that_are_none(limits):
    with pytest.raises((TypeError, ValueError)):
        RateLimitConfig(**limits)


def test_slices_of_a_budget(make):
    several = RateLimitConfig(max_requests_per_minute=1)
    refused(ValueError, make, "limiter", config=several, budget_leases=BudgetLeases())
    refused(TypeError, make, "limiter", budget_leases=0.5)
    for wrong in ({"seconds": 2.0}, {"share": 0.0}, {"seconds": 0.001}):
        with pytest.raises(ValueError):
            BudgetLeases(**wrong)


@pytest.mark.parametrize("config", [{}, 5, "x", RateLimitConfig])
def test_configurations_of_a_wrong_type(make, config):
    refused(TypeError, make, "limiter", config=config)
    refused(TypeError, make, "memory", config=config)
