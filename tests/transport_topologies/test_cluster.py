"""A cluster by URL: one object, many nodes, and nobody notices where a key lives or that it moves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis.asyncio
import redis.cluster
from faces import Maker
from load import BUDGET, Load, Writer
from probing import Callers, Watch, async_port, get, incr, put, run_script
from redis.crc import key_slot
from servers import FACTORIES, Server, ServerNotInstalled, valkey9, wait_until
from topologies import Cluster, cluster, counted

from ractogateway.errors import (
    AuthenticationFailed,
    OutcomeUnknown,
    StoreNotReady,
    StoreRefused,
    StoreTimeout,
    StoreUnavailable,
    WrongKeyType,
)
from ractogateway.messages import LLMResponse
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig
from ractogateway.redis.keys import LimiterKeys, MemoryKeys
from ractogateway.redis.transport import Script, TimeLimits, drive, open_blocking_port, plain_call, script_call
from ractogateway.redis.transport.links import close_links

CALM_MS = 10_000
"""A node timeout at which a busy machine loses no node."""

NERVOUS_MS = 700

TAGS = [b"tag-%d" % number for number in range(12)]
KEYS = [b"key-%d" % number for number in range(60)]


@pytest.fixture(scope="module", params=["valkey9", pytest.param("redis8", marks=pytest.mark.slow)])
def kept(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    try:
        FACTORIES[request.param]()
    except ServerNotInstalled as reason:
        pytest.skip(str(reason))
    with cluster(FACTORIES[request.param]) as nodes:
        yield nodes


BOTH = pytest.mark.parametrize("kept", ["valkey9", "redis8"], indirect=True)
"""For tests whose other kind of server need not wait for the thorough run."""


@pytest.fixture
def nodes(kept: Cluster) -> Cluster:
    """A whole cluster, empty, in no hurry to declare anybody dead."""
    kept.wait_until_whole()
    kept.set_node_timeout(CALM_MS)
    kept.flush()
    return kept


@pytest.fixture(params=Callers.KINDS)
def callers(request: pytest.FixtureRequest, nodes: Cluster) -> Iterator[Callers]:
    with Callers(request.param, nodes.url) as made:
        yield made


# --- the tools -------------------------------------------------------------------------------------------------------


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


# --- many commands at once -------------------------------------------------------------------------------------------


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


# --- slots that move -------------------------------------------------------------------------------------------------


def test_moved_is_followed_once(nodes, callers):
    key = KEYS[0]
    callers.result([put(one, b"here") for one in KEYS])
    source = nodes.owner(key)
    target = next(node for node in nodes.primaries() if node is not source)
    nodes.move_slot(key_slot(key), target)
    before = counted(source, "MOVED")
    assert [callers.result(get(key)) for _ in range(20)] == [b"here"] * 20
    assert counted(source, "MOVED") == before + 1


@BOTH
def test_a_key_that_has_left_is_asked_for_at_its_new_home_while_the_slot_stays(nodes, callers):
    gone, left = b"{slot}:gone", b"{slot}:left"
    callers.result([put(gone, b"gone"), put(left, b"left")])
    with half_moved(nodes, gone) as (source, target):
        before = counted(source, "ASK"), counted(target, "asking")
        for _ in range(5):
            assert callers.result(get(gone)) == b"gone"
            assert callers.result(get(left)) == b"left"
            assert callers.result([get(left), get(gone), get(KEYS[1]), get(gone)]) == [b"left", b"gone", None, b"gone"]
        assert (counted(source, "ASK"), counted(target, "asking")) == (before[0] + 15, before[1] + 15)
    assert callers.result([get(gone), get(left)]) == [b"gone", b"left"]


def test_a_call_whose_keys_are_apart_waits_until_they_are_together(nodes, callers):
    gone, left = b"{slot}:gone", b"{slot}:left"
    callers.result([put(gone, b"gone"), put(left, b"left")])
    both = plain_call(b"MGET", (gone, left), (), list, replay_safe=True)
    with half_moved(nodes, gone) as (source, _):
        before = counted(source, "TRYAGAIN")
        waiting = callers.start(both)
        wait_until(lambda: counted(source, "TRYAGAIN") > before, what="a TRYAGAIN")
        assert not waiting.done()
    assert waiting.result(10).result == [b"gone", b"left"]


class half_moved:  # noqa: N801 - reads as a phrase
    """A slot of which one key has left already."""

    def __init__(self, nodes: Cluster, key: bytes) -> None:
        self.nodes, self.key, self.slot = nodes, key, key_slot(key)
        self.source = nodes.owner(key)
        self.target = next(node for node in nodes.primaries() if node is not self.source)

    def __enter__(self) -> tuple[Server, Server]:
        source, target = self.source, self.target
        target.command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.nodes.id_of(source))
        source.command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.nodes.id_of(target))
        source.command("MIGRATE", target.host, target.port, self.key, 0, 5000)
        return source, target

    def __exit__(self, *_: object) -> None:
        self.nodes.move_slot(self.slot, self.target)


def test_nodes_that_contradict_one_another_end_the_call_not_the_caller(nodes, callers):
    key, other = KEYS[0], KEYS[1]
    here, there = nodes.owner(key), next(node for node in nodes.primaries() if node is not nodes.owner(key))
    assert callers.result(get(key)) is None
    here.command("CLUSTER", "SETSLOT", key_slot(key), "NODE", nodes.id_of(there))  # which does not know of it
    try:
        with Callers("blocking", nodes.url, 0.3) as hasty:
            before = counted(here, "MOVED") + counted(there, "MOVED")
            refreshed = sum(counted(node, "cluster|slots") for node in nodes.nodes)
            ended = hasty.outcome(get(key))
            assert isinstance(ended.result, StoreNotReady)
            assert ended.result.code == "MOVED"
            tries = (counted(here, "MOVED") + counted(there, "MOVED") - before) / 6
            assert tries == round(tries) < 12, "more redirections than five a try"
            assert sum(counted(node, "cluster|slots") for node in nodes.nodes) < refreshed + 10
            assert hasty.result(put(other, b"value")) == b"OK"
    finally:
        for node in (there, here):
            node.command("CLUSTER", "SETSLOT", key_slot(key), "NODE", nodes.id_of(here))
    assert callers.result(put(key, b"value")) == b"OK"


@BOTH
def test_slots_move_under_load(nodes):
    with Load(nodes.url, TAGS) as load:
        for tag in TAGS[:8]:
            wait_until(lambda so_far=load.replies: load.replies > so_far + 300, timeout_seconds=20, what="progress")
            move_on(nodes, key_slot(tag))
    assert load.wrong == []
    assert not load.failures
    assert load.replies > 300 * 8
    assert load.left > 100


@BOTH
def test_slots_move_under_the_tools(nodes):
    """Their scripts touch several keys: while those are apart, a call waits. Nothing is lost, nothing happens twice."""
    over = threading.Event()
    with ExitStack() as stack:
        writers = [
            Writer(n, Maker(face, nodes, stack), over) for n, face in enumerate(["blocking url", "async url"] * 2)
        ]
        for writer in writers:
            writer.start()
        try:
            for _ in range(3):
                for writer in writers:
                    so_far = len(writer.charged)
                    wait_until(lambda w=writer, n=so_far: len(w.charged) > n + 5, timeout_seconds=10, what="progress")
                    move_on(nodes, key_slot(MemoryKeys.of("ractogateway:memory", "", writer.conversation).state))
                    move_on(nodes, key_slot(LimiterKeys.of("ractogateway:ratelimit", writer.user).log))
        finally:
            over.set()
            for writer in writers:
                writer.join(20)
        for writer in writers:
            assert not writer.is_alive(), "a caller hangs"
            assert writer.bug is None
            history = [int(message["content"]) for message in writer.memory.get_history(writer.conversation)]
            assert history == list(range(1, len(writer.acknowledged) + 1))
            assert BUDGET - writer.limiter.get_remaining(writer.user) == len(writer.charged)


def move_on(nodes: Cluster, slot: int) -> None:
    """To the next primary."""
    primaries = nodes.primaries()
    source = nodes.owner_of_slot(slot)
    nodes.move_slot(slot, primaries[(primaries.index(source) + 1) % len(primaries)], batch=5, pause_seconds=0.002)


# --- nodes that go ---------------------------------------------------------------------------------------------------


def test_a_primary_dies_under_load(nodes):
    nodes.set_node_timeout(NERVOUS_MS)
    victim = nodes.owner(TAGS[0])
    with Load(nodes.url, TAGS, lossy=True) as load, Callers("blocking", nodes.url, 20.0) as patient:
        wait_until(lambda: load.replies > 1000, timeout_seconds=20, what="a load")
        assert patient.result(put(TAGS[0], b"before")) == b"OK"
        start = time.monotonic()
        victim.kill()
        assert patient.result(put(TAGS[0], b"after")) == b"OK"
        seconds = time.monotonic() - start
        so_far = load.replies
        wait_until(lambda: load.replies > so_far + 1000, timeout_seconds=20, what="progress after the failover")
        assert patient.result(get(TAGS[0])) == b"after"
    assert load.wrong == []
    assert seconds < 10
    nodes.wait_until_whole()


def test_a_frozen_node_stops_nobody_else(nodes):
    frozen = nodes.owner(KEYS[0])
    there = [key for key in KEYS if nodes.owner(key) is frozen]
    elsewhere = [key for key in KEYS if nodes.owner(key) is not frozen]
    for kind in Callers.KINDS:
        with Callers(kind, nodes.url, 0.3) as callers, Watch() as watch:
            callers.result([put(key, key) for key in KEYS])
            with frozen.frozen():
                stuck = [callers.start(get(key)) for key in there]
                mixed = callers.start([get(key) for key in KEYS])
                assert callers.result([get(key) for key in elsewhere]) == elsewhere
                for ended in [future.result(10) for future in [*stuck, mixed]]:
                    assert isinstance(ended.result, StoreTimeout)
                    watch.assert_kept(0.3, ended.seconds)
            assert callers.result([get(key) for key in there]) == there


def test_what_happens_to_a_call_is_told_for_that_call(nodes):
    """Of two commands in one batch, one was sent and its node cut off: only that one may have been executed."""
    lost = nodes.owner(KEYS[0])
    other = next(key for key in KEYS if nodes.owner(key) is not lost)
    kept = nodes.owner(other)
    with Callers("awaiting", nodes.url, 5.0) as callers:
        callers.result([put(KEYS[0], b"0"), put(other, b"0")])
        lost.freeze()
        started = callers.start([incr(KEYS[0]), incr(other)])
        wait_until(lambda: kept.command("GET", other) == b"1", what="the other half")
        lost.kill()
        ended = started.result(10)
    assert isinstance(ended.result, OutcomeUnknown)
    assert ended.seconds < 2, "it was not told at once"
    assert kept.command("GET", other) == b"1"


def test_a_call_that_was_left_before_it_could_be_sent_is_never_sent(nodes):
    key = KEYS[0]
    owner = nodes.owner(key)
    with Callers("awaiting", nodes.url, 0.2) as hasty, Callers("awaiting", nodes.url, 5.0) as patient:
        patient.result(get(next(one for one in KEYS if nodes.owner(one) is not owner)))  # the map, not that node
        with owner.frozen():
            ended = hasty.outcome(incr(key)).result
            assert isinstance(ended, StoreUnavailable)
            assert not ended.may_have_applied
        assert patient.result(get(key)) is None


# --- finding the cluster ---------------------------------------------------------------------------------------------


def test_one_living_host_of_the_url_is_enough(nodes, callers):
    replica = next(node for node in nodes.nodes if node not in nodes.primaries())
    for url in (
        f"redis+cluster://127.0.0.1:1,{nodes.nodes[0].host}:{nodes.nodes[0].port}/0",
        f"redis+cluster://{replica.host}:{replica.port}",
        f"redis+cluster://localhost:{replica.port}/?db=0",
    ):
        with Callers("blocking", url) as others:
            assert others.result([put(key, b"x") for key in KEYS]) == [b"OK"] * len(KEYS)
    assert callers.result([get(key) for key in KEYS]) == [b"x"] * len(KEYS)


def test_a_host_that_does_not_answer_costs_a_moment(nodes):
    silent = nodes.owner(KEYS[0])
    key = next(key for key in KEYS if nodes.owner(key) is not silent)
    others = ",".join(f"{node.host}:{node.port}" for node in nodes.nodes if node is not silent)
    with silent.frozen(), Callers("blocking", f"redis+cluster://{silent.host}:{silent.port},{others}") as callers:
        ended = callers.outcome(put(key, b"x"))
    assert ended.result == b"OK"
    assert ended.seconds < 0.8


@pytest.mark.parametrize(
    ("kind", "name", "seen"),
    [
        pytest.param("unknown-endpoint", "", None, id="no name"),
        pytest.param("hostname", "", "?", id="an unknown name"),
        # All of 127/8 is this machine, so a connection is refused at once; the servers listen on 127.0.0.1 only.
        pytest.param("hostname", "127.99.99.99", "127.99.99.99", id="a name of another network"),
    ],
)
def test_names_that_lead_nowhere_from_here(nodes, kind, name, seen):
    """Nodes that do not know their name, and nodes behind address translation: the seed's name with their ports."""
    nodes.set_node_timeout(1000)  # the new names spread with the next ping
    try:
        nodes.configure("cluster-announce-hostname", name)
        nodes.configure("cluster-preferred-endpoint-type", kind)
        wait_until(lambda: announced(nodes) == {seen}, timeout_seconds=10, what="names that all nodes agree on")
        for caller in Callers.KINDS:
            with Callers(caller, nodes.url) as callers:
                assert callers.result([put(key, key) for key in KEYS]) == [b"OK"] * len(KEYS)
                move_on(nodes, key_slot(KEYS[0]))
                assert callers.result([get(key) for key in KEYS]) == KEYS
    finally:
        nodes.configure("cluster-announce-hostname", "")
        nodes.configure("cluster-preferred-endpoint-type", "ip")
    wait_until(lambda: announced(nodes) == {"127.0.0.1"}, what="their addresses again")


