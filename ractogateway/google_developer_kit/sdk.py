"""How the SDK ``google-genai`` is used, on first use: a cached answer needs neither the SDK nor a key."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import requires
from typing import TYPE_CHECKING, Any

from pydantic.errors import PydanticUserError

from ractogateway._extras import import_extra
from ractogateway._kit.failures import construction_errors
from ractogateway._kit.sdk_clients import find_api_key
from ractogateway._schemas import Schema
from ractogateway.errors import InvalidValueError

if TYPE_CHECKING:
    from google import genai

__all__ = ["AsyncClient", "AsyncStream", "ClientSettings", "json_schema", "milliseconds"]

_PAUSES = {"initial_delay": 0.5, "max_delay": 8.0, "jitter": 0.5}
"""Seconds between attempts: those of the other kits' SDKs."""


_responses: ContextVar[list[Any] | None] = ContextVar("responses of a stream", default=None)


async def _note(response: Any) -> None:
    noted = _responses.get()
    if noted is not None:
        noted.append(response)


class AsyncClient:
    """The async half of an SDK's client over an HTTP client of ours, which closes all of it."""

    def __init__(self, client: genai.Client, http_client: Any) -> None:
        self._client = client
        self._http_client = http_client
        self.models = client.aio.models

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aio.aclose()
        await self._http_client.aclose()
        self._client.close()


class AsyncStream:
    """An async stream of the SDK that can be left.

    The SDK closes its HTTP response in a generator that refers to itself, which is when the garbage collector comes by:
    until then a model that nobody listens to any more goes on.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._responses: list[Any] = []

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        token = _responses.set(self._responses)  # the first event makes the request
        try:
            return await anext(self._stream)
        finally:
            _responses.reset(token)

    async def aclose(self) -> None:
        """Hang up."""
        await self._stream.aclose()
        for response in self._responses:
            await response.aclose()


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
        return self._make()

    def make_async(self) -> AsyncClient:
        """An async client, for the loop in which it is used first; raises like `make_blocking`."""
        _sdk()
        with construction_errors("google-genai"):
            # Given explicitly, so that the SDK takes the same library whatever else is installed, and streams can be
            # left.
            library = _http_library()
            http_client = library.AsyncClient(follow_redirects=True, event_hooks={"response": [_note]})
        return AsyncClient(self._make(httpx_async_client=http_client), http_client)

    def _make(self, **more: Any) -> genai.Client:
        sdk = _sdk()
        with construction_errors("google-genai"):
            options = {
                "base_url": self.url,
                "timeout": milliseconds(self.timeout_seconds),
                "retry_options": {"attempts": 1 + self.max_retries, **_PAUSES},
                **more,
            }
            api_key = find_api_key(self.api_key, "GOOGLE_API_KEY", "GEMINI_API_KEY")
            # vertexai: said, so that no variable of the environment leads elsewhere than `url`, which a cache knows.
            client: genai.Client = sdk.Client(vertexai=False, api_key=api_key, http_options=options)
            _ = client.models, client.aio.models
        return client


def _sdk() -> Any:
    return import_extra("google.genai", extra="google", needed_for="GoogleDeveloperKit")


def _http_library() -> Any:
    """The library that this version of the SDK depends on."""
    needed = {name for name in ("httpx2", "httpx") for each in requires("google-genai") or [] if _names(each, name)}
    return importlib.import_module("httpx2" if "httpx2" in needed else "httpx")


def _names(requirement: str, package: str) -> bool:
    return re.match(rf"{package}\b", requirement) is not None and "extra ==" not in requirement


def milliseconds(seconds: float) -> int:
    """A timeout in the SDK's unit, where 0 would mean none."""
    return max(1, math.ceil(seconds * 1000))


def json_schema(schema: Schema) -> dict[str, Any]:
    """The schema that asks for JSON which fits a class."""
    try:
        return schema.parsed()
    except (PydanticUserError, AttributeError, TypeError, ValueError):
        failure = InvalidValueError(f"response_model {schema.model.__name__} has no JSON schema to send")
    raise failure
