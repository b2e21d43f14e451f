"""JSON Schemas of pydantic classes, as text: making one takes as long as all else that is done around a call.

A kit makes one for each request that wants structured output, and only one: what is sent to the provider, what the
budget counts and what a cache knows the answer by are the same. None is kept for the next request: much that pydantic
makes a schema of (docstrings, titles, examples, functions of the user's) can change without anything telling that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

__all__ = ["ContextWithSchema", "Schema"]


class Schema:
    """The JSON Schema of a class as it is when it is first asked for, and from then on. Its errors are not kept."""

    __slots__ = ("_text", "model")

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model
        self._text: str | None = None

    def text(self) -> str:
        """As JSON. pydantic sorts what has no order and keeps the order of the fields.

        Raises:
            PydanticUserError, AttributeError, TypeError, ValueError: The class has none.
        """
        if self._text is None:
            self._text = json.dumps(self.model.model_json_schema(), ensure_ascii=False)
        return self._text

    def parsed(self) -> dict[str, Any]:
        """As an object of the caller's own."""
        parsed: dict[str, Any] = json.loads(self.text())
        return parsed


class ContextWithSchema(dict[str, Any]):
    """What a cache is told of a request: the class in it, and aside the schema that this request is sent with."""

    __slots__ = ("_schema",)

    def __init__(self, context: Mapping[str, Any], schema: Schema) -> None:
        super().__init__(context)
        self._schema = schema

    def described(self) -> dict[str, Any]:
        """The context with the schema instead of its class."""
        model = self._schema.model
        return {name: self._schema if value is model else value for name, value in self.items()}
