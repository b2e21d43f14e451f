"""A primary behind Sentinels by URL: whoever it is at the moment, and after a failover its successor."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis.asyncio.sentinel
import redis.credentials
import redis.sentinel
from faces import Maker
from load import BUDGET, Writer
from probing import AT_ONCE_SECONDS, Callers, get, put, run_script
from servers import FACTORIES, ServerNotInstalled, valkey9, wait_until
from topologies import SERVICE, Sentinels, counted, sentinels

from ractogateway.errors import AuthenticationFailed, StoreRefused, StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisChatMemory
from ractogateway.redis.transport import TimeLimits, drive, open_blocking_port
from ractogateway.redis.transport.sentinel_watch import PERIOD_SECONDS

CALM_MS, NERVOUS_MS = 5000, 500
MARGIN_SECONDS = 0.5
"""Around the moment at which a primary went: replication is asynchronous, and what it acknowledged in that time may be
lost with it."""


@pytest.fixture(scope="module", params=["valkey9", pytest.param("redis8", marks=pytest.mark.slow)])
def kept(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    try:
        FACTORIES[request.param]()
    except ServerNotInstalled as reason:
        pytest.skip(str(reason))
    with sentinels(FACTORIES[request.param]) as watched:
        yield watched


@pytest.fixture
def watched(kept: Sentinels) -> Sentinels:
    """A primary and its replica, empty, with everybody alive."""
    kept.set_down_after(CALM_MS)
    kept.wait_until_whole()
    kept.primary().flush()
    return kept


@pytest.fixture(params=Callers.KINDS)
def callers(request: pytest.FixtureRequest, watched: Sentinels) -> Iterator[Callers]:
    with Callers(request.param, watched.url) as made:
        yield made


# --- the tools -------------------------------------------------------------------------------------------------------


class SentinelMaker(Maker):
    """Faces over clients that a Sentinel object of redis-py made."""

    def _async_client(self, tool, settings):
        return self._over_async_client(tool, settings, self._client_of(redis.asyncio.sentinel.Sentinel))

    def _blocking_client(self, tool, settings):
        return self._over_client(tool, settings, self._client_of(redis.sentinel.Sentinel))

    def _client_of(self, kind):
        def make():
            made = kind([(watcher.host, watcher.port) for watcher in self._server.watchers])
            for client in made.sentinels:
                if kind is redis.sentinel.Sentinel:
                    self._stack.callback(client.close)
                else:
                    self._stack.callback(self.portal.call, client.aclose)
            return made.master_for(SERVICE)

        return make


@pytest.mark.parametrize(
    "face", ["async url", "blocking url", "aio of url", "async client", "blocking client", "aio of client"]
)
def test_the_tools_work_on_every_face(watched, face):
    with ExitStack() as stack:
        make = SentinelMaker(face, watched, stack)
        request = ("question", "system", "model", 0.0, 10)
        cache = make("cache", on_outage="raise")
        cache.put(*request, LLMResponse(content="answer"))
        assert cache.get(*request).content == "answer"
        assert len(cache) == 1
        limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100), on_outage="raise")
        assert limiter.check_and_consume("user", 60)
        assert not limiter.check_and_consume("user", 60)
        assert limiter.get_remaining("user") == 40
        memory = make("memory", config=ChatMemoryConfig(max_turns=3))
        memory.append("conversation", "user", "hello")
        assert [message["content"] for message in memory.get_history("conversation")] == ["hello"]
    assert watched.primary().command("DBSIZE") > 0


# --- failover --------------------------------------------------------------------------------------------------------


def go_over(watched: Sentinels, fail: Callable[[], None]) -> None:
    """Let the primary go under load; everything that the next one acknowledged must be there, once, in order.

    ``fail`` returns when the Sentinels agree on the next one.
    """
    over = threading.Event()
    with ExitStack() as stack:
        faces = ["blocking url", "async url"]
        writers = [Writer(n, Maker(faces[n % 2], watched, stack), over) for n in range(6)]
        for writer in writers:
            writer.start()
        try:
            wait_until(lambda: all(len(writer.charged) > 50 for writer in writers), timeout_seconds=10, what="a load")
            time.sleep(1.2 * MARGIN_SECONDS)
            began = time.monotonic() - MARGIN_SECONDS
            fail()
            ended = time.monotonic() + PERIOD_SECONDS + MARGIN_SECONDS
            wait_until(
                lambda: all(len([at for at in writer.charged[-100:] if at > ended]) > 50 for writer in writers),
                timeout_seconds=20,
                what="service by the new primary",
            )
        finally:
            over.set()
            for writer in writers:
                writer.join(20)
        memory = Maker(faces[0], watched, stack)("memory")
        for writer in writers:
            judge(writer, memory, began, ended)


def judge(writer: Writer, memory: RedisChatMemory, began: float, ended: float) -> None:
    assert not writer.is_alive(), "a caller hangs"
    assert writer.bug is None
    safe = {n for n, at in enumerate(writer.acknowledged, 1) if not began < at < ended}
    assert safe
    history = [int(message["content"]) for message in memory.get_history(writer.conversation)]
    assert history == sorted(set(history)), "an append is there twice, or out of order"
    assert safe <= set(history), "an acknowledged append is lost"
    charged = BUDGET - writer.limiter.get_remaining(writer.user)
    assert charged <= len(writer.charged), "an operation was charged twice"
    assert charged >= sum(not began < at < ended for at in writer.charged), "a charge is lost"
    assert writer.longest_wait < 10


@pytest.mark.cell("Sentinel failover", "limiter", "memory", "blocking")
def test_a_failover_that_was_asked_for(watched):
    """The old primary goes on serving for seconds. Nobody writes to it any more."""
    old = watched.primary()
    go_over(watched, watched.fail_over)
    assert watched.primary() is not old


@pytest.mark.cell("Sentinel failover", "limiter", "memory", "blocking")
def test_a_frozen_primary(watched):
    old = watched.primary()
    watched.set_down_after(NERVOUS_MS)

    def freeze() -> None:
        old.freeze()
        wait_until(lambda: watched.agreed() not in (None, old), timeout_seconds=15, what="the next primary")

    try:
        go_over(watched, freeze)
    finally:
        old.thaw()
        watched.set_down_after(CALM_MS)
    # It believes that it is the primary still, until a Sentinel tells it otherwise; nobody is led to it.
    with Callers("blocking", watched.url) as callers:
        assert callers.result(put(b"key", b"value")) == b"OK"
        watched.wait_until_whole()
        assert old is watched.replica()
        assert callers.result(get(b"key")) == b"value"


# --- who is asked, and who is believed -------------------------------------------------------------------------------


def test_sentinels_that_are_dead_or_silent(watched):
    silent, dead, alive = watched.watchers
    dead.kill()
    url = f"redis+sentinel://{silent.host}:{silent.port},{dead.host}:{dead.port},{alive.host}:{alive.port}/{SERVICE}/0"
    with silent.frozen():
        for kind in Callers.KINDS:
            with Callers(kind, url) as callers:
                ended = callers.outcome(put(b"key", b"value"))
                assert ended.result == b"OK"
                assert ended.seconds < AT_ONCE_SECONDS


def test_a_server_that_is_no_primary_is_not_used(watched):
    """Two Sentinels that know a service by the name of the replica, and one that is right."""
    first, second, third = watched.watchers
    replica, primary = watched.replica(), watched.primary()
    for watcher, server in ((first, replica), (second, replica), (third, primary)):
        watcher.command("SENTINEL", "MONITOR", "disputed", server.host, server.port, 3)
    try:
        before = counted(replica, "READONLY")
        with Callers("blocking", watched.url.replace(SERVICE, "disputed")) as callers:
            assert callers.result(put(b"key", b"value")) == b"OK"
        with Callers("blocking", f"redis+sentinel://{first.host}:{first.port}/disputed", 0.2) as callers:
            ended = callers.outcome(put(b"key", b"value")).result
            assert isinstance(ended, StoreUnavailable)
            assert not ended.may_have_applied
        assert counted(replica, "READONLY") == before, "the replica was asked to write"
    finally:
        for watcher in watched.watchers:
            watcher.command("SENTINEL", "REMOVE", "disputed")


def test_a_service_that_no_sentinel_knows(watched):
    with Callers("blocking", watched.url.replace(SERVICE, "unknown")) as callers:
        ended = callers.outcome(get(b"key"))
        assert isinstance(ended.result, StoreRefused)
        assert ended.seconds < AT_ONCE_SECONDS
    watched.watchers[0].kill()  # which might have known it
    with Callers("blocking", watched.url.replace(SERVICE, "unknown"), 0.3) as callers:
        ended = callers.outcome(get(b"key"))
        assert isinstance(ended.result, StoreUnavailable)
        assert not ended.result.may_have_applied


def test_no_sentinel_at_all(watched):
    for kind in Callers.KINDS:
        with Callers(kind, f"redis+sentinel://127.0.0.1:1,127.0.0.1:2/{SERVICE}", 0.3) as callers:
            ended = callers.outcome(get(b"key"))
            assert isinstance(ended.result, StoreUnavailable)
            assert not ended.result.may_have_applied
            assert ended.seconds < AT_ONCE_SECONDS


def test_a_database_of_ones_own(watched, callers):
    assert callers.result(put(b"key", b"in 0")) == b"OK"
    with Callers("blocking", watched.url + "/3") as others:
        assert others.result(get(b"key")) is None
        assert others.result(put(b"key", b"in 3")) == b"OK"
    assert callers.result(get(b"key")) == b"in 0"


def test_the_last_resort_is_a_client_of_the_primary(watched):
    """Late at exit no thread can be started any more: a blocking client serves."""
    url = watched.url.replace("redis+sentinel://", "redis+sentinel://127.0.0.1:1,")
    spare = open_blocking_port(url, None, None, TimeLimits(2.0, 2.0))._spare_port()
    drive(spare.run(put(b"key", b"value")))
    assert drive(spare.run(get(b"key"))) == b"value"
    spare._client.close()


def test_loops_forks_and_exit_leave_nothing_behind(watched):
    """No warning, no hanging thread, no connection shared by two processes; neither to servers nor to Sentinels."""
    run_script(
        """
        import asyncio, os, time
        from probing import async_port, blocking_port, get, put, run

        blocking, awaited = blocking_port(URL), async_port(URL)

        async def watched_over():
            await awaited.run(put(b"key", b"value"))
            await asyncio.sleep(1.2)  # the Sentinels are asked now
            assert await awaited.run(get(b"key")) == b"value"

        def use():
            asyncio.run(watched_over())
            assert run(blocking, get(b"key")) == b"value"

        use()
        pid = os.fork()
        use()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """,
        watched.url,
    )


def test_passwords_of_both_kinds():
    """One for the Sentinels, another for the servers; each is told apart when it is wrong."""
    config, watching = {"requirepass": "server:@/"}, {"requirepass": "sentinel&=?"}
    with sentinels(valkey9, config=config, watching=watching) as watched:
        parts = {"server": "server%3A%40%2F", "sentinel": "sentinel%26%3D%3F"}

        def url(**changed: str) -> str:
            now = {**parts, **changed}
            return f"redis+sentinel://:{now['server']}@{watched.hosts}/{SERVICE}?sentinel_password={now['sentinel']}"

        with Callers("blocking", url()) as callers:
            assert callers.result(put(b"key", b"value")) == b"OK"
        provider = redis.credentials.UsernamePasswordCredentialProvider(password="server:@/")
        with Callers("blocking", url().replace(f":{parts['server']}@", ""), credential_provider=provider) as callers:
            assert callers.result(get(b"key")) == b"value"
        for wrong in ("server", "sentinel"):
            with Callers("blocking", url(**{wrong: "wrong-one"})) as callers:
                ended = callers.outcome(get(b"key"))
                assert isinstance(ended.result, AuthenticationFailed)
                assert "wrong-one" not in repr(ended.result)
                assert ended.seconds < AT_ONCE_SECONDS
