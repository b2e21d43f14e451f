"""What a call begins and leaves to itself: it is done though all ends at that moment, and holds up nobody for long."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kit_tools import Tools, question

from ractogateway._kit import sides
from ractogateway._kit.persisting import begin

BILLED_AT_MOST = 199
"""What is reserved is more, see `question`."""


@pytest.fixture
def tools(any_server) -> Tools:
    return Tools(any_server.url)


def cancel_all_soon() -> None:
    """In the next turn of the loop, as `asyncio.run` does it: before a task that is made now takes its first step."""

    def cancel() -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    asyncio.get_running_loop().call_soon(cancel)


def test_work_that_is_cancelled_before_its_first_step_is_done():
    steps = []

    async def work() -> None:
        steps.append("begun")
        await asyncio.sleep(0)
        steps.append("done")

    async def main() -> None:
        cancel_all_soon()
        await begin(work, 10.0)
        steps.append("never")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert steps == ["begun", "done"]


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_a_program_that_ends_when_settling_begins_has_settled(make_kit, tools, monkeypatch, method):
    kit = make_kit(rate_limiter=tools.make("rate_limiter"))
    begin_as_it_is = kit._async.begin

    async def begin_at_the_end(work: Any) -> Any:
        cancel_all_soon()
        return await begin_as_it_is(work)

    monkeypatch.setattr(kit._async, "begin", begin_at_the_end)

    async def main() -> None:
        if method == "achat":
            await kit.achat(question())
        else:
            _ = [chunk async for chunk in kit.astream(question())]

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert 0 < tools.spent() <= BILLED_AT_MOST


def test_a_limiter_that_hangs_holds_no_answer_back_for_long(make_kit, monkeypatch):
    monkeypatch.setattr(sides, "_LONGEST_WAIT_SECONDS", 0.02)
    settled = []

    class Hanging:
        decision = SimpleNamespace(allowed=True)

        def __init__(self) -> None:
            self.goes_on, self.has_settled = asyncio.Event(), asyncio.Event()

        async def consume(self, _user_id: str, _tokens: int = 1) -> Any:
            raise NotImplementedError

        async def reserve(self, _user_id: str, _tokens: int) -> Any:
            return self

        async def settle(self, actual_tokens: int) -> bool:
            await self.goes_on.wait()
            settled.append(actual_tokens)
            self.has_settled.set()
            return True

    async def main() -> None:
        limiter = Hanging()
        try:
            answer = await asyncio.wait_for(make_kit(rate_limiter=limiter).achat(question(conversation_id=None)), 10.0)
            assert (answer.gateway.settled_tokens, settled) == (None, [])
        finally:
            limiter.goes_on.set()
        await asyncio.wait_for(limiter.has_settled.wait(), 10.0)
        assert settled == [answer.usage.total_tokens]

    asyncio.run(main())
