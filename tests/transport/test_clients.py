"""What cannot serve as a client or as a URL is refused when the object is made, in words that show no secret."""

from __future__ import annotations

import traceback
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.cluster
import redis.client
import redis.cluster

from ractogateway.errors import RactoGatewayError
from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)
from ractogateway.redis.transport import TimeLimits, open_async_port, open_blocking_port, open_worker_port

BLOCKING = [RedisExactCache, RedisRateLimiter, RedisChatMemory]
AWAITING = [AsyncRedisExactCache, AsyncRedisRateLimiter, AsyncRedisChatMemory]
PASSWORD = "canary-" + "password"


def bare(kind: type) -> Any:
    """An instance that was never connected: making a cluster client asks the cluster."""
    return kind.__new__(kind)


NOBODY = {
    "object": object,
    "class": lambda: redis.Redis,
    "awaiting class": lambda: redis.asyncio.Redis,
    "pool": lambda: redis.ConnectionPool(),
    "connection": lambda: redis.Connection(),
    "text": lambda: "redis://localhost",
    "number": lambda: 0,
    "pipeline": lambda: redis.Redis().pipeline(),
    "awaiting pipeline": lambda: redis.asyncio.Redis().pipeline(),
    "pipeline of a fake": lambda: fakeredis.FakeRedis().pipeline(),
    "awaiting pipeline of a fake": lambda: fakeredis.FakeAsyncRedis().pipeline(),
    "cluster pipeline": lambda: bare(redis.cluster.ClusterPipeline),
    "awaiting cluster pipeline": lambda: bare(redis.asyncio.cluster.ClusterPipeline),
    "pubsub": lambda: redis.Redis().pubsub(),
}
AWAITED = {
    "Redis": redis.asyncio.Redis,
    "fake": fakeredis.FakeAsyncRedis,
    "cluster": lambda: bare(redis.asyncio.cluster.RedisCluster),
}
BLOCKED = {
    "Redis": redis.Redis,
    "fake": fakeredis.FakeRedis,
    "cluster": lambda: bare(redis.cluster.RedisCluster),
}


def refused(kind: type[Exception], make: Any, *arguments: Any, **named: Any) -> str:
    """The error's text, after checking its class and that nothing in its chain tells the password."""
    with pytest.raises(kind) as caught:
        make(*arguments, **named)
    assert isinstance(caught.value, RactoGatewayError)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in repr(caught.value)
    return str(caught.value)


# Clients that are never connected have nothing to close; their finalizers differ over the releases.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestKinds:
    @pytest.mark.parametrize("name", NOBODY)
    @pytest.mark.parametrize("tool", [*BLOCKING, *AWAITING])
    def test_things_that_are_no_client(self, tool, name):
        text = refused(TypeError, tool, client=NOBODY[name]())
        assert "client" in text
        if "pipeline" in name:
            assert "Pipeline" in text
            assert "made from" in text

    @pytest.mark.parametrize("name", AWAITED)
    @pytest.mark.parametrize("tool", BLOCKING)
    def test_an_awaiting_client_in_a_blocking_tool(self, tool, name):
        assert "Async" in refused(TypeError, tool, client=AWAITED[name]())

    @pytest.mark.parametrize("name", BLOCKED)
    @pytest.mark.parametrize("tool", AWAITING)
    def test_a_blocking_client_in_an_awaiting_tool(self, tool, name):
        assert "without Async" in refused(TypeError, tool, client=BLOCKED[name]())

    @pytest.mark.parametrize("tool", [*BLOCKING, *AWAITING])
    def test_a_client_and_something_that_goes_with_a_url(self, tool):
        client = fakeredis.FakeRedis() if tool in BLOCKING else fakeredis.FakeAsyncRedis()
        refused(ValueError, tool, url="redis://localhost", client=client)
        refused(ValueError, tool, url=f"redis://:{PASSWORD}@localhost", client=client)
        refused(ValueError, tool, client=client, options=RedisOptions())
        tool(client=client)

    def test_ports_themselves(self):
        limits = TimeLimits(1.0, 1.0)
        refused(TypeError, open_blocking_port, None, redis.asyncio.Redis(), None, limits)
        refused(TypeError, open_worker_port, None, redis.asyncio.Redis(), None, limits)
        refused(TypeError, open_async_port, None, redis.Redis(), None, limits)


@pytest.mark.parametrize("tool", [*BLOCKING, *AWAITING])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:6379",
        "http://localhost",
        f"https://user:{PASSWORD}@localhost/0",
        f"postgres://user:{PASSWORD}@localhost/0",
        f"://:{PASSWORD}@localhost",
        f"{PASSWORD}",
        f"redis://:{PASSWORD}@localhost:notaport/0",
        f"redis://:{PASSWORD}@localhost:99999/0",
        f"redis://:{PASSWORD}@localhost:-1/0",
        f"redis://:x/{PASSWORD}@localhost:6379/0",  # a slash that should have been quoted
        f"redis://:{PASSWORD}@[::1:6379/0",
        f"redis://:{PASSWORD}@localhost/0?socket_timeout={PASSWORD}",
        f"redis://:{PASSWORD}@localhost/0?no_such_option={PASSWORD}",
        f"redis://:{PASSWORD}@localhost/?db=one",
        f"unix://:{PASSWORD}@/tmp/socket?db=one",
        f"embedded://:{PASSWORD}@localhost",
        f"embedded:///tmp/x?password={PASSWORD}",
    ],
)
def test_urls_that_lead_nowhere(tool, url):
    refused(ValueError, tool, url)


@pytest.mark.parametrize("tool", [*BLOCKING, *AWAITING])
@pytest.mark.parametrize("url", [0, b"redis://localhost", object(), ["redis://localhost"], True])
def test_urls_of_a_wrong_type(tool, url):
    refused(TypeError, tool, url)


@pytest.mark.parametrize("tool", [*BLOCKING, *AWAITING])
@pytest.mark.parametrize("options", [{}, 5, "x", {"timeout_seconds": 1.0}, RedisOptions])
def test_options_of_a_wrong_type(tool, options):
    refused(TypeError, tool, "redis://localhost", options=options)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": -1.0},
        {"timeout_seconds": float("nan")},
        {"timeout_seconds": float("inf")},
        {"connect_timeout_seconds": 0.0},
        {"stall_seconds": 0.0},
        {"max_in_flight": 0},
        {"max_in_flight": True},
        {"max_in_flight": 1.5},
        {"no_such_option": 1},
    ],
)
def test_options_that_make_no_sense(settings):
    with pytest.raises((TypeError, ValueError)):
        RedisOptions(**settings)


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:p%40ss@localhost:6380/3",
        "redis://user:p%2Fss@[::1]:6379/0?client_name=x",
        "rediss://localhost:6380/0",
        "unix:///tmp/socket?db=2",
        "unix://:password@/tmp/socket",
        None,
    ],
)
def test_urls_that_are_right(url):
    for tool in [*BLOCKING, *AWAITING]:
        tool(url)
