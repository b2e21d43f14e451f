"""How the SDK ``google-genai`` is used, on first use: a cached answer needs neither the SDK nor a key."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from ractogateway._extras import import_extra
from ractogateway._kit.failures import construction_errors
from ractogateway._kit.sdk_clients import find_api_key
from ractogateway.errors import InvalidValueError

if TYPE_CHECKING:
    from google import genai

__all__ = ["AsyncClient", "ClientSettings", "json_schema", "milliseconds"]

_PAUSES = {"initial_delay": 0.5, "max_delay": 8.0, "jitter": 0.5}
"""Seconds between attempts: those of the other kits' SDKs."""


class AsyncClient:
    """The async half of an SDK's client, which closes both halves."""

    def __init__(self, client: genai.Client) -> None:
        self._client = client
        self.models = client.aio.models

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aio.aclose()
        self._client.close()


@dataclass(frozen=True, slots=True, repr=False)
class ClientSettings:
    """How `GoogleDeveloperKit` makes its clients. Knows the key, hence no repr."""

    url: str
    api_key: str | None
    timeout_seconds: float
    max_retries: int

    def make_blocking(self) -> genai.Client:
        """A blocking client.

        Raises:
            MissingExtraError: ``google-genai`` is not installed.
            ProviderAuthenticationError: There is no key, or that of the environment cannot be one.
            ProviderConnectionError: The SDK cannot work with the environment's proxies or certificates.
        """
        sdk: Any = import_extra("google.genai", extra="google", needed_for="GoogleDeveloperKit")
        with construction_errors("google-genai"):
            options = {
                "base_url": self.url,
                "timeout": milliseconds(self.timeout_seconds),
                "retry_options": {"attempts": 1 + self.max_retries, **_PAUSES},
            }
            api_key = find_api_key(self.api_key, "GOOGLE_API_KEY", "GEMINI_API_KEY")
            # vertexai: said, so that no variable of the environment leads elsewhere than `url`, which a cache knows.
            client: genai.Client = sdk.Client(vertexai=False, api_key=api_key, http_options=options)
            _ = client.models, client.aio.models
        return client

    def make_async(self) -> AsyncClient:
        """An async client, for the loop in which it is used first; raises like `make_blocking`."""
        return AsyncClient(self.make_blocking())


def milliseconds(seconds: float) -> int:
    """A timeout in the SDK's unit, where 0 would mean none."""
    return max(1, math.ceil(seconds * 1000))


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema that asks for JSON which fits ``model``."""
    try:
        return model.model_json_schema()
    except (PydanticUserError, AttributeError, TypeError, ValueError):
        failure = InvalidValueError(f"response_model {model.__name__} has no JSON schema to send")
    raise failure
