"""The exact response cache of one process, and what every exact cache shares: the protocol, the key, the policy."""

from __future__ import annotations

from ractogateway.cache.exact_match import ExactMatchCache
from ractogateway.cache.exact_match_aio import AsyncExactMatchCache
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.cache.policy import is_storable
from ractogateway.cache.protocol import CacheCounters, CacheRequest, CacheStats, ComputingCache, ExactCache

__all__ = [
    "AsyncExactMatchCache",
    "CacheCounters",
    "CacheRequest",
    "CacheStats",
    "ComputingCache",
    "ExactCache",
    "ExactMatchCache",
    "fingerprint",
    "is_storable",
]
