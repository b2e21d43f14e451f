"""Between our values and those of the Chat Completions protocol. Pure: nothing here knows a client or a connection.

Answers are read leniently, attribute by attribute, because servers that call themselves compatible leave fields out,
add their own and fill others with odd types. What cannot be read at all raises `ProviderError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ractogateway._checks import check_text
from ractogateway._kit.request import flatten_extra, history_shapes
from ractogateway.errors import InvalidTypeError, InvalidValueError, ProviderError
from ractogateway.messages import ChatConfig, FinishReason, LLMResponse, ToolCall, Usage

__all__ = [
    "call_arguments",
    "check_extra",
    "check_seconds",
    "embedding_arguments",
    "finish_reason",
    "make_tool_call",
    "read_completion",
    "read_embeddings",
    "read_usage",
    "thinking_of",
]

_RESERVED = ("messages", "model", "stream")
_PER_CALL = ("extra_headers", "extra_query", "timeout")
"""Keys of ``extra`` that are arguments of the SDK's call and no part of the request's body."""
_LONGEST_SECONDS = 86_400.0
_LARGEST_SHOWN = 2**64
_LIMITS = ("max_completion_tokens", "max_tokens")

_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    # Compatible servers' own words for the same.
    "eos": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "error": FinishReason.ERROR,
}


def check_extra(extra: Mapping[str, Any]) -> None:
    """Refuse an ``extra`` that would replace what the kit itself decides, or that has no place in a call."""
    _check_mapping(extra, "extra_body")
    flat = flatten_extra(extra)
    for name in ("extra_headers", "extra_query"):
        _check_mapping(flat, name)
    _check_headers(flat.get("extra_headers") or {})
    timeout = flat.get("timeout")
    # The HTTP library's own Timeout is told by its name: there have been two of these libraries.
    if timeout is not None and type(timeout).__name__ != "Timeout":
        check_seconds("extra['timeout']", timeout)
    taken = [name for name in _RESERVED if name in flat]
    if taken:
        raise InvalidValueError(f"extra must not set {' or '.join(taken)}: the kit and the ChatConfig do")


def _check_mapping(extra: Mapping[str, Any], name: str) -> None:
    if not isinstance(extra.get(name, {}), (Mapping, type(None))):
        raise InvalidTypeError(f"extra[{name!r}] must be a mapping, not {type(extra[name]).__name__}")


def _check_headers(headers: Mapping[Any, Any]) -> None:
    for name, value in headers.items():
        if not isinstance(name, str):
            raise InvalidTypeError(f"extra['extra_headers'] must have keys of type str, not {type(name).__name__}")
        # The HTTP library notices too, but as an error of the connection. Values may also be the SDK's own markers.
        if any(character in text for text in (name, value) if isinstance(text, str) for character in "\r\n\0"):
            raise InvalidValueError("extra['extra_headers'] must not hold line breaks or NUL")


def check_seconds(name: str, value: object) -> float:
    """How long to wait: more than nothing and at most a day."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value <= _LONGEST_SECONDS:
        # Python refuses to write very large ints in decimal.
        huge = isinstance(value, int) and abs(value) > _LARGEST_SHOWN
        shown = f"an int of {int(value).bit_length()} bits" if huge else repr(value)
        raise InvalidValueError(f"{name} must be positive and finite, at most 86400 seconds, not {shown}")
    return float(value)


def call_arguments(
    config: ChatConfig,
    *,
    model: str,
    system_prompt: str,
    limit_name: str,
    response_format: Mapping[str, Any] | None,
    stream: bool,
) -> dict[str, Any]:
    """Keyword arguments for the SDK's ``chat.completions.create``.

    All of ``extra`` goes through the SDK's ``extra_body``, so that a parameter works whether or not the installed
    version of the SDK has heard of it. It wins over what the config says; None leaves a parameter out of the request,
    e.g. ``extra={"temperature": None}`` for models that accept no temperature.
    """
    arguments: dict[str, Any] = {
        "temperature": config.temperature,
        limit_name: config.max_tokens,
        "tools": config.tools or None,
        "response_format": response_format,
    }
    extra = flatten_extra(config.extra)
    if any(name in extra for name in _LIMITS):
        del arguments[limit_name]
    body = {name: value for name, value in extra.items() if name not in _PER_CALL}
    arguments = {name: value for name, value in arguments.items() if value is not None and name not in body}
    stream_options = body.pop("stream_options", None) or {}
    if stream:
        # Without it a stream says nothing of what it cost.
        arguments["stream_options"] = {**stream_options, "include_usage": True}
    arguments.update({name: extra[name] for name in _PER_CALL if extra.get(name) is not None})
    arguments["extra_body"] = {name: value for name, value in body.items() if value is not None} or None
    return {"model": model, "messages": _messages(config, system_prompt), "stream": stream, **arguments}


