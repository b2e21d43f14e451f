"""The values that users see: what goes to a model, what comes back.

Conversation text is left out of every ``repr`` and of every validation error here, so that a prompt or an answer never
reaches a log through one of them; lengths are shown instead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ractogateway._checks import shown_size
from ractogateway._models import InputModel
from ractogateway.prompts import RactoPrompt

__all__ = [
    "ChatConfig",
    "FinishReason",
    "LLMResponse",
    "Message",
    "MessageRole",
    "StreamChunk",
    "ToolCall",
    "ToolCallResult",
    "Usage",
]


class FinishReason(StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"
    UNKNOWN = "unknown"


class MessageRole(StrEnum):
    """Who speaks. ``model`` is Gemini's word for the assistant; ``function`` is OpenAI's older word for a tool."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    MODEL = "model"
    TOOL = "tool"
    FUNCTION = "function"


class _Private(BaseModel):
    """A model some of whose fields hold conversation text; ``_public`` names the ones that a repr may show."""

    model_config = ConfigDict(hide_input_in_errors=True)

    _public: ClassVar[frozenset[str]] = frozenset()

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name in type(self).model_fields:
            value = getattr(self, name, None)
            if name in self._public:
                yield name, value
            elif value is not None and not (isinstance(value, (str, list, dict)) and not value):
                yield name, _Verbatim(shown_size(value))
        if self.__pydantic_extra__:  # their names are the user's too
            yield "extra", _Verbatim(f"<{len(self.__pydantic_extra__)} fields>")


class _Verbatim(str):
    """A string whose repr is itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Usage(BaseModel):
    """Token counts as the provider billed them. ``cached_tokens`` is part of the prompt's, ``reasoning_tokens`` of the
    completion's.
    """

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class ToolCall(_Private):
    """A tool the model wants called.

    ``arguments`` is the parsed object; ``arguments_json`` is the text exactly as the model wrote it, which is what goes
    back to the provider, and the only thing left when the model wrote something that is not a JSON object.
    """

    _public: ClassVar[frozenset[str]] = frozenset({"id", "name"})

    id: str
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    arguments_json: str = ""


ToolCallResult = ToolCall
"""The documented name of `ToolCall`."""


class Message(_Private):
    """One message of a conversation, in the provider's shape: unknown fields are kept as they are."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True, use_enum_values=True)
    _public: ClassVar[frozenset[str]] = frozenset({"role"})

    role: MessageRole
    content: str | list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The provider's shape: ``role``, ``content`` and whatever else was given."""
        extra = self.__pydantic_extra__ or {}
        return {**self.model_dump(mode="json", exclude=set(extra)), **extra}


