"""Tools for a model to call, made of plain typed functions.

A function's parameters become a JSON Schema, its docstring the description, and what a model asks for is validated by
pydantic before the function sees it::

    tools = ToolRegistry()

    @tools.tool
    async def get_weather(city: Annotated[str, Field(description="A city's name")], days: int = 1) -> str:
        \"\"\"The weather of a city.\"\"\"
        ...

    kit.chat(ChatConfig(user_message="Will it rain in Oslo?", tools=tools, tool_rounds=3))
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints, overload

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ArgsKwargs, to_json

from ractogateway._checks import check_duration
from ractogateway._leaving import acall_within, call_within
from ractogateway._pending import Pending, as_text
from ractogateway._texts import well_formed
from ractogateway.errors import InvalidTypeError, InvalidValueError, ToolError, ToolTimeout

if TYPE_CHECKING:
    from ractogateway.messages import ToolCall

__all__ = ["OnToolError", "Tool", "ToolRegistry", "problems_of"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_NAME_FORM = "1 to 64 ASCII letters, digits, underscores or hyphens, and not begin with a digit or a hyphen"
_MOST_PROBLEMS = 8
_LONGEST_PROBLEM = 200
_THREADS = 32
_LEAST_SECONDS = 0.001
# Not anyio's own limiter: tools that hang must not use up the threads in which the application serves requests.
_limiter: RunVar[CapacityLimiter] = RunVar("ractogateway tool threads")

OnToolError = Literal["tell", "raise"] | Callable[["ToolCall", Exception], str]
"""What becomes of a tool that raises: the model is told, the error is raised, or a function says what it is told."""

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Tool:
    """A function as a model sees it. Made by `ToolRegistry`; cannot be changed.

    Attributes:
        name: What the model calls it by.
        description: What the model is told of it, None for nothing.
        parameters: The JSON Schema of its arguments.
        is_async: Whether it is a coroutine function.
    """

    name: str
    description: str | None
    parameters: Mapping[str, Any]
    is_async: bool
    _function: Callable[..., Any]
    _arguments: TypeAdapter[Any]
    _on_error: OnToolError
    _seconds: float | None

    @property
    def definition(self) -> dict[str, Any]:
        """The tool in the shape of Chat Completions, from which every kit makes its provider's own."""
        function = {"name": self.name, "description": self.description, "parameters": _copied(self.parameters)}
        return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}

    def run(self, call: ToolCall) -> str | Pending:
        """Call the function; what the model is told as an answer to ``call``. Of an async function, something to await.

        It runs in the calling thread; if it has a time limit, and is not async, in one of its own.

        Raises:
            Exception: Whatever the function raised, if its registry says ``on_error="raise"``.
        """
        if self._seconds is None or self.is_async:
            return self._run(call)
        try:
            found = call_within(self._seconds, partial(self._try, call))
        except ToolTimeout as error:
            found = error
        return self._told(call, found) if isinstance(found, Exception) else found

    def _run(self, call: ToolCall) -> str | Pending:
        found = self._try(call)
        return self._told(call, found) if isinstance(found, Exception) else found

    def _try(self, call: ToolCall) -> str | Pending | Exception:
        """`_run`, but of an error nobody is told: in a thread that was left behind, it is not told of any more."""
        arguments = _arguments_of(call)
        if arguments is None:
            return "Error: the arguments are not a JSON object"
        try:
            given, named = self._arguments.validate_python(ArgsKwargs((), arguments))
        except ValidationError as error:
            return f"Error: the arguments do not fit. {problems_of(error)}"
        except Exception as error:  # noqa: BLE001 - validators are anybody's code, as tools are
            return error
        try:
            result = self._function(*given, **named)
            if not inspect.isawaitable(result):
                return as_text(result)
            return Pending(result, partial(self._told, call), self._seconds)
        except Exception as error:  # noqa: BLE001 - see above
            return error

    async def arun(self, call: ToolCall) -> str:
        """`run` for async code: a function that is not async runs in a thread, with the caller's context variables.

        Nobody can stop a thread: a caller who is cancelled meanwhile waits for its end, or leaves it behind if it has a
        time limit.
        """
        told = self._run(call) if self.is_async else await self._in_thread(call)
        return told if isinstance(told, str) else await told

    async def _in_thread(self, call: ToolCall) -> str | Pending:
        if self._seconds is None:
            return await run_sync(partial(self._run, call), limiter=_threads())
        try:
            async with _threads():  # time is counted from here on: others' tools may have to end first
                found = await acall_within(self._seconds, partial(self._try, call))
        except ToolTimeout as error:
            return self._told(call, error)
        if isinstance(found, Exception):
            tell = partial(self._told, call, found)  # anybody's code, too
            return await run_sync(tell, limiter=_threads()) if callable(self._on_error) else tell()
        return found

    def _told(self, call: ToolCall, error: Exception) -> str:
        if isinstance(error, ToolError):
            return f"Error: {error}"
        if self._on_error == "raise":
            raise error
        if self._on_error == "tell":
            return f"Error: {error}" if isinstance(error, ToolTimeout) else failed(error)
        return _checked_words(self._on_error(call, error))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tool:
        return self  # nothing in it can change

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class ToolRegistry:
    """Tools of one service, for `ChatConfig.tools`, alone or in a list beside other registries and raw definitions.

    With `ChatConfig.tool_rounds` a kit runs what the model asks for. Without, `LLMResponse.tool_calls` are for the
    caller to run, by `call` or `acall`.

    A cache knows a tool by its name, description and schema; not by the function, of which it cannot know what it does.

    Args:
        on_error: What becomes of a tool that raises. ``"tell"``: the model is told that it failed, and the name of the
            error's class. ``"raise"``: the error ends the request. A function of the call and the error: the model is
            told what it returns; it is called once for a call. A `ToolError` is the way of a tool to choose the words
            itself; they reach the model in each case.
        tool_timeout_seconds: How long each of these tools may take; None means without a limit. One whose time is up
            counts as one that raised `ToolTimeout` (by default the model is told that it did not answer). A coroutine
            function is cancelled; one that catches `asyncio.CancelledError` and goes on holds up its caller, where that
            is async. Any other function runs in a thread of its own, which is left behind: it goes on until it ends,
            for its result to be lost. While 64 such threads hang in a process, no further call of a function with a
            limit is begun: it counts as one whose time is up.
    """

    def __init__(self, *, on_error: OnToolError = "tell", tool_timeout_seconds: float | None = None) -> None:
        if on_error not in ("tell", "raise") and not callable(on_error):
            raise InvalidValueError('on_error must be "tell", "raise" or a function')
        self._on_error: OnToolError = on_error
        self._seconds = (
            None
            if tool_timeout_seconds is None
            else check_duration("tool_timeout_seconds", tool_timeout_seconds, least=_LEAST_SECONDS)
        )
        self._tools: dict[str, Tool] = {}

    @overload
    def tool(self, function: _F, /) -> _F: ...
    @overload
    def tool(self, *, name: str | None = None, description: str | None = None) -> Callable[[_F], _F]: ...
    def tool(self, function: Any = None, *, name: str | None = None, description: str | None = None) -> Any:
        """`register` as a decorator, bare or with arguments; the function itself is left as it is."""

        def decorate(function: _F) -> _F:
            self.register(function, name=name, description=description)
            return function

        return decorate if function is None else decorate(function)

    def register(
        self, function: Callable[..., Any], *, name: str | None = None, description: str | None = None
    ) -> Tool:
        """Add a function, a method or a callable object; ``async def`` or not.

        Every parameter needs a type, and is given by name. ``Annotated[…, Field(description=…)]`` describes it.

        Args:
            function: What to call.
            name: What the model calls it by; None means the function's own name.
            description: What the model is told of it; None means the docstring.

        Raises:
            InvalidTypeError: It is not callable, or a parameter has no type or one that has no JSON Schema.
            InvalidValueError: The name is taken, or none that all providers allow.
        """
        if not callable(function):
            raise InvalidTypeError(f"a tool must be a function, not {type(function).__name__}")
        named = name if name is not None else getattr(function, "__name__", "")
        if not isinstance(named, str) or not _NAME.fullmatch(named):
            raise InvalidValueError(f"the name of a tool must be {_NAME_FORM}")
        if named in self._tools:
            raise InvalidValueError(f"there is a tool of the name {named} already")
        if description is None:
            description = inspect.getdoc(_written(function))
        arguments = _adapter(function, named)
        made = Tool(
            name=named,
            description=description or None,
            parameters=_schema(arguments, named),
            is_async=inspect.iscoroutinefunction(_written(function)),
            _function=function,
            _arguments=arguments,
            _on_error=self._on_error,
            _seconds=self._seconds,
        )
        self._tools[named] = made
        return made

    def call(self, call: ToolCall) -> dict[str, Any]:
        """Run what the model asked for; the message with the result, for `ChatConfig.following` or the history.

        A wrong name or wrong arguments are told to the model, by the message. Blocks the calling thread.

        Raises:
            InvalidTypeError: The tool is async: await `acall`.
        """
        tool = self._tools.get(call.name)
        told = unknown(call.name) if tool is None else tool.run(call)
        if not isinstance(told, str):
            told.close()
            raise InvalidTypeError(f"the tool {call.name} is async: await acall()")
        return result_message(call, told)

    async def acall(self, call: ToolCall) -> dict[str, Any]:
        """`call` for async code: a function that is not async runs in a thread."""
        tool = self._tools.get(call.name)
        return result_message(call, unknown(call.name) if tool is None else await tool.arun(call))

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """All tools in the shape of Chat Completions, in the order in which they were added."""
        return [tool.definition for tool in self]

    def __iter__(self) -> Iterator[Tool]:
        return iter(tuple(self._tools.values()))

    def __len__(self) -> int:
        return len(self._tools)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._tools)})"


