"""Credentials from a provider: asked for at each connection, and renewed on those that are open."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis.credentials
from probing import AT_ONCE_SECONDS, Callers, async_port, get, own_server, put
from servers import Server, wait_until

from ractogateway.errors import AuthenticationFailed, InvalidTypeError, InvalidValueError, StoreUnavailable
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions
from ractogateway.redis.transport import TimeLimits, drive, open_blocking_port, plain_call

WHO = plain_call(b"ACL", (), (b"WHOAMI",), bytes, replay_safe=True)
ID = plain_call(b"CLIENT", (), (b"ID",), int, replay_safe=True)


class Provider(redis.credentials.CredentialProvider):
    """Tells a user and password in the way of old: by a call that blocks."""

    def __init__(self, user: str = "first", password: str = "a secret") -> None:
        self.user, self.password = user, password
        self.asked_in: list[threading.Thread] = []

    def get_credentials(self) -> tuple[str, str]:
        self.asked_in.append(threading.current_thread())
        return self.user, self.password


class AwaitedProvider(Provider):
    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        return self.get_credentials()


class Token:
    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password

    def try_get(self, name: str) -> str:
        assert name == "oid"
        return self._user

    def get_value(self) -> str:
        return self._password


class StreamingProvider(AwaitedProvider, redis.credentials.StreamingCredentialProvider):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[Callable[[Any], None]] = []

    def on_next(self, callback: Callable[[Any], None]) -> None:
        self.told.append(callback)

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        raise NotImplementedError

    def is_streaming(self) -> bool:
        return True

    def renew(self, user: str, password: str) -> None:
        self.user, self.password = user, password
        for callback in self.told:
            callback(Token(user, password))


@pytest.fixture
def guarded() -> Iterator[Server]:
    """One that lets in two users, and nobody without a name."""
    with own_server() as started:
        for user in ("first", "second"):
            started.command("ACL", "SETUSER", user, "on", ">a secret", "~*", "+@all")
        yield started


def test_every_kind_of_caller_is_let_in(guarded):
    for provider in (Provider(), AwaitedProvider(), StreamingProvider()):
        for kind in Callers.KINDS:
            with Callers(kind, guarded.url, credential_provider=provider) as callers:
                assert callers.result(WHO) == b"first"
        assert len(provider.asked_in) == 2, "once a connection"


def test_a_provider_that_blocks_does_not_do_so_in_the_loop(guarded):
    provider = Provider()
    with Callers("awaiting", guarded.url, credential_provider=provider) as callers:
        assert callers.result(WHO) == b"first"
    assert "AnyIO worker" in provider.asked_in[0].name


def test_a_new_connection_asks_anew(guarded):
    provider = Provider()
    with Callers("blocking", guarded.url, credential_provider=provider) as callers:
        callers.result(put(b"key", b"value"))
        guarded.command("ACL", "SETUSER", "first", "resetpass", ">another secret")
        provider.password = "another secret"
        guarded.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert callers.result(get(b"key")) == b"value"


def test_what_is_renewed_is_told_to_open_connections(guarded):
    provider = StreamingProvider()
    with (
        Callers("awaiting", guarded.url, credential_provider=provider) as awaiting,
        Callers("blocking", guarded.url, credential_provider=provider) as blocking,
    ):
        both = (awaiting, blocking)
        before = [callers.result([WHO, ID]) for callers in both]
        assert {who for who, _ in before} == {b"first"}
        provider.renew("second", "a secret")
        for callers, (_, connection) in zip(both, before, strict=True):
            wait_until(lambda callers=callers: callers.result(WHO) == b"second", what="the other user")
            assert callers.result(ID) == connection, "the connection is the same"
        assert len(provider.told) == 1


def test_the_order_of_replies_is_kept_while_credentials_are_renewed(guarded):
    provider = StreamingProvider()
    with Callers("awaiting", guarded.url, credential_provider=provider) as callers:
        callers.result([put(b"key %d" % number, b"%d" % number) for number in range(20)])
        for turn in range(20):
            provider.renew(("first", "second")[turn % 2], "a secret")
            ended = callers.outcomes([get(b"key %d" % number) for number in range(20)])
            assert [one.result for one in ended] == [b"%d" % number for number in range(20)]


def test_renewed_credentials_that_are_rejected_are_logged_without_them(guarded, caplog):
    provider = StreamingProvider()
    with Callers("awaiting", guarded.url, credential_provider=provider) as callers:
        callers.result(put(b"key", b"value"))
        provider.renew("nobody", "a wrong secret")
        wait_until(lambda: "rejected renewed credentials (WRONGPASS)" in caplog.text, what="a log line")
        assert callers.result(get(b"key")) == b"value", "what was let in stays in"
    assert "wrong secret" not in caplog.text
    assert "nobody" not in caplog.text


def test_a_provider_that_fails_is_an_outage_and_shows_nothing(guarded):
    class Failing(Provider):
        def get_credentials(self) -> tuple[str, str]:
            raise LookupError("the secret is: swordfish")

    with Callers("blocking", guarded.url, 2.0, credential_provider=Failing()) as callers:
        ended = callers.outcome(WHO)
    assert isinstance(ended.result, StoreUnavailable)
    assert "LookupError" in str(ended.result)
    assert "swordfish" not in str(ended.result)


def test_wrong_credentials_fail_at_once(guarded):
    with Callers("awaiting", guarded.url, credential_provider=Provider(password="wrong")) as callers:
        ended = callers.outcome(WHO)
    assert isinstance(ended.result, AuthenticationFailed)
    assert ended.seconds < AT_ONCE_SECONDS


def test_the_last_resort_has_the_same_credentials(guarded):
    options = RedisOptions(credential_provider=Provider())
    spare = open_blocking_port(guarded.url, None, options, TimeLimits(2.0, 2.0))._spare_port()
    assert drive(spare.run(WHO)) == b"first"
    spare._client.close()


def test_one_provider_one_connection_and_another_provider_another(guarded):
    first, second = Provider(), Provider("second")

    async def main() -> None:
        ports = [async_port(guarded.url, credential_provider=provider) for provider in (first, first, second)]
        ids = [await port.run(ID) for port in ports]
        assert ids[0] == ids[1] != ids[2]
        assert await ports[2].run(WHO) == b"second"

    asyncio.run(main())


def test_a_forgotten_provider_is_collected(guarded):
    provider = StreamingProvider()
    port = async_port(guarded.url, credential_provider=provider)
    asyncio.run(port.run(WHO))
    gone = weakref.ref(provider)
    del port, provider
    until = time.monotonic() + 5
    while gone() is not None and time.monotonic() < until:
        gc.collect()
    assert gone() is None


@pytest.mark.parametrize("tool", [RedisExactCache, AsyncRedisExactCache])
def test_bad_input_at_the_edge(tool):
    with pytest.raises(InvalidTypeError, match=r"credential_provider must be a redis\.CredentialProvider, not str"):
        tool("redis://localhost", options=RedisOptions(credential_provider="swordfish"))
    for url in ("redis://user:pw@localhost", "redis+cluster://:pw@localhost", "redis+sentinel://u:pw@localhost/s"):
        with pytest.raises(InvalidValueError, match="not both"):
            tool(url, options=RedisOptions(credential_provider=Provider()))


def test_options_do_not_show_it():
    assert "Provider" not in repr(RedisOptions(credential_provider=Provider()))