class LLMResponse(_Private):
    """A model's answer.

    On a cache hit ``cached`` is True, ``usage`` is zero (nothing was billed) and ``saved_usage`` holds what the stored
    answer had cost. ``raw`` is the provider's own object; it is never cached.
    """

    model_config = ConfigDict(hide_input_in_errors=True, ser_json_inf_nan="constants")
    _public: ClassVar[frozenset[str]] = frozenset({"finish_reason", "usage", "saved_usage", "cached", "model"})

    content: str | None = None
    thinking: str | None = None
    parsed: Any = None
    tool_calls: list[ToolCall] = Field(default_factory=list)
    finish_reason: FinishReason = FinishReason.STOP
    usage: Usage = Usage()  # shared by all who have none: it cannot be changed
    raw: Any = Field(default=None, exclude=True, repr=False)
    model: str | None = None
    cached: bool = False
    saved_usage: Usage | None = None

    def as_hit(self) -> LLMResponse:
        """A copy of this stored answer as a cache hands it out: marked, billed at zero, sharing nothing mutable."""
        return self._copied(**self._hit_fields())

    def changeable_fields(self) -> tuple[str, ...]:
        """The fields whose values somebody could change."""
        return tuple(name for name, value in vars(self).items() if type(value) not in _UNCHANGING)

    def twin(self, changeable: Iterable[str]) -> LLMResponse:
        """A copy that shares nothing with this answer that could change, for who knows `changeable_fields` already."""
        copied = self.__copy__()
        fields = vars(copied)
        for name in changeable:
            value = fields[name]
            fields[name] = copy.deepcopy(value) if value or type(value) is not list else []
        return copied

    def as_stored(self) -> LLMResponse:
        """A copy of this answer as a cache keeps it. A hit that is stored again is kept with what it had cost."""
        usage = self.saved_usage if self.cached and self.saved_usage else self.usage
        return self._copied(raw=None, cached=False, usage=usage, saved_usage=None)

    def to_stored_json(self) -> str:
        """This answer as JSON for a cache: in the form of a hit, so that nothing is left to do when it is read back.

        Fields that hold nothing are left out, since reading is what happens often.

        Raises:
            PydanticSerializationError: ``parsed`` holds something that JSON cannot hold.
        """
        cost = self.saved_usage if self.cached and self.saved_usage else self.usage
        hit = self.model_copy(update={"cached": True, "saved_usage": cost})
        # By name, not exclude_none or exclude_defaults: those would reach into what the user's `parsed` holds.
        exclude: dict[str, Any] = {name: True for name in _OFTEN_EMPTY if getattr(self, name) in (None, [])}
        exclude["saved_usage"] = {name for name, tokens in cost if not tokens}
        # Without warnings: they quote values.
        return hit.model_dump_json(exclude={"usage": True, **exclude}, warnings=False)

    def _hit_fields(self) -> dict[str, Any]:
        return {"raw": None, "cached": True, "usage": _NO_USAGE, "saved_usage": self.usage}

    def _copied(self, **update: Any) -> LLMResponse:
        # Most answers are a text and numbers: copying only what can change is five times faster than a deep copy.
        updated = self.model_copy(update=update)
        return updated.twin(updated.changeable_fields())


_OFTEN_EMPTY = ("content", "thinking", "tool_calls", "model")
_UNCHANGING = frozenset({type(None), str, bool, int, float, FinishReason, Usage})
_NO_USAGE = Usage()


class StreamChunk(_Private):
    """A piece of a streamed answer.

    ``delta`` and ``thinking_delta`` are the new text, ``text`` all text so far. The last chunk has ``is_final`` set and
    carries the whole answer as ``response``.
    """

    _public: ClassVar[frozenset[str]] = frozenset({"is_final", "finish_reason"})

    delta: str = ""
    thinking_delta: str = ""
    text: str = ""
    is_final: bool = False
    finish_reason: FinishReason | None = None
    response: LLMResponse | None = None


class ChatConfig(_Private, InputModel):
    """One request to a kit.

    ``prompt`` overrides the kit's ``default_prompt``; with neither there is no system message. ``history`` comes
    between the system message and ``user_message``. ``tools`` are the provider's tool definitions. ``response_model``
    (a pydantic class) asks for structured output, which arrives in ``LLMResponse.parsed``. ``attachments`` are further
    content parts of the user message. ``extra`` goes to the provider's API as it is.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    _public: ClassVar[frozenset[str]] = frozenset({"temperature", "max_tokens"})

    user_message: str = Field(strict=True)
    prompt: RactoPrompt | None = None
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, allow_inf_nan=False, strict=True)
    max_tokens: int = Field(default=4096, ge=1, strict=True)
    history: Sequence[Message | Mapping[str, Any]] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    response_model: type[BaseModel] | None = None
    attachments: list[dict[str, Any]] = Field(default_factory=list)
    extra: dict[str, Any] = Field(default_factory=dict)

    @field_validator("history", mode="before")
    @classmethod
    def _as_messages(cls, value: Any) -> Any:
        """A list of messages, whichever of the two forms each was given in; anything else is pydantic's to refuse."""
        if value is None:
            return []
        if not isinstance(value, (list, tuple)):
            return value
        return [_as_message(each) if isinstance(each, Mapping) else each for each in value]

    @property
    def past_messages(self) -> list[Message]:
        """``history`` as messages, also where dicts were added to it later."""
        return [_as_message(each) for each in self.history]


def _as_message(message: Message | Mapping[str, Any]) -> Message:
    return message if isinstance(message, Message) else Message.model_validate(message)
