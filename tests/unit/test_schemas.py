"""Schemas of classes are made once a request, and say what the class says then."""

from __future__ import annotations

import copy
import json
import pickle
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticUserError

from ractogateway import anthropic_developer_kit, google_developer_kit, openai_developer_kit
from ractogateway._schemas import Schema
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.openai_developer_kit import ChatConfig


class Kind(Enum):
    A = "a"


class Part(BaseModel):
    """A part."""

    name: str = Field(description="Its name", min_length=1)
    kind: Kind = Kind.A
    parts: list[Part] = []


class Whole(BaseModel):
    part: Part
    metadata: dict[str, Any] = {"default": 1, "cls": [2], "metadata": 3}
    default: str = "default"
    more: dict[str, Part | int] | None = None
    way: Literal["x", "y"] = "x"


def schema_text(model: type[BaseModel]) -> str:
    return Schema(model).text()


def name_of(model: type[BaseModel]) -> bytes:
    return fingerprint("a", "", "m", 0.0, 1, context={"response_model": model})


@pytest.mark.parametrize("model", [Part, Whole])
def test_a_schema_is_what_pydantic_says(model):
    assert schema_text(model) == json.dumps(model.model_json_schema(), ensure_ascii=False)


def test_classes_of_one_name_are_told_apart():
    one, other = create_model("Same", x=(int, 1)), create_model("Same", y=(int, 1))
    assert schema_text(one) != schema_text(other)


def test_a_class_that_was_rebuilt_is_another():
    class Changing(BaseModel):
        x: int = 1

    before = schema_text(Changing)
    Changing.model_fields["x"].description = "new"
    Changing.model_rebuild(force=True)
    assert "new" not in before
    assert "new" in schema_text(Changing)


class Counter:
    """Says another thing each time."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, schema: dict[str, Any], *_: Any) -> None:
        self.count += 1
        schema["description"] = f"number {self.count}"


class Own(int):
    number = Counter()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: Any) -> Any:
        return handler(int)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        schema = handler(core_schema)
        cls.number(schema)
        return schema


class OfField(BaseModel):
    x: int = Field(1, json_schema_extra=Counter())


class OfClass(BaseModel):
    model_config = ConfigDict(json_schema_extra=Counter())
    x: int = 1


class OfOddNames(BaseModel):
    default: OfField
    metadata: list[OfField]
    cls: int
    type: int


class OfType(BaseModel):
    x: Own = Own(1)


class OfMethod(BaseModel):
    x: int = 1

    @classmethod
    def model_json_schema(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
        schema = super().model_json_schema(*arguments, **named)
        _of_method(schema)
        return schema


_of_method = Counter()


@pytest.mark.parametrize("inner", [OfField, OfClass, OfType, OfMethod, OfOddNames])
def test_a_schema_is_made_once_a_request_and_anew_for_the_next(inner):
    once = Schema(inner)
    assert once.text() == once.text() != schema_text(inner)
    assert name_of(inner) != name_of(inner)
    if inner is not OfMethod:  # asked for of the outer class alone
        outer = create_model("Outer", inner=(dict[str, list[Annotated[inner, "note"]]], ...))
        assert schema_text(outer) != schema_text(outer)


CATEGORIES = {"enum": ["bug", "idea"]}


class Inner(BaseModel):
    """First."""

    x: int = 1


class Ticket(BaseModel):
    model_config = ConfigDict(title="Title")
    category: str = Field("bug", json_schema_extra=CATEGORIES)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(Ticket, "__doc__", "Second."),
        lambda patch: patch.setattr(Inner, "__doc__", "Second."),
        lambda patch: patch.setitem(Ticket.model_config, "title", "Other"),
        lambda patch: patch.setitem(CATEGORIES, "enum", ["praise"]),
    ],
    ids=["docstring", "docstring of a part", "title", "values"],
)
def test_what_changes_without_a_word_is_another_request(monkeypatch, change):
    before = schema_text(Ticket), name_of(Ticket)
    change(monkeypatch)
    after = schema_text(Ticket), name_of(Ticket)
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert after[0] == json.dumps(Ticket.model_json_schema(), ensure_ascii=False)


def test_a_kit_names_a_request_by_the_schema_that_it_sends():
    config = ChatConfig(user_message="a", response_model=OfClass, temperature=0.0, max_tokens=1)
    request = openai_developer_kit.OpenAIDeveloperKit("m", api_key="k")._prepare(config)
    context = request.identity.context
    assert context == {"response_model": OfClass}  # what any cache is told
    names = {fingerprint(*request.identity.fields, told) for told in (context, context, copy.copy(context))}
    assert names == {fingerprint(*request.identity.fields, pickle.loads(pickle.dumps(context)))}
    assert names == {fingerprint("a", "", "m", 0.0, 1, {"response_model": request.schema})}
    assert name_of(Part) == fingerprint("a", "", "m", 0.0, 1, {"response_model": Schema(Part)})


def test_errors_are_not_kept():
    class Later(BaseModel):
        x: Missing  # noqa: F821 - on purpose

    with pytest.raises(PydanticUserError):
        schema_text(Later)
    Later.model_rebuild(_types_namespace={"Missing": int})
    assert json.loads(schema_text(Later))["properties"]["x"]["type"] == "integer"
    assert TypeAdapter(Later)


@pytest.mark.parametrize(
    "kit",
    [
        openai_developer_kit.OpenAIDeveloperKit("m", api_key="k"),
        anthropic_developer_kit.AnthropicDeveloperKit("m", api_key="k"),
        google_developer_kit.GoogleDeveloperKit("m", api_key="k"),
    ],
    ids=["openai", "anthropic", "google"],
)
def test_what_somebody_does_with_a_schema_that_was_sent_changes_no_other(kit):
    def sent() -> Any:
        request = kit._prepare(ChatConfig(user_message="hi", response_model=Whole))
        return kit._preparation.arguments(request, stream=False)

    def spoil(value: Any) -> None:
        for inner in list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
            spoil(inner)
        if isinstance(value, (dict, list)):
            value.clear()

    def shown(value: Any) -> str:
        return str(value)

    before = shown(sent())
    spoil(sent())
    assert shown(sent()) == before
