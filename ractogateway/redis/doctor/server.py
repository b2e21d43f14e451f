"""What kind of server it is, and whose part it plays among others."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ractogateway.errors import PermissionDenied
from ractogateway.redis.doctor.facts import Facts
from ractogateway.redis.doctor.findings import Finding
from ractogateway.redis.transport.inspection import Inspection

_OLDEST_TESTED = (7, 0)


def kind(facts: Facts) -> Iterator[Finding]:
    """Name and version."""
    if facts.may_ask_info and "redis_version" not in facts.info:
        yield Finding("server", "problem", "it does not tell what it is: no Redis does that", "see what is there")
        return
    if not facts.info:
        yield Finding("server", "note", "the ACL forbids INFO: kind, memory, persistence and role were not looked at")
        return
    name, version = _name_and_version(facts)
    told = f"{name} {version}"
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if name in ("Redis", "Valkey") and numbers >= _OLDEST_TESTED:
        yield Finding("server", "ok", told)
    elif name in ("Redis", "Valkey"):
        advice = "use Redis 7.0 or later, or Valkey"
        yield Finding("server", "warning", f"{told} is older than any server of this library's tests", advice)
    else:
        advice = "rely on the trial below, and run your own tests against it"
        yield Finding("server", "note", f"{told} is none of the servers of this library's tests", advice)


def _name_and_version(facts: Facts) -> tuple[str, str]:
    info = facts.info
    if "valkey_version" in info:
        return "Valkey", info["valkey_version"]
    for field, version in info.items():
        if field.endswith("_version") and field.removesuffix("_version") in ("dragonfly", "keydb", "kvrocks", "garnet"):
            return field.removesuffix("_version").capitalize(), version
    return "Redis", info.get("redis_version", "of unknown version")


def role(facts: Facts, inspection: Inspection) -> Iterator[Finding]:
    """Whether writes are for this server, and who takes over when it dies."""
    in_cluster = facts.info.get("cluster_enabled") == "1"
    if in_cluster and inspection.kind != "cluster":
        text = "this server is a node of a cluster: keys of other nodes are out of reach by this URL"
        yield Finding("role", "problem", text, "use redis+cluster:// (rediss+cluster:// with TLS)")
    elif facts.is_replica and inspection.kind != "cluster":
        text = "this server is a replica: it refuses every write"
        yield Finding("role", "problem", text, "name the primary, or let redis+sentinel:// find it")
    elif facts.is_replica and facts.info.get("master_link_status") != "up":
        text = "a replica without a link to its primary: should it take over, what was written since is lost"
        yield Finding("role", "problem", text, "look at the network between them and at the log of the replica")
    elif facts.is_replica:
        yield Finding("role", "ok", "a replica that follows its primary")
    elif facts.info:
        yield from _primary(facts, inspection)


def _primary(facts: Facts, inspection: Inspection) -> Iterator[Finding]:
    replicas = int(facts.number("connected_slaves") or 0)
    if replicas:
        yield Finding("role", "ok", f"a primary with {replicas} replica{'s' if replicas > 1 else ''}")
    elif inspection.kind in ("sentinel", "cluster"):
        text = "a primary without a replica: nobody takes over when it dies"
        yield Finding("role", "warning", text, "give it a replica")
    else:
        yield Finding("role", "ok", "a server that stands alone")


def sentinels(inspection: Inspection) -> Iterator[Finding]:
    """Whether enough Sentinels are there to agree on a failover."""
    if inspection.kind != "sentinel":
        return
    for name, error in inspection.lost.items():
        if isinstance(error, PermissionDenied):
            text = "the ACL of this Sentinel does not let the user ask who else there is"
            yield Finding("sentinels", "note", text, "ACL SETUSER <user> +sentinel|master, there", (name,))
        else:
            text = f"the Sentinel at {name} does not serve: {error}"
            yield Finding("sentinels", "warning", text, "see whether it runs")
    for name, view in inspection.watchers.items():
        known = int(view.get("num-other-sentinels", "0")) + 1
        quorum = int(view.get("quorum", "0"))
        if known < 3:  # noqa: PLR2004 - two cannot outvote one
            text = f"{known} Sentinel{'s' if known > 1 else ''} for this service: too few to survive the loss of one"
            yield Finding("sentinels", "warning", text, "run three, on machines of their own", (name,))
        elif "down" in view.get("flags", ""):
            yield Finding("sentinels", "problem", "this Sentinel takes the primary for dead", "", (name,))
        else:
            yield Finding("sentinels", "ok", f"{known} Sentinels, {quorum} must agree", "", (name,))
    if len(inspection.watchers) + len(inspection.lost) == 1:
        text = "the URL names one Sentinel: while it is away, no connection can be made"
        yield Finding("sentinels", "warning", text, "name all of them, separated by commas")


def nodes(inspection: Inspection) -> Iterator[Finding]:
    """Whether all nodes of a cluster can be reached from here."""
    if inspection.kind != "cluster":
        return
    for name, error in inspection.lost.items():
        advice = "see whether it runs, and whether this machine can reach it by that name"
        yield Finding("cluster", "problem", f"the node {name} cannot be reached: {error}", advice)
    if not inspection.lost:
        yield Finding("cluster", "ok", f"all {len(inspection.servers)} nodes can be reached")


def state(facts: Facts) -> Iterator[Finding]:
    """Whether it serves at this moment."""
    if facts.info.get("loading") == "1":
        seconds = facts.info.get("loading_eta_seconds", "?")
        yield Finding("state", "problem", f"the server loads its data, for {seconds} more seconds", "wait")
