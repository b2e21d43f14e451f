"""What a kit takes of an object that it was given, and where what waits may wait."""

from __future__ import annotations

import asyncio
import copy
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from ractogateway._kit.estimating import Estimator, _by_bytes
from ractogateway._kit.given import Given
from ractogateway._kit.persisting import persist
from ractogateway._kit.reading import make_tool_call
from ractogateway.openai_developer_kit import ChatConfig, OpenAIDeveloperKit
from ractogateway.redis import RateLimitConfig, RedisChatMemory, RedisExactCache, RedisRateLimiter

URL = "redis://127.0.0.1:1/0"  # nobody is asked
FACES = {
    RedisExactCache: (("get", "put"), {"ttl_seconds": 60}),
    RedisRateLimiter: (("reserve", "consume"), {"config": RateLimitConfig(max_tokens_per_minute=10)}),
    RedisChatMemory: (("extend", "get_changes"), {}),
}


@pytest.mark.parametrize("face", FACES)
def test_what_is_awaited_passes_by_no_method_that_a_subclass_replaced(face):
    needed, settings = FACES[face]
    plain = face(URL, **settings)
    assert Given("tool", plain, needed, like="x").core is plain.aio
    quiet = type("Quiet", (face,), {"other": lambda _self: None})(URL, **settings)
    assert Given("tool", quiet, needed, like="x").core is quiet.aio
    for name in needed:
        replaced = type("Replaced", (face,), {name: lambda *_, **__: None})(URL, **settings)
        assert replaced.aio is not None  # it was used already, and is in the object's dict
        assert Given("tool", replaced, needed, like="x").core is None


def test_an_interruption_leaves_no_error_that_nobody_saw():
    asyncio.run(_interrupted())


async def _interrupted() -> None:
    loop, works, begun, go_on = asyncio.get_running_loop(), [], asyncio.Event(), asyncio.Event()

    async def work() -> None:
        works.append(asyncio.current_task())
        begun.set()
        await go_on.wait()
        raise RuntimeError("late")

    task = asyncio.ensure_future(persist(work, 60.0))
    await begun.wait()
    task.cancel()
    loop.call_soon(loop.call_soon, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    # Not by what the event loop logs: that comes when the task is freed, and nobody knows when.
    assert works[0]._log_traceback is False


class _Threads:
    computed = 0

    async def compute(self, function: Any) -> Any:
        self.computed += 1
        return function()


@pytest.mark.parametrize(("count", "characters"), [(lambda text: len(text), 4_096), (_by_bytes, 65_536)])
def test_what_takes_long_to_count_is_counted_in_a_thread(count, characters):
    estimator, side = Estimator("m"), _Threads()
    estimator._count = count
    asyncio.run(estimator.texts(side, ["a" * characters]))
    assert side.computed == 0
    asyncio.run(estimator.texts(side, ["a" * (characters + 1)]))
    assert side.computed == 1


class _Slow:
    """A limiter of somebody's own, which blocks."""

    def __init__(self) -> None:
        self.asked, self.go_on, self.cancelled = threading.Event(), threading.Event(), threading.Event()
        self.decision = SimpleNamespace(allowed=True, degraded=False)

    def consume(self, user_id: str, tokens: int = 1) -> Any:
        raise AssertionError("it only tells what kind of limiter this is")

    def reserve(self, user_id: str, tokens: int) -> _Slow:
        self.asked.set()
        assert self.go_on.wait(30)
        return self

    def cancel(self) -> bool:
        self.cancelled.set()
        return True


def test_what_a_thread_reserves_for_somebody_who_has_left_is_given_back():
    limiter = _Slow()
    kit = OpenAIDeveloperKit("gpt-4o", api_key="key", base_url="http://127.0.0.1:1/v1", rate_limiter=limiter)

    async def main() -> None:
        task = asyncio.ensure_future(kit.achat(ChatConfig(user_message="q", user_id="u")))
        assert await asyncio.to_thread(limiter.asked.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not limiter.cancelled.is_set()
        limiter.go_on.set()
        assert await asyncio.to_thread(limiter.cancelled.wait, 30)

    asyncio.run(main())


def test_a_call_that_a_model_wrote_badly_can_be_copied_and_sent_on():
    deep = '{"x":' + "[" * 500 + "]" * 500 + "}"
    call = make_tool_call("1", "ta\ud800", deep, 0)
    assert (call.name, call.arguments, call.arguments_json) == ("ta\ufffd", {}, deep)
    assert copy.deepcopy(call) == call
    assert make_tool_call("1", "t", '{"x": [[1]], "y": "\\ud83d\\ude00"}', 0).arguments == {"x": [[1]], "y": "😀"}
