"""What a kit asks of an exact cache, and what a cache says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from ractogateway._checks import shown_size
from ractogateway.messages import LLMResponse

__all__ = ["CacheCounters", "CacheRequest", "CacheStats", "ComputingCache", "ExactCache"]


class CacheCounters(BaseModel):
    """How often lookups ended how. Each is counted once.

    Attributes:
        hits: a stored answer was returned.
        coalesced: the answer of somebody else's computation, which was under way, was waited for and returned.
        stale: an answer was returned whose time was over, while a new one is computed.
        misses: there was none: None was returned, or the caller computed it.
        errors: calls whose failure was taken for a miss or dropped; each of them is counted above, too, if it was a
            lookup.
        corrupt: stored values that could not be read: torn, foreign, or of a later release. They are misses.
        saved_tokens: what the returned answers had cost when they were computed.
    """

    model_config = ConfigDict(frozen=True)

    hits: int = 0
    misses: int = 0
    coalesced: int = 0
    stale: int = 0
    errors: int = 0
    corrupt: int = 0
    saved_tokens: int = 0

    @property
    def total(self) -> int:
        """Lookups."""
        return self.hits + self.coalesced + self.stale + self.misses

    @property
    def hit_rate(self) -> float:
        """The part of all lookups that found an answer, 0.0 before the first."""
        return (self.total - self.misses) / self.total if self.total else 0.0


class CacheStats(CacheCounters):
    """Counters of one cache object since it was made.

    ``size`` is the number of live entries, None where the store could not be asked. ``fleet`` counts for all replicas;
    None where there is no fleet, or it could not be asked.
    """

    size: int | None = 0
    fleet: CacheCounters | None = None


class CacheRequest(NamedTuple):
    """One request, where several are passed at once. A plain tuple of the same items will do, too."""

    user_message: str
    system_prompt: str
    model: str
    temperature: float
    max_tokens: int
    context: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return (
            f"CacheRequest(user_message={shown_size(self.user_message)}, "
            f"system_prompt={shown_size(self.system_prompt)}, model={self.model!r}, "
            f"temperature={self.temperature!r}, max_tokens={self.max_tokens!r}, context={shown_size(self.context)})"
        )


class ExactCache(Protocol):
    """A blocking exact cache: `ExactMatchCache` in this process, `RedisExactCache` shared by all replicas.

    A request is named by five documented fields and ``context``, a mapping of everything else that shapes the answer
    (history, tools, response schema, attachments, provider, base URL, extra parameters). Two requests share an entry
    only if all of it is equal.
    """

    def get(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> LLMResponse | None:
        """The stored answer, marked ``cached``, or None."""
        ...

    def put(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        response: LLMResponse,
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
    ) -> None:
        """Store an answer; ``ttl_seconds`` overrides the cache's own for this entry."""
        ...

    def invalidate(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        *,
        context: Mapping[str, Any] | None = None,
    ) -> bool:
        """Forget one entry; True if there was one."""
        ...

    def clear(self) -> None:
        """Forget all entries of this cache."""
        ...

    @property
    def stats(self) -> CacheStats:
        """Counters since this object was made."""
        ...

    def __len__(self) -> int: ...


class ComputingCache(ExactCache, Protocol):
    """An exact cache that also decides who computes. Both caches of this library are; a drop-in need not be.

    A kit uses ``get_or_compute`` where a cache has it, and ``get`` and ``put`` where it has not.
    """

    def get_or_compute(
        self,
        user_message: str,
        system_prompt: str,
        model: str,
        temperature: float,
        max_tokens: int,
        compute: Callable[[], LLMResponse],
        *,
        context: Mapping[str, Any] | None = None,
        ttl_seconds: float | None = None,
        max_temperature: float = 0.0,
    ) -> LLMResponse:
        """The stored answer, or what ``compute()`` returns, called once for all who ask meanwhile.

        Whoever computes gets its own answer; the others one that is marked ``cached``. What `is_storable` refuses is
        neither stored nor shared, and nobody gets somebody else's error.
        """
        ...
