"""Embeddings within a user's budget: as a call whose prompt is all texts, and whose answer is empty.

A provider that does not tell what they cost (Google's Gemini API, most often) is taken to bill the estimate.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ractogateway._blocking_in_loop import check_running_loop
from ractogateway._checks import check_id
from ractogateway._kit.asking import Asking
from ractogateway._kit.budget import Budget
from ractogateway._kit.metering import nothing
from ractogateway._kit.notes import Notes
from ractogateway._kit.preparing import Preparation, Request
from ractogateway._kit.provider import Provider
from ractogateway._kit.request import identify
from ractogateway._kit.sides import Side
from ractogateway.messages import ChatConfig, LLMResponse, Usage

__all__ = ["Embedding"]

T = TypeVar("T")


class Embedding:
    """The way of a kit's embeddings through its rate limiter."""

    def __init__(self, provider: Provider, preparation: Preparation, budget: Budget) -> None:
        self._provider = provider
        self._preparation = preparation
        self._budget = budget

    def is_charged(self, user_id: str | None, *, blocking: bool) -> bool:
        """Whether somebody pays: there is a limiter, and a user was named.

        Raises:
            InvalidTypeError, InvalidValueError: The user is none, or the limiter cannot serve a blocking caller.
        """
        if user_id is not None:
            check_id("user_id", user_id)
        if user_id is None or self._budget.given is None:
            return False
        if blocking:
            self._budget.given.check_blocking("aembed")
            check_running_loop("await aembed instead")
        return True

    async def charge(
        self,
        side: Side,
        texts: Sequence[str],
        user_id: str | None,
        ask: Callable[[], Awaitable[T]],
        usage: Callable[[T], Usage],
    ) -> T:
        """``ask`` after an estimate was reserved; settled to the ``usage`` of its answer.

        Raises:
            RateLimitExceeded: The user's limits do not allow it. The provider was not asked.
        """
        asking = Asking(side, self._provider, self._preparation)
        # Of an answer of at least one token, which is what a config can say.
        config = ChatConfig(user_message="".join(texts), user_id=user_id, max_tokens=1)
        request = Request(
            config, {}, None, lambda asked, _: identify(asked, model=self._preparation.model, system_prompt="")
        )
        async with Notes(self._preparation.model, [asking.meter]) as notes:
            async with self._budget.charge(asking, request, notes, has_answer=False):
                sent = asking.meter.began(request, nothing)
                try:
                    answer = await ask()
                except BaseException as error:
                    asking.meter.broke(sent, error)
                    raise
                asking.meter.answered(sent, LLMResponse(usage=usage(answer)))
            await notes.ended()
        return answer
