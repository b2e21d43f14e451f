"""What is no request: refused by type, place and never by content."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import BaseModel, ConfigDict, create_model

from ractogateway.cache import fingerprint
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.messages import Message

ASKED = ("What is my name?", "You are helpful.", "gpt-4o", 0.0, 4096)


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: Any
    y: Any = 0


class Answer(BaseModel):
    text: str


class Endless(dict):
    pass


def of(context: Any) -> bytes:
    return fingerprint(*ASKED, context)


def value(item: Any) -> bytes:
    return of({"value": item})


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else "leaf"


@pytest.mark.parametrize(
    ("position", "wrong"),
    [(0, b"x"), (1, None), (2, 4), (3, "0"), (3, True), (3, None), (4, 1.0), (4, True), (4, "1")],
)
def test_a_field_of_the_wrong_type(position, wrong):
    arguments: list[Any] = list(ASKED)
    arguments[position] = wrong
    names = ("user_message", "system_prompt", "model", "temperature", "max_tokens")
    with pytest.raises(InvalidTypeError, match=names[position]):
        fingerprint(*arguments)


@pytest.mark.parametrize(("position", "wrong"), [(3, float("nan")), (3, float("inf")), (4, 0), (4, 2**53)])
def test_a_field_out_of_range(position, wrong):
    arguments: list[Any] = list(ASKED)
    arguments[position] = wrong
    with pytest.raises(InvalidValueError):
        fingerprint(*arguments)


@pytest.mark.parametrize("wrong", [[("a", 1)], "context", 1, Answer, Point(1)])
def test_a_context_that_is_no_mapping(wrong):
    with pytest.raises(InvalidTypeError, match="context must be a mapping or None"):
        of(wrong)


@pytest.mark.parametrize(
    ("wrong", "type_name"),
    [
        (lambda: "secret", "function"),
        (object(), "object"),
        (Path("secret"), "PosixPath" if os.name == "posix" else "WindowsPath"),
        (1j, "complex"),
        (iter(["secret"]), "list_iterator"),
        (range(3), "range"),
        (Point, "class Point"),
        (Colour, "class Colour"),
        (int, "class int"),
        (BaseModel, "class BaseModel"),
        (
            create_model("Unschemable", f=(type(lambda: 0), ...), __config__=ConfigDict(arbitrary_types_allowed=True)),
            "Unsch",
        ),
        (list[int], "GenericAlias"),
    ],
)
def test_what_has_no_canonical_form_is_refused_by_type_and_path(wrong, type_name):
    context = {"tools": [{"function": {"secret text": ("ok", wrong)}}], "password": "secret"}
    with pytest.raises(InvalidTypeError) as caught:
        of(context)
    message = str(caught.value)
    assert message.startswith("context['tools'][0]['function'][<11 characters>][1] holds ")
    assert type_name in message
    assert "secret" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_an_object_says_of_its_class_is_not_believed():
    for kind in (str, dict, list, Message, datetime):
        with pytest.raises(InvalidTypeError, match="of type Mock, which has no canonical form"):
            value(Mock(spec=kind))


def test_an_item_of_a_set_is_not_quoted():
    with pytest.raises(
        InvalidTypeError, match=r"^context\['value'\]\[an item of the set\] holds a value of type complex"
    ):
        value({1j})


@pytest.mark.parametrize("key", [1.0, None, b"a", ("secret",), True])
def test_keys_are_texts_or_integers(key):
    with pytest.raises(
        InvalidTypeError, match=r"^context\['value'\] must have keys of type str or int, not "
    ) as caught:
        value({key: 1})
    assert "secret" not in str(caught.value)


def test_a_hundred_levels_are_fine_and_one_more_is_not():
    value(nested(99))
    with pytest.raises(InvalidValueError, match="nested deeper than 100 levels") as caught:
        value(nested(100))
    assert len(str(caught.value)) < 200


def test_what_contains_itself_is_refused():
    endless_list: list[Any] = ["x"]
    endless_list += [endless_list, endless_list]
    endless_dict = Endless()
    endless_dict["again"] = endless_dict
    point = Point(1)
    point.y = {"point": point}
    instance = Message(role="user")
    instance.content = [{"again": instance}]
    for endless in (endless_list, endless_dict, point, instance):
        with pytest.raises(InvalidValueError, match="itself"):
            value(endless)
