"""The order of things around a call, for blocking and for async callers, for whole answers and for streams.

1. The memory loads what was said before.
2. The cache looks up the whole request, that history included. A hit goes to 6: it spends no budget.
3. The limiter reserves an estimate for the user. A refusal ends the call here.
4. The provider is asked, as often as corrections need.
5. The limiter settles what the provider billed, whatever became of the call; the cache stores, by its policy.
6. If the answer calls tools, they run, and 2 to 5 are gone through again, with their results.
7. The memory appends the whole turn.

For async callers, the writes of 5 and 7 are under way together: 5 is begun, and goes on by itself whatever becomes of
its caller, while 6 and 7 are done. The answer is handed out, or an error of 6 or 7 raised, when all of them have ended.
None depends on another's success: what was paid for is settled and stored also where no turn can be appended.

Of all who make the same request at the same time (``chat`` and ``achat``, with a cache that computes), one goes through
3 to 5 and pays; the others wait in 2. Where a cache renews an answer before its end, the user pays whose call began it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import partial

from ractogateway._checks import check_temperature
from ractogateway._kit.asking import Asking
from ractogateway._kit.budget import Budget
from ractogateway._kit.cache_access import CacheAccess
from ractogateway._kit.completing import complete, complete_stream
from ractogateway._kit.computing import Wanted
from ractogateway._kit.nesting import nested
from ractogateway._kit.notes import Notes
from ractogateway._kit.preparing import Preparation, Request
from ractogateway._kit.provider import Provider
from ractogateway._kit.remembering import Remembered, Remembering
from ractogateway._kit.replay import final_chunk, replay
from ractogateway._kit.request import effective_temperature, may_store
from ractogateway._kit.rounds import converse, converse_stream
from ractogateway._kit.sides import Side
from ractogateway._kit.structured import with_parsed
from ractogateway.errors import StructuredOutputError
from ractogateway.messages import ChatConfig, LLMResponse, StreamChunk

__all__ = ["Flow"]


class Flow:
    """The way of a kit's calls through its tools."""

    def __init__(
        self,
        provider: Provider,
        preparation: Preparation,
        *,
        cache: CacheAccess,
        budget: Budget,
        remembering: Remembering,
        cache_max_temperature: float,
    ) -> None:
        self._provider = provider
        self._preparation = preparation
        self._cache = cache
        self._budget = budget
        self._remembering = remembering
        self._cache_max_temperature = check_temperature(cache_max_temperature, "cache_max_temperature")

    def check(self, request: Request, *, blocking: bool) -> None:
        """Refuse a request that the tools cannot serve, or that cannot be sent, before anything is."""
        if blocking:
            for tool in (self._cache, self._budget, self._remembering):
                if tool.given is not None:
                    tool.given.check_blocking()
        self._budget.check(request.config)
        if self._remembering.concerns(request.config):
            self._remembering.check(request.config)
        else:
            request.identity  # noqa: B018 - it is checked while it is made; in a conversation it will be another

    async def answer(self, side: Side, request: Request) -> LLMResponse:
        """Answer one request, and run the tools that the model asks for."""
        async with Notes(self._preparation.model) as notes:
            before = await self._remembering.load(side, request.config)
            asked = self._after(before, request, notes)
            response = await converse(side, self._preparation, asked, partial(self._answer, side, notes))
            return await self._ended(side, request, before, response, notes)

    async def stream(self, side: Side, request: Request) -> AsyncGenerator[StreamChunk, None]:
        """`answer` piece by piece."""
        response: LLMResponse | None = None
        async with Notes(self._preparation.model) as notes:
            before = await self._remembering.load(side, request.config)
            asked = self._after(before, request, notes)
            pieces = converse_stream(side, self._preparation, asked, partial(self._stream, side, notes))
            async with nested(side, pieces) as chunks:
                async for chunk in chunks:
                    if chunk.is_final:
                        response = chunk.response
                    else:
                        yield chunk
            if response is None:
                raise RuntimeError("a stream ended without its last chunk")
            yield final_chunk(await self._ended(side, request, before, response, notes))

    async def _answer(self, side: Side, notes: Notes, request: Request) -> LLMResponse:
        """Ask once: the cache, or the provider at the expense of the user."""
        asking = Asking(side, self._provider, self._preparation)

        async def paid() -> LLMResponse:
            async with self._budget.charge(asking, request, notes):
                return await complete(asking, request)

        notes.meters.append(asking.meter)
        response = await self._cache.answer(side, self._wanted(request), paid, notes.ending)
        if response.cached:
            notes.meters.remove(asking.meter)  # what was asked for it, somebody else asked
        return response

    async def _stream(self, side: Side, notes: Notes, request: Request) -> AsyncGenerator[StreamChunk, None]:
        """`_answer` piece by piece."""
        answer = _usable(await self._cache.lookup(side, request.identity), request.config)
        if answer is not None:
            for chunk in replay(answer):
                yield chunk
            return
        asking = Asking(side, self._provider, self._preparation)
        notes.meters.append(asking.meter)
        async with (
            self._budget.charge(asking, request, notes),
            nested(side, complete_stream(asking, request)) as chunks,
        ):
            async for chunk in chunks:
                if chunk.is_final:
                    answer = chunk.response
                else:
                    yield chunk
        if answer is None:
            raise RuntimeError("a stream ended without its last chunk")
        if may_store(request.config, answer, self._cache_max_temperature):
            notes.ending.append(await self._cache.begin_to_store(side, request.identity, answer))
        yield final_chunk(answer)

    def _after(self, before: Remembered | None, request: Request, notes: Notes) -> Request:
        """The request with what was said before."""
        if before is None:
            return request
        notes.history_messages = len(before.messages)
        return self._preparation.after(request, before.messages)

    async def _ended(
        self, side: Side, request: Request, before: Remembered | None, response: LLMResponse, notes: Notes
    ) -> LLMResponse:
        """The turn remembered, and the answer with the report of its call."""
        notes.cached = response.cached
        notes.revision = await self._remembering.keep(side, request.config, before, response)
        await notes.ended()
        return notes.on(response)

    def _wanted(self, request: Request) -> Wanted:
        config, highest = request.config, self._cache_max_temperature
        temperature = effective_temperature(config)
        return Wanted(
            identity=request.identity,
            usable=partial(_usable, config=config),
            may_store=partial(may_store, config, max_temperature=highest),
            # What `extra` says is what counts; the cache judges by what it is keyed by.
            max_temperature=config.temperature if temperature is not None and 0.0 <= temperature <= highest else None,
        )


def _usable(hit: LLMResponse | None, config: ChatConfig) -> LLMResponse | None:
    """A cached answer with ``parsed`` made again from its text; one that does not fit any more is a miss."""
    try:
        return None if hit is None else with_parsed(hit, config.response_model)
    except StructuredOutputError:
        return None
