"""What embeddings are charged, in a kit with a rate limiter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kit_tools import LIMIT, USER

from ractogateway._demo.answers import count_tokens
from ractogateway._demo.http11 import send
from ractogateway.errors import (
    BlockingCallWarning,
    InvalidTypeError,
    InvalidValueError,
    ProviderConnectionError,
    ProviderRateLimited,
    RateLimitExceeded,
)

TEXTS = ["Where is the Louvre?", "When does it open? " * 20]

with_embeddings = pytest.mark.parametrize("wire", ["openai", "google"], indirect=True)
only_openai = pytest.mark.parametrize("wire", ["openai"], indirect=True)

Embed = Callable[..., Any]


@pytest.fixture(params=["embed", "aembed"])
def embed(request) -> Embed:
    if request.param == "embed":
        return lambda kit, *arguments, **named: kit.embed(*arguments, **named)
    return lambda kit, *arguments, **named: asyncio.run(kit.aembed(*arguments, **named))


@with_embeddings
def test_a_user_pays_what_they_cost(embed: Embed, make, tools, wire):
    kit = make(rate_limiter=tools.make("rate_limiter"))
    assert embed(kit, TEXTS, dimensions=8, user_id=USER) == embed(kit, TEXTS, dimensions=8)
    told = sum(map(count_tokens, TEXTS))
    # Google's API does not tell: then the estimate stands, a token in four bytes, and four for the message.
    estimated = -(-len("".join(TEXTS)) // 4) + 4
    assert tools.spent() == (told if wire.variable == "OPENAI_API_KEY" else estimated)


@only_openai
@pytest.mark.parametrize("is_async", [False, True])
def test_a_refusal_comes_before_the_provider_is_asked(make, endpoint, tools, is_async):
    kit = make(rate_limiter=tools.make("rate_limiter", is_async=is_async))
    tools.make("rate_limiter").consume(USER, LIMIT - 10)
    if is_async:
        with pytest.raises(InvalidTypeError, match="use aembed"):
            kit.embed(TEXTS, user_id=USER)
    else:
        with pytest.raises(RateLimitExceeded):
            kit.embed(TEXTS, user_id=USER)
    with pytest.raises(RateLimitExceeded) as refused:
        asyncio.run(kit.aembed(TEXTS, user_id=USER))
    assert refused.value.decision.remaining == 10
    assert not getattr(refused.value, "__notes__", [])  # there is no max_tokens that could be lowered
    assert (endpoint.requests, tools.spent()) == (0, LIMIT - 10)


@only_openai
def test_a_call_that_fails_costs_what_the_provider_may_have_billed(embed: Embed, make, endpoint, tools, monkeypatch):
    async def cut(_self: Any, _body: Any, writer: asyncio.StreamWriter) -> bool:
        await send(writer, 200, {"data": []}, missing_bytes=5)
        return False

    kit = make(rate_limiter=tools.make("rate_limiter"))
    with pytest.raises(ProviderRateLimited):
        embed(kit, TEXTS, model="error-429", user_id=USER)
    assert tools.spent() == 0
    monkeypatch.setattr(type(endpoint), "_embed", cut)
    with pytest.raises(ProviderConnectionError):
        embed(kit, TEXTS, user_id=USER)
    assert tools.spent() == -(-len("".join(TEXTS)) // 4) + 4


@only_openai
def test_a_blocking_call_in_a_loop_is_told_of_the_async_way(make, tools):
    kit = make(rate_limiter=tools.make("rate_limiter"))

    async def main() -> None:
        kit.embed(TEXTS, user_id=USER)

    with pytest.warns(BlockingCallWarning, match="await aembed") as caught:
        asyncio.run(main())
    assert [each.filename for each in caught] == [__file__]


@only_openai
def test_without_a_user_or_a_limiter_nobody_pays(embed: Embed, make, tools):
    embed(make(rate_limiter=tools.make("rate_limiter")), TEXTS)
    embed(make(), TEXTS, user_id=USER)
    assert tools.spent() == 0
    for bad in ("", 5):
        with pytest.raises((InvalidTypeError, InvalidValueError), match="user_id"):
            embed(make(), TEXTS, user_id=bad)
