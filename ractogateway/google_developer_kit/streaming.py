"""A stream of ``generateContent`` responses, put together. Pure, like `wire`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ractogateway.errors import ProviderConnectionError
from ractogateway.google_developer_kit.wire import finish_reason, parts_of, read_usage, signed_fields, tool_call
from ractogateway.messages import LLMResponse, StreamChunk

__all__ = ["StreamCollector"]


@dataclass(slots=True, repr=False)
class StreamCollector:
    """Takes the pieces of one answer: `add` gives what a caller sees of each, `finish` the whole answer.

    Only the first candidate is followed. ``raw`` of the whole stays None: a stream has no one object to give.
    """

    text: str = ""
    thinking: str = ""
    reason: object = None
    blocked: object = None
    usage: Any = None
    model: str | None = None
    calls: list[Any] = field(default_factory=list)
    signature: bytes | None = None

    def add(self, piece: Any) -> StreamChunk | None:
        """The new text of ``piece``, or None when it brings none."""
        self.usage = getattr(piece, "usage_metadata", None) or self.usage
        self.model = self.model or getattr(piece, "model_version", None) or None
        self.blocked = getattr(getattr(piece, "prompt_feedback", None), "block_reason", None) or self.blocked
        candidates = getattr(piece, "candidates", None) or []
        candidate = next((each for each in candidates if not getattr(each, "index", None)), None)
        self.reason = getattr(candidate, "finish_reason", None) or self.reason
        text, thinking, calls, signature = parts_of(candidate)
        self.signature = signature or self.signature
        self.calls += calls
        self.text += text
        self.thinking += thinking
        return StreamChunk(delta=text, thinking_delta=thinking, text=self.text) if text or thinking else None

    def finish(self) -> LLMResponse:
        """The whole answer.

        Raises:
            ProviderConnectionError: The stream stopped before the provider said why the model did.
        """
        if self.reason is None and self.blocked is None:
            raise ProviderConnectionError("the provider's stream ended in the middle of an answer")
        return self.so_far()

    def so_far(self) -> LLMResponse:
        """What has arrived, with the usage that was told by now."""
        calls = [tool_call(call, index) for index, call in enumerate(self.calls)]
        return LLMResponse(
            content=self.text or None,
            thinking=self.thinking or None,
            tool_calls=calls,
            finish_reason=finish_reason(self.reason, has_calls=bool(calls), blocked=self.blocked),
            usage=read_usage(self.usage),
            model=self.model,
            provider_fields=signed_fields(self.signature),
        )
