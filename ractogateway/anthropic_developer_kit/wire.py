"""Between our values and those of Anthropic's Messages protocol. Pure: nothing here knows a client or a connection."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ractogateway._kit.arguments import PER_CALL
from ractogateway._kit.conversation import (
    Call,
    Conversation,
    Function,
    Media,
    Part,
    Result,
    Text,
    read_conversation,
    read_tools,
)
from ractogateway._kit.reading import count, make_tool_call, text_of
from ractogateway._kit.request import flatten_extra
from ractogateway.errors import InvalidTypeError, InvalidValueError, ProviderError
from ractogateway.files import RactoFile
from ractogateway.messages import ChatConfig, FinishReason, LLMResponse, ToolCall, Usage

__all__ = [
    "RESERVED",
    "THOUGHTS",
    "call_arguments",
    "check_extra",
    "finish_reason",
    "insists_on_temperature",
    "read_message",
    "read_usage",
    "signed_fields",
    "thought",
]

RESERVED = ("messages", "model", "stream")
_PDF = "application/pdf"

_FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}


_TAKES_TEMPERATURE = re.compile(r"claude-(?:[23]\b|instant|(?:haiku|sonnet)-4\b|opus-4(?!\d|-[7-9](?!\d)))")
"""The older models of Anthropic. Newer ones answer 400 to any temperature but their own."""


def check_extra(extra: Mapping[str, Any]) -> None:
    """Refuse an ``output_config`` to which a format could not be added."""
    if not isinstance(flatten_extra(extra).get("output_config", {}), (Mapping, type(None))):
        raise InvalidTypeError("extra['output_config'] must be a mapping")


def call_arguments(
    config: ChatConfig, *, model: str, system_prompt: str, output_format: Mapping[str, Any] | None, stream: bool
) -> dict[str, Any]:
    """Keyword arguments for the SDK's ``messages.create``.

    All of ``extra`` goes through the SDK's ``extra_body``, so that a parameter works whether or not the installed
    version of the SDK has heard of it. It wins over what the config says; None leaves a parameter out of the request.
    """
    extra = flatten_extra(config.extra)
    conversation = read_conversation(config, system_prompt)
    if not conversation.turns:
        raise InvalidValueError("there is nothing to send: user_message, attachments and history are empty")
    body: dict[str, Any] = {
        "max_tokens": config.max_tokens,
        "temperature": _temperature(config, model),
        "system": "\n\n".join(conversation.system) or None,
        "tools": [_tool(tool) for tool in read_tools(config)] or None,
        **{name: value for name, value in extra.items() if name not in PER_CALL},
    }
    if output_format is not None:
        # Beside other settings of the output, such as the effort; a format in `extra` wins.
        body["output_config"] = {"format": output_format, **(body.get("output_config") or {})}
    body = {name: value for name, value in body.items() if value is not None}
    return {
        "model": model,
        "messages": _messages(conversation),
        "stream": stream,
        # The SDK insists on this argument, whatever is in the body; there the body's own value wins.
        "max_tokens": body.pop("max_tokens", config.max_tokens),
        "extra_body": body,
        **{name: extra[name] for name in PER_CALL if extra.get(name) is not None},
    }


def insists_on_temperature(config: ChatConfig, model: str) -> bool:
    """Whether ``config`` names a temperature for a model that takes none."""
    return _takes_none(model) and "temperature" in config.model_fields_set


def _temperature(config: ChatConfig, model: str) -> float | None:
    """What to ask for; None for a model that takes none, if the caller did not name one either."""
    return None if _takes_none(model) and not insists_on_temperature(config, model) else config.temperature


def _takes_none(model: str) -> bool:
    return "claude" in model and not _TAKES_TEMPERATURE.search(model)


def _messages(conversation: Conversation) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in conversation.turns:
        # Results come first in a message: the protocol wants them right behind the calls they answer.
        parts = sorted(turn.parts, key=lambda part: not isinstance(part, Result))
        role = "assistant" if turn.from_assistant else "user"
        messages.append({"role": role, "content": [_block(part) for part in parts]})
    return messages


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Media):
        return _media_block(part)
    if isinstance(part, RactoFile):
        return _file_block(part)
    if isinstance(part, Call):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
    if isinstance(part, Result):
        return {"type": "tool_result", "tool_use_id": part.call_id, "content": part.text}
    return part.shape  # a thought, or Anthropic's own


def _file_block(file: RactoFile) -> dict[str, Any]:
    if file.is_image:
        return {"type": "image", "source": {"type": "base64", "media_type": file.media_type, "data": file.base64}}
    source = (
        {"type": "text", "media_type": file.media_type, "data": file.text}
        if file.is_text
        else {"type": "base64", "media_type": file.media_type, "data": file.base64}
    )
    return {"type": "document", "source": source, **({"title": file.name} if file.name else {})}


def _media_block(part: Media) -> dict[str, Any]:
    if part.url is not None:
        kind = "document" if part.url.lower().endswith(".pdf") else "image"
        return {"type": kind, "source": {"type": "url", "url": part.url}}
    source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    return {"type": "document" if part.media_type == _PDF else "image", "source": source}


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, Function):
        shape: dict[str, Any] = tool.shape
        return shape
    shape = {"name": tool.name, "description": tool.description, "input_schema": tool.parameters, "strict": tool.strict}
    return {name: value for name, value in shape.items() if value is not None}


def read_message(message: Any) -> LLMResponse:
    """An SDK ``Message`` as our answer, and the whole object as ``raw``."""
    blocks = getattr(message, "content", None)
    if not isinstance(blocks, list):
        raise ProviderError("the provider's answer is not a message")
    calls: list[ToolCall] = []
    for block in blocks:
        if getattr(block, "type", None) == "tool_use":
            written = json.dumps(getattr(block, "input", None), ensure_ascii=False)
            calls.append(make_tool_call(getattr(block, "id", None), getattr(block, "name", None), written, len(calls)))
    return LLMResponse(
        content=_joined(blocks, "text"),
        thinking=_joined(blocks, "thinking"),
        tool_calls=calls,
        finish_reason=finish_reason(getattr(message, "stop_reason", None)),
        usage=read_usage(getattr(message, "usage", None)),
        raw=message,
        model=text_of(getattr(message, "model", None)),
        provider_fields=signed_fields([thought(block) for block in blocks if block.type in THOUGHTS])
        if calls
        else None,
    )


THOUGHTS = frozenset({"redacted_thinking", "thinking"})
"""Blocks that go back unchanged while tools are used: the protocol refuses the calls without the thoughts."""


def thought(block: Any) -> dict[str, Any]:
    """A block of thinking as it goes back."""
    names = ("type", "thinking", "signature") if block.type == "thinking" else ("type", "data")
    return {name: getattr(block, name, None) for name in names}


def signed_fields(thoughts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What Anthropic wants back with calls of tools. Without their signature, it would refuse thoughts."""
    signed = [each for each in thoughts if each.get("signature") or each.get("data")]
    return {"thinking_blocks": signed} if signed else None


