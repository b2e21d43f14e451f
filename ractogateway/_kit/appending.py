"""A turn's way to the end of a conversation to which others append meanwhile, in this process and elsewhere.

A write expects the revision up to which nothing but appending is known to have happened. Where others were faster,
that is found out anew, and the turn is written again at once; where they were faster again, after pauses that grow and
differ from caller to caller, so that each gets its turn.

What a memory tells of the past is bounded (`RedisChatMemory` tells of 48 turns at least, with calls of tools of fewer).
So the calls of one kit that are under way in one conversation share what they found out: of hundreds, each learns that
the turns between its own question and its answer were those of the others.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

from ractogateway._kit.sides import Side
from ractogateway.errors import ForeignConversation, RactoGatewayError, RevisionConflict

__all__ = ["Changes", "Run", "Runs", "append"]

_SECONDS = 10.0
"""How long a turn is tried to be appended; each write inside has the memory's own time limit."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.004, 0.064
"""The longest is short: what others write meanwhile must not be more than a memory tells of."""


class Changes(Protocol):
    """What a memory tells of what happened after a revision."""

    @property
    def revision(self) -> int:
        """The present one."""
        ...

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was appended, or all there is."""
        ...

    @property
    def anew(self) -> bool:
        """Whether it is all there is: more may have happened than appending."""
        ...


class Run:
    """Revisions of one conversation, from ``first`` to ``last``, between which nothing but appending has happened."""

    __slots__ = ("__weakref__", "first", "last")

    def __init__(self, revision: int) -> None:
        self.first = self.last = revision

    def goes_on(self, since: int, revision: int) -> None:
        """From ``since``, a revision of this run, to another one nothing but appending has happened."""
        # Without a lock: who loses a race has made the run shorter than it could be, and every part of a run is one.
        if self.first <= since <= self.last < revision:
            self.last = revision


class Runs:
    """The runs of all conversations in which calls are under way; each lives for as long as one of its calls does."""

    def __init__(self) -> None:
        self._of: WeakValueDictionary[str, Run] = WeakValueDictionary()

    def at(self, conversation_id: str, revision: int) -> Run:
        """The run for a call that has read this revision."""
        run = self._of.get(conversation_id)
        if run is None or not run.first <= revision <= run.last:
            self._of[conversation_id] = run = Run(revision)
        return run


async def append(
    side: Side,
    write: Callable[..., Awaitable[int]],
    changes: Callable[[int], Awaitable[Changes]],
    before: int,
    run: Run,
    named: Mapping[str, str],
) -> int:
    """Write behind whatever others have appended since ``before``; the new revision.

    Args:
        side: Whose pauses these are.
        write: Writes the turn, of which one write with the same name is made at most; takes ``expected_revision`` and
            what is ``named``.
        changes: Tells what happened after a revision.
        before: The revision that the call has read.
        run: One that holds it.
        named: Whose the turn is. It is left out where the conversation is somebody else's, or the memory, after all,
            does not take it.

    Raises:
        RevisionConflict: More than appending has happened, or nobody can tell; or others were faster for 10 seconds.
    """
    revision, pause, deadline = before, 0.0, time.monotonic() + _SECONDS
    while True:
        try:
            made = await write(expected_revision=revision, **named)
        except RevisionConflict:
            if time.monotonic() >= deadline:
                raise
            if pause:
                await side.pause(random.uniform(0, pause))  # noqa: S311 - no secret
            pause = min(max(2 * pause, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
            since = max(revision, run.last)
            found = await changes(since)
            if found.anew:
                raise
            revision = found.revision
            run.goes_on(since, revision)
        except (ForeignConversation, TypeError) as error:
            # A TypeError of ours is about what is written, not about who is named.
            is_about_name = isinstance(error, ForeignConversation) or not isinstance(error, RactoGatewayError)
            if not named or not is_about_name:
                raise
            named = {}
        else:
            with contextlib.suppress(TypeError):  # of a memory of somebody else's that does not tell the revision
                run.goes_on(revision, made)
            return made
