"""Who keeps a slot alive, and for how long."""

from __future__ import annotations

import gc

from servers import Server, wait_until

from ractogateway.redis import RateLimitConfig, RedisOptions, RedisRateLimiter

LIMITS = RateLimitConfig(max_tokens_per_minute=1_000, max_concurrent=1)
PATIENT = RedisOptions(timeout_seconds=20.0)
LEASE_SECONDS = 0.6


def test_whoever_has_ended_a_reservation_keeps_nobody_elses_alive(any_server: Server):
    """A name may be used anew after a cancellation; and its next holder may die."""
    with (
        RedisRateLimiter(any_server.url, config=LIMITS, options=PATIENT) as one,
        RedisRateLimiter(any_server.url, config=LIMITS, options=PATIENT) as another,
    ):
        first = one.reserve("u", 1, request_id="again", lease_seconds=LEASE_SECONDS)
        assert first.cancel()
        second = another.reserve("u", 1, request_id="again", lease_seconds=LEASE_SECONDS)
        assert second.decision.allowed
        del second
        gc.collect()  # its heartbeats end with it, as they would with its process
        wait_until(lambda: one.reserve("u", 1).decision.allowed, timeout_seconds=15, what="the end of the lease")
        assert not first.slot_lost
