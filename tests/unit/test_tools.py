"""Tools from plain functions: what a model is told of them, and what becomes of what it asks for."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import threading
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field

from ractogateway import ChatConfig, ToolRegistry
from ractogateway.errors import InvalidTypeError, InvalidValueError, ToolError
from ractogateway.messages import ToolCall


class Place(BaseModel):
    lat: float
    lon: float = 0.0


class Unit(Enum):
    C = "c"
    F = "f"


def get_weather(
    city: Annotated[str, Field(description="A city's name", min_length=1)],
    days: int = 1,
    *,
    when: date | None = None,
    unit: Unit = Unit.C,
) -> dict[str, Any]:
    """The weather of a city.

    For some days.
    """
    return {"city": city, "days": days, "when": when, "unit": unit}


def call(name: str, written: str | None = None, /, **arguments: Any) -> ToolCall:
    return ToolCall(id="c1", name=name, arguments=arguments, arguments_json=written or json.dumps(arguments))


def told(tools: ToolRegistry, asked: ToolCall) -> str:
    message = tools.call(asked)
    assert (message["role"], message["tool_call_id"]) == ("tool", "c1")
    assert asyncio.run(tools.acall(asked)) == message
    return message["content"]


def test_a_function_becomes_a_definition():
    tools = ToolRegistry()
    tools.register(get_weather)

    (definition,) = tools.definitions
    function = definition["function"]
    assert (definition["type"], function["name"]) == ("function", "get_weather")
    assert function["description"] == "The weather of a city.\n\nFor some days."
    schema = function["parameters"]
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["city"], False)
    assert schema["properties"]["city"] == {"description": "A city's name", "minLength": 1, "type": "string"}
    assert schema["properties"]["days"] == {"default": 1, "type": "integer"}
    assert list(schema["properties"]) == ["city", "days", "when", "unit"]


def test_arguments_arrive_as_their_types_and_results_leave_as_json():
    tools = ToolRegistry()
    tools.register(get_weather)
    assert json.loads(told(tools, call("get_weather", city="Oslo", days="3", when="2026-01-02", unit="f"))) == {
        "city": "Oslo",
        "days": 3,
        "when": "2026-01-02",
        "unit": "f",
    }


def test_all_that_can_be_called_can_be_a_tool():
    class Thing:
        def method(self, x: int) -> int:
            """A method."""
            return x

        async def amethod(self, x: int) -> int:
            return x + 1

        @staticmethod
        def static(x: int) -> int:
            return x + 2

        def __call__(self, schema: str, self_: int = 0) -> str:
            """An object."""
            return schema

    tools = ToolRegistry()
    thing = Thing()
    tools.register(thing.method)
    tools.register(thing.amethod)
    tools.register(Thing.static)
    tools.register(thing, name="thing")
    tools.register(functools.partial(get_weather, days=3), name="three_days")
    tools.register(functools.lru_cache(get_weather), name="cached")

    assert [tool.name for tool in tools] == ["method", "amethod", "static", "thing", "three_days", "cached"]
    assert [tool.is_async for tool in tools] == [False, True, False, False, False, False]
    descriptions = [tool.description for tool in tools]
    assert descriptions[0] == "A method."
    assert descriptions[1] is None
    assert descriptions[3] == "An object."
    assert descriptions[4] == descriptions[5] == "The weather of a city.\n\nFor some days."
    assert told(tools, call("method", x=1)) == "1"
    assert asyncio.run(tools.acall(call("amethod", x=1)))["content"] == "2"
    assert told(tools, call("thing", schema="s")) == "s"
    assert json.loads(told(tools, call("three_days", city="Oslo")))["days"] == 3


def test_a_decorated_function_stays_what_it_is():
    tools = ToolRegistry()

    @tools.tool
    def one() -> int:
        return 1

    @tools.tool(name="another", description="Says two.")
    def two() -> int:
        """Not this."""
        return 2

    assert (one(), two()) == (1, 2)
    assert [(tool.name, tool.description) for tool in tools] == [("one", None), ("another", "Says two.")]
    assert (len(tools), "one" in tools, "two" in tools, bool(ToolRegistry())) == (2, True, False, True)
    assert repr(tools) == "ToolRegistry(one, another)"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        (True, "true"),
        ([1, "a"], '[1,"a"]'),
        (Place(lat=1), '{"lat":1.0,"lon":0.0}'),
        ({date(2026, 1, 2): Unit.C}, '{"2026-01-02":"c"}'),
        (object(), "Error: the tool failed (InvalidTypeError)"),
    ],
)
def test_results_are_texts_or_json(result, text):
    tools = ToolRegistry()
    tools.register(lambda: result, name="f")
    assert told(tools, call("f")) == text


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (call("get_weather"), "Error: the arguments do not fit. city: Missing required argument"),
        (call("get_weather", city=""), "city: String should have at least 1 character"),
        (call("get_weather", city="a", days="x", more=1), "days: Input should be a valid integer"),
        (call("get_weather", "[1]"), "Error: the arguments are not a JSON object"),
        (call("get_weather", '{"city": '), "Error: the arguments are not a JSON object"),
        (call("get_weather", "[" * 100_000), "Error: the arguments are not a JSON object"),
        (call("fly"), "Error: there is no tool fly"),
    ],
)
def test_what_cannot_be_called_is_told_to_the_model(asked, text):
    tools = ToolRegistry(on_error="raise")
    tools.register(get_weather)
    assert text in told(tools, asked)


@pytest.mark.parametrize("written", ["", "{}", "null", " "])
def test_no_arguments_are_written_in_many_ways(written):
    tools = ToolRegistry()
    tools.register(lambda: "done", name="f")
    assert tools.call(ToolCall(id="c1", name="f", arguments_json=written))["content"] == "done"


def test_what_a_model_is_told_of_wrong_arguments_is_bounded_and_shows_no_value():
    tools = ToolRegistry()
    tools.register(f_strict, name="f")

    text = told(tools, call("f", values=["CANARY"] * 1000))
    assert len(text) < 2500
    assert "and 992 more" in text
    assert "CANARY" not in text


def never(value: str) -> str:
    raise ValueError("x" * 5000)


def f_strict(values: list[Annotated[str, AfterValidator(never)]]) -> None: ...


def mistaken(value: str) -> str:
    raise KeyError(value)


def f_mistaken(value: Annotated[str, AfterValidator(mistaken)]) -> None: ...


def test_a_validator_that_fails_is_a_tool_that_fails():
    tools, raising = ToolRegistry(), ToolRegistry(on_error="raise")
    tools.register(f_mistaken, name="f")
    raising.register(f_mistaken, name="f")
    assert told(tools, call("f", value="CANARY")) == "Error: the tool failed (KeyError)"
    with pytest.raises(KeyError):
        raising.call(call("f", value="x"))


def with_fields(x: int = Field(default=7, description="An x", ge=1), y: Annotated[int, Field(ge=1)] = 8) -> list[int]:
    return [x, y]


def test_defaults_may_stand_in_fields():
    tools = ToolRegistry()
    tools.register(with_fields)
    assert told(tools, call("with_fields")) == "[7,8]"
    assert tools.definitions[0]["function"]["parameters"]["properties"]["x"] == {
        "default": 7,
        "description": "An x",
        "minimum": 1,
        "type": "integer",
    }


def failing(error: Exception) -> Any:
    def f() -> None:
        raise error

    async def g() -> None:
        raise error

    return f, g


def test_a_tool_that_fails():
    plain, awaited = failing(ValueError("CANARY: postgres://user:password@host"))
    quiet, raising, own = (
        ToolRegistry(),
        ToolRegistry(on_error="raise"),
        ToolRegistry(on_error=lambda c, e: f"{c.name}!"),
    )
    for tools in (quiet, raising, own):
        tools.register(plain)
        tools.register(awaited)
    for name in ("f", "g"):
        assert asyncio.run(quiet.acall(call(name)))["content"] == "Error: the tool failed (ValueError)"
        assert asyncio.run(own.acall(call(name)))["content"] == f"{name}!"
        with pytest.raises(ValueError, match="CANARY"):
            asyncio.run(raising.acall(call(name)))
    with pytest.raises(ValueError, match="CANARY"):
        raising.call(call("f"))


@pytest.mark.parametrize("on_error", ["tell", "raise"])
def test_a_tool_chooses_what_the_model_is_told(on_error):
    tools = ToolRegistry(on_error=on_error)
    tools.register(failing(ToolError("no such city"))[0])
    assert told(tools, call("f")) == "Error: no such city"


def test_blocking_functions_run_in_threads_and_see_the_callers_context():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    tools = ToolRegistry()

    @tools.tool
    def where() -> list[str]:
        return [threading.current_thread().name, variable.get()]

    async def main() -> tuple[str, list[str]]:
        variable.set("here")
        return threading.current_thread().name, json.loads((await tools.acall(call("where")))["content"])

    loop_thread, (thread, seen) = asyncio.run(main())
    assert thread != loop_thread
    assert seen == "here"
    variable.set("and here")
    assert json.loads(tools.call(call("where"))["content"]) == [threading.current_thread().name, "and here"]


def test_an_async_tool_is_not_called_by_blocking_code():
    tools = ToolRegistry()

    @tools.tool
    async def f() -> None: ...

    tools.register(lambda: f(), name="disguised")
    for name in ("f", "disguised"):
        with pytest.raises(InvalidTypeError, match="await acall"):
            tools.call(call(name))
        assert asyncio.run(tools.acall(call(name)))["content"] == "null"


def untyped(x):
    return x


def of_all(*xs: int) -> None: ...


def of_names(**xs: int) -> None: ...


def by_position(x: int, /) -> None: ...


def of_nothing_known(x: NoSuchType) -> None: ...  # noqa: F821


def of_no_schema(x: threading.Lock) -> None: ...


@dataclass
class NotCallable:
    x: int


@pytest.mark.parametrize(
    "function", [untyped, of_all, of_names, by_position, of_nothing_known, of_no_schema, NotCallable(1), "f"]
)
def test_what_can_be_no_tool_is_refused_at_once(function):
    tools = ToolRegistry()
    with pytest.raises(InvalidTypeError):
        tools.register(function, name="f")
    assert len(tools) == 0


@pytest.mark.parametrize("name", ["", "a b", "1a", "-a", "a" * 65, "é", "a.b"])
def test_names_are_those_that_all_providers_allow(name):
    with pytest.raises(InvalidValueError, match="the name of a tool must be"):
        ToolRegistry().register(get_weather, name=name)
    with pytest.raises(InvalidValueError, match="the name of a tool must be"):
        ToolRegistry().register(lambda: 1)


def test_a_name_is_given_once():
    tools = ToolRegistry()
    tools.register(get_weather)
    with pytest.raises(InvalidValueError, match="already"):
        tools.register(get_weather)
    with pytest.raises(InvalidValueError, match="on_error must be"):
        ToolRegistry(on_error="ignore")


def test_a_definition_given_away_cannot_change_the_tool():
    tools = ToolRegistry()
    tools.register(get_weather)
    tools.definitions[0]["function"]["parameters"].clear()
    assert tools.definitions[0]["function"]["parameters"]["required"] == ["city"]


def test_a_config_may_be_copied_with_its_tools():
    tools = ToolRegistry()
    tools.register(get_weather)
    copied = ChatConfig(user_message="q", tools=[tools]).model_copy(deep=True).tools[0]
    tools.register(lambda: 1, name="later")
    assert [tool.name for tool in copied] == ["get_weather"]
    assert json.loads(copied.call(call("get_weather", city="Oslo"))["content"])["city"] == "Oslo"


@pytest.mark.parametrize("tools", ["get_weather", 7, [7], [get_weather], get_weather, Literal])
def test_a_config_takes_registries_and_definitions_only(tools):
    with pytest.raises(InvalidTypeError):
        ChatConfig(user_message="q", tools=tools)


@pytest.mark.parametrize("field", ["tool_rounds", "correction_retries"])
@pytest.mark.parametrize("value", [-1, 10_000, True, 1.0, "1", None])
def test_bounds_are_counts(field, value):
    with pytest.raises((InvalidTypeError, InvalidValueError)):
        ChatConfig(user_message="q", **{field: value})
