"""The base of the models that users configure things with: their errors are ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ractogateway.errors import InvalidTypeError, InvalidValueError


class InputModel(BaseModel):
    """A model whose constructor raises `InvalidTypeError` or `InvalidValueError`, without the value that was wrong."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    if not TYPE_CHECKING:  # type checkers are to see the fields, not this

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                # Not chained: the errors of the original still hold the input.
                raise _in_our_words(type(self).__name__, error) from None


def _in_our_words(model: str, error: ValidationError) -> InvalidTypeError | InvalidValueError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier())
    kind = InvalidTypeError if first["type"].endswith(("_type", "_instance_of", "_sequence_str")) else InvalidValueError
    return kind(f"{model}{'.' if field else ''}{field}: {first['msg'].removeprefix('Value error, ')}")
