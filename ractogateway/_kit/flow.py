"""The order of things around a call, for blocking and for async callers, for whole answers and for streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

from ractogateway._checks import check_temperature
from ractogateway._kit.asking import Asking
from ractogateway._kit.cache_access import CacheAccess
from ractogateway._kit.completing import complete, complete_stream
from ractogateway._kit.computing import Wanted
from ractogateway._kit.preparing import Preparation, Request
from ractogateway._kit.provider import Provider
from ractogateway._kit.replay import final_chunk, replay
from ractogateway._kit.request import effective_temperature, may_store
from ractogateway._kit.rounds import converse, converse_stream
from ractogateway._kit.sides import Side
from ractogateway._kit.structured import with_parsed
from ractogateway.errors import StructuredOutputError
from ractogateway.messages import ChatConfig, LLMResponse, StreamChunk

__all__ = ["Flow"]


class Flow:
    """The cache looks up, the provider is asked, the cache stores."""

    def __init__(
        self, provider: Provider, preparation: Preparation, cache: CacheAccess, *, cache_max_temperature: float
    ) -> None:
        self._provider = provider
        self._preparation = preparation
        self._cache = cache
        self._cache_max_temperature = check_temperature(cache_max_temperature, "cache_max_temperature")

    def check_blocking(self) -> None:
        """Refuse tools that a blocking call cannot use, before anything is sent."""
        if self._cache.given is not None:
            self._cache.given.check_blocking()

    async def answer(self, side: Side, request: Request) -> LLMResponse:
        """Answer one request, and run the tools that the model asks for."""
        return await converse(side, self._preparation, request, partial(self._answer, side))

    async def _answer(self, side: Side, request: Request) -> LLMResponse:
        """Answer one request: from the cache, or by the provider."""

        async def paid() -> LLMResponse:
            return await complete(Asking(side, self._provider, self._preparation), request)

        return await self._cache.answer(side, self._wanted(request), paid)

    def stream(self, side: Side, request: Request) -> AsyncGenerator[StreamChunk, None]:
        """`answer` piece by piece."""
        return converse_stream(side, self._preparation, request, partial(self._stream, side))

    async def _stream(self, side: Side, request: Request) -> AsyncGenerator[StreamChunk, None]:
        """`_answer` piece by piece."""
        config = request.config
        answer = _usable(await self._cache.lookup(side, request.identity), config)
        if answer is not None:
            for chunk in replay(answer):
                yield chunk
            return
        asking = Asking(side, self._provider, self._preparation)
        async with aclosing(complete_stream(asking, request)) as chunks:
            async for chunk in chunks:
                if chunk.is_final:
                    answer = chunk.response
                else:
                    yield chunk
        if answer is None:
            raise RuntimeError("a stream ended without its last chunk")
        if may_store(config, answer, self._cache_max_temperature):
            await self._cache.store(side, request.identity, answer)
        yield final_chunk(answer)

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
