"""A kit over the distributed cache, on a real server: one object serves all four methods."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from ractogateway.errors import BlockingCallInLoopError, BlockingCallWarning
from ractogateway.openai_developer_kit import ChatConfig
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache

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
    kit = make_kit(exact_cache=RedisExactCache(url="redis://127.0.0.1:1/0"))

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
