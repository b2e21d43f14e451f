"""A caller who leaves while its reservation is being settled: it is settled, once, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit_tools import USER, question

pytestmark = pytest.mark.parametrize("wire", ["openai"], indirect=True)


class Gated:
    """An async limiter whose reservations are settled and cancelled when somebody opens the gate."""

    def __init__(self, limiter: Any) -> None:
        self._limiter = limiter
        self.begun, self.gate, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.attempts = 0

    async def consume(self, *_arguments: Any) -> Any:
        raise NotImplementedError

    async def reserve(self, user_id: str, tokens: int) -> Held:
        return Held(await self._limiter.reserve(user_id, tokens), self)

    async def when_open(self, end: Callable[[], Awaitable[bool]]) -> bool:
        self.attempts += 1
        self.begun.set()
        await self.gate.wait()
        counted = await end()
        self.over.set()
        return counted


class Held:
    def __init__(self, reservation: Any, by: Gated) -> None:
        self.decision = reservation.decision
        self._reservation, self._by = reservation, by

    async def settle(self, tokens: int) -> bool:
        return await self._by.when_open(lambda: self._reservation.settle(tokens))

    async def cancel(self) -> bool:
        return await self._by.when_open(self._reservation.cancel)


async def left_while_settling(make: Any, tools: Any, model: str, patience_seconds: float) -> tuple[bool, int]:
    """Whether the caller was gone before the gate was opened, and how often it was tried to settle."""
    limiter = Gated(tools.make("rate_limiter", is_async=True))
    async with asyncio.timeout(20):
        caller = asyncio.create_task(make(model, rate_limiter=limiter).achat(question()))
        await limiter.begun.wait()
        await asyncio.sleep(0.05)  # so that it waits for the end of it
        caller.cancel()
        await asyncio.wait((caller,), timeout=patience_seconds)
        gone = caller.cancelled()
        limiter.gate.set()
        await limiter.over.wait()
        await asyncio.wait((caller,))
        assert caller.cancelled()
    return gone, limiter.attempts


def test_of_a_call_that_failed(make, tools):
    """Nothing was billed, so nothing stays charged. The caller waits that long: it has no answer to hurry for."""
    assert asyncio.run(left_while_settling(make, tools, "error-500", 0.1)) == (False, 1)
    assert tools.spent() == 0


def test_of_a_call_that_was_answered(make, tools):
    make(rate_limiter=tools.make("rate_limiter")).chat(question())
    once = tools.spent(USER)
    assert asyncio.run(left_while_settling(make, tools, "stand-in", 30.0)) == (True, 1)
    assert tools.spent(USER) == 2 * once
