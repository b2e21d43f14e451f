"""One request sent to the provider, whole or as a stream. Nothing else is done here: no cache, no budget, no memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from ractogateway._kit.clients import CLOSE_SECONDS
from ractogateway._kit.failures import provider_errors
from ractogateway._kit.mending import Mending, mended
from ractogateway._kit.metering import Meter, nothing
from ractogateway._kit.preparing import Preparation, Request
from ractogateway._kit.provider import Provider
from ractogateway._kit.replay import final_chunk
from ractogateway._kit.sides import END, Side
from ractogateway.messages import LLMResponse, StreamChunk

__all__ = ["Asking"]


class Asking:
    """The way to the provider for one request, which may be asked more than once.

    Attributes:
        side: How the caller waits.
        meter: What it cost.
    """

    def __init__(self, side: Side, provider: Provider, preparation: Preparation) -> None:
        self.side = side
        self.meter = Meter()
        self._provider = provider
        self._preparation = preparation

    def followed(self, request: Request, messages: Sequence[Mapping[str, Any]]) -> Request:
        """``request`` with ``messages`` behind it, to be asked next."""
        return self._preparation.followed(request, messages)

    async def ask(self, request: Request) -> LLMResponse:
        """The provider's answer, as it came."""
        client, arguments = await self._made_ready(request, stream=False)
        sent = self.meter.began(request, nothing)
        try:
            with provider_errors(self._provider.translate):
                answer = await self.side.send(client, arguments)
            response = mended(self._provider.read(answer))
        except BaseException as error:
            self.meter.broke(sent, error)
            raise
        self.meter.answered(sent, response)
        return response

    async def stream(self, request: Request) -> AsyncGenerator[StreamChunk, None]:
        """The provider's answer in pieces; the last chunk carries the whole, as it came.

        To be closed (`nested`) by whoever does not read it to its end.
        """
        side, collector, mending, events = self.side, self._provider.collector(), Mending(), 0
        client, arguments = await self._made_ready(request, stream=True)
        sent = self.meter.began(request, lambda: collector.so_far() if events else None)
        try:
            with provider_errors(self._provider.translate):
                source = await side.open(client, arguments)
            try:
                while True:
                    # Around the SDK only: what a caller throws into this generator is not the provider's doing.
                    with provider_errors(self._provider.translate):
                        event = await side.next_event(source)
                    if event is END:
                        break
                    events += 1
                    chunk = collector.add(event)
                    if chunk is not None and (whole := mending.mend(chunk)) is not None:
                        yield whole
            finally:
                await side.hang_up(source, seconds=CLOSE_SECONDS)
            response = mended(collector.finish())
            if (rest := mending.rest(response)) is not None:
                yield rest
        except BaseException as error:
            self.meter.broke(sent, error)
            raise
        self.meter.answered(sent, response)
        yield final_chunk(response)

    async def _made_ready(self, request: Request, *, stream: bool) -> tuple[Any, dict[str, Any]]:
        with provider_errors(self._provider.translate):
            client = await self.side.client()
            return client, self._preparation.arguments(request, stream=stream)
