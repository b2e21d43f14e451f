"""`OpenAIDeveloperKit`: the order of things around a call. The official SDK does the talking."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from anyio import move_on_after

from ractogateway._checks import check_id, check_temperature, check_tokens
from ractogateway._kit.cache_access import AsyncExactCache, CacheAccess
from ractogateway._kit.clients import CLOSE_SECONDS, Clients
from ractogateway._kit.computing import Wanted
from ractogateway._kit.replay import final_chunk, replay
from ractogateway._kit.request import RequestIdentity, effective_temperature, identify, may_store, snapshot
from ractogateway._kit.structured import with_parsed
from ractogateway.cache.protocol import ExactCache
from ractogateway.errors import InvalidTypeError, StructuredOutputError
from ractogateway.messages import ChatConfig, LLMResponse, StreamChunk
from ractogateway.openai_developer_kit import sdk, wire
from ractogateway.openai_developer_kit.address import resolve
from ractogateway.openai_developer_kit.failures import provider_errors
from ractogateway.openai_developer_kit.streaming import StreamCollector
from ractogateway.prompts import RactoPrompt

if TYPE_CHECKING:
    import openai

__all__ = ["OpenAIDeveloperKit"]

_END: Any = object()


@dataclass(frozen=True, slots=True, repr=False)
class _Request:
    """A request as it was when it came in. ``config`` is the kit's own copy: its owner may change the original."""

    config: ChatConfig
    identity: RequestIdentity


