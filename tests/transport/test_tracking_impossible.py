"""Where nothing can be tracked, a near cache holds nothing, and says once why."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import fakeredis
import pytest
import redis.asyncio
from near_copies import KEYS, LIMITS, Near, awaited_near, until
from probing import async_port, own_server, put
from servers import Server

from ractogateway.errors import InvalidValueError, StoreError
from ractogateway.redis.transport import address as addresses
from ractogateway.redis.transport import open_async_port, open_blocking_port
from ractogateway.redis.transport.multiplexer import Multiplexer
from ractogateway.redis.transport.tracked_port import open_tracked_port
from ractogateway.redis.transport.tracking import BEAT_SECONDS


def assert_holds_nothing(near: Near, reason: str) -> None:
    assert not near.tracker.supported
    assert reason in near.tracker.reason
    assert not near.tracker.alive
    assert not near.copies


async def use_without_tracking(near: Near, reason: str) -> None:
    _ = near.copies
    await until(lambda: near.tracker.reason)
    await near.port.run(put(KEYS[0], b"value"))
    for _ in range(3):
        assert await near.get(KEYS[0]) == b"value"
    assert_holds_nothing(near, reason)


@contextlib.contextmanager
def user(server: Server, *rules: str) -> Iterator[str]:
    """The URL of somebody who may not do everything."""
    server.command("ACL", "SETUSER", "somebody", "on", ">secret", "~*", "&*", "+@all", *rules)
    try:
        yield server.url.replace("redis://", "redis://somebody:secret@")
    finally:
        server.command("ACL", "DELUSER", "somebody")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "near cache" in record.getMessage()]


@pytest.mark.parametrize("forbidden", ["-client|tracking", "-client"])
def test_an_acl_that_forbids_it(server, forbidden):
    with user(server, forbidden) as url:
        asyncio.run(use_without_tracking(Near(async_port(url)), "ACL"))


def test_the_smallest_acl_that_allows_it(server):
    """CLIENT TRACKING besides the reads themselves; a PING that is refused is an answer, too."""

    async def main(url: str) -> None:
        near = await awaited_near(url)
        await near.get(KEYS[0])
        assert near.copies
        server.command("SET", KEYS[0], "new")
        await until(lambda: not near.copies)

    server.command("SET", KEYS[0], "old")
    with user(server, "-@all", "+get", "+client|tracking") as url:
        asyncio.run(main(url))


def test_what_is_forbidden_is_said_once_and_asked_again_over_new_connections_only(any_server, caplog):
    async def use(near: Near, seconds: float) -> None:
        await use_without_tracking(near, "ACL")
        await asyncio.sleep(seconds)
        await use_without_tracking(near, "ACL")

    with caplog.at_level(logging.INFO, "ractogateway"), user(any_server, "-client|tracking") as url:
        near = Near(async_port(url))
        any_server.command("CONFIG", "RESETSTAT")
        asyncio.run(use(near, 1.2 * BEAT_SECONDS))
        assert server_saw(any_server, "tracking") == 1
        asyncio.run(use(near, 0))
        assert server_saw(any_server, "tracking") == 2
    assert said(caplog) == ["near cache off: the ACL of Redis forbids this user CLIENT TRACKING"]


def server_saw(server: Server, subcommand: str) -> int:
    with server.client() as client:
        stats = client.info("commandstats").get(f"cmdstat_client|{subcommand}", {})
    return stats.get("calls", 0) + stats.get("rejected_calls", 0)


def test_what_was_forbidden_is_allowed_later(any_server, caplog):
    async def main(url: str) -> None:
        near = Near(async_port(url))
        await use_without_tracking(near, "ACL")
        any_server.command("ACL", "SETUSER", "somebody", "+client|tracking")
        any_server.command("CLIENT", "KILL", "USER", "somebody")
        await until(lambda: near.tracker.alive)
        assert near.tracker.supported
        assert not near.tracker.reason
        await near.get(KEYS[0])
        assert near.copies

    with caplog.at_level(logging.INFO, "ractogateway"), user(any_server, "-client|tracking") as url:
        asyncio.run(main(url))
    assert said(caplog) == [
        "near cache off: the ACL of Redis forbids this user CLIENT TRACKING",
        "near cache on: the server tracks again",
    ]


def test_a_server_that_does_not_know_it():
    with own_server(config={"rename-command": 'CLIENT ""'}) as server:
        asyncio.run(use_without_tracking(Near(async_port(server.url)), "knows no CLIENT TRACKING"))


def test_a_connection_that_speaks_resp2_only(any_server, monkeypatch):
    """Such a server would agree to track, and never say a word."""
    build = addresses._build
    monkeypatch.setattr(addresses, "_build", lambda url, _protocol, credentials: build(url, 2, credentials))
    asyncio.run(use_without_tracking(Near(async_port(any_server.url)), "RESP3"))


def test_a_server_without_hello():
    with own_server(config={"rename-command": 'HELLO ""'}) as server:

        async def main() -> None:
            near = Near(async_port(server.url, 0.2))
            _ = near.copies
            await until(lambda: near.tracker.reason)
            assert not near.tracker.supported
            with pytest.raises(StoreError):
                await near.get(KEYS[0])

        asyncio.run(main())


def test_a_redis_py_whose_connections_cannot_be_taken_over(any_server, monkeypatch):
    monkeypatch.setattr(Multiplexer, "can_take_over", staticmethod(lambda _connection: False))
    asyncio.run(use_without_tracking(Near(async_port(any_server.url)), "taken over"))


def test_a_cluster_is_not_tracked():
    async def main() -> None:
        near = Near(async_port("redis+cluster://127.0.0.1:1"))
        await until(lambda: near.tracker.reason)
        assert_holds_nothing(near, "cluster")

    asyncio.run(main())


def test_given_clients_are_refused(any_server):
    clients = [
        open_blocking_port(None, any_server.client(), None, LIMITS),
        open_blocking_port(None, fakeredis.FakeRedis(), None, LIMITS),
        open_async_port(None, redis.asyncio.Redis.from_url(any_server.url), None, LIMITS),
    ]
    for port in clients:
        with pytest.raises(InvalidValueError, match="url="):
            open_tracked_port(port)
