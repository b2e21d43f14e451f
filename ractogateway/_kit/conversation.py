"""A request's messages as parts that belong to no provider, so that one `ChatConfig` can be sent to each.

A `ChatConfig` is written in the shape of Chat Completions: texts, ``tool_calls`` of the assistant, messages of role
``tool``, content parts ``text``, ``image_url`` and ``file``, tools of type ``function``. These are translated. A
content part or a tool of any other shape is taken for the provider's own, and goes to it as it is.

Two further fields of an assistant's message keep what one provider signs and wants back; the others are not shown them.
They have the names that servers in front of several providers gave them: ``thinking_blocks`` for Anthropic's thoughts,
and ``extra_content`` (of a call or of the message) with ``google`` and its ``thought_signature``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from ractogateway._kit.mending import mended_json
from ractogateway._kit.request import definitions, following_shapes, history_shapes
from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.files import RactoFile
from ractogateway.messages import ChatConfig

__all__ = [
    "Call",
    "Conversation",
    "Function",
    "Media",
    "Native",
    "Part",
    "Result",
    "Text",
    "Thought",
    "Turn",
    "read_conversation",
    "read_tools",
]

_DATA_URL = re.compile(r"data:([^;,]+);base64,", re.ASCII)
_OF_SYSTEM = frozenset({"developer", "system"})
_OF_ASSISTANT = frozenset({"assistant", "model"})
_OF_TOOL = frozenset({"function", "tool"})


@dataclass(frozen=True, slots=True, repr=False)
class Text:
    """A text that is not empty. ``signature`` is Google's, see the top of this module."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Thought:
    """A block of Anthropic's thinking."""

    shape: dict[str, Any]


@dataclass(frozen=True, slots=True, repr=False)
class Media:
    """An image or a document: base64 text in ``data`` with its ``media_type``, or else a ``url``."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Call:
    """A tool the model wanted called. ``signature`` is Google's, see the top of this module."""

    id: str
    name: str
    arguments: dict[str, Any]
    signature: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What a tool answered. ``name`` is that of the call with this id, ``""`` where there was none."""

    call_id: str
    name: str
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class Native:
    """A part in the provider's own shape."""

    shape: dict[str, Any]


Part = Text | Media | RactoFile | Thought | Call | Result | Native


@dataclass(slots=True, repr=False)
class Turn:
    """What one side said before the other one spoke again."""

    from_assistant: bool
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True, slots=True, repr=False)
class Function:
    """A tool. ``parameters`` is a JSON Schema."""

    name: str
    description: str | None
    parameters: dict[str, Any]
    strict: bool | None


@dataclass(slots=True, repr=False)
class Conversation:
    """A request's messages. ``system`` has the system prompt first, then the system messages of the history.

    Neighbours of the same side are one turn: results of calls that were made together belong together.
    """

    system: list[str]
    turns: list[Turn]


def read_conversation(config: ChatConfig, system_prompt: str) -> Conversation:
    """The history, the new message and what follows it, of ``config``.

    Raises:
        InvalidTypeError: A message holds an object that JSON has no form for, or a system message is no text.
        InvalidValueError: A message cannot be sent; the messages of this error quote nothing.
    """
    conversation = Conversation([system_prompt] if system_prompt else [], [])
    calls: dict[str, Call] = {}
    for shape in history_shapes(config):
        _read_message(conversation, shape, calls)
    new = [*_parts(config.user_message), *_parts(config.attachments)]
    _add(conversation, from_assistant=False, parts=new)
    for shape in following_shapes(config):
        _read_message(conversation, shape, calls)
    return conversation


def _read_message(conversation: Conversation, shape: Mapping[str, Any], known: dict[str, Call]) -> None:
    """Add a message. ``known`` are the calls so far, each by the id that results have for it.

    Where servers give calls no ids, they are numbered in each message anew; but in one conversation, Anthropic wants
    all ids to differ. The later ones are renamed, and so are their results.
    """
    role, content = shape["role"], shape.get("content")
    if role in _OF_SYSTEM:
        conversation.system.extend(_system_texts(content))
        return
    if role in _OF_TOOL:
        call_id = str(shape.get("tool_call_id") or shape.get("name") or "")
        call = known.get(call_id) or Call(call_id, str(shape.get("name") or ""), {})
        _add(conversation, from_assistant=False, parts=[Result(call.id, call.name, _result_text(content))])
        return
    parts = [*_thoughts(shape), *_signed(list(_parts(content)), _signature(shape))]
    calls = shape.get("tool_calls") or []
    if not isinstance(calls, (list, tuple)):
        raise InvalidTypeError(f"history holds tool_calls that are no list but {type(calls).__name__}")
    for call in map(_call, calls):
        renamed = replace(call, id=_free(call.id, known))
        known[renamed.id] = known[call.id] = renamed
        parts.append(known[call.id])
    _add(conversation, from_assistant=role in _OF_ASSISTANT, parts=parts)


