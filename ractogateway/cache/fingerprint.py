"""A request as 32 bytes: equal requests alike, different requests apart.

**Encoding.** Every value becomes ``tag number ":" body``. The tag is one byte and says the type. For a scalar, the
number is the length of the body in bytes; for a container, it counts the items, and the body is their encodings, one
after the other (of a mapping: key, value, key, value …, sorted by key). A request is a fixed header, which carries the
version of this encoding, then the five documented fields and the context, in this order.

**Why two requests cannot collide**, short of a collision in SHA-256. Read from the left, the tag and the number say
where a value ends or how many values follow. So no encoding is the beginning of another one, and a sequence of them
splits in one way only. Within a tag the body determines the value: UTF-8, hexadecimal integers and `float.hex` are one
to one, containers by induction. The bytes of a request can thus be read back to a single normalised request, wherever
its texts begin and end and whatever they contain: there is no separator that a text could imitate.

**What is equal** is what reaches a provider as the same request:

- Numbers by value: ``1`` and ``1.0``, ``0`` and ``-0.0``. ``True`` is not ``1``, ``"1"`` is not ``1``, ``b"1"`` is not
  ``"1"``. A ``Decimal`` is no float, and ``Decimal("1.0")`` is not ``Decimal("1.00")``: they are written differently.
- Mappings whatever their order, with keys that are texts or integers. A key whose value is None is not an absent key.
  A list equals a tuple of the same items, a set does not.
- Members of an enumeration by their value, dataclasses as the mapping of their fields.
- A pydantic instance by its fields, by which of them were set, and by what it is sent as: providers' SDKs leave out
  what was not set, and write names and values as the class says. It is not equal to a mapping, even of the same
  fields; only a `Message` is.
- A pydantic class by the text of its JSON schema, which is what a provider sees of it: two classes of the same title,
  fields and descriptions are equal wherever they were defined. The order of the fields counts, since models write an
  answer in that order. The schema is made anew each time (it may have changed); this takes some hundred microseconds.
  Only what a kit asks of a cache for one request is named by the one schema that this request is sent with.

Anything else is refused. The repr of a function or an object does not say what it will do, and a path not what the
file holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from operator import itemgetter
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from ractogateway._checks import check_temperature, check_text, check_tokens
from ractogateway._schemas import ContextWithSchema, Schema
from ractogateway.errors import InvalidTypeError, InvalidValueError, RactoGatewayError
from ractogateway.messages import Message

__all__ = ["fingerprint"]

# Change the number whenever the encoding of any value changes: entries of other versions are then simply not found.
_HEADER = b"ractogateway request 2\n"
_NO_CONTEXT = b"m0:"  # as an empty one

_MAX_DEPTH = 100
_MAX_SHOWN_STEPS = 10
_MAX_SHOWN_KEY = 40

_Emit = Callable[[bytes], None]
_Writer = Callable[[Any, _Emit, int], None]


def fingerprint(
    user_message: str,
    system_prompt: str,
    model: str,
    temperature: float,
    max_tokens: int,
    context: Mapping[str, Any] | None = None,
) -> bytes:
    """The SHA-256 digest (32 bytes) of a whole request.

    Args:
        user_message: The user's text; may be empty, as may the next two.
        system_prompt: The system message.
        model: The model that was asked for.
        temperature: Any finite number.
        max_tokens: From 1 to 2**53 - 1.
        context: Everything else that shapes the answer. None and an empty mapping are the same request.

    Raises:
        InvalidTypeError: An argument has the wrong type, or the context holds something that has no canonical form.
        InvalidValueError: A number is out of range, or the context is nested deeper than 100 levels.
    """
    check_temperature(temperature)  # what it returns is rounded to a float: two large ints could become one
    parts = [
        _HEADER,
        _text(check_text("user_message", user_message)),
        _text(check_text("system_prompt", system_prompt)),
        _text(check_text("model", model)),
        _number(temperature),
        _integer(check_tokens("max_tokens", max_tokens)),
    ]
    if context is None:
        parts.append(_NO_CONTEXT)
    elif not isinstance(context, Mapping):
        raise InvalidTypeError(f"context must be a mapping or None, not {type(context).__name__}")
    else:
        try:
            described = context.described() if isinstance(context, ContextWithSchema) else context
            _write_mapping(described, parts.append, 0)
        except _Refused as refused:
            raise refused.error() from None
    return sha256(b"".join(parts)).digest()


class _Refused(Exception):
    """No canonical form; ``path`` grows from the inside out while the containers are left."""

    def __init__(self, kind: type[RactoGatewayError], reason: str) -> None:
        self.kind = kind
        self.reason = reason
        self.path: list[str] = []

    def error(self) -> RactoGatewayError:
        path = self.path[: -_MAX_SHOWN_STEPS - 1 : -1]
        more = "…" if len(self.path) > len(path) else ""
        return self.kind(f"context{''.join(path)}{more} {self.reason}")


def _text(value: str) -> bytes:
    # surrogatepass: lone surrogates occur in real chats (a truncated emoji), and each has its own three bytes.
    body = str.encode(value, "utf-8", "surrogatepass")
    return b"s%d:%b" % (len(body), body)


def _integer(value: int) -> bytes:
    body = b"%x" % value  # decimal digits stop at sys.get_int_max_str_digits(), and take quadratic time before
    return b"i%d:%b" % (len(body), body)


def _number(value: float) -> bytes:
    if not isinstance(value, float):
        return _integer(value)
    if float.is_integer(value):
        return _integer(int(value))
    return _scalar(b"r", float.hex(value))  # "nan", "inf" and "-inf" for those


def _scalar(tag: bytes, text: str) -> bytes:
    body = text.encode("ascii")
    return b"%b%d:%b" % (tag, len(body), body)


def _write(value: object, emit: _Emit, depth: int) -> None:
    """Write any value; ``depth`` counts the containers around it."""
    kind = type(value)  # not isinstance() below, which believes what an object says of itself
    writer = _BY_TYPE.get(kind)
    if writer is None:
        writer = next(writer for base, writer in _BY_BASE if issubclass(kind, base))
    writer(value, emit, depth)


def _deeper(depth: int) -> int:
    # A container that holds itself ends here too: the first way down is followed to its end, so this comes quickly.
    if depth >= _MAX_DEPTH:
        raise _Refused(InvalidValueError, f"is nested deeper than {_MAX_DEPTH} levels, or contains itself")
    return depth + 1


def _write_text(value: str, emit: _Emit, _depth: int) -> None:
    body = str.encode(value, "utf-8", "surrogatepass")
    emit(b"s%d:" % len(body))
    emit(body)


def _write_mapping(value: Mapping[Any, Any], emit: _Emit, depth: int) -> None:
    depth = _deeper(depth)
    items = list(value.items())  # at once: the count must be that of what follows, whatever other threads do meanwhile
    mixed = False
    for key, _ in items:
        if not isinstance(key, str):
            if not isinstance(key, int) or isinstance(key, bool):
                raise _Refused(InvalidTypeError, f"must have keys of type str or int, not {type(key).__name__}")
            mixed = True
    # Texts by code point, which is also the order of their UTF-8 bytes; before them numbers, as in `logit_bias`.
    items.sort(key=_numbers_first if mixed else _key_of)
    emit(b"m%d:" % len(items))
    for key, item in items:
        emit(_text(key) if isinstance(key, str) else _integer(key))
        try:
            _write(item, emit, depth)
        except _Refused as refused:
            refused.path.append(f"[{_shown(key)}]")
            raise


_key_of = itemgetter(0)


def _numbers_first(item: tuple[Any, Any]) -> tuple[bool, Any]:
    return isinstance(item[0], str), item[0]


def _write_list(value: list[Any] | tuple[Any, ...], emit: _Emit, depth: int) -> None:
    depth = _deeper(depth)
    items = tuple(value)  # the count must be that of the items which follow, even if another thread appends meanwhile
    emit(b"l%d:" % len(items))
    for index, item in enumerate(items):
        try:
            _write(item, emit, depth)
        except _Refused as refused:
            refused.path.append(f"[{index}]")
            raise


def _write_set(value: set[Any] | frozenset[Any], emit: _Emit, depth: int) -> None:
    depth = _deeper(depth)
    encoded = []
    for item in tuple(value):
        parts: list[bytes] = []
        try:
            _write(item, parts.append, depth)
        except _Refused as refused:
            refused.path.append("[an item of the set]")
            raise
        encoded.append(b"".join(parts))
    emit(b"S%d:" % len(encoded))
    for item in sorted(encoded):
        emit(item)


def _write_enum(value: Enum, emit: _Emit, depth: int) -> None:
    _write(value.value, emit, _deeper(depth))


def _write_instance(value: BaseModel, emit: _Emit, depth: int) -> None:
    names = type(value).model_fields
    fields = {name: item for name, item in value.__dict__.items() if name in names}  # no cached properties
    fields.update(value.__pydantic_extra__ or {})
    if type(value) is Message:  # all of it is sent, under these names
        _write_mapping(fields, emit, depth)
        return
    depth = _deeper(depth)
    try:
        # As SDKs send it: two classes may name or write the same fields differently. Without warnings: they would quote
        # values.
        sent = value.model_dump(mode="json", exclude_unset=True, by_alias=True, warnings=False)
    except Exception:  # noqa: BLE001 - serializers and computed fields are anybody's code
        reason = f"holds a {type(value).__name__} that model_dump() fails on; it may contain itself"
        raise _Refused(InvalidValueError, reason) from None
    emit(b"P3:")
    # The fields too, for whoever sends them otherwise: a dump may leave some out, or write two values alike.
    _write_mapping(fields, emit, depth)
    _write_set(value.model_fields_set, emit, depth)
    _write(sent, emit, depth)


def _write_class(value: type, emit: _Emit, depth: int) -> None:
    if not issubclass(value, BaseModel):
        raise _Refused(InvalidTypeError, f"holds the class {value.__name__}, which has no canonical form")
    _write_schema(Schema(value), emit, depth)


def _write_schema(value: Schema, emit: _Emit, _depth: int) -> None:
    model = value.model.__name__
    try:
        body = value.text().encode("utf-8", "surrogatepass")
    except (PydanticUserError, AttributeError, TypeError):
        raise _Refused(InvalidTypeError, f"holds the class {model}, which has no JSON schema") from None
    # The name as well: providers are told it beside the schema, whose title may be another.
    name = str.encode(model, "utf-8", "surrogatepass")
    emit(b"M%d:%b%d:%b" % (len(name), name, len(body), body))


def _write_bytes(value: bytes | bytearray | memoryview, emit: _Emit, _depth: int) -> None:
    body = bytes(value)
    emit(b"b%d:" % len(body))
    emit(body)


def _write_time(value: datetime, emit: _Emit, _depth: int) -> None:
    # A subclass's own text: it may tell more, such as the nanoseconds of pandas.
    emit(_scalar(b"D", str(value.isoformat())))


def _write_other(value: Any, emit: _Emit, depth: int) -> None:
    if not dataclasses.is_dataclass(value):
        raise _Refused(InvalidTypeError, f"holds a value of type {type(value).__name__}, which has no canonical form")
    # Not asdict(): it deep-copies the leaves.
    _write_mapping({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, emit, depth)


def _shown(key: str | int) -> str:
    # A key like a parameter's name is shown; anything else may be text that landed in the wrong place.
    if not isinstance(key, str):
        return "<a number>"
    if len(key) <= _MAX_SHOWN_KEY and key.replace("-", "_").isidentifier():
        return repr(key)
    return f"<{len(key)} characters>"


_BY_BASE: tuple[tuple[type, _Writer], ...] = (
    (Enum, _write_enum),  # first: members of StrEnum and IntEnum are also str and int
    (str, _write_text),
    (int, lambda value, emit, _: emit(_integer(value))),
    (float, lambda value, emit, _: emit(_number(value))),
    (BaseModel, _write_instance),
    (Mapping, _write_mapping),
    (list, _write_list),
    (tuple, _write_list),
    (set, _write_set),
    (frozenset, _write_set),
    (bytes, _write_bytes),
    (bytearray, _write_bytes),
    (memoryview, _write_bytes),
    (datetime, _write_time),  # before its base, date
    (date, lambda value, emit, _: emit(_scalar(b"d", date.isoformat(value)))),
    # Upper case: the letter of the exponent depends on the thread's decimal context.
    (Decimal, lambda value, emit, _: emit(_scalar(b"c", Decimal.__str__(value).upper()))),
    (UUID, lambda value, emit, _: emit(_scalar(b"u", value.hex))),
    (type, _write_class),
    (Schema, _write_schema),
    (object, _write_other),
)
"""A value is written by the first row whose type its own is derived from."""

_BY_TYPE: dict[type, _Writer] = {
    **dict(_BY_BASE),
    type(None): lambda _value, emit, _depth: emit(b"n0:"),
    bool: lambda value, emit, _: emit(b"t0:" if value else b"f0:"),
    dict: _write_mapping,
}
"""The same by exact type, which is what nearly every value needs; None and bool have no subclasses."""
