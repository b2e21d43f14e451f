"""What is one request, and what is another."""

from __future__ import annotations

import decimal
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model, field_serializer

from ractogateway.cache import fingerprint
from ractogateway.messages import Message

ASKED = ("What is my name?", "You are helpful.", "gpt-4o", 0.0, 4096)


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    ONE = 1


class Odd(Enum):
    PAIR = (1, 2)


@dataclass
class Point:
    x: int
    y: Any = None


class Precise(datetime):
    """Like pandas.Timestamp: more than a datetime holds."""

    def isoformat(self, *_args):
        return super().isoformat() + "001"


class Answer(BaseModel):
    text: str
    score: float = 0.5


def titled(name: str, title: str) -> type[BaseModel]:
    """A class whose schema is that of `Answer` and whose name, which providers are told too, is another."""
    return create_model(name, text=(str, ...), score=(float, 0.5), __config__=ConfigDict(title=title))


class Empty(BaseModel):
    pass


def secretive(**settings: Any) -> type[BaseModel]:
    return create_model("Secretive", field=(str, Field(**settings)))


class Starred(BaseModel):
    field: str

    @field_serializer("field")
    def _hide(self, _value: str) -> str:
        return "***"


class Cached(BaseModel):
    text: str

    @cached_property
    def length(self) -> int:
        return len(self.text)


class Base(BaseModel):
    pass


class Holder(BaseModel):
    item: Base


class Special(Base):
    detail: int


class Unchecked(BaseModel):
    model_config = ConfigDict(validate_assignment=False)
    number: int = 0


def of(context: Any) -> bytes:
    return fingerprint(*ASKED, context)


def value(item: Any) -> bytes:
    return of({"value": item})


def test_a_fingerprint_is_a_sha256_digest():
    assert isinstance(of(None), bytes)
    assert len(of(None)) == 32


def test_the_encoding_is_pinned():
    """If this fails, the encoding has changed, and the version in the header must change too."""
    context = {
        "text": "bö\ud83d",
        "list": [None, True, False, -255, 1.0, 0.5, float("nan"), float("-inf")],
        "set": {"b", "a"},
        "bytes": b"\x00:",
        "time": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "day": date(2024, 2, 29),
        "price": Decimal("1.10"),
        "uuid": UUID(int=1),
        "class": Empty,
        "instance": Answer(text="a"),
    }
    schema = b'{"properties": {}, "title": "Empty", "type": "object"}'
    encoded = (
        b"ractogateway request 2\n"
        b"s4:users6:systems5:modelr20:0x1.6666666666666p-1i4:1000"
        b"m10:"
        b"s5:bytesb2:\x00:"
        b"s5:classM5:Empty%d:%b"
        b"s3:dayd10:2024-02-29"
        b"s8:instanceP3:m2:s5:scorer20:0x1.0000000000000p-1s4:texts1:aS1:s4:textm1:s4:texts1:a"
        b"s4:listl8:n0:t0:f0:i3:-ffi1:1r20:0x1.0000000000000p-1r3:nanr4:-inf"
        b"s5:pricec4:1.10"
        b"s3:setS2:s1:as1:b"
        b"s4:texts6:b\xc3\xb6\xed\xa0\xbd"
        b"s4:timeD25:2024-02-29T12:00:00+00:00"
        b"s4:uuidu32:00000000000000000000000000000001"
    ) % (len(schema), schema)
    assert fingerprint("user", "system", "model", 0.7, 4096, context) == sha256(encoded).digest()


