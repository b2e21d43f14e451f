"""How a kit keeps a conversation in whatever it was given as ``memory=``.

The history is loaded, with its revision, before anything else is done; the whole turn (the question, the calls and
results of tools, the answer) is appended by one write after the answer is there. A call that fails writes nothing.

**Two calls of one conversation at once** do not see each other's turn. Both turns are kept, each whole, in the order
in which their answers ended (see `appending`). But nothing is appended to a conversation that was cleared, replaced or
popped meanwhile: that is a `TurnNotRemembered`. And so it is where the memory cannot tell that from appending any more:
where other kits or processes have appended dozens of turns during a single call of this one.

**Whose a conversation is.** The write names `ChatConfig.user_id`, if the memory takes one: a conversation that was
nobody's is that user's from then on, and an erasure of the user finds it. One that is somebody else's stays theirs, and
the turn is appended all the same, by a second write that names nobody: an answer that was paid for is remembered.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ractogateway._kit.appending import Changes, Run, Runs, append
from ractogateway._kit.given import Given, offers
from ractogateway._kit.mending import mended_messages
from ractogateway._kit.request import following_shapes, user_shape
from ractogateway._kit.sides import Side
from ractogateway.errors import (
    InvalidValueError,
    RactoGatewayError,
    TurnNotRemembered,
)
from ractogateway.messages import ChatConfig, LLMResponse, Message

__all__ = ["AsyncChatMemory", "ChatMemory", "Remembered", "Remembering"]


class ChatMemory(Protocol):
    """As much of a blocking memory as a kit needs; `RedisChatMemory` is one.

    An ``extend`` that takes ``user_id=``, too, is told `ChatConfig.user_id`; a `ForeignConversation` that it raises
    makes the kit write once more without.
    """

    def get_changes(self, conversation_id: str, since_revision: int) -> Changes:
        """What was said after a revision; 0 for all."""
        ...

    def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> int:
        """Append messages, all or none; the new revision."""
        ...


class AsyncChatMemory(Protocol):
    """The same of an async core; `AsyncRedisChatMemory` is one."""

    def get_changes(self, conversation_id: str, since_revision: int) -> Awaitable[Changes]:
        """As above."""
        ...

    def extend(
        self,
        conversation_id: str,
        messages: Sequence[Mapping[str, Any] | Message],
        *,
        request_id: str | None = None,
        expected_revision: int | None = None,
    ) -> Awaitable[int]:
        """As above."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Remembered:
    """A conversation as it was when a call began."""

    conversation_id: str
    messages: list[dict[str, Any]]
    revision: int
    run: Run


class Remembering:
    """The memory of one kit; without one, or for a request without a conversation, nothing is remembered."""

    def __init__(self, memory: ChatMemory | AsyncChatMemory | None) -> None:
        needed = ("extend", "get_changes")
        like = "RedisChatMemory and AsyncRedisChatMemory"
        self._given = None if memory is None else Given("memory", memory, needed, like=like)
        self._takes_user: dict[type[Side], bool] = {}
        self._runs = Runs()

    @property
    def given(self) -> Given | None:
        """The memory."""
        return self._given

    def concerns(self, config: ChatConfig) -> bool:
        """Whether a request is part of a conversation."""
        return self._given is not None and config.conversation_id is not None

    @staticmethod
    def check(config: ChatConfig) -> None:
        """Refuse a history beside the memory's own: it would be remembered again with every call."""
        following_shapes(config)  # raises for what cannot be sent
        if config.history:
            raise InvalidValueError(
                "history must be empty beside a conversation_id: what was said before comes from the kit's memory "
                "(memory.extend brings older messages there), and what happened in this turn belongs into following"
            )

    async def load(self, side: Side, config: ChatConfig) -> Remembered | None:
        """The conversation of a request.

        Raises:
            StoreError: It could not be read. Nobody was asked anything.
            InvalidTypeError, InvalidValueError: The memory would not keep what the turn begins with.
        """
        if self._given is None or config.conversation_id is None:
            return None
        known = _known_part(config)
        is_checked = bool(known) and offers(self._given.face, "check_messages", beside=("extend",))
        if is_checked:
            await side.call(self._given, "check_messages", known)
        changes = await side.call(self._given, "get_changes", config.conversation_id, 0)
        if is_checked and any(map(_is_pinned, known)):
            # Of these there is a bound for the whole conversation. Whether what is there could be written again does
            # not matter: only that it is there.
            there = [{"role": "system", "content": ""} for message in changes.messages if _is_pinned(message)]
            await side.call(self._given, "check_messages", [*there, *known])
        run = self._runs.at(config.conversation_id, changes.revision)
        return Remembered(config.conversation_id, mended_messages(changes.messages), changes.revision, run)

    async def keep(
        self, side: Side, config: ChatConfig, before: Remembered | None, response: LLMResponse
    ) -> int | None:
        """Append a turn; the new revision. None where there is none, or nothing was answered.

        An answer with calls for the caller to run is no end of a turn either: the whole turn is appended with the
        answer to the request that brings their results (`ChatConfig.following`).

        Raises:
            TurnNotRemembered: see above.
        """
        if self._given is None or before is None or response.tool_calls or not response.content:
            return None
        # As it was asked: behind a history, an empty message of the user was left out.
        turn = [*_known_part(config.model_copy(update={"history": before.messages})), *response.messages]
        request_id = os.urandom(16).hex()
        try:
            named = {"user_id": config.user_id} if config.user_id is not None and self._names(side, self._given) else {}
            write = partial(side.call, self._given, "extend", before.conversation_id, turn, request_id=request_id)
            changes = partial(side.call, self._given, "get_changes", before.conversation_id)
            return await append(side, write, changes, before.revision, before.run, named)
        except Exception as error:  # noqa: BLE001 - a memory may be anybody's, and the answer is paid for
            failure = TurnNotRemembered(
                f"the answer is there, but its turn could not be appended to the conversation ({type(error).__name__})",
                response=response,
                turn=turn,
                request_id=request_id,
            )
            cause = error if isinstance(error, RactoGatewayError) else None  # what others write may hold a password
        try:
            raise failure from cause
        finally:
            del failure, cause  # no cycle of the error and this frame

    def _names(self, side: Side, given: Given) -> bool:
        """Whether ``extend`` of the form that this side calls takes a user."""
        kind = type(side)
        if kind not in self._takes_user:
            target = side.target(given)
            self._takes_user[kind] = _takes((given.face if target is None else target).extend, "user_id")
        return self._takes_user[kind]


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name, or takes any name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C, say
        return False
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _is_pinned(message: Mapping[str, Any]) -> bool:
    """Whether a memory never trims this message."""
    return message.get("role") in ("developer", "system")


def _known_part(config: ChatConfig) -> list[dict[str, Any]]:
    """What a turn begins with, whatever is answered: a copy, for whoever keeps it."""
    new = user_shape(config)
    return copy.deepcopy([*([] if new is None else [new]), *following_shapes(config)])
