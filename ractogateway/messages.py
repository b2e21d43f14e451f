"""The values that users see: what goes to a model, what comes back.

Conversation text is left out of every ``repr`` and of every validation error here, so that a prompt or an answer never
reaches a log through one of them; lengths are shown instead.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator

from ractogateway._checks import check_id, shown_size
from ractogateway._models import InputModel, as_validator
from ractogateway.files import RactoFile
from ractogateway.prompts import RactoPrompt
from ractogateway.tools import ToolRegistry

if TYPE_CHECKING:
    from ractogateway.redis.config import RateLimitDecision
else:
    RateLimitDecision = Any  # pydantic would import it, and that needs the extra `redis`

__all__ = [
    "CallReport",
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

    def __add__(self, other: Usage) -> Usage:
        """What both cost together."""
        return Usage(**{name: tokens + getattr(other, name) for name, tokens in self})


class ToolCall(_Private):
    """A tool the model wants called.

    ``arguments`` is the parsed object; ``arguments_json`` is the text exactly as the model wrote it (but for halves of
    surrogate pairs), which is what goes back to the provider, and the only thing left when the model wrote something
    that is not a JSON object.
    ``provider_fields`` is what else the provider wants back with the call, such as Google's signature of a thought.
    """

    _public: ClassVar[frozenset[str]] = frozenset({"id", "name"})

    id: str
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    arguments_json: str = ""
    provider_fields: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The call in the shape of Chat Completions, as part of an assistant's message."""
        written = self.arguments_json or json.dumps(self.arguments, ensure_ascii=False)
        function = {"name": self.name, "arguments": written}
        return {"id": self.id, "type": "function", "function": function, **(self.provider_fields or {})}


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


class CallReport(BaseModel):
    """What a kit did around one call. Token counts and revisions only: nothing here is private.

    Attributes:
        provider_calls: How often the provider was asked; 0 for an answer from the cache.
        reserved_tokens: The estimate that was reserved; None where nothing was: without a limiter, or on a hit.
        decision: What the limiter decided on it, a `ractogateway.redis.RateLimitDecision`.
        settled_tokens: What the reservation was settled to. None where it could not be: without Redis the estimate
            stands, or the decision was ``degraded``.
        history_messages: Messages that the memory had of the conversation; None without one.
        revision: The conversation's after this turn was appended; None where it was not.
        seconds: How long the whole call took.
    """

    model_config = ConfigDict(frozen=True)

    provider_calls: int = 0
    reserved_tokens: int | None = None
    decision: RateLimitDecision | None = None
    settled_tokens: int | None = None
    history_messages: int | None = None
    revision: int | None = None
    seconds: float = 0.0


class LLMResponse(_Private):  # noqa: PLW1641 - no hash, as every model that can be changed
    """A model's answer.

    On a cache hit ``cached`` is True, ``usage`` is zero (nothing was billed) and ``saved_usage`` holds what the stored
    answer had cost. ``raw`` is the provider's own object; it is never cached.

    Where a kit ran tools (`ChatConfig.tool_rounds`), ``following`` holds the messages that led to this answer: calls of
    tools and their results. ``usage`` and ``saved_usage`` are then those of all rounds together, and ``cached`` says
    that none of them was billed. ``provider_fields`` is what the provider wants back with this answer when the
    conversation goes on, such as Anthropic's signed thoughts.

    ``gateway`` tells what a kit did around the call that gave this answer. It is no part of the answer: it is neither
    cached nor dumped, and answers that differ in nothing else are equal.
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
    following: list[dict[str, Any]] = Field(default_factory=list)
    provider_fields: dict[str, Any] | None = None
    gateway: CallReport | None = Field(default=None, exclude=True, repr=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that this answer adds to a conversation, in the shape of Chat Completions, which every kit takes.

        The messages of its rounds of tools, if there were any, then the answer itself. What a kit's caller puts into
        `ChatConfig.following` together with the results of ``tool_calls``, or into a memory behind the user's message.
        """
        said = {"role": "assistant", "content": self.content if self.content or self.tool_calls else ""}
        calls = {"tool_calls": [call.to_dict() for call in self.tool_calls]} if self.tool_calls else {}
        return copy.deepcopy([*self.following, {**said, **calls, **(self.provider_fields or {})}])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LLMResponse) and self.gateway is not other.gateway:
            return self._without_report() == other._without_report()
        return super().__eq__(other)

    def _without_report(self) -> LLMResponse:
        return self.model_copy(update={"gateway": None})

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
        return self._copied(raw=None, cached=False, usage=usage, saved_usage=None, gateway=None)

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
        if self.tool_calls and not any(call.provider_fields for call in self.tool_calls):
            exclude["tool_calls"] = {"__all__": {"provider_fields"}}
        # Without warnings: they quote values.
        return hit.model_dump_json(exclude={"usage": True, **exclude}, warnings=False)

    def _hit_fields(self) -> dict[str, Any]:
        return {"raw": None, "cached": True, "usage": _NO_USAGE, "saved_usage": self.usage, "gateway": None}

    def _copied(self, **update: Any) -> LLMResponse:
        # Most answers are a text and numbers: copying only what can change is five times faster than a deep copy.
        updated = self.model_copy(update=update)
        return updated.twin(updated.changeable_fields())