def announced(nodes: Cluster) -> set[str | None]:
    """The names that any node gives any node."""
    ranges = [entry for node in nodes.nodes for entry in node.command("CLUSTER", "SLOTS")]
    return {member[0] and member[0].decode() for entry in ranges for member in entry[2:]}


def test_without_any_node(nodes):
    for kind in Callers.KINDS:
        with Callers(kind, "redis+cluster://127.0.0.1:1,127.0.0.1:2", 0.3) as callers:
            ended = callers.outcome(get(b"x"))
            assert isinstance(ended.result, StoreUnavailable)
            assert not ended.result.may_have_applied
            assert ended.seconds < 0.6


def test_a_server_that_is_no_cluster_and_a_node_that_is_taken_for_a_server(nodes):
    with valkey9() as lone, Callers("blocking", lone.url.replace("redis://", "redis+cluster://")) as callers:
        ended = callers.outcome(get(b"x"))
        assert isinstance(ended.result, StoreRefused)
        assert "not part of a cluster" in str(ended.result)
        assert ended.seconds < 1
    key = next(key for key in KEYS if nodes.owner(key) is not nodes.nodes[0])
    with Callers("blocking", nodes.nodes[0].url) as callers, pytest.raises(StoreRefused, match=r"redis\+cluster"):
        callers.result(get(key))


