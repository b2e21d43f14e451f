"""The exact response cache of one process, and what every exact cache shares: the protocol, the key, the policy."""

from __future__ import annotations

from ractogateway.cache.exact_match import ExactMatchCache
from ractogateway.cache.fingerprint import fingerprint
from ractogateway.cache.policy import is_storable
from ractogateway.cache.protocol import CacheCounters, CacheRequest, CacheStats, ExactCache

__all__ = [
    "CacheCounters",
    "CacheRequest",
    "CacheStats",
    "ExactCache",
    "ExactMatchCache",
    "fingerprint",
    "is_storable",
]