_OFTEN_EMPTY = ("content", "thinking", "tool_calls", "model", "following", "provider_fields")
_UNCHANGING = frozenset({type(None), str, bool, int, float, FinishReason, Usage, CallReport})
_NO_USAGE = Usage()


class StreamChunk(_Private):
    """A piece of a streamed answer.

    ``delta`` and ``thinking_delta`` are the new text, ``text`` all text so far. The last chunk has ``is_final`` set and
    carries the whole answer as ``response``.

    A kit that asks again (`ChatConfig.tool_rounds`, `ChatConfig.correction_retries`) ends each answer but the last with
    a chunk that carries it as ``response`` and is not final; after it, ``text`` begins anew. So a reader sees which
    tools are about to be run, and when what was shown is to be replaced.
    """

    _public: ClassVar[frozenset[str]] = frozenset({"is_final", "finish_reason"})

    delta: str = ""
    thinking_delta: str = ""
    text: str = ""
    is_final: bool = False
    finish_reason: FinishReason | None = None
    response: LLMResponse | None = None


def _id(name: str) -> Any:
    # Plain: pydantic would refuse the lone surrogates that ids may hold.
    check = as_validator(lambda value: None if value is None else check_id(name, value))
    return PlainValidator(check, json_schema_input_type=str | None)


class ChatConfig(_Private, InputModel):
    """One request to a kit.

    Attributes:
        user_message: What the user says.
        prompt: Overrides the kit's ``default_prompt``; with neither there is no system message.
        temperature: From 0 to 2.
        max_tokens: The most tokens of one answer.
        history: Comes between the system message and ``user_message``.
        following: Comes after ``user_message``: what happened in this turn so far, which is calls of tools and their
            results. For callers who run tools themselves; see `LLMResponse.messages` and `ToolRegistry.call`.
        tools: A `ToolRegistry`, or a list of registries and of tool definitions in the provider's shape.
        tool_rounds: How many times a kit may run the tools that the model asks for, and ask it again with the results.
            0 leaves them to the caller. An answer that still calls tools after the last round is handed out as it is,
            with its ``tool_calls`` to be run; so is, in any round, one that calls a tool which no registry holds but a
            definition names.
        response_model: A pydantic class that asks for structured output, which arrives in ``LLMResponse.parsed``.
        correction_retries: How many times a model whose answer does not fit ``response_model`` is shown what is wrong
            with it, and asked again. Each is a paid request.
        attachments: Further content of the user message: files (`RactoFile`), or parts in the shape of Chat Completions
            or in the provider's own.
        extra: Goes to the provider's API as it is.
        user_id: Whose budget pays, in a kit with a ``rate_limiter``, which needs it. In a kit with a ``memory``, also
            whose the conversation is (for ``erase_user``), unless it is somebody's already.
        conversation_id: Which conversation the turn belongs to, in a kit with a ``memory``, which brings what was said
            before: ``history`` is empty then. A request without one is remembered nowhere. Neither id reaches the
            provider or the cache.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    _public: ClassVar[frozenset[str]] = frozenset({"temperature", "max_tokens", "tool_rounds", "correction_retries"})

    user_message: str = Field(strict=True)
    prompt: RactoPrompt | None = None
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, allow_inf_nan=False, strict=True)
    max_tokens: int = Field(default=4096, ge=1, strict=True)
    history: Sequence[Message | Mapping[str, Any]] = Field(default_factory=list)
    following: Sequence[Message | Mapping[str, Any]] = Field(default_factory=list)
    tools: ToolRegistry | Sequence[ToolRegistry | dict[str, Any]] | None = None
    tool_rounds: int = Field(default=0, ge=0, le=1000, strict=True)
    response_model: type[BaseModel] | None = None
    correction_retries: int = Field(default=0, ge=0, le=100, strict=True)
    attachments: Sequence[RactoFile | dict[str, Any]] = Field(default_factory=list)
    extra: dict[str, Any] = Field(default_factory=dict)
    user_id: Annotated[str | None, _id("user_id")] = None
    conversation_id: Annotated[str | None, _id("conversation_id")] = None

    @field_validator("history", "following", mode="before")
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

    @property
    def following_messages(self) -> list[Message]:
        """``following`` as messages, also where dicts were added to it later."""
        return [_as_message(each) for each in self.following]


def _as_message(message: Message | Mapping[str, Any]) -> Message:
    return message if isinstance(message, Message) else Message.model_validate(message)