def test_a_user_with_the_rights_of_the_documentation(nodes):
    try:
        for node in nodes.nodes:
            node.command(
                "ACL",
                "SETUSER",
                "app",
                "on",
                ">secret:@/",
                "~key*",
                "-@all",
                "+get",
                "+set",
                "+asking",
                "+cluster|slots",
            )
        rights = nodes.url.replace("://", "://app:secret%3A%40%2F@")
        with Callers("blocking", rights) as callers:
            assert callers.result([put(key, key) for key in KEYS]) == [b"OK"] * len(KEYS)
            move_on(nodes, key_slot(KEYS[0]))
            assert callers.result([get(key) for key in KEYS]) == KEYS
        with Callers("blocking", rights.replace("secret", "wrong")) as callers:
            ended = callers.outcome(get(KEYS[0]))
            assert isinstance(ended.result, AuthenticationFailed)
            assert ended.seconds < 1
    finally:
        for node in nodes.nodes:
            node.command("ACL", "DELUSER", "app")


def test_the_last_resort_is_a_cluster_client(nodes):
    """Late at exit no thread can be started any more: a blocking client serves."""
    url = nodes.url.replace("://", "://127.0.0.1:1,")
    spare = open_blocking_port(url, None, None, TimeLimits(2.0, 2.0))._spare_port()
    drive(spare.run_many([put(key, key) for key in KEYS[:5]]))
    assert drive(spare.run_many([get(key) for key in KEYS[:5]])) == KEYS[:5]
    spare._client.close()


