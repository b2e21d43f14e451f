"""Fixtures shared by all tests.

The servers are our own, one of each kind at hand, unless ``--redis-url`` (or ``RACTOGATEWAY_TEST_REDIS_URL``) names
one. Kinds that are not installed are left out, and the header of the report says so.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import fault_cells
import pytest
import redis
import secrecy
from second_look import SecondLook
from servers import FACTORIES, Server, ServerNotInstalled, Servers, no_key_without_ttl

from ractogateway.redis import exact_cache
from ractogateway.redis.transport import TimeLimits

figures = fault_cells.figures

_SERVERS = pytest.StashKey[Servers]()
_ABSENT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--redis-url",
        default=os.environ.get("RACTOGATEWAY_TEST_REDIS_URL"),
        help="run against this server (its database is flushed before each test) instead of our own ones",
    )
    parser.addoption(
        "--faults-report",
        type=Path,
        metavar="PATH",
        help="run tests/faults in its long form, and write to this file what held under which fault",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts the suite in the background lets it ignore Ctrl-C, and with it every process that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(secrecy, "secrecy")
    config.pluginmanager.register(SecondLook(), "second look")
    config.addinivalue_line(
        "markers", "lasting_keys(*patterns): keys (regexes) that `expiring_keys` lets live for ever"
    )
    cells = fault_cells.FaultCells(config.getoption("--faults-report"))
    config.pluginmanager.register(cells)
    url = config.getoption("--redis-url")
    known: dict[str, Server] = {"given": Server("given", given_url=url)} if url else {}
    config.stash[_SERVERS] = Servers(known)
    config.stash[_ABSENT] = absent = []
    for name, make in FACTORIES.items() if not url else ():
        try:
            known[name] = make()
        except ServerNotInstalled as reason:
            absent.append(f"{name} ({reason})")
    if url:
        try:
            known["given"].command("PING")
        except (redis.RedisError, ValueError) as error:  # not shown whole: the URL may hold a password
            raise pytest.UsageError(f"--redis-url: no server serves us there ({type(error).__name__})") from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    known = config.stash[_SERVERS].known
    lines = ["servers: " + (", ".join(f"{name} {server.version}" for name, server in known.items()) or "none")]
    return lines + [f"left out: {reason}" for reason in config.stash[_ABSENT]]


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_SERVERS].close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `server` runs once with each, unless it says ``parametrize("server", …, indirect=True)``."""
    marks = metafunc.definition.iter_markers("parametrize")
    if "server" in metafunc.fixturenames and not any(mark.args[0] == "server" for mark in marks):
        metafunc.parametrize("server", list(metafunc.config.stash[_SERVERS].known), indirect=True)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """Every server at hand by name (``servers["redis8"]``), started when first asked for. Not flushed."""
    return pytestconfig.stash[_SERVERS]


@pytest.fixture
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Each server at hand in turn: running, empty, shared with other tests.

    A test that changes a server's configuration makes one of its own instead: ``with valkey9(config=...) as server``.
    """
    if request.param not in servers.known:
        pytest.skip(f"needs {request.param}, which is not among the servers of this run")
    shared = servers[request.param]
    shared.flush()
    return shared


@pytest.fixture
def server_url(server: Server) -> str:
    return server.url


@pytest.fixture
def any_server(servers: Servers) -> Server:
    """One server, the first at hand: for tests to which the kind makes no difference."""
    shared = servers[next(iter(servers))]
    shared.flush()
    return shared


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches made without ``options`` wait for a busy machine, too: with their own 0.1 s a hit would be none."""
    monkeypatch.setattr(exact_cache, "_LIMITS", TimeLimits(5.0, 5.0))


@pytest.fixture
def expiring_keys(request: pytest.FixtureRequest, server_url: str) -> Iterator[Callable[..., None]]:
    """After the test, fail if a key of ours has no TTL; ``pytestmark = pytest.mark.usefixtures("expiring_keys")``."""

    def check(prefix: str = "ractogateway:", *, allow: tuple[str, ...] = ()) -> None:
        no_key_without_ttl(server_url, prefix, allow=allow)

    yield check
    check(allow=tuple(pattern for mark in request.node.iter_markers("lasting_keys") for pattern in mark.args))
