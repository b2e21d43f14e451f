"""What all kits are: the order of things around a call. A provider's official SDK does the talking."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from anyio import move_on_after

from ractogateway._checks import check_id, check_temperature
from ractogateway._kit.cache_access import AsyncExactCache, CacheAccess
from ractogateway._kit.clients import CLOSE_SECONDS, Clients
from ractogateway._kit.computing import Wanted
from ractogateway._kit.failures import provider_errors
from ractogateway._kit.provider import Provider
from ractogateway._kit.replay import final_chunk, replay
from ractogateway._kit.request import RequestIdentity, effective_temperature, identify, may_store, snapshot
from ractogateway._kit.structured import with_parsed
from ractogateway.cache.protocol import ExactCache
from ractogateway.errors import InvalidTypeError, StructuredOutputError
from ractogateway.messages import ChatConfig, LLMResponse, StreamChunk
from ractogateway.prompts import RactoPrompt

__all__ = ["DeveloperKit"]

_END: Any = object()


@dataclass(frozen=True, slots=True, repr=False)
class _Request:
    """A request as it was when it came in. ``config`` is the kit's own copy: its owner may change the original."""

    config: ChatConfig
    identity: RequestIdentity


class DeveloperKit:
    """Chat by one provider, through a cache."""

    def __init__(
        self,
        model: str,
        provider: Provider,
        clients: Clients[Any, Any],
        *,
        default_prompt: RactoPrompt | None,
        exact_cache: ExactCache | AsyncExactCache | None,
        cache_max_temperature: float,
    ) -> None:
        self._model = check_id("model", model)
        if default_prompt is not None and not isinstance(default_prompt, RactoPrompt):
            raise InvalidTypeError(f"default_prompt must be a RactoPrompt or None, not {type(default_prompt).__name__}")
        self._default_prompt = default_prompt
        self._cache = CacheAccess(exact_cache)
        self._cache_max_temperature = check_temperature(cache_max_temperature, "cache_max_temperature")
        self._provider = provider
        self._clients = clients

    # -- chat ----------------------------------------------------------------------------------------------------------

    def chat(self, config: ChatConfig) -> LLMResponse:
        """Answer one request: from the cache, or by the provider. Blocks the calling thread.

        Raises:
            StructuredOutputError: A complete answer does not fit ``config.response_model``.
        """
        request = self._prepare(config)
        config = request.config
        self._cache.check_blocking()

        def ask() -> LLMResponse:
            with provider_errors(self._provider.translate):
                client = self._clients.blocking()
                answer = self._provider.send(client, self._arguments(request, stream=False))
            return with_parsed(self._provider.read(answer), config.response_model)

        return self._cache.answer(self._wanted(request), ask)

    async def achat(self, config: ChatConfig) -> LLMResponse:
        """`chat` for async code: never blocks the event loop, whichever face of a cache the kit has."""
        request = self._prepare(config)
        config = request.config

        async def ask() -> LLMResponse:
            with provider_errors(self._provider.translate):
                client = await self._clients.of_this_loop()
                answer = await self._provider.asend(client, self._arguments(request, stream=False))
            return with_parsed(self._provider.read(answer), config.response_model)

        return await self._cache.aanswer(self._wanted(request), ask)

    # -- streams -------------------------------------------------------------------------------------------------------

    def stream(self, config: ChatConfig) -> Generator[StreamChunk, None, None]:
        """Answer one request piece by piece; the last chunk has ``is_final`` and carries the whole answer.

        A cached answer is replayed as a stream, and a stream that ended well is stored for all four methods before its
        last chunk is handed out. Leaving the loop early (or ``close()``) hangs up, and stores nothing.

        Streams do not wait for one another: one that begins while another of the same request is under way asks the
        provider too. Its reader wants the first words soon, and whoever reads the other may be slow, or leave it.

        Raises:
            ProviderConnectionError: Also where the stream stops in the middle, after the chunks that did arrive.
        """
        request = self._prepare(config)
        self._cache.check_blocking()
        return self._stream(request)

    def _stream(self, request: _Request) -> Generator[StreamChunk, None, None]:
        config = request.config
        answer = _usable(self._cache.lookup(request.identity), config)
        if answer is not None:
            yield from replay(answer)
            return
        with provider_errors(self._provider.translate):
            client = self._clients.blocking()
            source = self._provider.open(client, self._arguments(request, stream=True))
        collector = self._provider.collector()
        with closing(source):
            while True:
                # Around the SDK only: what a caller throws into this generator is not the provider's doing.
                with provider_errors(self._provider.translate):
                    piece = next(source, _END)
                if piece is _END:
                    break
                chunk = collector.add(piece)
                if chunk is not None:
                    yield chunk
        answer = with_parsed(collector.finish(), config.response_model)
        if may_store(config, answer, self._cache_max_temperature):
            self._cache.store(request.identity, answer)
        yield final_chunk(answer)

    def astream(self, config: ChatConfig) -> AsyncGenerator[StreamChunk, None]:
        """`stream` for async code: ``async for chunk in kit.astream(config)``. Never blocks the event loop."""
        return self._astream(self._prepare(config))

    async def _astream(self, request: _Request) -> AsyncGenerator[StreamChunk, None]:
        config = request.config
        answer = _usable(await self._cache.alookup(request.identity), config)
        if answer is not None:
            for chunk in replay(answer):
                yield chunk
            return
        with provider_errors(self._provider.translate):
            client = await self._clients.of_this_loop()
            source = await self._provider.aopen(client, self._arguments(request, stream=True))
        collector = self._provider.collector()
        try:
            while True:
                with provider_errors(self._provider.translate):
                    piece = await anext(source, _END)
                if piece is _END:
                    break
                new = collector.add(piece)
                if new is not None:
                    yield new
        finally:
            # Shielded: in a cancelled scope a plain await would leave the connection to the provider open.
            with move_on_after(CLOSE_SECONDS, shield=True):
                await source.aclose()
        answer = with_parsed(collector.finish(), config.response_model)
        if may_store(config, answer, self._cache_max_temperature):
            await self._cache.astore(request.identity, answer)
        yield final_chunk(answer)

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
        return f"{type(self).__name__}(model={self._model!r})"

    # -- preparing -----------------------------------------------------------------------------------------------------

    def _prepare(self, config: ChatConfig) -> _Request:
        if not isinstance(config, ChatConfig):
            raise InvalidTypeError(f"config must be a ChatConfig, not {type(config).__name__}")
        config = snapshot(config)
        self._provider.check(config)
        prompt = config.prompt if config.prompt is not None else self._default_prompt
        identity = identify(
            config,
            model=self._model,
            system_prompt="" if prompt is None else prompt.compile(),
            provider=self._provider.name,
            base_url=self._provider.address_key,
            silent=self._provider.silent,
            variant=self._provider.variant(config, self._model),
        )
        return _Request(config, identity)

    def _wanted(self, request: _Request) -> Wanted:
        config, highest = request.config, self._cache_max_temperature
        temperature = effective_temperature(config)
        return Wanted(
            identity=request.identity,
            usable=partial(_usable, config=config),
            may_store=partial(may_store, config, max_temperature=highest),
            # What `extra` says is what counts; the cache judges by what it is keyed by.
            max_temperature=config.temperature if temperature is not None and 0.0 <= temperature <= highest else None,
        )

    def _arguments(self, request: _Request, *, stream: bool) -> dict[str, Any]:
        return self._provider.arguments(
            request.config, model=self._model, system_prompt=request.identity.system_prompt, stream=stream
        )


def _usable(hit: LLMResponse | None, config: ChatConfig) -> LLMResponse | None:
    """A cached answer with ``parsed`` made again from its text; one that does not fit any more is a miss."""
    try:
        return None if hit is None else with_parsed(hit, config.response_model)
    except StructuredOutputError:
        return None
