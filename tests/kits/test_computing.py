"""A kit and a cache that computes: one request to the provider for all who ask at the same time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from pydantic import BaseModel
from secrecy import SECRET_PROMPT

from ractogateway.cache import ExactMatchCache
from ractogateway.errors import (
    InvalidTypeError,
    InvalidValueError,
    ProviderUnavailable,
    StoreTimeout,
    StructuredOutputError,
)
from ractogateway.openai_developer_kit import ChatConfig, LLMResponse, OpenAIDeveloperKit, Usage

HELLO = ChatConfig(user_message=f"Hello {SECRET_PROMPT}")
SLOW = "slow-100"  # milliseconds


class Person(BaseModel):
    name: str
    age: int


def at_once(call: Callable[[], LLMResponse], threads: int = 12) -> list[LLMResponse]:
    barrier = threading.Barrier(threads)

    def work(_: int) -> LLMResponse:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(threads)))


def check_one_computed(answers: list[LLMResponse]) -> None:
    (own,) = (answer for answer in answers if not answer.cached)
    others = [answer for answer in answers if answer.cached]
    assert own.raw is not None
    assert {answer.content for answer in answers} == {own.content}
    assert all((answer.raw, answer.usage, answer.saved_usage) == (None, Usage(), own.usage) for answer in others)


class Double:
    """A computing cache of somebody else: keeps what is computed, and can fail before, in, and after it."""

    def __init__(self, before: Exception | None = None, after: Exception | None = None) -> None:
        self.before, self.after = before, after
        self.kept: dict[str, LLMResponse] = {}
        self.asked: list[dict] = []

    def get(self, user_message, *_args, **_named):
        return self.kept.get(user_message)

    def put(self, user_message, *args, **_named):
        self.kept[user_message] = args[-1]

    def get_or_compute(self, user_message, _system, _model, _temperature, _max_tokens, compute, **named):
        self.asked.append(named)
        if self.before is not None:
            raise self.before
        if user_message not in self.kept:
            self.kept[user_message] = compute()
        if self.after is not None:
            raise self.after
        return self.kept[user_message]


class AsyncDouble(Double):
    async def get(self, *args, **named):
        return super().get(*args, **named)

    async def put(self, *args, **named):
        super().put(*args, **named)

    async def get_or_compute(self, *args, **named):
        *request, compute = args
        answer = None
        try:
            answer = await compute()
        finally:
            result = super().get_or_compute(*request, lambda: answer, **named)
        return result


# -- one request ------------------------------------------------------------------------------------------------------


def test_threads_send_one_request(make_kit, endpoint):
    kit = make_kit(SLOW, exact_cache=ExactMatchCache())
    check_one_computed(at_once(lambda: kit.chat(HELLO)))
    assert endpoint.requests == 1


def test_tasks_send_one_request(make_kit, endpoint):
    kit = make_kit(SLOW, exact_cache=ExactMatchCache())

    async def main() -> list[LLMResponse]:
        return await asyncio.gather(*(kit.achat(HELLO) for _ in range(30)))

    check_one_computed(asyncio.run(main()))
    assert endpoint.requests == 1


def test_two_kits_threads_and_tasks_send_one_request(make_kit, endpoint):
    cache = ExactMatchCache()
    one, other = make_kit(SLOW, exact_cache=cache), make_kit(SLOW, exact_cache=cache)

    def ask() -> LLMResponse:
        return one.chat(HELLO) if threading.get_ident() % 2 else asyncio.run(other.achat(HELLO))

    check_one_computed(at_once(ask))
    assert endpoint.requests == 1


def test_each_gets_an_instance_of_the_class_it_asked_for(make_kit, endpoint):
    kit = make_kit(SLOW, exact_cache=ExactMatchCache())
    config = ChatConfig(user_message="Who?", response_model=Person)
    answers = at_once(lambda: kit.chat(config))
    assert {type(answer.parsed) for answer in answers} == {Person}
    assert len({id(answer.parsed) for answer in answers}) == len(answers)
    assert endpoint.requests == 1


def test_a_caller_that_is_cancelled_does_not_cost_the_others_a_request(make_kit, endpoint):
    kit = make_kit(SLOW, exact_cache=ExactMatchCache())

    async def main() -> None:
        first = asyncio.create_task(kit.achat(HELLO))
        await anyio.sleep(0.02)
        others = [asyncio.create_task(kit.achat(HELLO)) for _ in range(5)]
        await anyio.sleep(0.02)
        first.cancel()
        answers = await asyncio.gather(*others)
        assert all(answer.cached for answer in answers)

    asyncio.run(main())
    assert endpoint.requests == 1


@pytest.mark.parametrize(("model", "error"), [("error-500", ProviderUnavailable), ("misfit", StructuredOutputError)])
def test_an_error_is_everybodys_own(make_kit, endpoint, asks, model, error):
    cache = ExactMatchCache()
    kit = make_kit(model, exact_cache=cache)
    config = ChatConfig(user_message="Who?", response_model=Person)
    seen = []

    def ask(method: str) -> None:
        with pytest.raises(error) as caught:
            asks[method](kit, config)
        seen.append(caught.value)

    for method in ("chat", "achat"):
        at_once(lambda method=method: ask(method), threads=4)
    assert len({id(each) for each in seen}) == endpoint.requests == 8
    assert len(cache) == 0


# -- somebody else's cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["chat", "achat"])
def test_a_computing_cache_is_asked_once_and_given_what_it_may_keep(make_kit, asks, endpoint, method):
    cache = AsyncDouble() if method == "achat" else Double()
    kit = make_kit(exact_cache=cache)
    own = asks[method](kit, ChatConfig(user_message="Who?", response_model=Person))
    assert isinstance(own.parsed, Person)
    assert own.raw is not None
    (kept,) = cache.kept.values()
    assert (kept.raw, kept.parsed) == (None, None)
    own.tool_calls.append("changed")
    assert kept.tool_calls == []
    assert cache.asked == [{"context": {"base_url": endpoint.base_url, "response_model": Person}}]
    assert endpoint.requests == 1


@pytest.mark.parametrize("method", ["chat", "achat"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_computing_cache_that_breaks_fails_no_request_and_costs_no_second_one(
    make_kit, asks, endpoint, caplog, method, when
):
    failure = StoreTimeout("CANARY", may_have_applied=True)
    cache = (AsyncDouble if method == "achat" else Double)(**{when: failure})
    answer = asks[method](make_kit(exact_cache=cache), HELLO)
    assert answer.content
    assert answer.raw is not None
    assert endpoint.requests == 1
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "StoreTimeout" in warnings[0]
    assert "CANARY" not in warnings[0]


@pytest.mark.parametrize("method", ["chat", "achat"])
def test_an_error_of_the_provider_is_not_taken_for_one_of_the_cache(make_kit, asks, endpoint, caplog, method):
    class Wrapping(Double):
        """Raises something of its own where the computation failed."""

        def get_or_compute(self, *args, **named):
            try:
                return super().get_or_compute(*args, **named)
            except ProviderUnavailable as error:
                raise RuntimeError("wrapped") from error

    kit = make_kit("error-500", exact_cache=AsyncDouble() if method == "achat" else Wrapping())
    with pytest.raises(ProviderUnavailable):
        asks[method](kit, HELLO)
    assert endpoint.requests == 1
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("method", ["chat", "achat"])
def test_what_a_cache_returned_and_does_not_fit_is_computed_and_replaced(make_kit, asks, endpoint, method):
    for odd in ("a text", LLMResponse(content='{"name": 1}')):
        cache = AsyncDouble() if method == "achat" else Double()
        cache.kept["Who?"] = odd
        if method == "achat":

            async def get_or_compute(*_args, odd=odd, **_named):
                return odd

            cache.get_or_compute = get_or_compute
        answer = asks[method](make_kit(exact_cache=cache), ChatConfig(user_message="Who?", response_model=Person))
        assert isinstance(answer.parsed, Person)
        assert cache.kept["Who?"].content == answer.content
    assert endpoint.requests == 2


def test_a_subclass_with_a_get_of_its_own_is_not_passed_by(make_kit, asks):
    class Counting(ExactMatchCache):
        gets = 0

        def get(self, *args, **named):
            self.gets += 1
            return super().get(*args, **named)

    cache = Counting()
    kit = make_kit(exact_cache=cache)
    for method in ("chat", "achat"):
        asks[method](kit, HELLO)
    assert cache.gets == 2


# -- temperature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("highest", "config", "stored"),
    [
        (0.0, {"temperature": 0.2}, False),
        (0.2, {"temperature": 0.2}, True),
        (0.2, {"temperature": 0.3}, False),
        (1.0, {"extra": {"temperature": 0.7}}, True),
        (0.5, {"extra": {"temperature": 0.7}}, False),
        (1.0, {"extra": {"temperature": None}}, True),  # the provider's default
        (0.9, {"extra": {"temperature": None}}, False),
        (0.0, {"temperature": 0.7, "extra": {"temperature": 0}}, True),
        (2.0, {"extra": {"temperature": "warm"}}, False),
    ],
)
def test_up_to_which_temperature_answers_are_stored_is_the_kits_to_say(
    make_kit, ask, endpoint, highest, config, stored
):
    kit = make_kit(exact_cache=ExactMatchCache(), cache_max_temperature=highest)
    config = ChatConfig(user_message="Hello", **config)
    assert [ask(kit, config).cached for _ in range(2)] == [False, stored]
    assert endpoint.requests == (1 if stored else 2)


def test_samples_that_may_be_stored_are_asked_for_once(make_kit, endpoint):
    kit = make_kit(SLOW, exact_cache=ExactMatchCache(), cache_max_temperature=1.0)
    check_one_computed(at_once(lambda: kit.chat(ChatConfig(user_message="Hello", temperature=0.7))))
    assert endpoint.requests == 1


def test_samples_that_may_not_are_asked_for_by_everybody(make_kit, endpoint):
    kit = make_kit(SLOW, exact_cache=ExactMatchCache())
    at_once(lambda: kit.chat(ChatConfig(user_message="Hello", temperature=0.7)), threads=4)
    assert endpoint.requests == 4


@pytest.mark.parametrize(
    ("bad", "kind"), [(float("nan"), InvalidValueError), ("1", InvalidTypeError), (True, InvalidTypeError)]
)
def test_what_is_no_temperature(bad, kind):
    with pytest.raises(kind, match="cache_max_temperature"):
        OpenAIDeveloperKit(cache_max_temperature=bad)
