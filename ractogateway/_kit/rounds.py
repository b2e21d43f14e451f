"""Rounds of tools: the model asks for some, they run, it is asked again with the results, until it answers.

**Where this stands.** Around everything that answers a single request, the cache included: `converse` is given ``ask``,
which takes a `Request` and gives the answer to it, from wherever. So each answer of a model is kept for exactly the
request that it was an answer to, results of tools included, and tools themselves always run. The same goes for
`converse_stream` and ``stream``, whose last chunk (``is_final``) carries the answer.

**What comes back.** One `LLMResponse` for all rounds: the last answer, ``following`` with the calls and results before
it, and the usage of all. A memory stands around this, and appends the whole turn at once: the user's message by
`user_shape`, `ChatConfig.following`, then `LLMResponse.messages`. An answer that still has ``tool_calls`` is no end of
a turn: its caller is to run them, and to ask again with ``following``.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from ractogateway._kit.nesting import nested
from ractogateway._kit.preparing import Preparation, Request
from ractogateway._kit.replay import final_chunk, interim_chunk
from ractogateway._kit.request import definitions, tool_name
from ractogateway._kit.sides import Side
from ractogateway.messages import FinishReason, LLMResponse, StreamChunk, Usage
from ractogateway.tools import result_message, unknown

__all__ = ["converse", "converse_stream"]


async def converse(
    side: Side, preparation: Preparation, request: Request, ask: Callable[[Request], Awaitable[LLMResponse]]
) -> LLMResponse:
    """Ask, and run tools as often as ``request`` allows.

    Raises:
        Exception: What a tool raised, if its registry says ``on_error="raise"``.
    """
    rounds = _Rounds(side, preparation, request)
    while True:
        answer = await ask(rounds.request)
        if not rounds.calls_tools(answer):
            return rounds.whole(answer)
        await rounds.run(answer)


async def converse_stream(
    side: Side,
    preparation: Preparation,
    request: Request,
    stream: Callable[[Request], AsyncGenerator[StreamChunk, None]],
) -> AsyncGenerator[StreamChunk, None]:
    """The same in pieces. An answer that calls tools ends with a chunk that is not final, before they run."""
    rounds = _Rounds(side, preparation, request)
    while True:
        answer: LLMResponse | None = None
        async with nested(side, stream(rounds.request)) as chunks:
            async for chunk in chunks:
                if chunk.is_final:
                    answer = chunk.response
                else:
                    yield chunk
        if answer is None:
            raise RuntimeError("a stream ended without its last chunk")
        if not rounds.calls_tools(answer):
            yield final_chunk(rounds.whole(answer))
            return
        # A copy: what a reader does with it does not change what is run.
        yield interim_chunk(answer.model_copy(update={"tool_calls": copy.deepcopy(answer.tool_calls)}))
        await rounds.run(answer)


class _Rounds:
    """What happened so far in one call of a kit. ``request`` is what to ask next."""

    def __init__(self, side: Side, preparation: Preparation, request: Request) -> None:
        self.request = request
        self._side = side
        self._preparation = preparation
        self._tools = request.tools
        # What only a definition names, somebody else runs.
        self._others = {tool_name(each) for each in definitions(request.config.tools)} - set(self._tools)
        self._left = request.config.tool_rounds
        self._answers: list[LLMResponse] = []
        self._messages: list[dict[str, Any]] = []

    def calls_tools(self, answer: LLMResponse) -> bool:
        """Whether ``answer`` is to be followed by a round. Of one that was cut off, no call is run."""
        return (
            self._left > 0
            and bool(self._tools)
            and answer.finish_reason is FinishReason.TOOL_CALLS
            and bool(answer.tool_calls)
            and not any(call.name in self._others for call in answer.tool_calls)
        )

    async def run(self, answer: LLMResponse) -> None:
        """Run what ``answer`` asks for. The results are in the order of the calls."""
        calls = answer.tool_calls
        known = [(self._tools[call.name], call) for call in calls if call.name in self._tools]
        told = iter(await self._side.run_tools(known))
        results = [
            result_message(call, next(told) if call.name in self._tools else unknown(call.name)) for call in calls
        ]
        self._left -= 1
        self._answers.append(answer)
        new = [*answer.messages, *results]
        self._messages += new
        self.request = self._preparation.followed(self.request, new)

    def whole(self, last: LLMResponse) -> LLMResponse:
        """The last answer, with what led to it."""
        if not self._answers:
            return last
        answers = [*self._answers, last]
        saved = [answer.saved_usage for answer in answers if answer.saved_usage is not None]
        update = {
            "following": self._messages,
            "usage": sum((answer.usage for answer in answers), start=Usage()),
            "saved_usage": sum(saved, start=Usage()) if saved else None,
            "cached": all(answer.cached for answer in answers),
        }
        return last.model_copy(update=update)
