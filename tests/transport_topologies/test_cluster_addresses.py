"""Finding a cluster: by any of its hosts, under whatever names its nodes go, with no more rights than needed."""

from __future__ import annotations

import pytest
import redis.credentials
from probing import AT_ONCE_SECONDS, Callers, get, put
from redis.crc import key_slot
from servers import valkey9, wait_until
from topologies import Cluster

from ractogateway.errors import (
    AuthenticationFailed,
    StoreRefused,
    StoreUnavailable,
)

KEYS = [b"key-%d" % number for number in range(60)]


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
    assert ended.seconds < AT_ONCE_SECONDS


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
                nodes.move_on(key_slot(KEYS[0]))
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
            assert ended.seconds < AT_ONCE_SECONDS


def test_a_server_that_is_no_cluster_and_a_node_that_is_taken_for_a_server(nodes):
    with valkey9() as lone, Callers("blocking", lone.url.replace("redis://", "redis+cluster://")) as callers:
        ended = callers.outcome(get(b"x"))
        assert isinstance(ended.result, StoreRefused)
        assert "not part of a cluster" in str(ended.result)
        assert ended.seconds < AT_ONCE_SECONDS
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
            nodes.move_on(key_slot(KEYS[0]))
            assert callers.result([get(key) for key in KEYS]) == KEYS
        provider = redis.credentials.UsernamePasswordCredentialProvider("app", "secret:@/")
        for kind in Callers.KINDS:
            with Callers(kind, nodes.url, credential_provider=provider) as callers:
                assert callers.result([get(key) for key in KEYS]) == KEYS
        with Callers("blocking", rights.replace("secret", "wrong")) as callers:
            ended = callers.outcome(get(KEYS[0]))
            assert isinstance(ended.result, AuthenticationFailed)
            assert ended.seconds < AT_ONCE_SECONDS
    finally:
        for node in nodes.nodes:
            node.command("ACL", "DELUSER", "app")
