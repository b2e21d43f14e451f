"""A cluster by URL: one object, many nodes, and nobody notices where a key lives."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import ExitStack

import pytest
import redis.asyncio
import redis.cluster
from faces import Maker
from probing import async_port, get, incr, put, run_script
from redis.crc import key_slot
from servers import Server
from topologies import BOTH

from ractogateway.errors import (
    StoreError,
    StoreUnavailable,
    WrongKeyType,
)
from ractogateway.messages import LLMResponse
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig
from ractogateway.redis.transport import (
    Port,
    Script,
    TimeLimits,
    drive,
    open_async_port,
    open_blocking_port,
    plain_call,
    script_call,
)
from ractogateway.redis.transport.links import close_links

KEYS = [b"key-%d" % number for number in range(60)]


class ClusterMaker(Maker):
    """Faces over cluster clients."""

    def _async_client(self, tool, settings):
        return self._over_async_client(tool, settings, self._client_of(redis.asyncio.RedisCluster))

    def _blocking_client(self, tool, settings):
        return self._over_client(tool, settings, self._client_of(redis.cluster.RedisCluster))

    def _client_of(self, kind):
        return lambda: kind.from_url(self._server.url.replace("redis+cluster", "redis").partition(",")[0])


@BOTH
@pytest.mark.parametrize(
    "face", ["async url", "blocking url", "aio of url", "async client", "blocking client", "aio of client"]
)
def test_the_tools_work_on_every_face(nodes, face):
    with ExitStack() as stack:
        make = ClusterMaker(face, nodes, stack)
        cache = make("cache", namespace="tenant", on_outage="raise")
        limiter = make("limiter", config=RateLimitConfig(max_tokens_per_minute=100), on_outage="raise")
        memory = make("memory", config=ChatMemoryConfig(max_turns=3, ttl_seconds=60))
        for number in range(9):  # users and conversations live on different nodes
            request = (f"question {number}", "system", "model", 0.0, 10)
            assert cache.get(*request) is None
            cache.put(*request, LLMResponse(content=f"answer {number}"))
            assert cache.get(*request).content == f"answer {number}"
            assert limiter.consume(f"user {number}", 60, request_id="one").allowed
            assert limiter.consume(f"user {number}", 60, request_id="one").allowed
            assert not limiter.check_and_consume(f"user {number}", 60)
            assert limiter.get_remaining(f"user {number}") == 40
            memory.append(f"conversation {number}", "user", f"hello {number}")
            memory.append(f"conversation {number}", "assistant", "hi")
            assert [m["content"] for m in memory.get_history(f"conversation {number}")] == [f"hello {number}", "hi"]
        assert len(cache) == 9
        assert cache.invalidate(*request)
        cache.clear()
        assert len(cache) == 0
        limiter.reset("user 3")
        assert limiter.get_remaining("user 3") == 100
        memory.clear("conversation 3")
        assert memory.count("conversation 3") == 0
        assert memory.count("conversation 4") == 2


@BOTH
@pytest.mark.parametrize("face", ["async url", "blocking url", "async client", "blocking client", "aio of client"])
@pytest.mark.parametrize("prefix", ["limits", "{one slot}:limits"])
def test_limits_of_parents_on_other_nodes(nodes, face, prefix):
    """All or nothing, whether one script reaches all of them or not."""
    config = RateLimitConfig(key_prefix=prefix, max_tokens_per_minute=100, max_requests_per_minute=9, max_concurrent=1)
    with ExitStack() as stack:
        limiter = ClusterMaker(face, nodes, stack)("limiter", config=config, on_outage="raise")
        for number in range(6):
            user, parents = f"user {number}", [f"organisation {number}", f"model {number}"]
            assert limiter.consume(user, 60, parents=parents).allowed
            assert limiter.consume(parents[1], 30).allowed
            refused = limiter.consume(user, 20, parents=parents)
            assert (refused.allowed, refused.violated) == (False, "parents[1].tokens_per_window")
            assert [limiter.get_remaining(owner) for owner in (user, *parents)] == [40, 40, 10]
            reservation = limiter.reserve(user, 10, parents=parents)
            assert limiter.reserve(user, 10, parents=parents).decision.violated.endswith("concurrent")
            assert reservation.settle(5)
            assert [limiter.get_remaining(owner) for owner in (user, *parents)] == [35, 35, 5]
            assert limiter.wait(user, 35, timeout_seconds=5).allowed
        decisions = limiter.consume_many([(f"other {number}", 101 if number == 3 else 1) for number in range(6)])
        assert [decision.allowed for decision in decisions] == [True, True, True, False, True, True]


@BOTH
@pytest.mark.parametrize("face", ["async url", "blocking url", "async client", "blocking client"])
def test_a_users_conversations_on_all_nodes(nodes, face):
    """The index is on one node, the conversations are on all."""
    with ExitStack() as stack:
        make = ClusterMaker(face, nodes, stack)
        memory = make("memory", config=ChatMemoryConfig(max_turns=1, ttl_seconds=60, on_evict=lambda *_: None))
        names = [f"conversation {number}" for number in range(9)]
        for name in names:
            memory.append(name, "user", "hello", user_id="u")
            memory.append(name, "user", "hello again", user_id="u")
        memory.fork(names[0], "copy")
        memory.import_("imported", memory.export(names[1]), user_id="u")
        memory.append("other", "user", "hello", user_id="v")
        assert memory.get_history(names[3], last=1) == memory.get_page(names[3]).messages
        assert memory.pop(names[2]) == {"role": "user", "content": "hello again"}
        assert memory.conversations("u") == [name for name in [*names, "copy", "imported"] if name != names[2]]
        assert memory.erase_user("u").conversations == 10
        assert (memory.conversations("u"), memory.conversations("v")) == ([], ["other"])


# It does not close all of them before it forgets them, either.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_client_of_redis_py_shows_nothing_of_its_inside(nodes):
    """redis.asyncio.RedisCluster closes connections that other tasks use, which then fail with an AttributeError."""
    ended: Counter[str] = Counter()

    async def call(port: Port, key: bytes, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                ended[str(await port.run(put(key, key)))] += 1
            except StoreError as error:
                ended[type(error).__name__] += 1

    async def main() -> None:
        async with redis.asyncio.RedisCluster(host=nodes.nodes[0].host, port=nodes.nodes[0].port) as client:
            port, over = open_async_port(None, client, None, TimeLimits(1.0, 1.0)), asyncio.Event()
            callers = [asyncio.create_task(call(port, key, over)) for key in KEYS]
            for key in KEYS[:5]:
                await asyncio.to_thread(nodes.move_on, key_slot(key))
                await asyncio.sleep(0.05)
            over.set()
            await asyncio.gather(*callers)

    asyncio.run(main())
    gc.collect()
    assert ended["True"] > 100
    assert set(ended) <= {"True", "OutcomeUnknown", "StoreTimeout", "StoreNotReady"}


# --- many commands at once --------------------------------------------------------------------------------------------


def test_a_batch_over_all_nodes_comes_back_in_order(nodes, callers):
    assert {nodes.owner(key) for key in KEYS} == set(nodes.primaries())
    callers.result([put(key, b"value of " + key) for key in KEYS])
    assert callers.result([get(key) for key in KEYS]) == [b"value of " + key for key in KEYS]


def test_an_error_in_a_batch_is_told_and_the_rest_is_done(nodes, callers):
    nodes.owner(KEYS[7]).command("RPUSH", KEYS[7], "not a number")
    outcome = callers.outcome([incr(key) for key in KEYS])
    assert isinstance(outcome.result, WrongKeyType)
    assert [callers.result(get(key)) for key in KEYS if key != KEYS[7]] == [b"1"] * (len(KEYS) - 1)


def test_a_script_is_loaded_on_every_node_that_needs_it(nodes, callers):
    script = Script.of("tell", b"return redis.call('GET', KEYS[1]) .. ARGV[1]")
    call = [script_call(script, (key,), (b"!",), bytes, replay_safe=True) for key in KEYS]
    for _ in range(2):
        callers.result([put(key, key) for key in KEYS])
        assert callers.result(call) == [key + b"!" for key in KEYS]
        for node in nodes.primaries():
            node.command("SCRIPT", "FLUSH")


def test_commands_without_keys_go_somewhere(callers):
    ping = plain_call(b"PING", (), (), bytes, replay_safe=True)
    script = Script.of("constant", b"return 7")
    calls = [ping, script_call(script, (), (), int, replay_safe=True), get(b"nothing")]
    assert callers.result(calls) == [b"PONG", 7, None]


# --- connections ------------------------------------------------------------------------------------------------------


def test_one_connection_a_node(nodes, callers):
    """However many callers there are, and whatever happened to the map and to the connections before."""
    before = [connections(node) for node in nodes.primaries()]
    for _ in range(3):
        callers.outcomes([get(key) for key in KEYS])
        for node in nodes.primaries():
            node.command("CLIENT", "KILL", "TYPE", "normal")
        assert callers.result([put(key, key) for key in KEYS]) == [b"OK"] * len(KEYS)
        nodes.move_on(key_slot(KEYS[0]))
        assert callers.result([get(key) for key in KEYS]) == KEYS
    grown = [now - was for now, was in zip(map(connections, nodes.primaries()), before, strict=True)]
    assert max(grown) <= 1


def connections(node: Server) -> int:
    with node.client() as client:
        return len(client.client_list(_type="normal"))


def test_closed_in_mid_call(nodes):
    """Everybody is told, once; and the next call finds the cluster again."""

    async def main() -> None:
        port = async_port(nodes.url)
        await port.run_many([put(key, key) for key in KEYS])
        for _ in range(20):
            calls = [port.run(get(KEYS[0])), port.run_many([incr(key + b"!") for key in KEYS]), port.run(get(KEYS[1]))]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(0)
            await close_links(asyncio.get_running_loop())
            first, many, second = await asyncio.gather(*tasks, return_exceptions=True)
            assert (first, second) == (KEYS[0], KEYS[1])
            assert isinstance(many, (list, StoreUnavailable))

    asyncio.run(main())


def test_the_last_resort_is_a_cluster_client(nodes):
    """Late at exit no thread can be started any more: a blocking client serves."""
    url = nodes.url.replace("://", "://127.0.0.1:1,")
    spare = open_blocking_port(url, None, None, TimeLimits(2.0, 2.0))._spare_port()
    drive(spare.run_many([put(key, key) for key in KEYS[:5]]))
    assert drive(spare.run_many([get(key) for key in KEYS[:5]])) == KEYS[:5]
    spare._client.close()


def test_loops_forks_and_exit_leave_nothing_behind(nodes):
    """No warning, no hanging thread, no connection shared by two processes."""
    run_script(
        """
        import asyncio, os
        from probing import async_port, blocking_port, get, put, run_many

        keys = [b"key-%d" % number for number in range(60)]
        blocking, awaited = blocking_port(URL), async_port(URL)

        async def both():
            await awaited.run_many([put(key, key) for key in keys])
            assert await asyncio.gather(*(awaited.run(get(key)) for key in keys)) == keys

        def use():
            asyncio.run(both())
            assert run_many(blocking, *(get(key) for key in keys)) == keys

        use()
        pid = os.fork()
        use()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        use()
        asyncio.run(both())
        """,
        nodes.url,
    )
