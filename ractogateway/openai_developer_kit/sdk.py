"""How the SDK ``openai`` is used, on first use: a cached answer needs neither the SDK nor a key."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from ractogateway._kit.sdk_clients import SdkSettings
from ractogateway._schemas import once_per_class
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


def response_format(model: type[BaseModel]) -> dict[str, Any]:
    """The ``response_format`` that asks for JSON which fits ``model``, in the provider's strict mode.

    Which of JSON Schema's words strict mode knows is the SDK's business: the schema is the one that its public helper
    for tools makes.
    """
    try:
        schema = json.loads(_schema_text(model))
    except (PydanticUserError, AttributeError, TypeError, ValueError):
        raise InvalidValueError(f"response_model {model.__name__} has no JSON schema to send") from None
    # Names of generic models have brackets, which the API refuses.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", model.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}


@once_per_class
def _schema_text(model: type[BaseModel]) -> str:
    return json.dumps(ClientSettings.sdk().pydantic_function_tool(model)["function"]["parameters"])
