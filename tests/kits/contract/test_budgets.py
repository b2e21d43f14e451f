"""What a kit with a rate limiter charges, however a call ends."""

from __future__ import annotations

import asyncio
import gc
import math
from contextlib import aclosing

import anyio
import pytest
from kit_tools import LIMIT, USER, estimate, question
from kit_wires import WEATHER, Person

from ractogateway._demo.answers import count_tokens
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    ProviderConnectionError,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimitExceeded,
    StoreUnavailable,
    StructuredOutputError,
)
from ractogateway.messages import LLMResponse
from ractogateway.redis import RateLimitConfig, RateLimitDecision, RedisOptions

AWAY = {"url": "redis://127.0.0.1:1/0", "options": RedisOptions(timeout_seconds=0.05)}


@pytest.fixture
def make_kit(make, tools):
    """A kit with a limiter and a memory: nothing that fails may leave anything in the second."""

    def made(model: str = "stand-in", **options):
        return make(model, **{**tools.all("rate_limiter", "memory"), **options})

    return made


def test_a_refusal_comes_before_the_provider_is_asked(ask, make_kit, endpoint, tools):
    tools.make("rate_limiter").consume(USER, LIMIT - 100)
    with pytest.raises(RateLimitExceeded) as e:
        ask(make_kit(), question())
    assert (e.value.decision.violated, e.value.decision.remaining) == ("tokens_per_window", 100)
    assert 0 < e.value.decision.retry_after_seconds <= 60
    assert "of the tokens are for the answer: ChatConfig.max_tokens" in e.value.__notes__[0]
    assert (endpoint.requests, tools.spent(), tools.said()) == (0, LIMIT - 100, [])


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_somebody_has_to_pay(ask, make_kit, endpoint):
    with pytest.raises(InvalidValueError, match=r"ChatConfig\.user_id is needed"):
        ask(make_kit(), question(user_id=None))
    assert endpoint.requests == 0


@pytest.mark.parametrize("field", ["user_id", "conversation_id"])
@pytest.mark.parametrize(("wrong", "kind"), [("", InvalidValueError), (7, InvalidTypeError)])
def test_ids_are_strings_that_say_something(field, wrong, kind):
    with pytest.raises(kind, match=field):
        question(**{field: wrong})
    assert question(**{field: "\ud800 CANARY"})  # any characters
    assert "CANARY" not in repr(question(**{field: "CANARY"}))


# -- estimates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_what_is_reserved_is_the_prompt_and_the_longest_answer(ask, make_kit):
    kit = make_kit()
    reserved = ask(kit, question()).gateway.reserved_tokens
    assert reserved == estimate(kit, question()) + 200 == math.ceil(len("Why is the sky blue?") / 4) + 4 + 200


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({"extra": {"max_tokens": 50}}, -150),
        ({"extra": {"max_tokens": None}}, 0),
        ({"tools": [WEATHER]}, 40),
        ({"attachments": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}, 1_500),
        ({"response_model": Person}, 40),
        ({"following": [{"role": "assistant", "content": "x" * 400}]}, 104),
    ],
    ids=["a limit of one's own", "no limit", "tools", "an image", "a schema", "messages"],
)
def test_everything_that_is_sent_is_estimated(wire, fields, more):
    from ractogateway._kit.estimating import completion_limit

    kit = wire.kit("m", api_key="k")
    whole = estimate(kit, question(**fields)) + completion_limit(question(**fields))
    assert whole - estimate(kit, question()) - 200 == pytest.approx(more, abs=20)


# -- how a call may end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "error"), [("error-429", ProviderRateLimited), ("error-500", ProviderUnavailable)])
def test_a_provider_that_refuses_costs_nothing(ask, make_kit, tools, model, error):
    requests = RateLimitConfig(max_tokens_per_minute=LIMIT, max_requests_per_minute=2, max_concurrent=1)
    kit = make_kit(model, rate_limiter=tools.make("rate_limiter", config=requests))
    for _ in range(3):  # neither requests nor slots are used up
        with pytest.raises(error):
            ask(kit, question())
    assert (tools.spent(), tools.said()) == (0, [])


def test_a_provider_that_nobody_reaches_costs_nothing(ask, make_kit, tools):
    kit = make_kit(base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ProviderConnectionError) as e:
        ask(kit, question())
    assert e.value.may_have_billed is False
    assert (tools.spent(), tools.said()) == (0, [])


