"""Where requests go, and what follows from it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import SplitResult, urlsplit

from ractogateway.errors import InvalidTypeError, InvalidValueError

__all__ = ["DEFAULT_URL", "Address", "resolve"]

DEFAULT_URL = "https://api.openai.com/v1"
_OPENAI_HOST = "api.openai.com"
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[\w.-]+)(:[0-9]*)?")

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
    """The address for ``base_url``; None means ``OPENAI_BASE_URL``, then OpenAI.

    Resolved once, when a kit is made, so that its clients and its cache entries always mean the same server.

    Raises:
        InvalidTypeError: ``base_url`` is neither a string nor None.
        InvalidValueError: It is no HTTP address. The message does not show it, since it may hold a password.
    """
    if base_url is not None and not isinstance(base_url, str):
        raise InvalidTypeError(f"base_url must be a str or None, not {type(base_url).__name__}")
    url = base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    url = url.strip()
    if not url.isprintable() or " " in url:
        raise InvalidValueError("base_url must not hold spaces or characters that cannot be printed")
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidValueError("base_url must start with http:// or https:// and name a host")
    # Of the authority only the host is case-insensitive; what may stand before it is a user name and password.
    user, at, host = parts.netloc.rpartition("@")
    if not _is_host_and_port(host, parts):
        raise InvalidValueError("base_url must name a host, or a host and a port from 1 to 65535")
    rest = url.partition("://")[2][len(parts.netloc) :]
    return Address(f"{parts.scheme}://{user}{at}{host.lower()}{rest}".rstrip("/"))


def _split(url: str) -> SplitResult | None:
    # None instead of an error, here and below: the standard library's errors quote what they were given, and one of
    # ours that is raised while they are handled would keep them as its __context__.
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _is_host_and_port(text: str, parts: SplitResult) -> bool:
    if not _HOST_AND_PORT.fullmatch(text):
        return False
    try:
        if parts.port == 0:
            return False
        host = parts.hostname or ""
        if text.startswith("["):
            IPv6Address(host)
        else:
            host.encode("idna")  # refuses empty and overlong labels, also in ASCII
    except ValueError:
        return False
    return True
