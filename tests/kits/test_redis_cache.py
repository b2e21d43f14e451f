"""A kit over the distributed cache, on a real server: one object serves all four methods."""

from __future__ import annotations

import asyncio
import warnings
from concurrent.futures import ThreadPoolExecutor

import fakeredis
import pytest
import redis
from pydantic import BaseModel

from ractogateway.errors import BlockingCallInLoopError, BlockingCallWarning, ProviderUnavailable
from ractogateway.openai_developer_kit import ChatConfig, LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions

pytestmark = pytest.mark.usefixtures("patience")

NOWHERE, HASTY = "redis://127.0.0.1:1/0", RedisOptions(timeout_seconds=0.2)
HELLO = ChatConfig(user_message="Hello", history=[{"role": "user", "content": "a"}])


def test_one_cache_serves_all_four_methods_of_two_kits(make_kit, endpoint, asks, any_server):
    kits = [make_kit(exact_cache=RedisExactCache(url=any_server.url, ttl_seconds=60)) for _ in range(2)]
    answers = [ask(kit, HELLO) for kit in kits for ask in asks.values()]

    assert [answer.cached for answer in answers] == [False] + [True] * 7
    assert len({answer.content for answer in answers}) == 1
    assert answers[-1].saved_usage == answers[0].usage
    assert endpoint.requests == 1


def test_the_async_core_alone_serves_the_async_methods(make_kit, endpoint, asks, any_server):
    kit = make_kit(exact_cache=AsyncRedisExactCache(url=any_server.url, ttl_seconds=60))

    assert [asks[method](kit, HELLO).cached for method in ("achat", "astream", "achat")] == [False, True, True]
    assert endpoint.requests == 1


def test_without_a_server_every_request_is_answered_by_the_provider(ask, make_kit, endpoint):
    kit = make_kit(exact_cache=RedisExactCache(url=NOWHERE, options=HASTY))

    assert [ask(kit, HELLO).cached for _ in range(2)] == [False, False]
    assert endpoint.requests == 2


def test_async_methods_do_not_touch_the_blocking_face(make_kit, any_server):
    kit = make_kit(exact_cache=RedisExactCache(url=any_server.url, ttl_seconds=60))

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", BlockingCallWarning)
            await kit.achat(HELLO)
            assert [chunk async for chunk in kit.astream(HELLO)][-1].response.cached is True

    asyncio.run(main())


def test_an_application_that_forbids_blocking_calls_in_its_loop_is_obeyed(make_kit, endpoint, any_server, monkeypatch):
    monkeypatch.setenv("RACTOGATEWAY_BLOCKING_IN_LOOP", "raise")
    kit = make_kit(exact_cache=RedisExactCache(url=any_server.url, ttl_seconds=60))

    async def main() -> None:
        with pytest.raises(BlockingCallInLoopError):
            kit.chat(HELLO)

    asyncio.run(main())
    assert endpoint.requests == 0


