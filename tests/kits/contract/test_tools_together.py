"""The three tools around every kit and method, each alone and in every company, by both of their faces."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest
from kit_tools import ARGUMENTS, question

from ractogateway.errors import RateLimitExceeded
from ractogateway.redis import RateLimitConfig

COMPANIES = [company for size in range(4) for company in itertools.combinations(ARGUMENTS, size)]
CASES = [
    # Every company by a blocking method and by an awaited one; all three tools together by the others, and by cores.
    *(("chat", "face", company) for company in COMPANIES),
    *(("astream", "face", company) for company in COMPANIES),
    *((method, "face", ARGUMENTS) for method in ("stream", "achat")),
    *((method, "core", ARGUMENTS) for method in ("achat", "astream")),
]


@pytest.mark.parametrize(
    ("method", "form", "given"), CASES, ids=lambda value: value if isinstance(value, str) else "+".join(value) or "none"
)
def test_every_company_of_tools(asks, make, endpoint, tools, method, form, given):
    kit, ask = make(**(tools.all(*given, is_async=form == "core") if given else {})), asks[method]
    first = ask(kit, question())
    report = first.gateway
    limited, remembered = "rate_limiter" in given, "memory" in given

    assert (first.cached, report.provider_calls) == (False, 1)
    assert report.settled_tokens == (first.usage.total_tokens if limited else None)
    assert (report.reserved_tokens is not None) == (report.decision is not None) == limited
    if limited:
        assert report.decision.allowed
        assert report.reserved_tokens > report.settled_tokens
    assert (report.history_messages, report.revision) == ((0, 1) if remembered else (None, None))
    turn = [{"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": first.content}]
    assert tools.said() == (turn if remembered else [])
    assert tools.spent() == (first.usage.total_tokens if limited else 0)

    # Another conversation that begins alike: the same request.
    second = ask(kit, question(conversation_id="another"))
    hit = "exact_cache" in given
    assert (second.cached, second.content) == (hit, first.content)
    assert second.gateway.provider_calls == (0 if hit else 1)
    assert second.gateway.reserved_tokens == (report.reserved_tokens if limited and not hit else None)
    assert tools.spent() == (first.usage.total_tokens * (1 if hit else 2) if limited else 0)
    assert tools.said("another") == (turn if remembered else [])
    assert endpoint.requests == (1 if hit else 2)

    # The first one goes on: its history makes it a request of its own.
    third = ask(kit, question())
    assert third.cached == (hit and not remembered)
    assert third.gateway.history_messages == (2 if remembered else None)
    assert [message["role"] for message in tools.said()] == (["user", "assistant"] * 2 if remembered else [])
    if remembered:
        assert third.usage.prompt_tokens > first.usage.prompt_tokens


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("method", ["chat", "stream"])
def test_blocking_methods_cannot_await_a_core(make, endpoint, tools, argument, method):
    kit = make(**tools.all(argument, is_async=True))
    with pytest.raises(TypeError, match=rf"{argument} is async \(AsyncRedis\w+\): use achat or astream"):
        getattr(kit, method)(question())
    assert endpoint.requests == 0


@pytest.mark.parametrize("argument", ["rate_limiter", "memory"])
def test_what_is_no_such_tool_is_refused_when_a_kit_is_made(wire, tools, argument):
    for wrong in (object(), "redis://localhost", tools.make("exact_cache"), RateLimitConfig()):
        with pytest.raises(TypeError, match=f"{argument} must have"):
            wire.kit("m", api_key="k", **{argument: wrong})
    with pytest.raises(TypeError, match="not the class"):
        wire.kit("m", api_key="k", **{argument: type(tools.make(argument))})


def test_a_report_is_no_part_of_an_answer(ask, make, tools):
    kit = make(**tools.all("exact_cache"))
    config = question()
    first, hit, again = (ask(kit, config) for _ in range(3))
    assert hit.gateway != again.gateway  # their times differ
    assert hit == again
    assert hit != first
    assert "gateway" not in first.model_dump()
    assert "gateway" not in first.model_dump_json()
    identity = kit._prepare(config).identity
    stored = tools.make("exact_cache").get(*identity.fields, context=identity.context)
    assert stored.gateway is None


def test_one_line_a_call_in_the_log_without_anything_private(ask, make, tools, caplog):
    kit = make(**tools.all())
    with caplog.at_level(logging.DEBUG, "ractogateway.kit"):
        answer = ask(kit, question("CANARY question"))
        with pytest.raises(Exception, match="status 429"):
            ask(make("error-429", **tools.all()), question("CANARY question"))
    answered, failed = [record.getMessage() for record in caplog.records if record.name == "ractogateway.kit"]
    assert answered.startswith("a call of model stand-in ended: answered; provider calls 1, cached False, allowed True")
    assert f"reserved {answer.gateway.reserved_tokens}, settled {answer.usage.total_tokens}" in answered
    assert failed.startswith("a call of model error-429 ended: ProviderRateLimited; provider calls 1")
    assert "CANARY" not in answered + failed
    assert answer.content not in answered


def test_many_at_once_pay_once(make, endpoint, tools):
    kit = make("slow-50", **tools.all("exact_cache", "rate_limiter"))

    async def many() -> list:
        return await asyncio.gather(*(kit.achat(question(user_id=f"u{number}")) for number in range(20)))

    answers = asyncio.run(many())
    (own,) = (answer for answer in answers if not answer.cached)
    assert endpoint.requests == 1
    assert sum(tools.spent(f"u{number}") for number in range(20)) == own.usage.total_tokens
    assert [answer.gateway.provider_calls for answer in answers if answer.cached] == [0] * 19


def test_who_waits_does_not_depend_on_who_asks(make, endpoint, tools):
    """Of two that ask the same at once, the one that goes first has no budget: the other asks, and pays."""
    poor = tools.make("rate_limiter")
    poor.consume("poor", 100_000)
    kit = make("slow-50", exact_cache=tools.make("exact_cache"), rate_limiter=poor)

    async def main() -> list:
        asked = (kit.achat(question(user_id=user)) for user in ("poor", "rich"))
        return await asyncio.gather(*asked, return_exceptions=True)

    refused, answer = asyncio.run(main())
    assert isinstance(refused, RateLimitExceeded) or refused.cached
    assert not answer.cached
    assert endpoint.requests == 1
    assert tools.spent("rich") == answer.usage.total_tokens
