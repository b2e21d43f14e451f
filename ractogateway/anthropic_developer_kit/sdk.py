"""How the SDK ``anthropic`` is used, on first use: a cached answer needs neither the SDK nor a key."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic.errors import PydanticUserError

from ractogateway._kit.sdk_clients import SdkSettings
from ractogateway._schemas import Schema
from ractogateway.errors import InvalidValueError

__all__ = ["ClientSettings", "output_format"]


class ClientSettings(SdkSettings):
    """How `AnthropicDeveloperKit` makes its clients."""

    __slots__ = ()

    package: ClassVar[str] = "anthropic"
    kit: ClassVar[str] = "AnthropicDeveloperKit"
    blocking: ClassVar[str] = "Anthropic"
    asynchronous: ClassVar[str] = "AsyncAnthropic"
    key_variable: ClassVar[str] = "ANTHROPIC_API_KEY"

    @staticmethod
    def warmed(client: Any) -> Any:
        _ = client.messages
        return client


def output_format(schema: Schema) -> dict[str, Any]:
    """The ``output_config.format`` that asks for JSON which fits a class.

    Which of JSON Schema's words the API knows is the SDK's business: the schema is what its public helper makes.
    """
    try:
        return {"type": "json_schema", "schema": ClientSettings.sdk().transform_schema(schema.parsed())}
    except (PydanticUserError, AttributeError, TypeError, ValueError):
        failure = InvalidValueError(f"response_model {schema.model.__name__} has no JSON schema to send")
    raise failure
