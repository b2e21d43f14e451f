"""The only place that imports ``openai``, on first use: a cached answer needs neither the SDK nor a key."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from ractogateway._checks import check_id
from ractogateway._extras import import_extra
from ractogateway.errors import InvalidValueError, ProviderAuthenticationError
from ractogateway.openai_developer_kit.failures import construction_errors

if TYPE_CHECKING:
    import openai

__all__ = ["ClientSettings", "check_api_key", "response_format"]

_CONNECT_SECONDS = 5.0
"""As the SDK's own default: no provider takes longer to accept a connection that it is going to accept."""


def _sdk() -> Any:
    return import_extra("openai", extra="openai", needed_for="OpenAIDeveloperKit")


def check_api_key(value: object) -> None:
    """Refuse a key that no HTTP header can carry as it is; a line break at its end is the usual case."""
    if not _fits_a_header(check_id("api_key", value)):
        raise InvalidValueError(f"api_key must be {_KEY_FORM}")


_KEY_FORM = "printable ASCII without whitespace around it"


def _fits_a_header(key: str) -> bool:
    return key.isascii() and key.isprintable() and key == key.strip()


@dataclass(frozen=True, slots=True, repr=False)
class ClientSettings:
    """How a kit's clients are made. Knows the key, hence no repr."""

    url: str
    api_key: str | None
    timeout_seconds: float
    max_retries: int

    def make_blocking(self) -> openai.OpenAI:
        """A blocking client.

        Raises:
            MissingExtraError: ``openai`` is not installed.
            ProviderAuthenticationError: There is no key, or that of the environment cannot be one.
            ProviderConnectionError: The SDK cannot work with the environment's proxies or certificates.
        """
        sdk = _sdk()
        with construction_errors():
            client: openai.OpenAI = _warmed(sdk.OpenAI(**self._arguments(sdk)))
        return client

    def make_async(self) -> openai.AsyncOpenAI:
        """An async client, for the loop in which it is used first; raises like `make_blocking`."""
        sdk = _sdk()
        # Given explicitly because the SDK's own subclass closes itself, when it is collected, in whichever loop happens
        # to run then; `Clients` closes it in the loop it belongs to.
        with construction_errors():
            arguments = self._arguments(sdk)  # first, since what fails after the next line leaves a client behind
            http_client = sdk.DefaultAsyncHttpxClient()
            client: openai.AsyncOpenAI = _warmed(sdk.AsyncOpenAI(**arguments, http_client=http_client))
        return client

    def _arguments(self, sdk: Any) -> dict[str, Any]:
        api_key = self.api_key or os.environ.get("OPENAI_API_KEY")
        if not api_key:
            raise ProviderAuthenticationError(
                "no API key: pass api_key=, or set OPENAI_API_KEY (any text will do for a server that asks for none)"
            )
        if not _fits_a_header(api_key):
            raise ProviderAuthenticationError(f"OPENAI_API_KEY must be {_KEY_FORM}")
        timeout = sdk.Timeout(self.timeout_seconds, connect=min(_CONNECT_SECONDS, self.timeout_seconds))
        return {"api_key": api_key, "base_url": self.url, "timeout": timeout, "max_retries": self.max_retries}


def _warmed(client: Any) -> Any:
    # The SDK imports each of its parts when it is first touched (0.4 s measured): here, where a thread does it for
    # async callers, rather than later in their event loop.
    _ = client.chat.completions, client.embeddings
    return client


def response_format(model: type[BaseModel]) -> dict[str, Any]:
    """The ``response_format`` that asks for JSON which fits ``model``, in the provider's strict mode.

    Which of JSON Schema's words strict mode knows is the SDK's business: the schema is the one that its public helper
    for tools makes.
    """
    try:
        function = _sdk().pydantic_function_tool(model)["function"]
    except (PydanticUserError, AttributeError, TypeError, ValueError):
        raise InvalidValueError(f"response_model {model.__name__} has no JSON schema to send") from None
    # Names of generic models have brackets, which the API refuses.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", model.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": function["parameters"]}}