@pytest.mark.parametrize("method", ["chat", "astream"])
def test_of_an_answer_that_comes_too_late_the_prompt_is_charged(asks, make_kit, tools, method):
    kit = make_kit("slow-700", timeout_seconds=0.4)
    with pytest.raises(ProviderTimeout) as e:
        asks[method](kit, question())
    assert e.value.may_have_billed is True
    assert (tools.spent(), tools.said()) == (estimate(kit, question()), [])


@pytest.mark.parametrize("method", ["chat", "achat"])
@pytest.mark.parametrize("model", ["cut", "garbage"])
def test_of_an_answer_that_got_lost_the_prompt_is_charged(asks, make_kit, tools, method, model):
    kit = make_kit(model)
    with pytest.raises(ProviderError):
        asks[method](kit, question())
    assert (tools.spent(), tools.said()) == (estimate(kit, question()), [])


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("model", ["cut", "cut-clean", "error-event"])
def test_of_a_stream_that_is_cut_what_arrived_is_charged(make_kit, tools, wire, is_async, model):
    kit, seen = make_kit(model), []

    async def read() -> None:
        async for chunk in kit.astream(question()):
            seen.append(chunk)  # noqa: PERF401 - what came before the error is to stay

    with pytest.raises(ProviderError):
        asyncio.run(read()) if is_async else seen.extend(kit.stream(question()))
    assert seen
    assert not seen[-1].is_final
    assert tools.spent() == prompt_of(wire, kit) + count_tokens(seen[-1].text)
    assert tools.said() == []


def prompt_of(wire, kit) -> int:
    """The prompt, as the provider told it at the beginning of a stream (only one does), or by estimate."""
    return 5 if "Anthropic" in wire.kit.__name__ else estimate(kit, question())


def test_an_answer_that_does_not_fit_is_charged_whole(ask, make_kit, tools):
    with pytest.raises(StructuredOutputError) as e:
        ask(make_kit("misfit"), question(response_model=Person))
    assert tools.spent() == e.value.response.usage.total_tokens > 0
    assert tools.said() == []


# -- streams that are left ---------------------------------------------------------------------------------------------


def left_by_close(kit) -> str:
    stream = kit.stream(question())
    text = [next(stream).text for _ in range(3)][-1]
    stream.close()
    return text


def left_by_forgetting(kit) -> str:
    stream = kit.stream(question())
    text = [next(stream).text for _ in range(3)][-1]
    del stream
    gc.collect()
    return text


def left_by_throwing(kit) -> str:
    stream = kit.stream(question())
    text = [next(stream).text for _ in range(3)][-1]
    with pytest.raises(RateLimitExceeded):  # of ours, and nothing to do with this one
        stream.throw(RateLimitExceeded(RateLimitDecision(False, 1, 0, 1.0, 1.0)))
    return text


def left_by_aclose(kit) -> str:
    async def main() -> str:
        async with aclosing(kit.astream(question())) as stream:
            return [(await anext(stream)).text for _ in range(3)][-1]

    return asyncio.run(main())


def left_by_cancelling(kit) -> str:
    texts: list[str] = []

    async def read() -> None:
        async for chunk in kit.astream(question()):
            texts.append(chunk.text)
            if len(texts) == 3:
                await anyio.sleep_forever()

    async def main() -> None:
        task = asyncio.create_task(read())
        while len(texts) < 3:  # noqa: ASYNC110 - the reader has no other sign to give
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return texts[-1]


def left_by_a_scope(kit) -> str:
    texts: list[str] = []

    async def main() -> None:
        with anyio.CancelScope() as scope:
            async for chunk in kit.astream(question()):
                texts.append(chunk.text)
                if len(texts) == 3:
                    scope.cancel()
                    await anyio.sleep_forever()

    asyncio.run(main())
    return texts[-1]


def left_by_forgetting_in_a_loop(kit) -> str:
    async def main() -> str:
        stream = kit.astream(question())
        return [(await anext(stream)).text for _ in range(3)][-1]

    return asyncio.run(main())  # which ends what is left of async generators


WAYS_TO_LEAVE = [
    left_by_close,
    left_by_forgetting,
    left_by_throwing,
    left_by_aclose,
    left_by_cancelling,
    left_by_a_scope,
    left_by_forgetting_in_a_loop,
]


