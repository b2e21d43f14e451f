"""Between our values and those of Google's ``generateContent``. Pure: nothing here knows a client or a connection."""

from __future__ import annotations

import json
import mimetypes
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ractogateway._kit.arguments import check_seconds, check_texts
from ractogateway._kit.conversation import (
    Call,
    Function,
    Media,
    Part,
    Result,
    Text,
    Thought,
    read_conversation,
    read_tools,
)
from ractogateway._kit.reading import count, make_tool_call, text_of
from ractogateway.errors import InvalidValueError, ProviderError
from ractogateway.files import RactoFile
from ractogateway.google_developer_kit.sdk import milliseconds
from ractogateway.messages import ChatConfig, FinishReason, LLMResponse, ToolCall, Usage

__all__ = [
    "RESERVED",
    "call_arguments",
    "check_fields",
    "embedding_arguments",
    "finish_reason",
    "parts_of",
    "read_embeddings",
    "read_response",
    "read_usage",
    "signed_fields",
    "tool_call",
    "usage_of",
]

RESERVED = (
    "automatic_function_calling",
    "contents",
    "extra_body",
    "extra_query",
    "http_options",
    "messages",
    "model",
    "should_return_http_response",
    "stream",
)
_PER_CALL = ("extra_headers", "timeout")

_FINISH_REASONS = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    **dict.fromkeys(
        (
            "BLOCKLIST",
            "IMAGE_PROHIBITED_CONTENT",
            "IMAGE_RECITATION",
            "IMAGE_SAFETY",
            "MODEL_ARMOR",
            "PROHIBITED_CONTENT",
            "RECITATION",
            "SAFETY",
            "SPII",
        ),
        FinishReason.CONTENT_FILTER,
    ),
    **dict.fromkeys(
        (
            "MALFORMED_FUNCTION_CALL",
            "MALFORMED_RESPONSE",
            "MISSING_THOUGHT_SIGNATURE",
            "TOO_MANY_TOOL_CALLS",
            "UNEXPECTED_TOOL_CALL",
        ),
        FinishReason.ERROR,
    ),
}


def check_fields(extra: Mapping[str, Any]) -> None:
    """Refuse the SDK's second spelling of its fields, under which a value would escape our own checks; a body, of which
    this SDK knows nothing; and a timeout for another HTTP library.
    """
    if "extra_body" in extra:
        raise InvalidValueError("extra must name the fields of GenerateContentConfig itself, without an extra_body")
    if extra.get("timeout") is not None:
        check_seconds("extra['timeout']", extra["timeout"])
    if any(name != name.lower() for name in extra):
        raise InvalidValueError("extra must name the fields of GenerateContentConfig in snake_case")