def _joined(blocks: list[Any], kind: str) -> str | None:
    """The text of all blocks of one kind, which is also the name of the field that holds it."""
    return "".join(text_of(getattr(block, kind, None)) or "" for block in blocks if block.type == kind) or None


def finish_reason(reason: object) -> FinishReason:
    """Why the model stopped; UNKNOWN also for ``pause_turn``, after which a turn is to be continued."""
    return _FINISH_REASONS.get(reason, FinishReason.UNKNOWN) if isinstance(reason, str) else FinishReason.UNKNOWN


def read_usage(*usages: Any) -> Usage:
    """Token counts as billed, of the last of ``usages`` that tells; zero where the provider said nothing.

    Anthropic counts what it read from or wrote to its prompt cache beside ``input_tokens``; here, as with the other
    kits, ``prompt_tokens`` is the whole prompt and ``cached_tokens`` the part of it that was read from there.
    """

    def told(name: str) -> int:
        return next(filter(None, (count(usage, name) for usage in reversed(usages))), 0)

    cached = told("cache_read_input_tokens")
    prompt = told("input_tokens") + cached + told("cache_creation_input_tokens")
    completion = told("output_tokens")
    details = [getattr(usage, "output_tokens_details", None) for usage in reversed(usages)]
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cached_tokens=cached,
        reasoning_tokens=next(filter(None, (count(each, "thinking_tokens") for each in details)), 0),
    )
