"""Where requests go, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ractogateway._kit.address import resolve_url

__all__ = ["DEFAULT_URL", "Address", "resolve"]

DEFAULT_URL = "https://api.openai.com/v1"
_OPENAI_HOST = "api.openai.com"

_SILENT_AT_OPENAI = frozenset(
    {
        # Who asks: used by OpenAI to find abuse. (`user` is the older name of `safety_identifier`.)
        "safety_identifier",
        "user",
        # What OpenAI keeps of the exchange, and under which labels.
        "metadata",
        "store",
        # How its prompt cache is routed and how long that lives: what is billed, not what is said.
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        # How fast and at which price the same model answers.
        "service_tier",
        # How an answer is cut into events.
        "stream_options",
    }
)


@dataclass(frozen=True, slots=True)
class Address:
    """``url`` without a trailing slash; ``key`` is what identifies it to a cache, None for OpenAI's default address."""

    url: str

    @property
    def key(self) -> str | None:
        return None if self.url == DEFAULT_URL else self.url

    @property
    def is_openai(self) -> bool:
        """OpenAI itself, one of its regional addresses included."""
        host = urlsplit(self.url).hostname or ""
        return host == _OPENAI_HOST or host.endswith("." + _OPENAI_HOST)

    @property
    def limit_name(self) -> str:
        """The parameter that bounds an answer's tokens.

        OpenAI's newer models refuse ``max_tokens``. Other servers know it best: Ollama, for one, silently ignores
        ``max_completion_tokens`` and answers without a bound (https://github.com/ollama/ollama/issues/7125).
        """
        return "max_completion_tokens" if self.is_openai else "max_tokens"

    @property
    def silent(self) -> frozenset[str]:
        """Parameters that are documented here as without influence on the answer.

        Elsewhere there are none: other servers give these names meanings of their own (a ``user`` with a memory, a
        ``store`` with documents), and an answer must never reach a request that it was not made for.
        """
        return _SILENT_AT_OPENAI if self.is_openai else frozenset()


def resolve(base_url: object) -> Address:
    """The address for ``base_url``; None means ``OPENAI_BASE_URL``, then OpenAI. Raises like `resolve_url`."""
    return Address(resolve_url(base_url, variable="OPENAI_BASE_URL", default=DEFAULT_URL))
