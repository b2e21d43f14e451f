"""What a cache knows a request by, and whether its answer may be stored."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from ractogateway._checks import check_temperature
from ractogateway._schemas import ContextWithSchema, Schema
from ractogateway.cache.policy import is_storable
from ractogateway.errors import InvalidTypeError, InvalidValueError, RactoGatewayError
from ractogateway.files import RactoFile
from ractogateway.messages import ChatConfig, LLMResponse, Message, MessageRole
from ractogateway.tools import Tool, ToolRegistry

__all__ = [
    "RequestIdentity",
    "definitions",
    "effective_temperature",
    "flatten_extra",
    "following_shapes",
    "history_shapes",
    "identify",
    "may_store",
    "shaped",
    "snapshot",
    "tool_name",
    "toolbox",
    "user_shape",
]

CLIENT_SIDE = frozenset({"timeout"})
"""Keys of ``extra`` that never leave this process: how long a caller waits does not change what the model says."""

TRACING_HEADERS = frozenset(
    {"baggage", "idempotency-key", "traceparent", "tracestate", "x-client-request-id", "x-request-id"}
)
"""Headers that name one request and so differ in each. Every other header counts: it may choose a tenant or a route."""

PROVIDER_DEFAULT_TEMPERATURE = 1.0
"""What OpenAI, Anthropic and Google document for a request that names none."""


@dataclass(frozen=True, slots=True, repr=False)
class RequestIdentity:
    """A whole request, as `ExactCache` wants it: five documented fields, and ``context`` for everything else.

    ``context`` is None for a plain request to a provider's default address, so that it meets the entries of the
    five-argument form ``cache.get(user_message, system_prompt, model, temperature, max_tokens)``.
    """

    user_message: str
    system_prompt: str
    model: str
    temperature: float
    max_tokens: int
    context: Mapping[str, Any] | None = None

    @property
    def fields(self) -> tuple[str, str, str, float, int]:
        """The five documented fields, in the order of the cache's methods."""
        return self.user_message, self.system_prompt, self.model, self.temperature, self.max_tokens

    def __repr__(self) -> str:
        return f"RequestIdentity(model={self.model!r})"


def snapshot(config: ChatConfig) -> ChatConfig:
    """A private copy of ``config``, so that nothing its owner changes later reaches the cache or the provider.

    Its tools are definitions only, in the shape of Chat Completions: `toolbox` has the functions.

    An identity is computed before, and a request is built after the cache was asked; between the two a caller's code
    may run. From a config that changed meanwhile, the answer to one question would be stored under another.

    Raises:
        InvalidTypeError: A field holds something that cannot be copied, or ``response_model`` is no model.
        InvalidValueError: A field is nested too deeply to be copied, or ``history`` holds what is no message.
    """
    _check_response_model(config.response_model)
    return config.model_copy(
        update={
            "history": shaped("history", config.history),
            "following": shaped("following", config.following),
            "tools": None if config.tools is None else _copied("tools", definitions(config.tools)),
            "attachments": _copied("attachments", config.attachments),
            "extra": _copied("extra", config.extra),
        }
    )


def _check_response_model(model: object) -> None:
    if model is None:
        return
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        raise InvalidTypeError("response_model must be a class derived from pydantic's BaseModel, or None")
    if model is BaseModel:
        raise InvalidTypeError("response_model must be a class derived from pydantic's BaseModel, not BaseModel itself")


