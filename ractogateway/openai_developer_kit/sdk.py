"""How the SDK ``openai`` is used, on first use: a cached answer needs neither the SDK nor a key."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any, ClassVar

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from ractogateway._kit.sdk_clients import SdkSettings
from ractogateway._schemas import Schema
from ractogateway.errors import InvalidValueError

__all__ = ["ClientSettings", "response_format"]


class ClientSettings(SdkSettings):
    """How `OpenAIDeveloperKit` makes its clients."""

    __slots__ = ()

    package: ClassVar[str] = "openai"
    kit: ClassVar[str] = "OpenAIDeveloperKit"
    blocking: ClassVar[str] = "OpenAI"
    asynchronous: ClassVar[str] = "AsyncOpenAI"
    key_variable: ClassVar[str] = "OPENAI_API_KEY"
    key_hint: ClassVar[str] = " (any text will do for a server that asks for none)"

    @staticmethod
    def warmed(client: Any) -> Any:
        _ = client.chat.completions, client.embeddings
        return client


def response_format(schema: Schema) -> dict[str, Any]:
    """The ``response_format`` that asks for JSON which fits a class, in the provider's strict mode.

    Which of JSON Schema's words strict mode knows is the SDK's business: the schema is the one that its public helper
    for tools makes.
    """
    model = schema.model.__name__
    try:
        strict = _strict(schema.parsed())
    except (PydanticUserError, AttributeError, TypeError, ValueError):
        raise InvalidValueError(f"response_model {model} has no JSON schema to send") from None
    # Names of generic models have brackets, which the API refuses.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", model)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": strict}}


def _strict(schema: dict[str, Any]) -> Any:
    token = _asked_for.set(schema)
    try:
        return ClientSettings.sdk().pydantic_function_tool(_Described)["function"]["parameters"]
    finally:
        _asked_for.reset(token)


_asked_for: ContextVar[dict[str, Any]] = ContextVar("ractogateway schema")


class _Described(BaseModel):
    """What the SDK's helper is shown, which takes a class alone: one whose schema is there already."""

    @classmethod
    def model_json_schema(cls, *_args: Any, **_named: Any) -> dict[str, Any]:
        return _asked_for.get()
