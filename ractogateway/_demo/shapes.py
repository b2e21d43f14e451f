"""Answers in the shapes of the Chat Completions and Embeddings protocols. Pure."""

from __future__ import annotations

import re
import time
from typing import Any

from ractogateway._demo.answers import Answer, count_tokens, embedding, prompt_text

__all__ = ["completion", "deltas", "embeddings", "envelope", "usage"]

_DEFAULT_DIMENSIONS = 1536
_ARGUMENT_CHARACTERS = 5
"""Characters of a tool call's arguments in one event: few, so that clients have something to put together."""


def completion(body: dict[str, Any], said: Answer, number: int) -> dict[str, Any]:
    """A whole chat completion."""
    message = {
        "role": "assistant",
        "content": said.text or None,
        "refusal": said.refusal or None,
        "reasoning_content": said.thinking or None,
        "tool_calls": _calls(said) or None,
    }
    return {
        **envelope(body, "chat.completion", number),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish_reason}],
        "usage": usage(body, said.tokens, count_tokens(said.thinking)),
    }


def envelope(body: dict[str, Any], kind: str, number: int) -> dict[str, Any]:
    """What every answer and every event of one starts with."""
    return {"id": f"chatcmpl-{number}", "object": kind, "created": int(time.time()), "model": body["model"]}


def usage(body: dict[str, Any], tokens: int, thinking: int) -> dict[str, Any]:
    """What an answer of ``tokens`` costs, ``thinking`` of them for reasoning."""
    prompt = count_tokens(prompt_text(body))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thinking},
    }


def _calls(said: Answer) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(said.tool_calls)
    ]


def deltas(said: Answer) -> list[tuple[dict[str, Any], str]]:
    """The pieces of an answer, each with the words it says: the role first, then thinking, text, and tool calls."""
    pieces: list[tuple[dict[str, Any], str]] = [({"role": "assistant", "content": ""}, "")]
    for name, text in (("reasoning_content", said.thinking), ("refusal", said.refusal), ("content", said.text)):
        pieces.extend(({name: word}, word) for word in re.findall(r"\S+\s*|\s+", text))
    for index, call in enumerate(_calls(said)):
        function = call["function"]
        arguments = function["arguments"]
        # As the real one does: id and name first, then the arguments in fragments.
        opening = {**call, "index": index, "function": {**function, "arguments": ""}}
        pieces.append(({"tool_calls": [opening]}, function["name"]))
        for start in range(0, len(arguments), _ARGUMENT_CHARACTERS):
            piece = arguments[start : start + _ARGUMENT_CHARACTERS]
            pieces.append(({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, piece))
    return pieces


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """The vectors of the texts in ``input``; the last comes first, because clients are to go by the index."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given or []
    dimensions = body.get("dimensions") or _DEFAULT_DIMENSIONS
    vectors = [
        {"object": "embedding", "index": index, "embedding": embedding(text, dimensions)}
        for index, text in enumerate(texts)
    ]
    tokens = sum(count_tokens(text) for text in texts)
    cost = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": body["model"], "data": vectors[::-1], "usage": cost}
