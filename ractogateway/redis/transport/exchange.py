"""Commands handed to a connection together with whoever waits for their replies."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Protocol

from ractogateway.errors import RactoGatewayError
from ractogateway.redis.transport.call import Command


class _Unanswered:
    def __repr__(self) -> str:
        return "UNANSWERED"


UNANSWERED: Final = _Unanswered()


class Exchange:
    """One caller's commands and, position by position, their replies.

    A reply is the raw value, the exception that the server's error reply stands for, a `StoreError` that befell this
    command alone (of several nodes one was lost), or `UNANSWERED`; where any is unanswered, ``failure`` says why. The
    connection calls `claim` right before it sends and `finish` exactly once.

    A caller that stops waiting calls `abandon`. Each side writes its own flag before it reads the other's, so that an
    exchange that the caller reports as not sent is never sent.
    """

    __slots__ = ("abandoned", "commands", "deadline", "failure", "replies", "sent")

    def __init__(self, commands: Sequence[Command], deadline: float = math.inf) -> None:
        self.commands = commands
        self.deadline = deadline
        self.replies: list[Any] = [UNANSWERED] * len(commands)
        self.failure: RactoGatewayError | None = None
        self.sent = False
        self.abandoned = False

    def claim(self) -> bool:
        """The connection is about to send; False when nobody waits any more."""
        self.sent = True
        if not self.abandoned:
            return True
        self.sent = False
        return False

    def abandon(self) -> bool:
        """The caller stops waiting; True when the commands may have been sent."""
        self.abandoned = True
        return self.sent

    def finish(self, failure: RactoGatewayError | None = None) -> None:
        """All replies are there, or ``failure`` says why not. Called in the connection's event loop."""
        self.failure = failure
        self.wake()

    def wake(self) -> None:
        """Let the waiting caller go on."""
        raise NotImplementedError

    def grant(self, deadline: float) -> bool:  # noqa: ARG002 - for those below
        """A later deadline, once, as the link's loop stood still; False where there is none to be had. See `expire`."""
        return False

    def expire(self) -> None:
        """The link saw that the deadline (by time.monotonic) has passed. For callers that keep no clock of their
        own.
        """


class SentExchange(Protocol):
    """An exchange as its caller sees it: to be read once ``ended`` was awaited."""

    deadline: float
    failure: RactoGatewayError | None
    replies: list[Any]

    @property
    def ended(self) -> Awaitable[None]:
        """Until all is answered, the connection failed or time is up. Whoever is torn away from it abandons."""
        ...

    def abandon(self) -> bool:
        """See `Exchange`."""
        ...
