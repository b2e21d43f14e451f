"""`AnthropicDeveloperKit`: what is particular to it. The order of things around a call is `DeveloperKit`'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ractogateway._checks import check_tokens
from ractogateway._kit.arguments import check_seconds
from ractogateway._kit.budget import AsyncRateLimiter, RateLimiter
from ractogateway._kit.cache_access import AsyncExactCache
from ractogateway._kit.clients import Clients
from ractogateway._kit.kit import DeveloperKit
from ractogateway._kit.remembering import AsyncChatMemory, ChatMemory
from ractogateway._kit.sdk_clients import check_api_key
from ractogateway.anthropic_developer_kit.provider import AnthropicProvider, resolve
from ractogateway.anthropic_developer_kit.sdk import ClientSettings
from ractogateway.cache.protocol import ExactCache
from ractogateway.errors import UnsupportedByProvider
from ractogateway.prompts import RactoPrompt

__all__ = ["AnthropicDeveloperKit"]


class AnthropicDeveloperKit(DeveloperKit):
    """Chat by Anthropic, or by any server that speaks its Messages protocol.

    Args:
        model: The chat model.
        api_key: The key; None reads ``ANTHROPIC_API_KEY`` when the first request leaves. A cached answer needs none.
        base_url: The server; None reads ``ANTHROPIC_BASE_URL`` now, and means Anthropic without it.
        default_prompt: The system prompt of requests that bring none.
        exact_cache: Where answers are looked up and kept, as for `OpenAIDeveloperKit`. Kits of different providers may
            share a cache: the same question to another provider is another entry.
        cache_max_temperature: The highest temperature whose answers are stored.
        rate_limiter, memory: Whose budget a request spends, and where its conversation is kept, as for
            `OpenAIDeveloperKit`.
        timeout_seconds: How long the provider may stay silent, at most a day: before the answer, and between the pieces
            of a stream. Connecting may take 5 seconds of it.
        max_retries: How often the SDK repeats a request that failed in a way that may pass. Streams are not repeated
            once they began.

    A `ChatConfig` is written as for OpenAI: function tools, ``tool_calls`` and ``tool`` messages in the history, and
    the content parts ``text``, ``image_url`` and ``file`` are translated; anything else is taken for Anthropic's own
    shape and sent as it is. System messages of the history join the system prompt. `ChatConfig.extra` is merged into
    the request's body and wins over the other fields; ``None`` leaves a parameter out. It cannot set ``messages``,
    ``model`` or ``stream``. A ``response_model`` uses the API's structured outputs.

    Anthropic's models from Opus 4.7, Sonnet 5 and Haiku 5.5 on refuse every temperature. They get one only from a
    config that names it; the default of 0 is not sent, and their answers are stored as at 0, since nobody can ask for
    another.

    Everything else, threads, loops, closing and errors included, is as `OpenAIDeveloperKit` says.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        default_prompt: RactoPrompt | None = None,
        exact_cache: ExactCache | AsyncExactCache | None = None,
        cache_max_temperature: float = 0.0,
        rate_limiter: RateLimiter | AsyncRateLimiter | None = None,
        memory: ChatMemory | AsyncChatMemory | None = None,
        timeout_seconds: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        provider = AnthropicProvider(resolve(base_url))
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

    # The arguments are those of the other kits, which a caller may hold in the same variable.

    def embed(
        self,
        texts: str | Sequence[str],  # noqa: ARG002 - see above, here and below
        *,
        model: str | None = None,  # noqa: ARG002
        dimensions: int | None = None,  # noqa: ARG002
        user_id: str | None = None,  # noqa: ARG002
    ) -> NoReturn:
        """Anthropic has no embeddings.

        Raises:
            UnsupportedByProvider: Always.
        """
        raise UnsupportedByProvider(_NO_EMBEDDINGS)

    async def aembed(
        self,
        texts: str | Sequence[str],  # noqa: ARG002
        *,
        model: str | None = None,  # noqa: ARG002
        dimensions: int | None = None,  # noqa: ARG002
        user_id: str | None = None,  # noqa: ARG002
    ) -> NoReturn:
        """`embed` for async code."""
        raise UnsupportedByProvider(_NO_EMBEDDINGS)


_NO_EMBEDDINGS = "Anthropic has no embeddings: use the kit of a provider that has, for texts and queries alike"
