"""`OpenAIDeveloperKit`: what is particular to it. The order of things around a call is `DeveloperKit`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ractogateway._checks import check_id, check_tokens
from ractogateway._kit.arguments import check_seconds
from ractogateway._kit.budget import AsyncRateLimiter, RateLimiter
from ractogateway._kit.cache_access import AsyncExactCache
from ractogateway._kit.clients import Clients
from ractogateway._kit.failures import provider_errors
from ractogateway._kit.kit import DeveloperKit
from ractogateway._kit.remembering import AsyncChatMemory, ChatMemory
from ractogateway._kit.sdk_clients import check_api_key
from ractogateway.cache.protocol import ExactCache
from ractogateway.openai_developer_kit import sdk, wire
from ractogateway.openai_developer_kit.address import resolve
from ractogateway.openai_developer_kit.provider import OpenAIProvider
from ractogateway.prompts import RactoPrompt

__all__ = ["OpenAIDeveloperKit"]


class OpenAIDeveloperKit(DeveloperKit):
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
        rate_limiter: Keeps the budget that a request spends, which is that of `ChatConfig.user_id`: a
            `RedisRateLimiter` (its async core is used in async calls), an `AsyncRedisRateLimiter` (for ``achat`` and
            ``astream`` only), or anything with their ``reserve`` and ``consume``. The prompt by estimate and
            `ChatConfig.max_tokens` are reserved before the provider is asked, and settled to what it billed; an answer
            from the cache spends nothing. Embeddings are charged where `embed` is told a ``user_id``.
        memory: Where conversations are kept, those of `ChatConfig.conversation_id`: a `RedisChatMemory`, an
            `AsyncRedisChatMemory`, or anything with their ``get_changes`` and ``extend``. The history is loaded before
            anything else, and the whole turn is appended after the answer.
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

    What other providers signed in a conversation (``thinking_blocks`` and ``extra_content`` of assistants' messages) is
    left out at OpenAI's own addresses, and sent to other servers, which may stand in front of those providers.

    A config is copied when a method is called (by `achat`, when it is first awaited): what is changed in it later does
    not reach the request.

    A kit may be used from many threads and event loops at once. Closing it is optional, and a closed kit opens again
    when it is used.

    Methods that chat may raise `RateLimitExceeded` where there is a limiter, and where there is a memory `StoreError`
    before anybody was asked, and `TurnNotRemembered` after the answer.

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
        rate_limiter: RateLimiter | AsyncRateLimiter | None = None,
        memory: ChatMemory | AsyncChatMemory | None = None,
        timeout_seconds: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        self._embedding_model = check_id("embedding_model", embedding_model)
        provider = OpenAIProvider(resolve(base_url))
        settings = sdk.ClientSettings(
            url=provider.address.url,
            api_key=None if api_key is None else check_api_key(api_key),
            timeout_seconds=check_seconds("timeout_seconds", timeout_seconds),
            max_retries=check_tokens("max_retries", max_retries, minimum=0),
        )
        super().__init__(
            model,
            provider,
            Clients(settings.make_blocking, settings.make_async),
            default_prompt=default_prompt,
            exact_cache=exact_cache,
            cache_max_temperature=cache_max_temperature,
            rate_limiter=rate_limiter,
            memory=memory,
        )

    # -- embeddings ----------------------------------------------------------------------------------------------------

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        user_id: str | None = None,
    ) -> list[list[float]]:
        """One vector for each text, in their order; a single string is a list of one. Not cached.

        In a kit with a ``rate_limiter``, ``user_id`` pays for them; without one, nobody does.

        Raises:
            RateLimitExceeded: The user's limits do not allow it. The provider was not asked.
        """
        arguments = self._embedding_arguments(texts, model, dimensions)

        def ask() -> Any:
            with provider_errors(self._provider.translate):
                return self._clients.blocking().embeddings.create(**arguments)

        return wire.read_embeddings(self._charged(arguments["input"], user_id, ask, wire.usage_of))

    async def aembed(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        user_id: str | None = None,
    ) -> list[list[float]]:
        """`embed` for async code."""
        arguments = self._embedding_arguments(texts, model, dimensions)

        async def ask() -> Any:
            with provider_errors(self._provider.translate):
                client = await self._clients.of_this_loop()
                return await client.embeddings.create(**arguments)

        return wire.read_embeddings(await self._acharged(arguments["input"], user_id, ask, wire.usage_of))

    def _embedding_arguments(
        self, texts: str | Sequence[str], model: str | None, dimensions: int | None
    ) -> dict[str, Any]:
        return wire.embedding_arguments(
            texts,
            model=self._embedding_model if model is None else check_id("model", model),
            dimensions=None if dimensions is None else check_tokens("dimensions", dimensions),
        )
