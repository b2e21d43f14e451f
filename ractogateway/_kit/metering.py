"""What the provider has billed for one call of a kit, as far as can be known.

- An answer costs what its usage says; where a server says nothing, its prompt by estimate and its text counted.
- An error with an HTTP status, and a request that never left, cost nothing.
- Where the answer got lost on the way (a timeout, a broken connection, a caller who was cancelled or left the stream),
  the prompt is taken as billed: as the provider told by then, else by estimate. So is what had arrived of the answer:
  the larger of what the provider told and what was counted.
- What the SDK's own retries had cost before the last attempt, nobody tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ractogateway._kit.estimating import Estimator
from ractogateway._kit.preparing import Request
from ractogateway._kit.sides import Side
from ractogateway.errors import RactoGatewayError
from ractogateway.messages import LLMResponse

__all__ = ["Meter", "nothing"]


@dataclass(slots=True, repr=False, eq=False)
class _Sent:
    """A request that was begun, and what there is of its answer."""

    request: Request
    arrived: Callable[[], LLMResponse | None]


@dataclass(slots=True, repr=False)
class Meter:
    """Notes what passes between a call and the provider.

    Attributes:
        calls: Requests that were begun.
        billed: Tokens that the provider told of.
        untold: Requests of which it did not, or not yet.
    """

    calls: int = 0
    billed: int = 0
    untold: list[_Sent] = field(default_factory=list)

    def began(self, request: Request, arrived: Callable[[], LLMResponse | None]) -> _Sent:
        """A request is about to be sent. ``arrived`` tells what has come of its answer, at any time."""
        self.calls += 1
        sent = _Sent(request, arrived)
        self.untold.append(sent)
        return sent

    def answered(self, sent: _Sent, response: LLMResponse) -> None:
        """It was answered."""
        if response.usage.total_tokens:
            self.billed += response.usage.total_tokens
            self.untold.remove(sent)
        else:
            sent.arrived = lambda: response

    def broke(self, sent: _Sent, error: BaseException) -> None:
        """It was not, or only in part."""
        # Errors of ours that are not the provider's refused it before it was sent. Those that are not ours mean that
        # whoever waited is gone.
        billed = getattr(error, "may_have_billed", not isinstance(error, RactoGatewayError))
        if not billed and sent.arrived() is None:
            self.untold.remove(sent)

    async def tokens(self, side: Side, estimator: Estimator) -> int:
        """What the call has cost by now."""
        total = self.billed
        for sent in self.untold:
            arrived = sent.arrived()
            told = arrived.usage if arrived is not None else None
            total += (told.prompt_tokens if told else 0) or await estimator.prompt(side, sent.request)
            if arrived is not None:
                total += max(arrived.usage.completion_tokens, await estimator.answer(side, arrived))
        return total


def nothing() -> None:
    """What has arrived of an answer that comes as a whole, or not at all."""