def result_message(call: ToolCall, told: str) -> dict[str, Any]:
    """A tool's result in the shape of Chat Completions, from which every kit makes its provider's own."""
    return {"role": "tool", "tool_call_id": call.id, "content": well_formed(told)}


def unknown(name: str) -> str:
    """What a model is told that calls what is not there."""
    return f"Error: there is no tool {name[:_LONGEST_PROBLEM]}"


def failed(error: BaseException) -> str:
    """What a model is told of a tool that failed. Not the error's text, which may hold anything: an address with a
    password, a row of somebody else's.
    """
    return f"Error: the tool failed ({type(error).__name__})"


def problems_of(error: ValidationError) -> str:
    """What is wrong, for a model to read: places and rules, but not the values, which it knows."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}"[:_LONGEST_PROBLEM] for each in found]
    more = [f"and {len(lines) - _MOST_PROBLEMS} more"] if len(lines) > _MOST_PROBLEMS else []
    return "; ".join([*lines[:_MOST_PROBLEMS], *more])


def _arguments_of(call: ToolCall) -> dict[str, Any] | None:
    """The arguments of a call; None where the model wrote something else than an object."""
    if call.arguments or not call.arguments_json.strip():
        return call.arguments
    try:
        written = json.loads(call.arguments_json)
    except (ValueError, RecursionError):
        return None
    return {} if written is None else written if isinstance(written, dict) else None


def _checked_words(words: object) -> str:
    if not isinstance(words, str):
        raise InvalidTypeError(f"on_error must return a str, not {type(words).__name__}")
    return words


def _copied(schema: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(to_json(schema))
    return copied


def _threads() -> CapacityLimiter:
    """The limiter of this event loop."""
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter


def _adapter(function: Callable[..., Any], name: str) -> TypeAdapter[Any]:
    """Validates what a function is to be called with, by pydantic's own way for calls, and does not call it."""
    signature = inspect.signature(function)
    hints = _hints(function, name)
    for parameter in signature.parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidTypeError(f"the parameter {parameter.name} of {name} cannot be given by name alone")
        if parameter.name not in hints:
            raise InvalidTypeError(f"the parameter {parameter.name} of {name} needs a type")

    def take(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    given: Any = take
    typed = [each.replace(annotation=hints[each.name]) for each in signature.parameters.values()]
    given.__signature__ = signature.replace(parameters=typed, return_annotation=inspect.Signature.empty)
    given.__annotations__ = {each.name: each.annotation for each in typed}
    given.__name__ = given.__qualname__ = name
    try:
        return TypeAdapter(given)
    except PydanticUserError as error:
        failure = InvalidTypeError(f"a parameter of {name} has a type that pydantic does not know ({error.code})")
    raise failure


def _written(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that somebody wrote: of a partial, a decorated function or a callable object."""
    while isinstance(function, partial):
        function = function.func
    inner = inspect.unwrap(function)
    return inner if inspect.isroutine(inner) else type(inner).__call__


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(_written(function), include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        failure = InvalidTypeError(f"the types of {name} cannot be found where it was defined ({type(error).__name__})")
    raise failure


def _schema(arguments: TypeAdapter[Any], name: str) -> dict[str, Any]:
    try:
        schema = arguments.json_schema()
    except PydanticUserError as error:
        failure = InvalidTypeError(f"a parameter of {name} has a type without a JSON Schema ({error.code})")
    else:
        for parameter, described in schema.get("properties", {}).items():
            # What pydantic makes of a name says nothing that the name does not.
            if described.get("title") == parameter.replace("_", " ").title():
                del described["title"]
        schema.setdefault("properties", {})
        return schema
    raise failure
