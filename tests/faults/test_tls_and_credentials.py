"""Certificates that are not valid, and passwords that are not right: refused at once and once, by every tool, without a
plaintext fallback, without a secret in the text; and when they are right, the same object works."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from books import Tally
from faces import Maker
from proxy import Proxy
from servers import Server, ServerNotInstalled, _free_port, redis7, wait_until

from ractogateway.errors import AuthenticationFailed, CertificateRejected
from ractogateway.messages import LLMResponse
from ractogateway.redis import RedisOptions

trustme = pytest.importorskip("trustme", reason="makes the certificates")

PASSWORD = "hunter2" + "-of-tls"
PATIENT_SECONDS = 5.0
REQUEST = ("question", "", "gpt-4o", 0.0, 256)
CASES = {
    "expired": ("expired", "ca", CertificateRejected),
    "unknown authority": ("good", "other", CertificateRejected),
    "another host": ("elsewhere", "ca", CertificateRejected),
    "wrong password": ("good", "ca", AuthenticationFailed),
}


@dataclass
class Guarded:
    """Servers with certificates, by name, and where the files of authorities are."""

    ports: dict[str, int]
    directory: Path
    servers: list[Server]

    def url(self, port: int, authority: str, password: str = PASSWORD) -> str:
        files = quote(str(self.directory / f"{authority}.pem"), safe="")
        return f"rediss://app:{password}@127.0.0.1:{port}/0?ssl_ca_certs={files}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    trustme.CA().cert_pem.write_to_path(directory / "other.pem")
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificates = {
        "good": authority.issue_cert("127.0.0.1"),
        "expired": authority.issue_cert("127.0.0.1", not_after=yesterday),
        "elsewhere": authority.issue_cert("elsewhere.example"),
    }
    with ExitStack() as stack:
        found = Guarded({}, directory, [])
        for name, certificate in certificates.items():
            certificate.private_key_pem.write_to_path(directory / f"{name}-key.pem")
            certificate.cert_chain_pems[0].write_to_path(directory / f"{name}-cert.pem")
            found.ports[name] = _free_port()
            config = {
                "tls-port": str(found.ports[name]),
                "tls-cert-file": str(directory / f"{name}-cert.pem"),
                "tls-key-file": str(directory / f"{name}-key.pem"),
                "tls-ca-cert-file": str(directory / "ca.pem"),
                "tls-auth-clients": "no",
            }
            try:
                server = stack.enter_context(redis7(config=config))
            except ServerNotInstalled as reason:
                pytest.skip(f"the servers out of wheels have no TLS, and {reason}")
            server.command("ACL", "SETUSER", "app", "on", f">{PASSWORD}", "~*", "&*", "+@all")
            found.servers.append(server)
        yield found


@dataclass
class Place:
    """What `faces.Maker` needs to know of a server."""

    url: str


def calls_of(make: Maker, tool: str) -> list[Callable[[], Any]]:
    """A write and a read of one tool, set to raise in an outage."""
    options = {"options": RedisOptions(timeout_seconds=PATIENT_SECONDS)}
    if tool == "cache":
        cache = make("cache", on_outage="raise", **options)
        return [lambda: cache.put(*REQUEST, LLMResponse(content="answer")), lambda: cache.get(*REQUEST)]
    if tool == "limiter":
        limiter = make("limiter", on_outage="raise", **options)
        return [lambda: limiter.consume("user", 1), lambda: limiter.get_remaining("user")]
    memory = make("memory", **options)
    return [lambda: memory.append("c", "user", "hello"), lambda: memory.get_history("c")]


@pytest.mark.parametrize(
    "tool", [pytest.param(tool, marks=pytest.mark.column(tool)) for tool in ("cache", "limiter", "memory")]
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("face", ["async url", "blocking url"])
@pytest.mark.cell("TLS and credentials")
def test_what_is_not_valid_is_refused_at_once_and_nothing_is_said_in_plaintext(guarded, tool, face, case, figures):
    server, authority, kind = CASES[case]
    url = guarded.url(guarded.ports[server], authority, PASSWORD + ("x" if case == "wrong password" else ""))
    with Proxy(url, raw=True) as wire, ExitStack() as stack:
        stack.callback(wait_until, lambda: wire.open == 0, what="the end of every connection")
        tally, slowest = Tally(), 0.0
        for number, call in enumerate(calls_of(Maker(face, wire, stack), tool), 1):
            began = time.monotonic()
            error = tally.refused(call, kind)
            slowest = max(slowest, time.monotonic() - began)
            while error is not None:
                assert "hunter" not in f"{error!r} {error}"
                error = error.__cause__ or error.__context__
            assert len(wire.sent) == wire.accepted == number, "one call, one attempt"
        assert slowest < PATIENT_SECONDS / 2, "it was tried again"
        for sent in wire.sent:
            assert sent[0] == 0x16, "not a TLS handshake"
            assert not any(word in sent for word in (b"HELLO", b"AUTH", PASSWORD.encode()))
        tally.judge(figures, note=f"{case}: {len(wire.sent)} attempts for {tally.calls} calls")


@pytest.mark.cell("TLS and credentials", "cache", "limiter", "memory")
@pytest.mark.parametrize("face", ["async url", "blocking url"])
def test_when_the_password_is_right_again_the_same_objects_work(guarded, face, figures):
    server = guarded.servers[0]
    with ExitStack() as stack:
        make = Maker(face, Place(guarded.url(guarded.ports["good"], "ca", "a-new-one")), stack)
        tools = {tool: calls_of(make, tool) for tool in ("cache", "limiter", "memory")}
        tally = Tally()
        for calls in tools.values():
            tally.refused(calls[0], AuthenticationFailed)
        server.command("ACL", "SETUSER", "app", ">a-new-one")
        try:
            for calls in tools.values():
                for call in calls:
                    call()
                    tally.made()
        finally:
            server.command("ACL", "SETUSER", "app", "<a-new-one")
    tally.judge(figures)
