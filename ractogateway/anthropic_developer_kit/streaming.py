"""A stream of Messages events, put together. Pure, like `wire`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ractogateway._kit.reading import make_tool_call
from ractogateway.anthropic_developer_kit.wire import THOUGHTS, finish_reason, read_usage, signed_fields, thought
from ractogateway.errors import ProviderConnectionError
from ractogateway.messages import LLMResponse, StreamChunk

__all__ = ["StreamCollector"]


@dataclass(slots=True, repr=False)
class _Call:
    """A tool call under construction: the id and the name come first, the arguments in fragments."""

    id: object
    name: object
    arguments: str = ""


@dataclass(slots=True, repr=False)
class StreamCollector:
    """Takes the events of one answer: `add` gives what a caller sees of each, `finish` the whole answer.

    ``raw`` of the whole stays None: a stream has no one object to give.
    """

    text: str = ""
    thinking: str = ""
    reason: object = None
    usages: list[Any] = field(default_factory=list)
    model: str | None = None
    calls: dict[object, _Call] = field(default_factory=dict)
    thoughts: dict[object, dict[str, Any]] = field(default_factory=dict)

    def add(self, event: Any) -> StreamChunk | None:
        """The new text of ``event``, or None when it brings none."""
        kind = getattr(event, "type", None)
        if kind == "message_start":
            self.model = getattr(event.message, "model", None) or None
            self.usages.append(getattr(event.message, "usage", None))
        elif kind == "content_block_start":
            block = event.content_block
            kind = getattr(block, "type", None)
            if kind == "tool_use":
                self.calls[event.index] = _Call(getattr(block, "id", None), getattr(block, "name", None))
            elif kind in THOUGHTS:
                self.thoughts[event.index] = thought(block)
            return self._said(getattr(block, "text", None), getattr(block, "thinking", None))
        elif kind == "content_block_delta":
            delta = event.delta
            if getattr(delta, "type", None) == "input_json_delta" and event.index in self.calls:
                self.calls[event.index].arguments += delta.partial_json
            if event.index in self.thoughts:
                self._add_thought(self.thoughts[event.index], delta)
            return self._said(getattr(delta, "text", None), getattr(delta, "thinking", None))
        elif kind == "message_delta":
            self.reason = getattr(event.delta, "stop_reason", None) or self.reason
            self.usages.append(getattr(event, "usage", None))
        return None

    def finish(self) -> LLMResponse:
        """The whole answer.

        Raises:
            ProviderConnectionError: The stream stopped before the provider said why the model did.
        """
        if self.reason is None:
            raise ProviderConnectionError("the provider's stream ended in the middle of an answer")
        return self.so_far()

    def so_far(self) -> LLMResponse:
        """What has arrived, with the usage that was told by now."""
        calls = [
            make_tool_call(call.id, call.name, call.arguments or "{}", index)
            for index, call in enumerate(self.calls.values())
        ]
        return LLMResponse(
            content=self.text or None,
            thinking=self.thinking or None,
            tool_calls=calls,
            finish_reason=finish_reason(self.reason),
            usage=read_usage(*self.usages),
            model=self.model,
            provider_fields=signed_fields(list(self.thoughts.values()) if calls else []),
        )

    @staticmethod
    def _add_thought(thought: dict[str, Any], delta: Any) -> None:
        for name in ("thinking", "signature"):
            piece = getattr(delta, name, None)
            if isinstance(piece, str):
                thought[name] = (thought.get(name) or "") + piece

    def _said(self, text: object, thinking: object) -> StreamChunk | None:
        text = text if isinstance(text, str) else ""
        thinking = thinking if isinstance(thinking, str) else ""
        self.text += text
        self.thinking += thinking
        return StreamChunk(delta=text, thinking_delta=thinking, text=self.text) if text or thinking else None