def _caught(main) -> list[int]:
    """The lines of this file that a `BlockingCallWarning` named, each as often as it was shown."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        asyncio.run(main())
    named = [each for each in caught if issubclass(each.category, BlockingCallWarning)]
    assert {each.filename for each in named} == {__file__}
    return [each.lineno - main.__code__.co_firstlineno for each in named]


def test_a_kit_inside_a_running_loop_warns_once_a_line_of_the_user(make_kit):
    kit = make_kit(exact_cache=RedisExactCache(url="embedded://"))

    async def main() -> None:
        for _ in range(2):
            kit.chat(HELLO)
            kit.chat(HELLO)
            list(kit.stream(HELLO))

    assert _caught(main) == [2, 3, 4]


def test_leaving_a_cache_inside_a_running_loop_names_the_users_line():
    async def main() -> None:
        with RedisExactCache(url="embedded://"):
            pass
        with RedisExactCache(url="embedded://") as cache:
            cache.clear()

    assert _caught(main) == [1, 4, 3]


# -- one request for the whole fleet -----------------------------------------------------------------------------------


def test_replicas_send_one_request_whatever_their_callers_are(make_kit, endpoint, any_server):
    """Three replicas, a cache object each: threads, tasks through a blocking face, tasks through an async core."""
    config = ChatConfig(user_message="Hello")
    one, two = (make_kit("slow-300", exact_cache=RedisExactCache(any_server.url, ttl_seconds=60)) for _ in range(2))
    three = make_kit("slow-300", exact_cache=AsyncRedisExactCache(any_server.url, ttl_seconds=60))

    async def ask(kit) -> list[LLMResponse]:
        return await asyncio.gather(*(kit.achat(config) for _ in range(10)))

    with ThreadPoolExecutor(12) as pool:
        threads = [pool.submit(one.chat, config) for _ in range(10)]
        loops = [pool.submit(asyncio.run, ask(kit)) for kit in (two, three)]
        answers = [*(each.result() for each in threads), *(answer for each in loops for answer in each.result())]
    assert endpoint.requests == 1
    (own,) = (answer for answer in answers if not answer.cached)
    assert own.raw is not None
    assert {(answer.content, answer.saved_usage) for answer in answers if answer.cached} == {(own.content, own.usage)}


def test_samples_that_may_be_stored_are_one_request_too(make_kit, endpoint, any_server):
    config = ChatConfig(user_message="Hello", temperature=0.7)
    cache = RedisExactCache(any_server.url, ttl_seconds=60)
    kit = make_kit("slow-100", exact_cache=cache, cache_max_temperature=0.7)

    async def ask() -> list[LLMResponse]:
        return await asyncio.gather(*(kit.achat(config) for _ in range(10)))

    answers = asyncio.run(ask())
    assert sum(answer.cached for answer in answers) == 9
    assert kit.chat(config).cached
    assert endpoint.requests == 1


def test_an_error_is_neither_stored_nor_inherited(make_kit, endpoint, asks, any_server):
    kit = make_kit("error-500", exact_cache=RedisExactCache(any_server.url, ttl_seconds=60))
    for method in ("chat", "achat"):
        with pytest.raises(ProviderUnavailable):
            asks[method](kit, ChatConfig(user_message="Hello"))
    assert endpoint.requests == 2


def test_structured_answers_are_made_again_for_each(make_kit, endpoint, any_server):
    class Person(BaseModel):
        name: str
        age: int

    config = ChatConfig(user_message="Who?", response_model=Person)
    kit = make_kit("slow-100", exact_cache=RedisExactCache(any_server.url, ttl_seconds=60))

    async def ask() -> list[LLMResponse]:
        return await asyncio.gather(*(kit.achat(config) for _ in range(5)))

    assert {type(answer.parsed) for answer in asyncio.run(ask())} == {Person}
    assert endpoint.requests == 1


def test_a_server_that_is_away_costs_no_second_request(make_kit, endpoint, asks):
    kit = make_kit("slow-50", exact_cache=RedisExactCache(NOWHERE, ttl_seconds=60, options=HASTY))
    for method in ("chat", "achat"):
        assert asks[method](kit, ChatConfig(user_message="Hello")).cached is False
    assert endpoint.requests == 2


@pytest.mark.parametrize(
    "make_client", [redis.Redis.from_url, lambda _: fakeredis.FakeRedis()], ids=["redis-py", "fake"]
)
def test_over_a_client_of_the_users_one_request_is_sent_too(make_kit, endpoint, any_server, make_client):
    config = ChatConfig(user_message="Hello")
    with make_client(any_server.url) as client:
        kit = make_kit("slow-200", exact_cache=RedisExactCache(client=client, ttl_seconds=60))

        async def ask() -> list[LLMResponse]:
            return await asyncio.gather(*(kit.achat(config) for _ in range(8)))

        with ThreadPoolExecutor(5) as pool:
            threads = [pool.submit(kit.chat, config) for _ in range(4)]
            answers = [*pool.submit(asyncio.run, ask()).result(), *(each.result() for each in threads)]
    assert endpoint.requests == 1
    assert sum(answer.cached for answer in answers) == 11


@pytest.mark.parametrize("method", ["chat", "achat"])
def test_a_stale_answer_comes_at_once_and_is_renewed_behind_it(
    make_kit, endpoint, asks, eventually, any_server, method
):
    cache = RedisExactCache(any_server.url, ttl_seconds=0.2, stale_seconds=60)
    kit = make_kit("slow-50", exact_cache=cache)
    config = ChatConfig(user_message="Hello")

    async def awaited() -> LLMResponse:
        answer = await kit.achat(config)
        while endpoint.requests < 2:  # noqa: ASYNC110 - counted in another thread
            await asyncio.sleep(0.01)  # the renewal is a task of this loop
        await asyncio.sleep(0.2)
        return answer

    asks[method](kit, config)
    identity = kit._prepare(config).identity
    eventually(lambda: cache.get(*identity.fields, context=identity.context) is None)
    stale = kit.chat(config) if method == "chat" else asyncio.run(awaited())
    assert stale.cached
    eventually(lambda: endpoint.requests == 2)
