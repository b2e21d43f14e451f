"""`GoogleDeveloperKit`: what is particular to it. The order of things around a call is `DeveloperKit`'s."""

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
from ractogateway.google_developer_kit import wire
from ractogateway.google_developer_kit.provider import GoogleProvider, resolve
from ractogateway.google_developer_kit.sdk import ClientSettings
from ractogateway.prompts import RactoPrompt

__all__ = ["GoogleDeveloperKit"]


class GoogleDeveloperKit(DeveloperKit):
    """Chat and embeddings by Google's Gemini API (not by Vertex AI).

    Args:
        model: The chat model.
        api_key: The key; None reads ``GOOGLE_API_KEY``, then ``GEMINI_API_KEY`` when the first request leaves. A cached
            answer needs none.
        base_url: The server, without the API's version; None reads ``GOOGLE_GEMINI_BASE_URL`` now, and means Google
            without it.
        embedding_model: The model of `embed` and `aembed`.
        default_prompt: The system prompt of requests that bring none.
        exact_cache: Where answers are looked up and kept, as for `OpenAIDeveloperKit`. Kits of different providers may
            share a cache: the same question to another provider is another entry.
        cache_max_temperature: The highest temperature whose answers are stored.
        rate_limiter, memory: Whose budget a request spends, and where its conversation is kept, as for
            `OpenAIDeveloperKit`.
        timeout_seconds: How long the provider may stay silent, at most a day: before the answer, and between the pieces
            of a stream.
        max_retries: How often the SDK repeats a request that failed in a way that may pass. Streams are not repeated
            once they began.

    A `ChatConfig` is written as for OpenAI: function tools, ``tool_calls`` and ``tool`` messages in the history, and
    the content parts ``text``, ``image_url`` and ``file`` are translated; anything else is taken for Google's own shape
    and sent as it is. System messages of the history join the system prompt. `ChatConfig.extra` holds fields of the
    SDK's ``GenerateContentConfig`` in snake_case, and ``timeout`` and ``extra_headers``; it wins over the other fields
    of the config, and ``None`` leaves a field out. A ``response_model`` uses the API's structured output.

    Everything else, threads, loops, closing and errors included, is as `OpenAIDeveloperKit` says.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        embedding_model: str = "gemini-embedding-001",
        default_prompt: RactoPrompt | None = None,
        exact_cache: ExactCache | AsyncExactCache | None = None,
        cache_max_temperature: float = 0.0,
        rate_limiter: RateLimiter | AsyncRateLimiter | None = None,
        memory: ChatMemory | AsyncChatMemory | None = None,
        timeout_seconds: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        self._embedding_model = check_id("embedding_model", embedding_model)
        provider = GoogleProvider(resolve(base_url))
        settings = ClientSettings(
            url=provider.url,
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

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        dimensions: int | None = None,
        user_id: str | None = None,
    ) -> list[list[float]]:
        """One vector for each text, in their order; a single string is a list of one. Not cached.

        In a kit with a ``rate_limiter``, ``user_id`` pays for them; without one, nobody does. Where
        the API does not tell what they cost, the estimate is charged.

        Raises:
            RateLimitExceeded: The user's limits do not allow it. The provider was not asked.
        """
        arguments = self._embedding_arguments(texts, model, dimensions)
        items = arguments["contents"]

        def ask() -> Any:
            with provider_errors(self._provider.translate):
                return self._clients.blocking().models.embed_content(**arguments)

        return wire.read_embeddings(self._charged(items, user_id, ask, wire.usage_of), len(items))

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
        items = arguments["contents"]

        async def ask() -> Any:
            with provider_errors(self._provider.translate):
                client = await self._clients.of_this_loop()
                return await client.models.embed_content(**arguments)

        return wire.read_embeddings(await self._acharged(items, user_id, ask, wire.usage_of), len(items))

    def _embedding_arguments(
        self, texts: str | Sequence[str], model: str | None, dimensions: int | None
    ) -> dict[str, Any]:
        return wire.embedding_arguments(
            texts,
            model=self._embedding_model if model is None else check_id("model", model),
            dimensions=None if dimensions is None else check_tokens("dimensions", dimensions),
        )
