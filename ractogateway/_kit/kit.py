"""What all kits are. A provider's official SDK does the talking; the order of things around a call is `Flow`'s."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from ractogateway._blocking_in_loop import check_running_loop, checked_before
from ractogateway._driving import drive
from ractogateway._kit.budget import AsyncRateLimiter, Budget, RateLimiter
from ractogateway._kit.cache_access import AsyncExactCache, CacheAccess
from ractogateway._kit.clients import Clients
from ractogateway._kit.embedding import Embedding
from ractogateway._kit.estimating import Estimator
from ractogateway._kit.flow import Flow
from ractogateway._kit.nesting import nested
from ractogateway._kit.preparing import Preparation, Request
from ractogateway._kit.provider import Provider
from ractogateway._kit.remembering import AsyncChatMemory, ChatMemory, Remembering
from ractogateway._kit.sides import AsyncSide, BlockingSide
from ractogateway._refusing import OfOneProcess
from ractogateway.cache.protocol import ExactCache
from ractogateway.messages import ChatConfig, LLMResponse, StreamChunk, Usage
from ractogateway.prompts import RactoPrompt

__all__ = ["DeveloperKit"]

T = TypeVar("T")

_ADVICE = "await achat or iterate over astream instead"


class DeveloperKit(OfOneProcess):
    """Chat by one provider, through a cache, within a budget, in a conversation."""

    def __init__(
        self,
        model: str,
        provider: Provider,
        clients: Clients[Any, Any],
        *,
        default_prompt: RactoPrompt | None,
        exact_cache: ExactCache | AsyncExactCache | None,
        cache_max_temperature: float,
        rate_limiter: RateLimiter | AsyncRateLimiter | None,
        memory: ChatMemory | AsyncChatMemory | None,
    ) -> None:
        self._provider = provider
        self._clients = clients
        self._preparation = Preparation(model, provider, default_prompt)
        budget = Budget(rate_limiter, Estimator(model))
        self._flow = Flow(
            provider,
            self._preparation,
            cache=CacheAccess(exact_cache),
            budget=budget,
            remembering=Remembering(memory),
            cache_max_temperature=cache_max_temperature,
        )
        self._embedding = Embedding(provider, self._preparation, budget)
        self._blocking = BlockingSide(provider, clients)
        self._async = AsyncSide(provider, clients)

    # -- chat ----------------------------------------------------------------------------------------------------------

    def chat(self, config: ChatConfig) -> LLMResponse:
        """Answer one request: from the cache, or by the provider. Blocks the calling thread.

        With ``config.tool_rounds``, tools that the model asks for run in this thread, one after the other; those that
        are coroutine functions in an event loop of their own.

        Raises:
            StructuredOutputError: A complete answer does not fit ``config.response_model``.
            Exception: What a tool raised, if its registry says ``on_error="raise"``.
        """
        request = self._prepare_blocking(config)
        with checked_before():
            return drive(self._flow.answer(self._blocking, request))

    async def achat(self, config: ChatConfig) -> LLMResponse:
        """`chat` for async code: never blocks the event loop, whichever face of a cache the kit has.

        Tools of one round run together: coroutine functions in this loop, others in threads.
        """
        return await self._flow.answer(self._async, self._prepare_async(config))

    # -- streams -------------------------------------------------------------------------------------------------------

    def stream(self, config: ChatConfig) -> Generator[StreamChunk, None, None]:
        """Answer one request piece by piece; the last chunk has ``is_final`` and carries the whole answer.

        A cached answer is replayed as a stream, and a stream that ended well is stored for all four methods before its
        last chunk is handed out. Leaving the loop early (or ``close()``) hangs up, and stores nothing.

        Each answer after which the model is asked again, because it called tools or did not fit, ends with a chunk that
        carries it and is not final (see `StreamChunk`).

        Streams do not wait for one another: one that begins while another of the same request is under way asks the
        provider too. Its reader wants the first words soon, and whoever reads the other may be slow, or leave it.

        Raises:
            ProviderConnectionError: Also where the stream stops in the middle, after the chunks that did arrive.
        """
        return _driven(self._blocking, self._flow.stream(self._blocking, self._prepare_blocking(config)))

    def astream(self, config: ChatConfig) -> AsyncGenerator[StreamChunk, None]:
        """`stream` for async code: ``async for chunk in kit.astream(config)``. Never blocks the event loop."""
        return self._flow.stream(self._async, self._prepare_async(config))

    # -- closing -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close connections: those of blocking calls now, those of event loops as soon as each loop runs."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close connections: those of this loop and of blocking calls now, those of other loops as soon as they run."""
        await self._clients.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self._preparation.model!r})"

    # -- embeddings ----------------------------------------------------------------------------------------------------

    def _charged(
        self, texts: Sequence[str], user_id: str | None, ask: Callable[[], T], usage: Callable[[T], Usage]
    ) -> T:
        """``ask``, which sends ``texts`` and blocks, paid for by a user."""

        async def asked() -> T:
            return ask()

        if not self._embedding.is_charged(user_id, blocking=True):
            return ask()
        with checked_before():
            return drive(self._embedding.charge(self._blocking, texts, user_id, asked, usage))

    async def _acharged(
        self, texts: Sequence[str], user_id: str | None, ask: Callable[[], Awaitable[T]], usage: Callable[[T], Usage]
    ) -> T:
        """`_charged` for async code."""
        if not self._embedding.is_charged(user_id, blocking=False):
            return await ask()
        return await self._embedding.charge(self._async, texts, user_id, ask, usage)

    # -- preparing -----------------------------------------------------------------------------------------------------

    def _prepare(self, config: ChatConfig) -> Request:
        return self._preparation.prepare(config)

    def _prepare_blocking(self, config: ChatConfig) -> Request:
        request = self._prepare(config)
        self._flow.check(request, blocking=True)
        check_running_loop(_ADVICE)
        return request

    def _prepare_async(self, config: ChatConfig) -> Request:
        request = self._prepare(config)
        self._flow.check(request, blocking=False)
        return request


def _driven(side: BlockingSide, chunks: AsyncGenerator[StreamChunk, None]) -> Generator[StreamChunk, None, None]:
    """An async generator whose awaits never suspend, for a blocking caller."""
    inner = nested(side, chunks)  # a loop that may be running here has no part in it
    drive(inner.__aenter__())
    try:
        while True:
            with checked_before():
                chunk = drive(_next(inner))
            if chunk is None:
                return
            yield chunk
    finally:
        with checked_before():
            drive(inner.__aexit__(None, None, None))


async def _next(chunks: nested[StreamChunk]) -> StreamChunk | None:
    return await anext(chunks, None)
