"""The base of the models that users configure things with.

Made directly (``RateLimitConfig(…)``) they raise our errors. Inside pydantic (a field of somebody's settings, the body
of a web framework's request, ``model_validate``, `pydantic.TypeAdapter`) they raise what pydantic's users expect: a
`pydantic.ValidationError` that is located at the field, which unions and frameworks can go on with. Neither holds the
value that was wrong. (A text that is no JSON at all never comes here, if it is somebody else's model or a
`pydantic.TypeAdapter` that was to read it: pydantic's error for it holds it, in ``errors()``.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from ractogateway.errors import InvalidTypeError, InvalidValueError

__all__ = ["InputModel", "as_validator"]

_Checked = TypeVar("_Checked")
_NOT_SHOWN = "<not shown>"

if TYPE_CHECKING:  # type checkers are to see the fields, not how a class is called
    _Meta = type
else:

    class _Meta(type(BaseModel)):
        # The call of the class, not its __init__: pydantic runs an __init__ of our own for nested values too, and what
        # it raises there would pass through other people's models.
        def __call__(cls, /, *args: Any, **fields: Any) -> Any:
            if args and cls.__init__ is BaseModel.__init__:
                names = ", ".join(f"{name}=…" for name in list(cls.model_fields)[:2])
                raise InvalidTypeError(f"{cls.__name__} takes its fields by name: {cls.__name__}({names})")
            try:
                return super().__call__(*args, **fields)
            except ValidationError as error:
                failure = _in_our_words(cls.__name__, error)
            # Outside the handler: the errors of the original, which __context__ would keep, may hold the input.
            raise failure


class InputModel(BaseModel, metaclass=_Meta):
    """A model whose constructor raises `InvalidTypeError` or `InvalidValueError`, without the value that was wrong."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="wrap")
    @classmethod
    def _without_inputs(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        # Whether an error shows its inputs is decided by the outermost model, which may be anybody's: it gets none.
        try:
            return handler(value)
        except ValidationError as error:
            failure = _without_values(cls.__name__, error)
        raise failure

    if not TYPE_CHECKING:  # pydantic's own signature is the one to see

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
            """pydantic's, whose error for what is no JSON holds the whole text: ours does not."""
            try:
                return super().model_validate_json(json_data, **options)
            except ValidationError as error:
                failure = _without_values(cls.__name__, error)
            raise failure


def as_validator(check: Callable[[object], _Checked]) -> Callable[[object], _Checked]:
    """A check of `ractogateway._checks` for pydantic, to which a TypeError says nothing about the input."""

    def validator(value: object) -> _Checked:
        try:
            return check(value)
        except InvalidTypeError as error:
            failure = _custom("invalid_type", str(error))
        except InvalidValueError as error:
            failure = _custom("value_error", str(error))
        raise failure

    return validator


def _without_values(model: str, error: ValidationError) -> ValidationError:
    lines = error.errors(include_url=False, include_input=False)
    details = [InitErrorDetails(type=_reason(line), loc=_shown_place(line), input=_NOT_SHOWN) for line in lines]
    return ValidationError.from_exception_data(model, details, hide_input=True)


def _reason(line: ErrorDetails) -> PydanticCustomError:
    message, context = line["msg"], dict(line.get("ctx") or {})
    if line["type"] == "union_tag_invalid":  # pydantic's words for it quote the tag that was given
        context.pop("tag", None)
        by, expected = context.get("discriminator"), context.get("expected_tags")
        message = f"Input tag found using {by} does not match any of the expected tags: {expected}"
    return _custom(line["type"], message, context)


def _shown_place(line: ErrorDetails) -> tuple[int | str, ...]:
    """Where it went wrong. What was taken for a field's name or a key may be a text in the wrong place."""
    place = line["loc"]
    if line["type"] != "extra_forbidden" and place[-1:] != ("[key]",):
        return place
    return tuple(part if isinstance(part, int) or part == "[key]" or _is_name(part) else _NOT_SHOWN for part in place)


def _custom(kind: Any, message: Any, context: dict[str, Any] | None = None) -> PydanticCustomError:
    # Any: literals are wanted, for the sake of translators. An exception in the context could not be written as JSON.
    plain = {name: value for name, value in (context or {}).items() if isinstance(value, (str, int, float))}
    return PydanticCustomError(kind, message, plain or None)


def _is_name(part: str) -> bool:
    return part.isidentifier()


def _in_our_words(model: str, error: ValidationError) -> InvalidTypeError | InvalidValueError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or _is_name(part))
    kind = InvalidTypeError if first["type"].endswith(("_type", "_instance_of", "_sequence_str")) else InvalidValueError
    return kind(f"{model}{'.' if field else ''}{field}: {first['msg'].removeprefix('Value error, ')}")
