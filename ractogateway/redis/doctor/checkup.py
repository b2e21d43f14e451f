"""All questions in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from ractogateway._checks import check_duration, check_id
from ractogateway.errors import AuthenticationFailed, CertificateRejected, StoreError, StoreRefused
from ractogateway.redis.doctor import access, connection, server, storage
from ractogateway.redis.doctor.facts import Facts, gather_facts
from ractogateway.redis.doctor.findings import TOOLS, Finding, Report, checked_tools, together
from ractogateway.redis.doctor.trial import use_tools
from ractogateway.redis.transport.endpoint import address_of
from ractogateway.redis.transport.inspection import Inspected, Inspection, inspect_url, introduce

_LEAST_SECONDS = 0.1
_SHARE = 0.25
"""Of the time for everything, what one connection or one call may take."""


async def check(
    url: str | None = None,
    *,
    tools: Mapping[str, str] = TOOLS,
    user: str | None = None,
    trial: bool = True,
    timeout_seconds: float = 10.0,
) -> Report:
    """Look at the servers behind a URL, and say in plain words what does not fit the tools.

    Args:
        url: as for the tools; None is their default.
        tools: those that are used there, each with the prefix of its keys: an evicting server is fine for a cache.
        user: the ACL user whose permissions are looked up; None is the one that the URL names. Another one can be
            looked up by a user who may run ACL DRYRUN.
        trial: use each tool once, which writes keys of a minute's life, and one of a day's. Not with ``user``, as whom
            nothing can be done.
        timeout_seconds: for everything, at least 0.1. A server that stops answering is reported, not waited for.

    Raises:
        InvalidTypeError, InvalidValueError: an argument cannot be used. What the servers do or lack never raises.
    """
    asked = checked_tools(tools)
    if user is not None:
        check_id("user", user)
    seconds = check_duration("timeout_seconds", timeout_seconds, least=_LEAST_SECONDS)
    findings: list[Finding] = []
    shown = introduce(address_of(url)).shown
    try:
        async with asyncio.timeout(seconds), inspect_url(url, _SHARE * seconds) as inspection:
            findings.extend(await _look(inspection, asked, user, _SHARE * seconds))
            if trial and user is None:
                findings.extend([found async for found in use_tools(url, asked, _SHARE * seconds)])
    except StoreError as error:  # StoreTimeout, too
        findings.append(_unreachable(error))
    except TimeoutError:
        findings.append(Finding("time", "problem", f"not done after {seconds:g} s: the server stopped answering"))
    return Report(shown, together(findings))


def _unreachable(error: StoreError) -> Finding:
    advice = "see what runs there, and whether this machine may reach it"
    if isinstance(error, AuthenticationFailed):
        advice = "see to the user and password of the URL"
    elif isinstance(error, CertificateRejected):
        advice = "see who issued the certificate and for which name; ?ssl_ca_certs=<file> names another authority"
    elif isinstance(error, StoreRefused):
        advice = "see whether the URL names the kind of server that is there"
    return Finding("connect", "unreachable", str(error), advice)


async def _look(inspection: Inspection, tools: Mapping[str, str], user: str | None, seconds: float) -> list[Finding]:
    told = await asyncio.gather(*(_gather(one, inspection, tools, user, seconds) for one in inspection.servers))
    facts = [one for one in told if isinstance(one, Facts)]
    findings = [*server.sentinels(inspection), *server.nodes(inspection)]
    findings.extend(found for one in facts for found in _answers(one, inspection, tools, user))
    findings.extend(one for one in told if isinstance(one, Finding))
    findings.extend(connection.clocks(facts))
    return findings


async def _gather(
    one: Inspected, inspection: Inspection, tools: Mapping[str, str], user: str | None, seconds: float
) -> Facts | Finding:
    try:
        async with asyncio.timeout(seconds):
            facts = await gather_facts(one)
            await access.dry_run(one, facts, inspection, tools, user)
            return facts
    except (StoreError, TimeoutError) as error:
        text = str(error) or f"it did not answer within {seconds:g} s"
        return Finding("server", "problem", text, "see whether the server runs", (one.name,))
    except (ValueError, TypeError, AttributeError) as error:
        text = f"it does not answer as Redis does ({type(error).__name__})"
        return Finding(
            "server", "problem", text, "see what it is; a proxy in between may not pass all commands", (one.name,)
        )


def _answers(facts: Facts, inspection: Inspection, tools: Mapping[str, str], user: str | None) -> Iterator[Finding]:
    """What is asked of each server, one function a question."""
    questions = (
        server.kind(facts),
        server.state(facts),
        server.role(facts, inspection),
        storage.eviction(facts, tools),
        storage.headroom(facts),
        storage.persistence(facts, tools, embedded=inspection.kind == "embedded"),
        connection.clock(facts),
        connection.encryption(facts),
        connection.round_trip(facts),
        connection.connections(facts, tools),
        access.tracking(facts, tools),
        access.access(facts, tools, user),
    )
    for question in questions:
        for found in question:
            yield found.of(facts.name)
