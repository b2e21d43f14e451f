"""What the doctor says of TLS and of clocks."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers import ServerNotInstalled, _free_port, redis7, valkey9

from ractogateway.__main__ import main
from ractogateway.redis.doctor import Finding, check
from ractogateway.redis.doctor.connection import clocks, encryption
from ractogateway.redis.doctor.facts import Facts

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def answer(url: str, name: str) -> Finding:
    report = asyncio.run(check(url, trial=False))
    return next(one for one in report.findings if one.check == name)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """A server whose certificate is good for so many days: its URL, which trusts the authority."""
    trustme = pytest.importorskip("trustme", reason="makes the certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ExitStack() as stack:

        def start(days: int) -> str:
            ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=days, hours=1)
            certificate = authority.issue_cert("localhost", not_after=ends)
            certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
            certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
            port = _free_port()
            config = {
                "tls-port": str(port),
                "tls-cert-file": str(tmp_path / "cert.pem"),
                "tls-key-file": str(tmp_path / "key.pem"),
                "tls-ca-cert-file": str(tmp_path / "ca.pem"),
                "tls-auth-clients": "no",
            }
            try:
                stack.enter_context(redis7(config=config))
            except ServerNotInstalled as reason:
                pytest.skip(f"the servers out of wheels have no TLS, and {reason}")
            return f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"

        yield start


def test_a_good_certificate(secure):
    assert answer(secure(90), "tls").level == "ok"


def test_a_certificate_that_ends_soon(secure):
    found = answer(secure(5), "tls")
    assert (found.level, found.text) == ("warning", "the server's certificate ends in 5 days")


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none&ssl_check_hostname=false", "ssl_check_hostname=false"])
def test_a_certificate_that_nobody_verifies(secure, option):
    assert answer(f"{secure(90)}&{option}", "tls").level == "problem"


def test_an_unknown_authority(secure):
    url = secure(90).partition("?")[0]
    report = asyncio.run(check(url))
    assert (report.exit_code, report.findings[0].check) == (2, "connect")
    assert "ssl_ca_certs" in report.findings[0].advice


def test_plain_text_matters_between_machines():
    assert [one.level for one in encryption(Facts("cache.example:6379", is_local=False, encrypted=None))] == ["warning"]
    assert [one.level for one in encryption(Facts("127.0.0.1:6379", is_local=True, encrypted=None))] == ["ok"]


@pytest.mark.parametrize(
    ("reply", "told"),
    [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak the protocol"), (b"", "hung up instead of answering")],
)
def test_what_is_no_redis_or_wants_another_protocol(reply, told):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(reply)

        answering = threading.Thread(target=answer_once)
        answering.start()
        report = asyncio.run(check(f"redis://127.0.0.1:{listener.getsockname()[1]}"))
        answering.join()
    assert (report.exit_code, [told in finding.text for finding in report.findings]) == (2, [True])


def test_a_password_that_is_wanted_is_told_from_one_that_is_wrong():
    with valkey9(config={"requirepass": "right"}) as guarded:
        for user, told in (("", "wants a password"), (":wrong@", "rejected the user name or password")):
            report = asyncio.run(check(guarded.url.replace("redis://", f"redis://{user}")))
            assert (report.exit_code, [told in finding.text for finding in report.findings]) == (2, [True])


@pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")
@pytest.mark.parametrize(("offset", "way"), [(30, "30.0 s ahead of"), (-30, "30.0 s behind")])
def test_a_clock_that_is_wrong(offset, way):
    env = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": f"{offset:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with valkey9(env=env) as server:
        found = answer(server.url, "clock")
        assert found.level == "warning"
        assert way in found.text


def test_clocks_of_nodes_that_differ():
    facts = [Facts(name, is_local=True, encrypted=None) for name in ("a", "b", "c")]
    facts[0].clock_ahead, facts[1].clock_ahead = 0.4, -0.8
    assert [one.level for one in clocks(facts)] == ["problem"]
    facts[1].clock_ahead = 0.0
    assert list(clocks(facts)) == []


# --- the command -----------------------------------------------------------------------------------------------------


def doctor(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-m", "ractogateway", "doctor", *words],
        env={**os.environ, "PYTHONASYNCIODEBUG": "0", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_reports_a_line_each(any_server):
    finished = doctor(RACTOGATEWAY_REDIS_URL=any_server.url)
    assert (finished.returncode, finished.stderr) == (1, ""), "it keeps nothing on disk"
    first, *lines = finished.stdout.splitlines()
    assert first == any_server.url
    assert [line.split()[0] for line in lines].count("warning") == 1
    assert any(line.startswith("warning     persistence  nothing is kept on disk") for line in lines)


def test_the_command_reports_to_programs(any_server):
    finished = doctor("--json", "--tool", "cache", "--tool", "limiter=acme", "--url", any_server.url)
    assert finished.returncode == 1
    told = json.loads(finished.stdout)
    assert (told["url"], told["level"], told["exit_code"]) == (any_server.url, "warning", 1)
    assert {key for one in told["findings"] for key in one} == {"check", "level", "text", "advice", "servers"}
    assert any_server.command("KEYS", "acme:*")
    assert not any_server.command("KEYS", "ractogateway:memory:*")


def test_the_command_looks_only(any_server):
    assert doctor("--no-trial", "--timeout", "5", "--url", any_server.url).returncode == 1
    assert any_server.command("DBSIZE") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--url", "redis://u:hunter2@127.0.0.1:1"], "unreachable connect"),
        (["--url", "redis://u:hunter2/3@127.0.0.1:1"], "url has a port"),
        (["redis://u:hunter2@127.0.0.1:1"], "named by --url"),
        (["--url", "http://u:hunter2@127.0.0.1:1"], "unknown scheme"),
        (["--tool", "queue"], "must be one of cache, limiter, memory"),
        (["--tool", "cache="], "must be one of cache, limiter, memory"),
        (["--timeout", "0"], "must be from 0.1"),
        (["--user", ""], "user must not be empty"),
    ],
)
def test_the_command_cannot_be_served(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["doctor", *words]))
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert told in out + err
    assert "hunter2" not in out + err
