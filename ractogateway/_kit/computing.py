"""What a kit hands to a cache that computes: a call to the provider that remembers how it went.

A cache hands the caller who computed its answer back; with ``raw`` and ``parsed`` taken out, because that is what it
may keep. So the kit keeps the whole answer beside, and with it knows whether it was its own call that failed, or the
cache.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ractogateway._kit.request import RequestIdentity
from ractogateway.messages import LLMResponse

__all__ = ["Compute", "OwnCall", "Wanted", "storable_copy"]

Compute = Callable[[], Coroutine[Any, Any, LLMResponse]]
"""Makes the answer."""


@dataclass(frozen=True, slots=True, repr=False)
class Wanted:
    """An answer that is wanted, and what may be done with it.

    Attributes:
        identity: What a cache knows the request by.
        usable: Makes of a cached answer what the caller expects; None where that is not possible any more.
        may_store: Whether an answer may be stored.
        max_temperature: Up to which temperature of the identity answers may be stored; None if these may not be.
    """

    identity: RequestIdentity
    usable: Callable[[LLMResponse], LLMResponse | None]
    may_store: Callable[[LLMResponse], bool]
    max_temperature: float | None

    def limits(self) -> dict[str, Any]:
        """Arguments of ``get_or_compute`` beside the request."""
        limits: dict[str, Any] = {"context": self.identity.context}
        if self.max_temperature:  # else left out: 0 is every cache's own, and not every cache has another
            limits["max_temperature"] = self.max_temperature
        return limits


class OwnCall:
    """A call to the provider, and how it ended."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self.answer: LLMResponse | None = None
        self.failure: BaseException | None = None

    async def make(self) -> LLMResponse:
        """Make the call; what a cache may keep of its answer."""
        try:
            self.answer = await self._compute()
        except BaseException as failure:
            self.failure = failure
            raise
        return storable_copy(self.answer)


def storable_copy(response: LLMResponse) -> LLMResponse:
    """What is kept of an answer: never the provider's object, and never an instance of the user's own class.

    ``parsed`` is made again from ``content`` on a hit, which any store can hold. The copy is deep, so that a caller who
    changes the answer it got does not change the stored one.
    """
    kept = response.model_copy(update={"raw": None, "parsed": None})
    return kept.twin(kept.changeable_fields())