def _messages(config: ChatConfig, system_prompt: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.extend(_as_sent(shape) for shape in history_shapes(config))
    content: str | list[dict[str, Any]] = config.user_message
    if config.attachments:
        text = [{"type": "text", "text": config.user_message}] if config.user_message else []
        content = [*text, *config.attachments]
    messages.append({"role": "user", "content": content})
    return messages


def _as_sent(shape: dict[str, Any]) -> dict[str, Any]:
    # "model" is Gemini's word, in a conversation that began there.
    return {**shape, "role": "assistant"} if shape["role"] == "model" else shape


def read_completion(completion: Any) -> LLMResponse:
    """An SDK ``ChatCompletion`` as our answer: its first choice, and the whole object as ``raw``."""
    choice = next(iter(getattr(completion, "choices", None) or []), None)
    message = getattr(choice, "message", None)
    if message is None:
        raise ProviderError("the provider's answer is not a chat completion")
    calls = [_tool_call(call, index) for index, call in enumerate(getattr(message, "tool_calls", None) or [])]
    refusal = _text(getattr(message, "refusal", None))
    return LLMResponse(
        content=_text(getattr(message, "content", None)) or refusal,
        thinking=thinking_of(message),
        tool_calls=calls,
        finish_reason=finish_reason(
            getattr(choice, "finish_reason", None), has_calls=bool(calls), refused=bool(refusal)
        ),
        usage=read_usage(getattr(completion, "usage", None)),
        raw=completion,
        model=_text(getattr(completion, "model", None)),
    )


def finish_reason(reason: object, *, has_calls: bool, refused: bool) -> FinishReason:
    """Why the model stopped.

    A refusal arrives as an ordinary "stop" with its text in a field of its own; here it is
    `FinishReason.CONTENT_FILTER`, so that nobody takes it for an answer. A forced tool call arrives as "stop", too.
    """
    if refused:
        return FinishReason.CONTENT_FILTER
    known = _FINISH_REASONS.get(reason, FinishReason.UNKNOWN) if isinstance(reason, str) else FinishReason.UNKNOWN
    return FinishReason.TOOL_CALLS if has_calls and known is FinishReason.STOP else known


def _tool_call(call: Any, index: int) -> ToolCall:
    """A tool call of the protocol, of type "function" or "custom" (whose input is free text)."""
    function = getattr(call, "function", None)
    custom = getattr(call, "custom", None)
    name = getattr(function or custom, "name", None)
    written = getattr(function, "arguments", None) if function is not None else getattr(custom, "input", None)
    return make_tool_call(getattr(call, "id", None), name, written, index)


def make_tool_call(call_id: object, name: object, written: object, index: int) -> ToolCall:
    """A tool call from its parts. Arguments that are no JSON object stay as text, with ``arguments`` empty."""
    text = written if isinstance(written, str) else json.dumps(written) if isinstance(written, dict) else ""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    return ToolCall(
        # Some servers give calls no id; a result must name the call it answers all the same.
        id=_text(call_id) or f"call_{index}",
        name=_text(name) or "",
        arguments=parsed if isinstance(parsed, dict) else {},
        arguments_json=text,
    )


def thinking_of(message: Any) -> str | None:
    """The visible reasoning of a message or a delta: ``reasoning_content`` (DeepSeek, vLLM) or ``reasoning``
    (OpenRouter).

    OpenAI itself shows none over this protocol.
    """
    return _text(getattr(message, "reasoning_content", None)) or _text(getattr(message, "reasoning", None))


def read_usage(usage: Any) -> Usage:
    """Token counts as billed; zero where the provider said nothing."""
    prompt = _count(usage, "prompt_tokens")
    completion = _count(usage, "completion_tokens")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(usage, "total_tokens") or prompt + completion,
        cached_tokens=_count(getattr(usage, "prompt_tokens_details", None), "cached_tokens"),
        reasoning_tokens=_count(getattr(usage, "completion_tokens_details", None), "reasoning_tokens"),
    )


def _count(holder: Any, name: str) -> int:
    value = getattr(holder, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def embedding_arguments(texts: object, *, model: str, dimensions: int | None) -> dict[str, Any]:
    """Keyword arguments for the SDK's ``embeddings.create``."""
    if not isinstance(texts, str) and (not isinstance(texts, Sequence) or isinstance(texts, (bytes, bytearray))):
        raise InvalidTypeError(f"texts must be a str or a sequence of str, not {type(texts).__name__}")
    items = [texts] if isinstance(texts, str) else [check_text("each of texts", text) for text in texts]
    if not items:
        raise InvalidValueError("texts must not be empty")
    # Floats, not the SDK's default of base64, which not every compatible server knows.
    arguments: dict[str, Any] = {"model": model, "input": items, "encoding_format": "float"}
    return arguments if dimensions is None else {**arguments, "dimensions": dimensions}


def read_embeddings(answer: Any) -> list[list[float]]:
    """The vectors of an SDK ``CreateEmbeddingResponse``, in the order of the texts."""
    try:
        return [list(item.embedding) for item in sorted(answer.data, key=lambda item: item.index)]
    except (AttributeError, TypeError):
        raise ProviderError("the provider's answer is not a list of embeddings") from None