def _free(call_id: str, known: Mapping[str, Call]) -> str:
    others = (f"{call_id}_{number}" for number in count(2))
    return call_id if call_id not in known else next(other for other in others if other not in known)


def read_tools(config: ChatConfig) -> Iterator[Function | Native]:
    """The tools of ``config``."""
    for tool in definitions(config.tools):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, Mapping):
            yield Native(tool)
            continue
        name, parameters = function.get("name"), function.get("parameters")
        if not isinstance(name, str) or not name:
            raise InvalidValueError("a tool of type function needs a name")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise InvalidTypeError("the parameters of a tool must be a JSON Schema, a mapping")
        empty = {"type": "object", "properties": {}}
        yield Function(name, function.get("description"), dict(parameters or empty), function.get("strict"))


def _add(conversation: Conversation, *, from_assistant: bool, parts: list[Part]) -> None:
    if not parts:
        return
    if not conversation.turns or conversation.turns[-1].from_assistant != from_assistant:
        conversation.turns.append(Turn(from_assistant))
    conversation.turns[-1].parts.extend(parts)


def _parts(content: object) -> Iterator[Part]:
    if isinstance(content, str):
        if content:
            yield Text(content)
        return
    for part in content if isinstance(content, (list, tuple)) else []:
        if isinstance(part, RactoFile):
            yield part
            continue
        kind, known = part.get("type"), _KNOWN_PARTS.get(str(part.get("type")))
        body = part.get(kind)
        if kind == "text" and isinstance(body, str) and set(part) == {"type", "text"}:
            yield from _parts(body)
        elif known is not None and isinstance(body, Mapping):
            yield _media(body.get(known))
        else:
            yield Native(part)


_KNOWN_PARTS = {"image_url": "url", "file": "file_data"}
"""The parts of Chat Completions that carry an address or a data URL, and under which name."""


def _media(address: object) -> Media:
    if not isinstance(address, str) or not address:
        raise InvalidValueError("an image or a file needs a URL or a data URL; a file's id means nothing elsewhere")
    data = _DATA_URL.match(address)
    if data is not None:
        return Media(media_type=data[1], data=address[data.end() :])
    if not address.startswith(("https://", "http://", "gs://")):
        raise InvalidValueError("an image or a file needs an http URL, or a data URL with a media type and base64")
    return Media(url=address)


def _call(call: object) -> Call:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise InvalidTypeError("history holds a tool call that is no mapping with a function, as OpenAI's are")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = _parsed(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict) or not function.get("name"):
        raise InvalidValueError("history holds a tool call without a name, or with arguments that are no JSON object")
    return Call(str(call.get("id") or function["name"]), str(function["name"]), arguments, _signature(call))


def _parsed(arguments: str) -> Any:
    parsed = json.loads(arguments or "{}")
    # An escape may spell half of a surrogate pair, which could not be sent as an object.
    return mended_json(parsed) if isinstance(parsed, dict) and "\\u" in arguments else parsed


def _thoughts(message: Mapping[str, Any]) -> list[Part]:
    blocks = message.get("thinking_blocks")
    return [Thought(dict(each)) for each in blocks if isinstance(each, Mapping)] if isinstance(blocks, list) else []


def _signature(holder: Mapping[str, Any]) -> str | None:
    """Google's signature of a thought, where a call or a message carries one."""
    extra = holder.get("extra_content")
    google = extra.get("google") if isinstance(extra, Mapping) else None
    signature = google.get("thought_signature") if isinstance(google, Mapping) else None
    return signature if isinstance(signature, str) and signature else None


def _signed(parts: list[Part], signature: str | None) -> list[Part]:
    """The parts of a message, the signature at the last text, which is where it had come."""
    last = parts[-1] if parts else None
    return [*parts[:-1], Text(last.text, signature)] if signature and isinstance(last, Text) else parts


def _system_texts(content: object) -> Iterator[str]:
    for part in _parts(content):
        if not isinstance(part, Text):
            raise InvalidTypeError("history holds a system message that is no text")
        yield part.text


def _result_text(content: object) -> str:
    texts = list(_parts(content))
    if not all(isinstance(part, Text) for part in texts):
        return json.dumps(content)
    return "\n".join(part.text for part in texts if isinstance(part, Text))