def test_it_does_not_depend_on_the_hash_seed():
    code = (
        "from ractogateway.cache import fingerprint as f\n"
        "print(f('u', 's', 'm', 0, 1, {'set': {'a', 'b', 'c', 'd'}, 'frozen': frozenset('abcd')}).hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


def test_the_decimal_context_of_the_thread_does_not_matter():
    with decimal.localcontext() as context:
        context.capitals = 0
        small = value(Decimal("1E+9"))
    assert small == value(Decimal("1E+9"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, {}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, MappingProxyType({"a": 1})),
        ({Colour.RED: 1}, {"red": 1}),
        ({"v": 1}, {"v": 1.0}),
        ({"v": 0.0}, {"v": -0.0}),
        ({"v": 2**70}, {"v": float(2**70)}),
        ({"v": float("nan")}, {"v": -float("nan")}),
        ({"v": [1, 2]}, {"v": (1, 2)}),
        ({"v": {1, 2}}, {"v": frozenset({2.0, 1})}),
        ({"logit_bias": {50256: -100, 9: 1, "9": 2}}, {"logit_bias": {"9": 2, 9: 1.0, 50256: -100.0}}),
        ({"v": {Level.ONE: 0}}, {"v": {1: 0}}),
        ({"v": Colour.RED}, {"v": "red"}),
        ({"v": Level.ONE}, {"v": 1}),
        ({"v": Odd.PAIR}, {"v": [1, 2]}),
        ({"v": b"x"}, {"v": bytearray(b"x")}),
        ({"v": b"x"}, {"v": memoryview(b"x")}),
        ({"v": Point(1)}, {"v": {"x": 1, "y": None}}),
        (
            {"v": Message(role="user", content="hi", name="bob")},
            {"v": {"role": "user", "content": "hi", "name": "bob"}},
        ),
        ({"v": Answer}, {"v": create_model("Answer", text=(str, ...), score=(float, 0.5))}),
    ],
)
def test_one_request(one, other):
    assert of(one) == of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Those of other caches are in test_known_collisions.py.
        ({"history": []}, {"history": [{"role": "user", "content": "hi"}]}),
        # Separators inside texts.
        ({"a": "x\x00y"}, {"a": "x", "y": ""}),
        ({"a": ["x", "y"]}, {"a": ["x,y"]}),
        ({"a": ["x", "y"]}, {"a": ["xs1:y"]}),
        ({"a": "1", "b": "2"}, {"a": "1s1:bs1:2"}),
        # Types.
        ({"v": 1}, {"v": True}),
        ({"v": 0}, {"v": False}),
        ({"v": 1}, {"v": "1"}),
        ({"v": "x"}, {"v": b"x"}),
        ({"v": None}, {"v": ""}),
        ({"v": None}, {"v": "None"}),
        ({"v": None}, {}),
        ({"v": []}, {"v": {}}),
        ({"v": []}, {"v": set()}),
        ({"v": [1]}, {"v": {1}}),
        ({"v": {True}}, {"v": {1}}),
        ({"v": [["a", 1]]}, {"v": {"a": 1}}),
        ({"v": [[1], 2]}, {"v": [[1, 2]]}),
        ({"v": [1, 2]}, {"v": [2, 1]}),
        ({"v": {1: 0}}, {"v": {"1": 0}}),
        ({"v": {1: 2}}, {"v": {2: 1}}),
        ({"v": {-1: 0}}, {"v": {1: 0}}),
        ({"v": {1: 0, "a": 0}}, {"v": {1: 0, "b": 0}}),
        ({"v": Precise(2024, 1, 1, tzinfo=UTC)}, {"v": datetime(2024, 1, 1, tzinfo=UTC)}),
        ({"v": Decimal(1)}, {"v": 1}),
        ({"v": Decimal("0.5")}, {"v": 0.5}),
        ({"v": Decimal("1.0")}, {"v": Decimal("1.00")}),
        ({"v": Decimal("NaN")}, {"v": Decimal("sNaN")}),
        ({"v": UUID(int=1)}, {"v": str(UUID(int=1))}),
        ({"v": UUID(int=1)}, {"v": UUID(int=1).hex}),
        ({"v": date(2024, 1, 1)}, {"v": datetime(2024, 1, 1)}),  # noqa: DTZ001  naive on purpose
        ({"v": date(2024, 1, 1)}, {"v": "2024-01-01"}),
        ({"v": datetime(2024, 1, 1)}, {"v": datetime(2024, 1, 1, tzinfo=UTC)}),  # noqa: DTZ001  naive on purpose
        (
            {"v": datetime(2024, 1, 1, 12, tzinfo=UTC)},
            {"v": datetime(2024, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))},
        ),
        # Numbers next to one another.
        ({"v": 2**53}, {"v": 2**53 + 1}),
        ({"v": float(2**53)}, {"v": 2**53 + 1}),
        ({"v": 0.1}, {"v": 0.1 + 2**-56}),
        ({"v": 10**5000}, {"v": 10**5000 + 1}),
        ({"v": 1}, {"v": -1}),
        ({"v": float("inf")}, {"v": float("-inf")}),
        ({"v": float("inf")}, {"v": "inf"}),
        ({"v": float("nan")}, {"v": float("inf")}),
        # Texts that look alike.
        ({"v": "é"}, {"v": "e\u0301"}),
        ({"v": "\ud83d"}, {"v": "\ud83e"}),
        ({"v": "\ud83d\ude00"}, {"v": "\U0001f600"}),
        ({"v": "\ud83d"}, {"v": "?"}),
        ({"\ud83d": 1}, {"?": 1}),
        # Classes, by schema.
        ({"v": Answer}, {"v": Answer.model_json_schema()}),
        ({"v": Answer}, {"v": create_model("Answer", text=(str, ...), score=(float, 0.6))}),
        ({"v": Answer}, {"v": create_model("Other", text=(str, ...), score=(float, 0.5))}),
        ({"v": Answer}, {"v": titled("Other", "Answer")}),
        (
            {"v": create_model("Answer", reasoning=(str, ""), answer=(str, ""))},
            {"v": create_model("Answer", answer=(str, ""), reasoning=(str, ""))},
        ),
        # A subclass in a field of its base's type.
        ({"v": Holder(item=Special(detail=1))}, {"v": Holder(item=Special(detail=2))}),
        # What is left out of a dump, or sent under another name.
        ({"v": Answer(text="a")}, {"v": Answer(text="a", score=0.5)}),
        ({"v": secretive(exclude=True)(field="a")}, {"v": secretive(exclude=True)(field="b")}),
        ({"v": secretive(serialization_alias="a")(field="")}, {"v": secretive(serialization_alias="b")(field="")}),
        ({"v": Starred(field="a")}, {"v": Starred(field="b")}),
        ({"v": Starred(field="a")}, {"v": secretive()(field="a")}),
    ],
)
def test_two_requests(one, other):
    assert of(one) != of(other)


