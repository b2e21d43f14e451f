"""The way there: how long it takes, whose clock runs how, who can read along, how many may come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from ractogateway.redis.doctor.facts import Facts
from ractogateway.redis.doctor.findings import Finding

_FAR_SECONDS = 0.02  # a lookup of the cache is given 0.1 s, and each of its round trips has others before it
_SKEW_SECONDS = 1.0
_CROWDED = 0.8
_SHORT_IDLE_SECONDS = 60
_DAY = 86_400.0
_ENDING_DAYS = 14


def round_trip(facts: Facts) -> Iterator[Finding]:
    """How far away it is."""
    if facts.trip is None:
        return
    text = f"a round trip takes {facts.trip * 1000:.2f} ms (median of {len(facts.trips)})"
    if facts.trip > _FAR_SECONDS:
        advice = "move closer, or give RedisOptions(timeout_seconds=...) more than the cache's 0.1 s"
        yield Finding("round trip", "warning", text, advice)
    else:
        yield Finding("round trip", "ok", text)


def clock(facts: Facts) -> Iterator[Finding]:
    """Budgets, leases and times to live run on the server's clock alone; this machine's plays no part in them.

    So they are exact whatever that clock shows, until another server takes over whose clock shows something else: it
    then counts charges for longer or shorter by the difference. This machine's clock stands in for that other one.
    """
    if facts.clock_ahead is None:
        return
    if abs(facts.clock_ahead) - facts.clock_error <= _SKEW_SECONDS:
        yield Finding("clock", "ok", "the server's clock and this machine's agree to a second")
        return
    way = "ahead of" if facts.clock_ahead > 0 else "behind"
    text = (
        f"the server's clock is {abs(facts.clock_ahead):.1f} s {way} this machine's: budgets are kept by the server's "
        "alone and stay exact, but a server with another clock that takes over counts them wrongly by the difference"
    )
    yield Finding("clock", "warning", text, "let NTP set the clocks of all servers and of this machine")


def clocks(servers: Sequence[Facts]) -> Iterator[Finding]:
    """Whether the nodes of a cluster agree."""
    known = [facts for facts in servers if facts.clock_ahead is not None]
    ahead = [facts.clock_ahead for facts in known if facts.clock_ahead is not None]
    if len(ahead) > 1 and max(ahead) - min(ahead) - 2 * max(facts.clock_error for facts in known) > _SKEW_SECONDS:
        text = (
            f"the clocks of the nodes differ by {max(ahead) - min(ahead):.1f} s: after a failover budgets are off by it"
        )
        yield Finding("clock", "problem", text, "let NTP set them")


def encryption(facts: Facts) -> Iterator[Finding]:
    """Who can read along."""
    tls = facts.encrypted
    if tls is None:
        if facts.is_local:
            yield Finding("tls", "ok", "no TLS, and no network in between")
        else:
            text = "no TLS to another machine: passwords, prompts and answers can be read on the way"
            yield Finding("tls", "warning", text, "use rediss://")
        return
    if not tls.verified or not tls.host_checked:
        what = "the server's certificate" if not tls.verified else "the name in the server's certificate"
        text = f"{what} is not verified: whoever is in between can read along and answer"
        yield Finding("tls", "problem", text, "leave ssl_cert_reqs and ssl_check_hostname out of the URL")
        return
    days = None if tls.expires_at is None else (tls.expires_at - time.time()) / _DAY
    if days is not None and days < _ENDING_DAYS:
        yield Finding("tls", "warning", f"the server's certificate ends in {days:.0f} days", "renew it")
    else:
        yield Finding("tls", "ok", "TLS, certificate and host name verified")


def connections(facts: Facts, tools: Mapping[str, str]) -> Iterator[Finding]:
    """How many may come, and who is sent away."""
    now, most = facts.number("connected_clients"), facts.number("maxclients")
    if now is not None and most:
        text = f"{now:.0f} of {most:.0f} connections in use"
        if now >= _CROWDED * most:
            yield Finding("connections", "warning", text, "raise maxclients: beyond it, connecting fails")
        else:
            yield Finding("connections", "ok", text)
    idle = facts.settings.get("timeout", "0")
    if idle.isdecimal() and 0 < int(idle) < _SHORT_IDLE_SECONDS:
        text = f"the server closes connections that were idle for {idle} s: the next call makes a new one first"
        near = ", and a near cache is emptied" if "cache" in tools else ""
        yield Finding("connections", "note", text + near, "set timeout 0, and tcp-keepalive")
