"""From the provider's answers to the answer that was asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from ractogateway._kit.asking import Asking
from ractogateway._kit.preparing import Request
from ractogateway._kit.replay import final_chunk
from ractogateway._kit.structured import with_parsed
from ractogateway.messages import LLMResponse, StreamChunk

__all__ = ["complete", "complete_stream"]


async def complete(asking: Asking, request: Request) -> LLMResponse:
    """Ask until there is an answer to hand out.

    Raises:
        StructuredOutputError: A complete answer does not fit ``response_model``.
    """
    return with_parsed(await asking.ask(request), request.config.response_model)


async def complete_stream(asking: Asking, request: Request) -> AsyncGenerator[StreamChunk, None]:
    """The same as a stream. The last chunk carries the answer."""
    async with aclosing(asking.stream(request)) as chunks:
        async for chunk in chunks:
            if chunk.response is None:
                yield chunk
            else:
                yield final_chunk(with_parsed(chunk.response, request.config.response_model))