def definitions(tools: ToolRegistry | Sequence[ToolRegistry | dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The tools of a config as definitions, those of registries in the shape of Chat Completions."""
    return [each.definition if isinstance(each, Tool) else each for each in _each_tool(tools)]


def toolbox(config: ChatConfig) -> dict[str, Tool]:
    """The tools of ``config`` that can be run, by their names.

    Raises:
        InvalidTypeError: ``tools`` holds what is no tool.
        InvalidValueError: Two tools have the same name: nobody could tell which of them a model means.
    """
    found: dict[str, Tool] = {}
    names: set[str] = set()
    for each in _each_tool(config.tools):
        if isinstance(each, Tool):
            name: str | None = each.name
            found[each.name] = each
        elif isinstance(each, Mapping):
            name = tool_name(each)
        else:
            raise InvalidTypeError(f"tools must hold registries and definitions, not {type(each).__name__}")
        if name is not None and name in names and (found or isinstance(each, Tool)):
            raise InvalidValueError(f"tools holds two tools of the name {name}")
        names.update(() if name is None else (name,))
    return found


def tool_name(definition: Mapping[str, Any]) -> str | None:
    """What a model calls a tool by, in the shape of Chat Completions or another."""
    function = definition.get("function")
    name = (function if isinstance(function, Mapping) else definition).get("name")
    return name if isinstance(name, str) else None


def _each_tool(
    tools: ToolRegistry | Sequence[ToolRegistry | dict[str, Any]] | None,
) -> Iterator[Tool | dict[str, Any]]:
    for each in [tools] if isinstance(tools, ToolRegistry) else tools or []:
        if isinstance(each, ToolRegistry):
            yield from each
        else:
            yield each


class _Shaped(list[dict[str, Any]]):
    """Messages in the provider's shape, a copy of our own: made once a request, read often, never changed."""


def shaped(name: str, messages: Sequence[Message | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a field in the provider's shape, copied, for `history_shapes` to find.

    Raises:
        InvalidTypeError, InvalidValueError: as `history_shapes` and `snapshot` do.
    """
    if not isinstance(messages, (list, tuple)):  # put there by hand
        messages = _as_messages(name, messages)
    plain = [shape for each in messages if (shape := _plain_shape(each)) is not None]
    if len(plain) == len(messages):  # most are
        return _Shaped(plain)
    # Copied before they are written, which uses an iterator up, and together: what one holds, another may hold, too.
    return _Shaped(_shapes_of(name, _copied(name, _as_messages(name, messages))))


def _plain_shape(message: Message | Mapping[str, Any]) -> dict[str, Any] | None:
    """The shape of a message that is a role and a text, which need no validation and no copy; None of any other."""
    if type(message) is Message:
        message = {**message.__dict__, **(message.__pydantic_extra__ or {})}
    if type(message) is not dict or len(message) != len(_PLAIN):
        return None
    role, content = message.get("role"), message.get("content")
    return {"role": role, "content": content} if type(content) is str and type(role) is str and role in _ROLES else None


_PLAIN = ("role", "content")
_ROLES = frozenset(role.value for role in MessageRole)


def _as_messages(name: str, messages: Sequence[Message | Mapping[str, Any]]) -> list[Message]:
    try:
        return [each if isinstance(each, Message) else Message.model_validate(each) for each in messages]
    except (TypeError, ValueError):
        failure = InvalidValueError(f"{name} holds something that is not a message")
    raise failure  # outside the handler here and below: not even __context__ may keep an error that quotes a value


def _copied(name: str, value: Any) -> Any:
    if not value:  # nothing to go down into, but the owner may fill it later
        return copy.copy(value)
    failure: RactoGatewayError
    try:
        return copy.deepcopy(_as_sent(value))  # classes and functions stay what they are
    except RecursionError:
        failure = InvalidValueError(f"{name} is nested too deeply")
    except Exception as error:  # noqa: BLE001 - whatever the hooks of a foreign object raise
        failure = InvalidTypeError(f"{name} holds something that cannot be copied ({type(error).__name__})")
    raise failure


def _as_sent(value: Any) -> Any:
    """``value`` with every pydantic instance as what the SDKs send of it, so that it is sent as what it is keyed by."""
    if isinstance(value, Message):
        return value  # ours: `_shape` writes it
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True, by_alias=True, warnings=False)
    if isinstance(value, Mapping):
        return {key: _as_sent(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_sent(item) for item in value]
    return value


def history_shapes(config: ChatConfig) -> list[dict[str, Any]]:
    """The messages of ``history`` in the provider's shape.

    Raises:
        InvalidTypeError: A content holds an object that JSON has no form for.
        InvalidValueError: A content holds bytes that are no UTF-8, a number that is not finite, or itself.
    """
    return _shapes_of("history", config.history)


def following_shapes(config: ChatConfig) -> list[dict[str, Any]]:
    """The messages of ``following``, likewise."""
    return _shapes_of("following", config.following)


def user_shape(config: ChatConfig) -> dict[str, Any] | None:
    """The new message of the user in the shape of Chat Completions; None where nothing new is said.

    Behind a history, or before results of tools, nothing new need be said.
    """
    content: str | list[dict[str, Any]] = config.user_message
    if config.attachments:
        text = [{"type": "text", "text": config.user_message}] if config.user_message else []
        content = [*text, *(part.to_part() if isinstance(part, RactoFile) else part for part in config.attachments)]
    return {"role": "user", "content": content} if content or not (config.history or config.following) else None


def _shapes_of(name: str, messages: Sequence[Message | Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, _Shaped):
        return messages
    failure: RactoGatewayError
    try:
        return [_shape(message) for message in _as_messages(name, messages)]
    except InvalidValueError:
        raise
    except PydanticSerializationError:
        failure = InvalidTypeError(f"{name} holds a value that cannot be sent as JSON")
    except (ValueError, RecursionError) as error:
        failure = InvalidValueError(f"{name} holds what cannot be sent as JSON ({type(error).__name__})")
    raise failure


def _shape(message: Message) -> dict[str, Any]:
    # pydantic would write NaN as null without a word; elsewhere in a request the SDK's encoder refuses it.
    if isinstance(message.content, list) and not _is_finite(to_jsonable_python(message.content)):
        raise InvalidValueError("history holds a number that is not finite, which JSON cannot say")
    return {name: _as_sent(value) for name, value in message.to_dict().items()}


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list) or all(map(_is_finite, value))


def identify(
    config: ChatConfig,
    *,
    model: str,
    system_prompt: str,
    provider: str | None = None,
    base_url: str | None = None,
    silent: frozenset[str] = frozenset(),
    variant: str | None = None,
    schema: Schema | None = None,
) -> RequestIdentity:
    """The identity of ``config`` sent to ``model``.

    Args:
        config: The request.
        model: The model that is asked for.
        system_prompt: The compiled prompt, ``""`` when there is none.
        provider: Who answers; None for OpenAI, whose plain requests the five-argument form stands for.
        base_url: Where, when it is not the provider's default address.
        silent: Keys of ``extra`` which this provider, at this address, documents as without influence on the answer.
        variant: What a provider does differently with an equal config, see `Provider.variant`.
        schema: That of ``response_model``, if it is to be made no more than once for this request.

    Whatever is empty or default is left out: a request says the same with ``tools=[]`` as without tools.

    It is its own copy: a cache that changes what it is given (to keep something out of its log, say) changes nothing
    that is sent.
    """
    everything_else = {
        "history": _own(history_shapes(config)),
        "following": _own(following_shapes(config)),
        "tools": _own(definitions(config.tools)),
        "response_model": config.response_model,
        "attachments": [_as_identified(part) for part in config.attachments],
        "extra": _own(_shaping(config.extra, silent)),
        "provider": provider,
        "base_url": base_url,
        "variant": variant,
    }
    context = {name: value for name, value in everything_else.items() if value is not None and value not in ([], {})}
    if schema is not None:
        context = ContextWithSchema(context, schema)
    return RequestIdentity(
        config.user_message, system_prompt, model, config.temperature, config.max_tokens, context or None
    )


def _own(value: Any) -> Any:
    """``value`` with lists and dicts of its own; what is neither is nothing that a cache could change by accident."""
    if isinstance(value, dict):
        return {key: item if type(item) is str else _own(item) for key, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


def _as_identified(part: RactoFile | dict[str, Any]) -> Any:
    return part.to_identity() if isinstance(part, RactoFile) else _own(part)


def flatten_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """``extra`` with the content of its ``extra_body`` beside the rest, which is where the SDKs put it in a request."""
    body = extra.get("extra_body") or {}
    return {**{name: value for name, value in extra.items() if name != "extra_body"}, **body}


def effective_temperature(config: ChatConfig) -> float | None:
    """The temperature that really reaches the provider; None where nobody can say."""
    temperature = flatten_extra(config.extra).get("temperature", config.temperature)
    if temperature is None:  # left out of the request on purpose: the provider's default rules
        return PROVIDER_DEFAULT_TEMPERATURE
    try:
        return check_temperature(temperature)
    except (InvalidTypeError, InvalidValueError):  # `extra` took any value, and the provider may take it too
        return None


def may_store(config: ChatConfig, response: LLMResponse, max_temperature: float) -> bool:
    """Whether the answer to ``config`` may be stored, at the temperature that really reached the provider."""
    temperature = effective_temperature(config)
    return temperature is not None and is_storable(response, temperature=temperature, max_temperature=max_temperature)


def _shaping(extra: Mapping[str, Any], silent: frozenset[str]) -> dict[str, Any]:
    shaping = {name: value for name, value in flatten_extra(extra).items() if name not in silent | CLIENT_SIDE}
    headers = shaping.pop("extra_headers", None)
    if headers:
        # A list, because names that differ in case only are all sent; their order among themselves counts.
        named = sorted(((name.lower(), value) for name, value in headers.items()), key=itemgetter(0))
        kept = [(name, value) for name, value in named if name not in TRACING_HEADERS]
        if kept:
            shaping["extra_headers"] = kept
    return shaping
