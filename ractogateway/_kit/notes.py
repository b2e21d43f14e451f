"""What happened around one call: for `LLMResponse.gateway`, and for one line in the log."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ractogateway._kit.metering import Meter
from ractogateway._kit.sides import Join
from ractogateway.messages import CallReport, LLMResponse

if TYPE_CHECKING:
    from ractogateway.redis.config import RateLimitDecision

__all__ = ["Notes"]

_log = logging.getLogger("ractogateway.kit")


@dataclass(slots=True, repr=False)
class Notes:
    """Taken while a call goes on; a block (``async with``) writes the line at its end. No text and no id is in them.

    A call that fails has waited for what it had begun, too; one that is cancelled has not.
    """

    model: str
    meters: list[Meter] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    cached: bool = False
    reserved_tokens: int | None = None
    decision: RateLimitDecision | None = None
    settled_tokens: int | None = None
    history_messages: int | None = None
    revision: int | None = None
    ending: list[Join] = field(default_factory=list)  # what was begun, and goes on by itself

    @property
    def calls(self) -> int:
        """Requests to the provider."""
        return sum(meter.calls for meter in self.meters)

    async def ended(self) -> None:
        """Until all that was begun for this call is done."""
        for join in self.ending:
            await join()

    def on(self, response: LLMResponse) -> LLMResponse:
        """``response`` with the report of its call."""
        self.cached = response.cached
        report = CallReport.model_construct(
            provider_calls=self.calls,
            reserved_tokens=self.reserved_tokens,
            decision=self.decision,
            settled_tokens=self.settled_tokens,
            history_messages=self.history_messages,
            revision=self.revision,
            seconds=time.monotonic() - self.began,
        )
        return response.model_copy(update={"gateway": report})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            await self.ended()
        if not _log.isEnabledFor(logging.DEBUG):
            return
        decision = self.decision
        is_degraded = getattr(decision, "degraded", False)  # a limiter that is not ours need not say
        _log.debug(
            "a call of model %s ended: %s; provider calls %d, cached %s, allowed %s, reserved %s, settled %s, "
            "history %s, revision %s, %.1f ms",
            self.model,
            "answered" if kind is None else kind.__name__,
            self.calls,
            self.cached,
            None if decision is None else f"{decision.allowed}{' (degraded)' if is_degraded else ''}",
            self.reserved_tokens,
            self.settled_tokens,
            self.history_messages,
            self.revision,
            1000 * (time.monotonic() - self.began),
        )