@pytest.mark.parametrize(
    "other",
    [
        ("What is my name?You are helpful.", "", "gpt-4o", 0.0, 4096),
        ("What is my name?", "You are helpful.gpt-4o", "", 0.0, 4096),
        ("What is my name?\x00You are helpful.", "", "gpt-4o", 0.0, 4096),
        ("You are helpful.", "What is my name?", "gpt-4o", 0.0, 4096),
        ("What is my name\ud83d", "You are helpful.", "gpt-4o", 0.0, 4096),
        ("What is my name?", "You are helpful.", "gpt-4", 0.0, 4096),
        ("What is my name?", "You are helpful.", "gpt-4o", 0.1, 4096),
        ("What is my name?", "You are helpful.", "gpt-4o", 5e-324, 4096),
        ("What is my name?", "You are helpful.", "gpt-4o", 4096, 1),
        ("What is my name?", "You are helpful.", "gpt-4o", 0.0, 4095),
    ],
)
def test_each_documented_field_counts(other):
    assert fingerprint(*other) != of(None)


def test_the_separator_of_joined_keys_is_only_a_character():
    assert fingerprint("a\x00b", "c", "m", 0, 1) != fingerprint("a", "b\x00c", "m", 0, 1)


def test_fields_are_numbers_by_value_and_texts_by_content():
    assert fingerprint(Colour.RED, "", "", 0, 1) == fingerprint("red", "", "", -0.0, Level.ONE)
    assert fingerprint("", "", "", 2**60 + 1, 1) != fingerprint("", "", "", float(2**60), 1)


def test_a_schema_is_read_when_it_is_asked_for():
    colours = ["red"]

    class Choice(BaseModel):
        model_config = ConfigDict(json_schema_extra=lambda schema: schema.update(enum=list(colours)))

    before = value(Choice)
    colours.append("green")
    assert value(Choice) != before


def test_a_wrong_value_in_an_instance_is_encoded_without_a_warning_that_quotes_it():
    wrong = Unchecked()
    wrong.number = "secret"
    right = Unchecked()
    right.number = "secret"
    assert value(wrong) == value(right) != value(Unchecked(number=0))


def test_what_an_instance_has_computed_is_no_part_of_it():
    read = Cached(text="a")
    assert read.length == 1
    assert value(read) == value(Cached(text="a"))


def test_a_value_may_occur_twice_without_containing_itself():
    shared = {"a": [1]}
    assert value([shared, shared]) == value([{"a": [1]}, {"a": [1]}])


def test_the_arguments_are_not_changed():
    context = {"b": [1, {"d": 1, "c": 2}], "a": {3, 1}}
    of(context)
    assert list(context) == ["b", "a"]
    assert context == {"b": [1, {"d": 1, "c": 2}], "a": {3, 1}}
