"""Answers as text that can be sent back, stored and shown: without lone surrogates (see `well_formed`).

Otherwise an answer with one, which no request can hold, would end its conversation: the next round of tools and every
later turn would be refused before they are sent. So would every turn of a conversation that holds one, whoever wrote it
there: what a memory says is mended, too. The provider's own object (``raw``) is left as it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ractogateway._texts import well_formed
from ractogateway.messages import LLMResponse, StreamChunk

__all__ = ["Mending", "mended", "mended_json", "mended_messages"]

_HIGH = range(0xD800, 0xDC00)
"""First halves of pairs."""


def mended(response: LLMResponse) -> LLMResponse:
    """The answer, its text well-formed. (Calls of tools are made so: see `make_tool_call`.)"""
    content, thinking = _mended(response.content), _mended(response.thinking)
    fields = response.provider_fields and mended_json(response.provider_fields)
    if content is response.content and thinking is response.thinking and fields is response.provider_fields:
        return response
    return response.model_copy(update={"content": content, "thinking": thinking, "provider_fields": fields})


def mended_json(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object, each text in it well-formed; the same object where they are."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):  # whoever sends it will say what is wrong with it
        return value
    whole = well_formed(text)
    return value if whole is text else json.loads(whole)


def mended_messages(messages: Iterable[Any]) -> list[Any]:
    """What a memory says was said before, each text in it well-formed."""
    return [_mended_message(message) if isinstance(message, dict) else message for message in messages]


def _mended_message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, str) or len(message) > len(_PLAIN):
        return mended_json(message)
    whole = well_formed(content)  # most are a role and a text
    return message if whole is content else {**message, "content": whole}


_PLAIN = ("role", "content")


def _mended(text: str | None) -> str | None:
    return text and well_formed(text)


class Mending:
    """The chunks of one stream, mended: half of a pair that ends a piece waits for the next, where the other may be."""

    def __init__(self) -> None:
        self._held = {"delta": "", "thinking_delta": ""}
        self._was_needed = False

    def mend(self, chunk: StreamChunk) -> StreamChunk | None:
        """The chunk; None where all that it brings is to wait."""
        delta, thinking = self._joined("delta", chunk.delta), self._joined("thinking_delta", chunk.thinking_delta)
        self._was_needed |= delta != chunk.delta or thinking != chunk.thinking_delta
        if not self._was_needed:
            return chunk
        if not (delta or thinking):
            return None
        so_far = chunk.text[: len(chunk.text) - len(self._held["delta"])]
        return chunk.model_copy(update={"delta": delta, "thinking_delta": thinking, "text": well_formed(so_far)})

    def rest(self, response: LLMResponse) -> StreamChunk | None:
        """What waits in vain at the end of the stream; None if nothing does."""
        if not any(self._held.values()):
            return None
        text, thought = map(well_formed, self._held.values())
        return StreamChunk(delta=text, thinking_delta=thought, text=response.content or "")

    def _joined(self, name: str, piece: str) -> str:
        whole = self._held[name] + piece
        ends_in_half = bool(piece) and ord(piece[-1]) in _HIGH
        if not whole or (whole is piece and not ends_in_half):
            return well_formed(whole)
        if not piece:
            return ""
        self._held[name] = whole[-1] if ends_in_half else ""
        return well_formed(whole[:-1] if ends_in_half else whole)
