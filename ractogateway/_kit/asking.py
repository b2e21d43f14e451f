"""One request sent to the provider, whole or as a stream. Nothing else is done here: no cache, no budget, no memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from ractogateway._kit.clients import CLOSE_SECONDS
from ractogateway._kit.failures import provider_errors
from ractogateway._kit.preparing import Preparation, Request
from ractogateway._kit.provider import Provider
from ractogateway._kit.replay import final_chunk
from ractogateway._kit.sides import END, Side
from ractogateway.messages import LLMResponse, StreamChunk

__all__ = ["Asking"]


class Asking:
    """The way to the provider for one call of a kit, which may ask more than once."""

    def __init__(self, side: Side, provider: Provider, preparation: Preparation) -> None:
        self.side = side
        self._provider = provider
        self._preparation = preparation

    def followed(self, request: Request, messages: Sequence[Mapping[str, Any]]) -> Request:
        """``request`` with ``messages`` behind it, to be asked next."""
        return self._preparation.followed(request, messages)

    async def ask(self, request: Request) -> LLMResponse:
        """The provider's answer, as it came."""
        with provider_errors(self._provider.translate):
            client = await self.side.client()
            answer = await self.side.send(client, self._preparation.arguments(request, stream=False))
        return self._provider.read(answer)

    async def stream(self, request: Request) -> AsyncGenerator[StreamChunk, None]:
        """The provider's answer in pieces; the last chunk carries the whole, as it came.

        To be closed (``aclosing``) by whoever does not read it to its end.
        """
        side = self.side
        with provider_errors(self._provider.translate):
            client = await side.client()
            source = await side.open(client, self._preparation.arguments(request, stream=True))
        collector = self._provider.collector()
        try:
            while True:
                # Around the SDK only: what a caller throws into this generator is not the provider's doing.
                with provider_errors(self._provider.translate):
                    event = await side.next_event(source)
                if event is END:
                    break
                chunk = collector.add(event)
                if chunk is not None:
                    yield chunk
        finally:
            await side.hang_up(source, seconds=CLOSE_SECONDS)
        yield final_chunk(collector.finish())
