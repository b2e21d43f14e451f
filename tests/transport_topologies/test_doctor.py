"""The doctor behind Sentinels and in a cluster: every server is looked at, and whoever is missing is named."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from servers import valkey9, wait_until
from topologies import Cluster, sentinels

from ractogateway.redis.doctor import TOOLS, Finding, check


def examine(url: str, **settings: object) -> tuple[list[Finding], int]:
    report = asyncio.run(check(url, **settings))
    return list(report.findings), report.exit_code


def of(findings: list[Finding], name: str) -> list[Finding]:
    return [one for one in findings if one.check == name]


def test_a_whole_cluster(nodes: Cluster):
    findings, _ = examine(nodes.url)
    assert [one.text for one in of(findings, "cluster")] == ["all 6 nodes can be reached"]
    everybody = tuple(sorted(f"{node.host}:{node.port}" for node in nodes.nodes))
    assert [one.servers for one in of(findings, "access")] == [everybody], "the same finding is told once"
    assert [(one.level, len(one.servers)) for one in of(findings, "role")] == [("ok", 3), ("ok", 3)]
    assert of(findings, "trial")[0].level == "ok"


def test_permissions_are_those_of_every_node(nodes: Cluster):
    """An ACL is a node's own."""
    others, last = nodes.nodes[:-1], nodes.nodes[-1]
    try:
        for node in others:
            node.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all")
        last.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-cluster|slots", "-zadd")
        findings, code = examine(nodes.url, user="app", tools={"limiter": TOOLS["limiter"]})
        lacking = {one.text.partition(": ")[2]: one.servers for one in of(findings, "access") if one.level != "ok"}
        name = f"{last.host}:{last.port}"
        assert (lacking, code) == ({"+zadd": (name,), "+cluster|slots": (name,)}, 3)
    finally:
        for node in nodes.nodes:
            node.command("ACL", "DELUSER", "app")


def test_a_cluster_without_one_node(nodes: Cluster):
    victim = nodes.nodes[-1]
    nodes.set_node_timeout(60_000)
    victim.kill()
    try:
        findings, code = examine(nodes.url)
        (missing,) = of(findings, "cluster")
        assert (missing.level, code) == ("problem", 3)
        assert f"{victim.host}:{victim.port}" in missing.text
    finally:
        nodes.wait_until_whole()


def test_sentinels():
    with sentinels(valkey9) as watched:
        findings, _ = examine(watched.url)
        assert [one.level for one in of(findings, "sentinels")] == ["ok"]
        assert of(findings, "sentinels")[0].text == "3 Sentinels, 2 must agree"
        primary = watched.primary()
        assert [(one.text, one.servers) for one in of(findings, "role")] == [
            ("a primary with 1 replica", (f"{primary.host}:{primary.port}",))
        ]
        assert of(findings, "trial")[0].level == "ok"

        alone = watched.url.replace(watched.hosts, watched.hosts.split(",")[0])
        findings, code = examine(alone)
        assert code == 1
        assert any("names one Sentinel" in one.text for one in of(findings, "sentinels"))

        asyncio.run(unknown_service(watched.url + "-of-somebody-else"))

        watched.watchers[0].kill()
        findings, code = examine(watched.url)
        dead = f"127.0.0.1:{watched.watchers[0].port}"
        assert [dead in one.text for one in of(findings, "sentinels") if one.level == "warning"] == [True]
        watched.watchers[0].start()

        watched.replica().kill()
        wait_until(lambda: primary.client().info("replication")["connected_slaves"] == 0, what="the replica's absence")
        findings, code = examine(watched.url)
        assert (of(findings, "role")[0].level, code) == ("warning", 1)


async def unknown_service(url: str) -> None:
    report = await check(url)
    assert report.exit_code == 2
    assert "service" in report.findings[-1].text
    assert dataclasses.asdict(report)["url"] == url + "/0"


@pytest.mark.parametrize("url", ["redis+cluster://{}", "redis+sentinel://{}/name"])
def test_an_address_of_another_kind(any_server, url):
    findings, code = examine(url.format(f"{any_server.host}:{any_server.port}"))
    assert code == 2
    assert findings[-1].level == "unreachable"
