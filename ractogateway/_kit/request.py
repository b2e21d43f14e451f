"""What a cache knows a request by, and whether its answer may be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ractogateway.cache.policy import is_storable
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import ChatConfig, LLMResponse

__all__ = ["RequestIdentity", "flatten_extra", "identify", "may_store"]

CLIENT_SIDE = frozenset({"timeout"})
"""Keys of ``extra`` that never leave this process: how long a caller waits does not change what the model says."""

TRACING_HEADERS = frozenset(
    {"baggage", "idempotency-key", "traceparent", "tracestate", "x-client-request-id", "x-request-id"}
)
"""Headers that name one request and so differ in each. Every other header counts: it may choose a tenant or a route."""

PROVIDER_DEFAULT_TEMPERATURE = 1.0
"""What OpenAI, Anthropic and Google document for a request that names none."""


@dataclass(frozen=True, slots=True, repr=False)
class RequestIdentity:
    """A whole request, as `ExactCache` wants it: five documented fields, and ``context`` for everything else.

    ``context`` is None for a plain request to a provider's default address, so that it meets the entries of the
    five-argument form ``cache.get(user_message, system_prompt, model, temperature, max_tokens)``.
    """

    user_message: str
    system_prompt: str
    model: str
    temperature: float
    max_tokens: int
    context: Mapping[str, Any] | None = None

    @property
    def fields(self) -> tuple[str, str, str, float, int]:
        """The five documented fields, in the order of the cache's methods."""
        return self.user_message, self.system_prompt, self.model, self.temperature, self.max_tokens

    def __repr__(self) -> str:
        return f"RequestIdentity(model={self.model!r})"


def identify(
    config: ChatConfig,
    *,
    model: str,
    system_prompt: str,
    provider: str | None = None,
    base_url: str | None = None,
    silent: frozenset[str] = frozenset(),
) -> RequestIdentity:
    """The identity of ``config`` sent to ``model``.

    Args:
        config: The request.
        model: The model that is asked for.
        system_prompt: The compiled prompt, ``""`` when there is none.
        provider: Who answers; None for OpenAI, whose plain requests the five-argument form stands for.
        base_url: Where, when it is not the provider's default address.
        silent: Keys of ``extra`` which this provider, at this address, documents as without influence on the answer.

    Whatever is empty or default is left out: a request says the same with ``tools=[]`` as without tools.
    """
    everything_else = {
        "history": [message.to_dict() for message in config.past_messages],
        "tools": config.tools,
        "response_model": config.response_model,
        "attachments": config.attachments,
        "extra": _shaping(config.extra, silent),
        "provider": provider,
        "base_url": base_url,
    }
    context = {name: value for name, value in everything_else.items() if value is not None and value not in ([], {})}
    return RequestIdentity(
        config.user_message, system_prompt, model, config.temperature, config.max_tokens, context or None
    )


def flatten_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """``extra`` with the content of its ``extra_body`` beside the rest, which is where the SDKs put it in a request."""
    body = extra.get("extra_body") or {}
    return {**{name: value for name, value in extra.items() if name != "extra_body"}, **body}


def may_store(config: ChatConfig, response: LLMResponse) -> bool:
    """Whether the answer to ``config`` may be stored, at the temperature that really reached the provider."""
    temperature = flatten_extra(config.extra).get("temperature", config.temperature)
    if temperature is None:  # left out of the request on purpose: the provider's default rules
        temperature = PROVIDER_DEFAULT_TEMPERATURE
    try:
        return is_storable(response, temperature=temperature)
    except (InvalidTypeError, InvalidValueError):  # `extra` took any value, and the provider took it too
        return False


def _shaping(extra: Mapping[str, Any], silent: frozenset[str]) -> dict[str, Any]:
    shaping = {name: value for name, value in flatten_extra(extra).items() if name not in silent | CLIENT_SIDE}
    headers = shaping.pop("extra_headers", None)
    if headers:
        kept = {name.lower(): value for name, value in headers.items() if name.lower() not in TRACING_HEADERS}
        if kept:
            shaping["extra_headers"] = kept
    return shaping
