"""What the demo writes down while it runs, and what it finds on the server afterwards. The checks compare the two.

All times are seconds of this process's monotonic clock. A call to the server happened somewhere between ``sent`` and
``received``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ractogateway.messages import ChatConfig

__all__ = ["Asked", "Charge", "HistoryRead", "Log", "ModelBill", "ServerState", "Terms"]

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Terms:
    """What was agreed before the run.

    Attributes:
        budget: tokens that one user may spend in any ``window_seconds``.
        max_turns: turns that the memory keeps of each conversation.
        model: the model's name, as it is sent.
        system_prompt: what precedes every conversation.
    """

    budget: int
    window_seconds: float
    max_turns: int
    model: str
    system_prompt: str


@dataclass(frozen=True, slots=True)
class Charge:
    """One question to the limiter, and its decision; ``allowed`` is None where no reply came."""

    user: str
    tokens: int
    sent: float
    received: float
    allowed: bool | None
    remaining: int = 0
    retry_after_seconds: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class Asked:
    """One request to the kit, and its answer; ``complete`` is False for one that was cut off or filtered."""

    config: ChatConfig
    started: float
    ended: float
    content: str | None
    complete: bool
    cached: bool
    billed_tokens: int
    saved_tokens: int

    @property
    def seconds(self) -> float:
        """How long the answer took."""
        return self.ended - self.started

    @property
    def key(self) -> tuple[str, ...]:
        """All that differs from one request of this demo to another."""
        said = (text for message in self.config.past_messages for text in (str(message.role), str(message.content)))
        return (*said, self.config.user_message)


@dataclass(frozen=True, slots=True, repr=False)
class HistoryRead:
    """What the memory gave for a conversation of which ``turns`` turns had been acknowledged."""

    conversation: str
    turns: int
    messages: Messages


@dataclass(slots=True, repr=False)
class Log:
    """What the client saw.

    Attributes:
        requests: how many were to be answered.
        charges, asked, reads: every call to limiter, kit and memory.
        repeats: calls to the kit that ask again, as fast as possible, for what had been answered.
        turns: the acknowledged turns of each conversation, in order.
        unclear: conversations of which a write failed, so that nobody knows what is in them.
        answered: requests that got their answer.
        waited: those of them that were refused at first.
        gave_up: requests that were refused until their user lost patience.
        failures: requests that ended with an error, by its name.
        started, ended: of the replay.
        repeats_seconds: how long ``repeats`` took.
        cache_errors: lookups and stores that failed, which the cache counts and turns into misses.
    """

    requests: int = 0
    charges: list[Charge] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    repeats: list[Asked] = field(default_factory=list)
    reads: list[HistoryRead] = field(default_factory=list)
    turns: dict[str, list[Messages]] = field(default_factory=dict)
    unclear: set[str] = field(default_factory=set)
    answered: int = 0
    waited: int = 0
    gave_up: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    started: float = 0.0
    ended: float = 0.0
    repeats_seconds: float = 0.0
    cache_errors: int = 0

    @property
    def all_asked(self) -> list[Asked]:
        """Every call to the kit."""
        return [*self.asked, *self.repeats]

    @property
    def settled(self) -> int:
        """Requests that came to an end of any kind."""
        return self.answered + self.gave_up + self.failures.total()


@dataclass(frozen=True, slots=True, repr=False)
class ServerState:
    """What another client found on the server after the run.

    Attributes:
        name: product and version of the server.
        budgets: for each user, a `Charge` of no tokens that tells what remains.
        conversations: each conversation's messages.
    """

    name: str
    budgets: Sequence[Charge]
    conversations: Mapping[str, Messages]


@dataclass(frozen=True, slots=True)
class ModelBill:
    """What the stand-in model counted on its side."""

    calls: int
    tokens: int
