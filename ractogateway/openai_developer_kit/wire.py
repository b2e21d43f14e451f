"""Between our values and those of the Chat Completions protocol. Pure: nothing here knows a client or a connection.

Answers are read leniently, attribute by attribute, because servers that call themselves compatible leave fields out,
add their own and fill others with odd types. What cannot be read at all raises `ProviderError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ractogateway._kit.arguments import PER_CALL, check_texts
from ractogateway._kit.reading import count, make_tool_call, text_of
from ractogateway._kit.request import definitions, flatten_extra, following_shapes, history_shapes, user_shape
from ractogateway.errors import ProviderError
from ractogateway.messages import ChatConfig, FinishReason, LLMResponse, ToolCall, Usage

__all__ = [
    "RESERVED",
    "call_arguments",
    "embedding_arguments",
    "finish_reason",
    "read_completion",
    "read_embeddings",
    "read_usage",
    "signed_fields",
    "thinking_of",
    "usage_of",
]

RESERVED = ("messages", "model", "stream")
_FOREIGN = frozenset({"extra_content", "thinking_blocks"})
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


def call_arguments(
    config: ChatConfig,
    *,
    model: str,
    system_prompt: str,
    limit_name: str,
    response_format: Mapping[str, Any] | None,
    stream: bool,
    foreign_fields: bool,
) -> dict[str, Any]:
    """Keyword arguments for the SDK's ``chat.completions.create``.

    All of ``extra`` goes through the SDK's ``extra_body``, so that a parameter works whether or not the installed
    version of the SDK has heard of it. It wins over what the config says; None leaves a parameter out of the request,
    e.g. ``extra={"temperature": None}`` for models that accept no temperature.

    ``foreign_fields`` says whether what other providers signed (see `ractogateway._kit.conversation`) goes along in
    messages: OpenAI refuses fields that it does not know, and a server in front of several providers needs them.
    """
    arguments: dict[str, Any] = {
        "temperature": config.temperature,
        limit_name: config.max_tokens,
        "tools": definitions(config.tools) or None,
        "response_format": response_format,
    }
    messages = _messages(config, system_prompt)
    if not foreign_fields:
        messages = [_own(message) for message in messages]
    extra = flatten_extra(config.extra)
    if any(name in extra for name in _LIMITS):
        del arguments[limit_name]
    body = {name: value for name, value in extra.items() if name not in PER_CALL}
    arguments = {name: value for name, value in arguments.items() if value is not None and name not in body}
    stream_options = body.pop("stream_options", None) or {}
    if stream:
        # Without it a stream says nothing of what it cost.
        arguments["stream_options"] = {**stream_options, "include_usage": True}
    arguments.update({name: extra[name] for name in PER_CALL if extra.get(name) is not None})
    arguments["extra_body"] = {name: value for name, value in body.items() if value is not None} or None
    return {"model": model, "messages": messages, "stream": stream, **arguments}


def _messages(config: ChatConfig, system_prompt: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.extend(_as_sent(shape) for shape in history_shapes(config))
    if (new := user_shape(config)) is not None:
        messages.append(new)
    messages.extend(_as_sent(shape) for shape in following_shapes(config))
    return messages


def _own(message: dict[str, Any]) -> dict[str, Any]:
    """A message of ours without what other providers signed."""
    kept = {name: value for name, value in message.items() if name not in _FOREIGN}
    calls = kept.get("tool_calls")
    if isinstance(calls, list):
        kept["tool_calls"] = [
            {name: value for name, value in call.items() if name not in _FOREIGN} if isinstance(call, dict) else call
            for call in calls
        ]
    return kept


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
    refusal = text_of(getattr(message, "refusal", None))
    return LLMResponse(
        content=text_of(getattr(message, "content", None)) or refusal,
        thinking=thinking_of(message),
        tool_calls=calls,
        finish_reason=finish_reason(
            getattr(choice, "finish_reason", None), has_calls=bool(calls), refused=bool(refusal)
        ),
        usage=read_usage(getattr(completion, "usage", None)),
        raw=completion,
        model=text_of(getattr(completion, "model", None)),
        provider_fields=signed_fields(getattr(message, "extra_content", None)),
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
    # Google's signature of a thought, where its models are behind this protocol.
    fields = signed_fields(getattr(call, "extra_content", None))
    return make_tool_call(getattr(call, "id", None), name, written, index, fields)


def signed_fields(extra_content: object) -> dict[str, Any] | None:
    """What a server wants back with a call or a message."""
    return {"extra_content": extra_content} if isinstance(extra_content, dict) and extra_content else None


def thinking_of(message: Any) -> str | None:
    """The visible reasoning of a message or a delta: ``reasoning_content`` (DeepSeek, vLLM) or ``reasoning``
    (OpenRouter).

    OpenAI itself shows none over this protocol.
    """
    return text_of(getattr(message, "reasoning_content", None)) or text_of(getattr(message, "reasoning", None))


def read_usage(usage: Any) -> Usage:
    """Token counts as billed; zero where the provider said nothing."""
    prompt = count(usage, "prompt_tokens")
    completion = count(usage, "completion_tokens")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=count(usage, "total_tokens") or prompt + completion,
        cached_tokens=count(getattr(usage, "prompt_tokens_details", None), "cached_tokens"),
        reasoning_tokens=count(getattr(usage, "completion_tokens_details", None), "reasoning_tokens"),
    )


def embedding_arguments(texts: object, *, model: str, dimensions: int | None) -> dict[str, Any]:
    """Keyword arguments for the SDK's ``embeddings.create``."""
    items = check_texts(texts)
    # Floats, not the SDK's default of base64, which not every compatible server knows.
    arguments: dict[str, Any] = {"model": model, "input": items, "encoding_format": "float"}
    return arguments if dimensions is None else {**arguments, "dimensions": dimensions}


def usage_of(answer: Any) -> Usage:
    """What an answer of embeddings cost."""
    return read_usage(getattr(answer, "usage", None))


def read_embeddings(answer: Any) -> list[list[float]]:
    """The vectors of an SDK ``CreateEmbeddingResponse``, in the order of the texts."""
    try:
        return [list(item.embedding) for item in sorted(answer.data, key=lambda item: item.index)]
    except (AttributeError, TypeError):
        raise ProviderError("the provider's answer is not a list of embeddings") from None