@pytest.mark.parametrize("leave", WAYS_TO_LEAVE, ids=lambda way: way.__name__)
def test_of_a_stream_that_is_left_what_arrived_is_charged(make_kit, tools, wire, eventually, caplog, leave):
    config = RateLimitConfig(max_tokens_per_minute=LIMIT, max_concurrent=1)
    kit = make_kit(rate_limiter=tools.make("rate_limiter", config=config))
    text = leave(kit)
    expected = prompt_of(wire, kit) + count_tokens(text)
    eventually(lambda: tools.spent() == expected)
    assert tools.said() == []
    assert isinstance(kit.chat(question()), LLMResponse)  # the slot is free
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_a_loop_may_end_while_streams_are_open(make_kit, tools, caplog):
    """All that it closes then, it closes at once, and generators of the SDKs' HTTP library, one inside the other, get
    into each other's way. Not ours. Whether there is time to settle, nobody knows.
    """
    kit = make_kit()
    held = []

    async def main() -> None:
        for _ in range(3):
            held.append(kit.astream(question()))
            await anext(held[-1])

    asyncio.run(main())
    told = " ".join(record.getMessage() for record in caplog.records)
    assert [name for name in ("Flow.", "Asking.", "converse_stream", "complete_stream") if name in told] == []
    assert 3 * 5 <= tools.spent() <= 3 * (estimate(kit, question()) + 200)


@pytest.mark.parametrize("by", ["a task", "a scope"])
@pytest.mark.parametrize("method", ["achat", "astream"])
def test_a_call_that_is_cancelled_is_charged_its_prompt(make_kit, endpoint, tools, by, method):
    kit = make_kit("slow-700")

    async def call() -> None:
        if method == "achat":
            await kit.achat(question())
        else:
            await anext(kit.astream(question()))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            task = None
            if by == "a task":
                task = asyncio.create_task(call())
            else:
                group.start_soon(call)
            while endpoint.requests == 0:  # noqa: ASYNC110 - counted in another thread
                await asyncio.sleep(0.001)
            if task is None:
                group.cancel_scope.cancel()
            else:
                task.cancel()
                await asyncio.wait((task,))
                assert task.cancelled()

    asyncio.run(main())
    assert (tools.spent(), tools.said()) == (estimate(kit, question()), [])


# -- without Redis -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
@pytest.mark.parametrize("on_outage", ["local", "allow"])
def test_a_limiter_that_goes_on_without_redis_is_told(ask, make, tools, on_outage):
    limiter = tools.make("rate_limiter", **AWAY, on_outage=on_outage)
    answer = ask(make(rate_limiter=limiter), question())
    assert answer.content
    assert (answer.gateway.decision.degraded, answer.gateway.settled_tokens) == (True, None)


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_limiter_that_denies_without_redis_refuses(ask, make, endpoint, tools):
    with pytest.raises(RateLimitExceeded) as e:
        ask(make(rate_limiter=tools.make("rate_limiter", **AWAY, on_outage="deny")), question())
    assert e.value.decision.degraded
    assert endpoint.requests == 0


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_limiter_that_raises_without_redis_raises(ask, make, endpoint, tools):
    with pytest.raises(StoreUnavailable):
        ask(make(rate_limiter=tools.make("rate_limiter", **AWAY, on_outage="raise")), question())
    assert endpoint.requests == 0


@pytest.mark.parametrize("wire", ["openai"], indirect=True)
def test_a_reservation_that_cannot_be_settled_costs_no_answer(ask, make, tools, caplog):
    class Forgetful:
        """A limiter of somebody else, whose reservations cannot be settled. Its methods block."""

        def __init__(self) -> None:
            self._limiter = tools.make("rate_limiter")

        def consume(self, *_arguments):
            raise NotImplementedError

        def reserve(self, user_id, tokens):
            reservation = self._limiter.reserve(user_id, tokens)

            class Reserved:
                decision = reservation.decision

                def settle(self, _tokens):
                    raise RuntimeError("CANARY")

            return Reserved()

    answer = ask(make(rate_limiter=Forgetful()), question())
    assert answer.content
    assert answer.gateway.settled_tokens is None
    assert tools.spent() == answer.gateway.reserved_tokens
    assert "a reservation could not be settled: RuntimeError" in caplog.text
    assert "CANARY" not in caplog.text
