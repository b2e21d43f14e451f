"""A stream of Chat Completions chunks, put together. Pure, like `wire`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ractogateway._kit.reading import make_tool_call
from ractogateway.errors import ProviderConnectionError
from ractogateway.messages import LLMResponse, StreamChunk
from ractogateway.openai_developer_kit.wire import finish_reason, read_usage, signed_fields, thinking_of

__all__ = ["StreamCollector"]


@dataclass(slots=True)
class _Call:
    """A tool call under construction: the id and the name come once, the arguments in fragments."""

    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Any = None


@dataclass(slots=True, repr=False)
class StreamCollector:
    """Takes the chunks of one answer: `add` gives what a caller sees of each, `finish` the whole answer.

    Only the first choice is followed. ``raw`` of the whole stays None: a stream has no one object to give.
    """

    text: str = ""
    thinking: str = ""
    refused: bool = False
    reason: object = None
    usage: Any = None
    model: str | None = None
    extra: Any = None
    calls: dict[int, _Call] = field(default_factory=dict)

    def add(self, chunk: Any) -> StreamChunk | None:
        """The new text of ``chunk``, or None when it brings none."""
        self.usage = getattr(chunk, "usage", None) or self.usage
        self.model = self.model or getattr(chunk, "model", None) or None
        # The chunk with the usage has no choices at all; with n > 1, each chunk belongs to one of several.
        choices = getattr(chunk, "choices", None) or []
        choice = next((choice for choice in choices if not getattr(choice, "index", None)), None)
        if choice is None:
            return None
        self.reason = getattr(choice, "finish_reason", None) or self.reason
        delta = getattr(choice, "delta", None)
        self.extra = getattr(delta, "extra_content", None) or self.extra
        for fragment in getattr(delta, "tool_calls", None) or []:
            self._add_call(fragment)
        thinking = thinking_of(delta) or ""
        text = self._text_of(delta)
        self.thinking += thinking
        self.text += text
        return StreamChunk(delta=text, thinking_delta=thinking, text=self.text) if text or thinking else None

    def finish(self) -> LLMResponse:
        """The whole answer.

        Raises:
            ProviderConnectionError: The stream stopped before the provider said why the model did. An HTTP response
                that is cut at the right place looks complete; this is how it is told from one that is.
        """
        if self.reason is None:
            raise ProviderConnectionError("the provider's stream ended in the middle of an answer")
        return self.so_far()

    def so_far(self) -> LLMResponse:
        """What has arrived, with the usage that was told by now."""
        calls = [
            make_tool_call(call.id, call.name, call.arguments, index, signed_fields(call.extra))
            for index, call in sorted(self.calls.items())
        ]
        return LLMResponse(
            content=self.text or None,
            thinking=self.thinking or None,
            tool_calls=calls,
            finish_reason=finish_reason(self.reason, has_calls=bool(calls), refused=self.refused),
            usage=read_usage(self.usage),
            model=self.model,
            provider_fields=signed_fields(self.extra),
        )

    def _text_of(self, delta: Any) -> str:
        refusal = getattr(delta, "refusal", None)
        if isinstance(refusal, str) and refusal:
            self.refused = True
            return refusal
        content = getattr(delta, "content", None)
        return content if isinstance(content, str) else ""

    def _add_call(self, fragment: Any) -> None:
        index = getattr(fragment, "index", None)
        if not isinstance(index, int):
            # Some servers do not number calls: one with an id begins a new call, any other continues the last.
            index = len(self.calls) if getattr(fragment, "id", None) or not self.calls else max(self.calls)
        call = self.calls.setdefault(index, _Call())
        function = getattr(fragment, "function", None) or getattr(fragment, "custom", None)
        call.id = call.id or getattr(fragment, "id", None) or ""
        call.name = call.name or getattr(function, "name", None) or ""
        call.extra = getattr(fragment, "extra_content", None) or call.extra
        call.arguments += getattr(function, "arguments", None) or getattr(function, "input", None) or ""