class OpenAIDeveloperKit:
    """Chat and embeddings by OpenAI, or by any server that speaks its Chat Completions protocol.

    Args:
        model: The chat model.
        api_key: The key; None reads ``OPENAI_API_KEY`` when the first request leaves. A cached answer needs none.
        base_url: The server; None reads ``OPENAI_BASE_URL`` now, and means OpenAI without it. Away from OpenAI's own
            addresses, `ChatConfig.max_tokens` is sent as ``max_tokens`` instead of ``max_completion_tokens``, and every
            parameter in ``extra`` tells requests apart (at OpenAI's, those like ``user`` or ``metadata`` do not).
        embedding_model: The model of `embed` and `aembed`.
        default_prompt: The system prompt of requests that bring none. With neither there is no system message.
        exact_cache: Where answers are looked up and kept: an `ExactMatchCache`, a `RedisExactCache` (its async core is
            used in async calls), an `AsyncRedisExactCache` (for ``achat`` and ``astream`` only), or anything with their
            ``get`` and ``put``. A cache that fails is logged by ``ractogateway.kit`` and fails no request. With a cache
            that has ``get_or_compute``, as these have, a request that many make at once by `chat` or `achat` is sent
            once.
        cache_max_temperature: The highest temperature whose answers are stored. Above 0 an answer is a sample, and a
            cache hands the same sample to everybody: by default such answers are not stored.
        timeout_seconds: How long the provider may stay silent, at most a day: before the answer, and between the pieces
            of a stream. Connecting may take 5 seconds of it. An attempt that timed out is repeated like any other
            failed one.
        max_retries: How often the SDK repeats a request after a failed connection, a timeout, or a status of 408, 409,
            429 or 5xx, pausing as the provider asks or with exponential backoff. Streams are not repeated once they
            began.

    `ChatConfig.extra` is merged into the request's body (``timeout``, ``extra_headers`` and ``extra_query`` go to the
    SDK's call). It wins over the other fields of the config, ``None`` leaves a parameter out, and it cannot set
    ``messages``, ``model`` or ``stream``. Of several choices (``n``) the first is the answer; the others are in
    ``raw``, which is neither cached nor given for streams.

    A config is copied when a method is called (by `achat`, when it is first awaited): what is changed in it later does
    not reach the request.

    A kit may be used from many threads and event loops at once. Closing it is optional, and a closed kit opens again
    when it is used.

    Every method may raise the `ProviderError` family, `InvalidTypeError`, `InvalidValueError`, `MissingExtraError`
    where ``openai`` is not installed; async ones also `UnsupportedEventLoopError`. None of their messages shows a
    prompt, an answer or a key.
    """

    def __init__(
        self,
        model: str = "gpt-4o",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        embedding_model: str = "text-embedding-3-small",
        default_prompt: RactoPrompt | None = None,
        exact_cache: ExactCache | AsyncExactCache | None = None,
        cache_max_temperature: float = 0.0,
        timeout_seconds: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        self._model = check_id("model", model)
        self._embedding_model = check_id("embedding_model", embedding_model)
        if api_key is not None:
            sdk.check_api_key(api_key)
        if default_prompt is not None and not isinstance(default_prompt, RactoPrompt):
            raise InvalidTypeError(f"default_prompt must be a RactoPrompt or None, not {type(default_prompt).__name__}")
        self._default_prompt = default_prompt
        self._cache = CacheAccess(exact_cache)
        self._cache_max_temperature = check_temperature(cache_max_temperature, "cache_max_temperature")
        self._address = resolve(base_url)
        settings = sdk.ClientSettings(
            url=self._address.url,
            api_key=api_key,
            timeout_seconds=wire.check_seconds("timeout_seconds", timeout_seconds),
            max_retries=check_tokens("max_retries", max_retries, minimum=0),
        )
        self._clients: Clients[openai.OpenAI, openai.AsyncOpenAI] = Clients(settings.make_blocking, settings.make_async)

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
            with provider_errors():
                client = self._clients.blocking()
                completion: Any = client.chat.completions.create(**self._arguments(request, stream=False))
            return with_parsed(wire.read_completion(completion), config.response_model)

        return self._cache.answer(self._wanted(request), ask)

    async def achat(self, config: ChatConfig) -> LLMResponse:
        """`chat` for async code: never blocks the event loop, whichever face of a cache the kit has."""
        request = self._prepare(config)
        config = request.config

        async def ask() -> LLMResponse:
            with provider_errors():
                client = await self._clients.of_this_loop()
                completion: Any = await client.chat.completions.create(**self._arguments(request, stream=False))
            return with_parsed(wire.read_completion(completion), config.response_model)

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
        with provider_errors():
            client = self._clients.blocking()
            source: Any = client.chat.completions.create(**self._arguments(request, stream=True))
        collector = StreamCollector()
        with closing(source):
            while True:
                # Around the SDK only: what a caller throws into this generator is not the provider's doing.
                with provider_errors():
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
        with provider_errors():
            client = await self._clients.of_this_loop()
            source: Any = await client.chat.completions.create(**self._arguments(request, stream=True))
        collector = StreamCollector()
        try:
            while True:
                with provider_errors():
                    piece = await anext(source, _END)
                if piece is _END:
                    break
                new = collector.add(piece)
                if new is not None:
                    yield new
        finally:
            # Shielded: in a cancelled scope a plain await would leave the connection to the provider open.
            with move_on_after(CLOSE_SECONDS, shield=True):
                await source.close()
        answer = with_parsed(collector.finish(), config.response_model)
        if may_store(config, answer, self._cache_max_temperature):
            await self._cache.astore(request.identity, answer)
        yield final_chunk(answer)

    # -- embeddings ----------------------------------------------------------------------------------------------------

    def embed(
        self, texts: str | Sequence[str], *, model: str | None = None, dimensions: int | None = None
    ) -> list[list[float]]:
        """One vector for each text, in their order; a single string is a list of one. Not cached."""
        arguments = self._embedding_arguments(texts, model, dimensions)
        with provider_errors():
            return wire.read_embeddings(self._clients.blocking().embeddings.create(**arguments))

    async def aembed(
        self, texts: str | Sequence[str], *, model: str | None = None, dimensions: int | None = None
    ) -> list[list[float]]:
        """`embed` for async code."""
        arguments = self._embedding_arguments(texts, model, dimensions)
        with provider_errors():
            client = await self._clients.of_this_loop()
            return wire.read_embeddings(await client.embeddings.create(**arguments))

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
        return f"OpenAIDeveloperKit(model={self._model!r})"

    # -- preparing -----------------------------------------------------------------------------------------------------

    def _prepare(self, config: ChatConfig) -> _Request:
        if not isinstance(config, ChatConfig):
            raise InvalidTypeError(f"config must be a ChatConfig, not {type(config).__name__}")
        config = snapshot(config)
        wire.check_extra(config.extra)
        prompt = config.prompt if config.prompt is not None else self._default_prompt
        identity = identify(
            config,
            model=self._model,
            system_prompt="" if prompt is None else prompt.compile(),
            base_url=self._address.key,
            silent=self._address.silent,
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
        response_model = request.config.response_model
        return wire.call_arguments(
            request.config,
            model=self._model,
            system_prompt=request.identity.system_prompt,
            limit_name=self._address.limit_name,
            response_format=None if response_model is None else sdk.response_format(response_model),
            stream=stream,
        )

    def _embedding_arguments(
        self, texts: str | Sequence[str], model: str | None, dimensions: int | None
    ) -> dict[str, Any]:
        return wire.embedding_arguments(
            texts,
            model=self._embedding_model if model is None else check_id("model", model),
            dimensions=None if dimensions is None else check_tokens("dimensions", dimensions),
        )


def _usable(hit: LLMResponse | None, config: ChatConfig) -> LLMResponse | None:
    """A cached answer with ``parsed`` made again from its text; one that does not fit any more is a miss."""
    try:
        return None if hit is None else with_parsed(hit, config.response_model)
    except StructuredOutputError:
        return None