def call_arguments(
    config: ChatConfig, *, model: str, system_prompt: str, schema: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Keyword arguments for the SDK's ``generate_content`` and ``generate_content_stream``.

    ``extra`` holds fields of the SDK's ``GenerateContentConfig``. It wins over what the config says; None leaves a
    field out.
    """
    conversation = read_conversation(config, system_prompt)
    if not conversation.turns:
        raise InvalidValueError("there is nothing to send: user_message, attachments and history are empty")
    settings: dict[str, Any] = {
        "temperature": config.temperature,
        "max_output_tokens": config.max_tokens,
        "system_instruction": "\n\n".join(conversation.system) or None,
        "tools": _tools(config) or None,
        "response_mime_type": None if schema is None else "application/json",
        "response_json_schema": schema,
        **{name: value for name, value in config.extra.items() if name not in _PER_CALL},
    }
    options: dict[str, Any] = {}
    if config.extra.get("timeout") is not None:
        options["timeout"] = milliseconds(config.extra["timeout"])
    if config.extra.get("extra_headers"):
        options["headers"] = dict(config.extra["extra_headers"])
    return {
        "model": model,
        "contents": [
            {"role": "model" if turn.from_assistant else "user", "parts": list(_parts(turn.parts))}
            for turn in conversation.turns
        ],
        "config": {
            **{name: value for name, value in settings.items() if value is not None},
            # The SDK would call functions by itself, and ask again: more requests than anybody knows of.
            "automatic_function_calling": {"disable": True},
            **({"http_options": options} if options else {}),
        },
    }


def _tools(config: ChatConfig) -> list[dict[str, Any]]:
    declared, native = [], []
    for tool in read_tools(config):
        if isinstance(tool, Function):
            shape = {"name": tool.name, "description": tool.description, "parameters_json_schema": tool.parameters}
            declared.append({name: value for name, value in shape.items() if value is not None})
        else:
            native.append(tool.shape)
    return [{"function_declarations": declared}, *native] if declared else native


def _parts(parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
    for part in parts:
        if not isinstance(part, Thought):  # Anthropic's
            yield _part(part)


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text, **_signed(part.signature)}
    if isinstance(part, Media):
        return _media_part(part)
    if isinstance(part, RactoFile):
        inline = {"inline_data": {"mime_type": part.media_type, "data": part.data}}
        return {"text": part.text} if part.is_text else inline
    if isinstance(part, Call):
        call = {"id": part.id, "name": part.name, "args": part.arguments}
        return {"function_call": call, **_signed(part.signature)}
    if isinstance(part, Result):
        return {"function_response": {"id": part.call_id, "name": part.name, "response": _as_object(part.text)}}
    return part.shape


def _signed(signature: str | None) -> dict[str, Any]:
    """The signature of a thought as the SDK takes it. The API refuses calls that come back without theirs."""
    try:
        raw = b64decode(signature or "", validate=True)
    except ValueError:
        raw = b""
    return {"thought_signature": raw} if raw else {}


def signed_fields(signature: object) -> dict[str, Any] | None:
    """What Google wants back with a call or a message."""
    if not isinstance(signature, bytes) or not signature:
        return None
    return {"extra_content": {"google": {"thought_signature": b64encode(signature).decode("ascii")}}}


def _media_part(part: Media) -> dict[str, Any]:
    if part.url is not None:
        kind = mimetypes.guess_type(part.url)[0]
        return {"file_data": {"file_uri": part.url, **({"mime_type": kind} if kind else {})}}
    try:
        raw = b64decode(part.data or "", validate=True)
    except ValueError:
        raw = None
    if raw is None:
        raise InvalidValueError("a data URL holds what is no base64")
    return {"inline_data": {"mime_type": part.media_type, "data": raw}}


def _as_object(text: str) -> dict[str, Any]:
    """What a tool answered as the object that the protocol wants."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"result": text}


def read_response(response: Any) -> LLMResponse:
    """An SDK ``GenerateContentResponse`` as our answer: its first candidate, and the whole object as ``raw``."""
    candidate = next(iter(getattr(response, "candidates", None) or []), None)
    blocked = getattr(getattr(response, "prompt_feedback", None), "block_reason", None)
    if candidate is None and blocked is None:
        raise ProviderError("the provider's answer has no candidate")
    text, thinking, calls, signature = parts_of(candidate)
    made = [tool_call(call, index) for index, call in enumerate(calls)]
    return LLMResponse(
        content=text or None,
        thinking=thinking or None,
        tool_calls=made,
        finish_reason=finish_reason(getattr(candidate, "finish_reason", None), has_calls=bool(made), blocked=blocked),
        usage=read_usage(getattr(response, "usage_metadata", None)),
        raw=response,
        model=text_of(getattr(response, "model_version", None)),
        provider_fields=signed_fields(signature),
    )


def parts_of(candidate: Any) -> tuple[str, str, list[Any], bytes | None]:
    """The text, the thoughts and the parts that call functions of a candidate; and the signature of its last text."""
    text, thinking, calls, signature = "", "", [], None
    for part in getattr(getattr(candidate, "content", None), "parts", None) or []:
        said = text_of(getattr(part, "text", None)) or ""
        if getattr(part, "function_call", None) is not None:
            calls.append(part)
        else:
            # In a stream it may come alone, in a part whose text is empty.
            signature = getattr(part, "thought_signature", None) or signature
        if getattr(part, "thought", None):
            thinking += said
        else:
            text += said
    return text, thinking, calls, signature


def tool_call(part: Any, index: int) -> ToolCall:
    """An SDK ``Part`` with a ``FunctionCall`` as ours."""
    call = part.function_call
    written = json.dumps(getattr(call, "args", None) or {}, ensure_ascii=False)
    fields = signed_fields(getattr(part, "thought_signature", None))
    return make_tool_call(getattr(call, "id", None), getattr(call, "name", None), written, index, fields)


def finish_reason(reason: object, *, has_calls: bool, blocked: object) -> FinishReason:
    """Why the model stopped; a prompt that was ``blocked`` has no answer. A call for a tool arrives as STOP."""
    if blocked is not None:
        return FinishReason.CONTENT_FILTER
    known = _FINISH_REASONS.get(str(getattr(reason, "value", reason)), FinishReason.UNKNOWN)
    return FinishReason.TOOL_CALLS if has_calls and known is FinishReason.STOP else known


def read_usage(usage: Any) -> Usage:
    """Token counts as billed; zero where the provider said nothing.

    Google counts thoughts beside the candidates' tokens, and what its own tools read beside the prompt's; here, as with
    the other kits, they are part of ``completion_tokens`` and ``prompt_tokens``.
    """
    thoughts = count(usage, "thoughts_token_count")
    prompt = count(usage, "prompt_token_count") + count(usage, "tool_use_prompt_token_count")
    completion = count(usage, "candidates_token_count") + thoughts
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=count(usage, "total_token_count") or prompt + completion,
        cached_tokens=count(usage, "cached_content_token_count"),
        reasoning_tokens=thoughts,
    )


def embedding_arguments(texts: object, *, model: str, dimensions: int | None) -> dict[str, Any]:
    """Keyword arguments for the SDK's ``embed_content``."""
    arguments: dict[str, Any] = {"model": model, "contents": check_texts(texts)}
    return arguments if dimensions is None else {**arguments, "config": {"output_dimensionality": dimensions}}


def usage_of(answer: Any) -> Usage:
    """What an answer of embeddings cost; zero where it does not say."""
    return read_usage(getattr(answer, "usage_metadata", None))


def read_embeddings(answer: Any, wanted: int) -> list[list[float]]:
    """The ``wanted`` vectors of an SDK ``EmbedContentResponse``, in the order of the texts."""
    try:
        vectors = [list(item.values) for item in answer.embeddings]
    except (AttributeError, TypeError):
        vectors = []
    if len(vectors) != wanted:
        raise ProviderError("the provider's answer is not an embedding for each text")
    return vectors
