"""A server that became a replica, and stays one: what it has is read, and writes are not tried for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from books import Tally
from faces import Maker
from injection import FAULTS, Scene
from probing import Callers, get, outcome, own_server, put
from proxy import Proxy
from servers import Server, wait_until

from ractogateway.errors import BreakerOpen, StoreTimeout, StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisOptions
from ractogateway.redis.transport.multiplexer import Multiplexer

HASTY = RedisOptions(timeout_seconds=0.4, breaker_failures=3, breaker_seconds=0.5)
LIMITS = {"max_tokens_per_minute": 1_000, "window_seconds": 3600.0}
REQUEST = ("question", "", "gpt-4o", 0.0, 256)


class Use(NamedTuple):
    """A write under a name, and what can be read when it was made once."""

    write: Callable[[str], Any]
    reads: dict[Any, Callable[[], Any]]


@pytest.fixture
def host() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture(params=["async url", "blocking url"])
def uses(request: pytest.FixtureRequest, host: Server) -> Iterator[list[Use]]:
    """Of every tool, those that read by a plain command and those that read by a script."""
    with ExitStack() as stack:
        make = Maker(request.param, host, stack)
        cache = make("cache", on_outage="raise", options=HASTY)
        memory = make("memory", config=ChatMemoryConfig(max_turns=10), options=HASTY)
        one = make("limiter", config=RateLimitConfig(**LIMITS), on_outage="raise", options=HASTY)
        more = RateLimitConfig(**LIMITS, max_requests_per_minute=50)
        several = make("limiter", config=more, on_outage="raise", options=HASTY)
        yield [
            Use(
                lambda _: cache.put(*REQUEST, LLMResponse(content="answer")),
                {"answer": lambda: cache.get(*REQUEST).content, 1: lambda: len(cache)},
            ),
            Use(
                lambda name: memory.append("c", "user", "hello", request_id=name),
                {
                    ("hello",): lambda: tuple(message["content"] for message in memory.get_history("c")),
                    "hello": lambda: memory.get_history("c", last=1)[0]["content"],
                    1: lambda: memory.get_changes("c", 0).revision,
                },
            ),
            Use(lambda name: one.consume("u", 100, request_id=name), {900: lambda: one.get_remaining("u")}),
            Use(lambda name: several.consume("v", 100, request_id=name), {900: lambda: several.get_remaining("v")}),
        ]


@pytest.mark.cell("not ready", "cache", "limiter", "memory", "blocking")
def test_a_replica_is_read_on_however_many_writes_it_has_refused(host, uses, figures):
    """Each write is tried until its time is up, until the breaker knows; from then on they fail at once."""
    tally = Tally()

    def meet(use: Use) -> None:
        error = None
        while not isinstance(error, BreakerOpen):
            error = tally.refused(lambda: use.write("second"), StoreUnavailable)
            for right, read in use.reads.items():
                tally.saw(in_time(read), right)
            assert tally.calls < 500, "writes are tried for ever"

    for use in uses:
        in_time(lambda use=use: use.write("first"))
    with FAULTS["READONLY"].raging(Scene(host.url, host)), ThreadPoolExecutor(len(uses)) as pool:
        list(pool.map(meet, uses))
    for use in uses:
        again = lambda use=use: not isinstance(outcome(lambda: use.write("third")).result, StoreUnavailable)  # noqa: E731
        wait_until(again, what="writes again")
    tally.judge(figures)


@pytest.mark.parametrize("wire", ["multiplexer", "stream"])
def test_a_connection_to_what_became_a_replica_is_left(host, monkeypatch, wire):
    """The next one may lead to the successor: behind a name or a Sentinel, another server answers there."""
    monkeypatch.setattr(Multiplexer, "can_take_over", staticmethod(lambda _connection: wire == "multiplexer"))
    with Proxy(host.url) as proxy, Callers("awaiting", proxy.url) as callers:
        assert callers.result(put(b"key", b"value")) == b"OK"
        before = proxy.accepted
        host.command("REPLICAOF", "127.0.0.1", "1")
        started = callers.start(put(b"key", b"another"))
        wait_until(lambda: proxy.accepted > before, what="a connection anew")
        assert callers.result(get(b"key")) == b"value"
        host.command("REPLICAOF", "NO", "ONE")
        assert started.result(10).result == b"OK"


def in_time(call: Callable[[], Any]) -> Any:
    """What it returns as soon as the machine has time for it."""
    until = time.monotonic() + 30
    while True:
        try:
            return call()
        except StoreTimeout:
            assert time.monotonic() < until