def test_all_nodes_frozen(nodes):
    with Callers("blocking", nodes.url, 0.2) as callers:
        callers.result([put(key, key) for key in KEYS])
        for node in nodes.nodes:
            node.freeze()
        try:
            ended = callers.outcome([get(key) for key in KEYS])
        finally:
            for node in nodes.nodes:
                node.thaw()
        assert isinstance(ended.result, StoreTimeout)
        assert callers.result([get(key) for key in KEYS]) == KEYS


def test_one_connection_a_node(nodes, callers):
    """However many callers there are, and whatever happened to the map and to the connections before."""
    before = [connections(node) for node in nodes.primaries()]
    for _ in range(3):
        callers.outcomes([get(key) for key in KEYS])
        for node in nodes.primaries():
            node.command("CLIENT", "KILL", "TYPE", "normal")
        assert callers.result([put(key, key) for key in KEYS]) == [b"OK"] * len(KEYS)
        move_on(nodes, key_slot(KEYS[0]))
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


# --- the life of a process -------------------------------------------------------------------------------------------


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


# --- at length -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_long_storm(nodes):
    """Slots move, primaries die and come back, again and again."""
    nodes.set_node_timeout(NERVOUS_MS)
    with Load(nodes.url, TAGS, lossy=True) as load:
        for turn in range(12):
            victim = nodes.owner(TAGS[turn])
            move_on(nodes, key_slot(TAGS[turn - 1]))
            victim.kill()
            wait_until(lambda so_far=load.replies: load.replies > so_far + 5000, timeout_seconds=60, what="progress")
            nodes.wait_until_whole()
            nodes.set_node_timeout(NERVOUS_MS)
    assert load.wrong == []
    assert load.replies > 60_000
