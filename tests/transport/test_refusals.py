"""A server that says no: each kind of no has its class, the hopeless ones are not tried again, and no error shows a
secret, a key or a payload."""

from __future__ import annotations

import logging
import socketserver
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import redis.asyncio
from anyio.from_thread import start_blocking_portal
from faces import Maker
from probing import Watch, outcome, own_server, run
from proxy import Proxy
from servers import Server, wait_until

from ractogateway.errors import (
    AuthenticationFailed,
    NotSent,
    PermissionDenied,
    StoreError,
    StoreNotReady,
    StoreRefused,
    StoreTimeout,
    StoreUnavailable,
    WrongKeyType,
)
from ractogateway.messages import LLMResponse
from ractogateway.redis import ChatMemoryConfig, RateLimitConfig, RedisOptions
from ractogateway.redis.transport import (
    Script,
    TimeLimits,
    open_async_port,
    open_blocking_port,
    plain_call,
    script_call,
)

# Put together here, so that no line of this file that a traceback shows has them in it.
PASSWORD, PAYLOAD, USER, KEY = ("canary-" + word for word in ("password", "payload", "user", "key"))
CANARY = "canary-"

FACES = ["async url", "blocking url", "aio of url", "async client", "blocking client"]
URL_FACES = FACES[:3]
REQUEST = (PAYLOAD, PAYLOAD, "gpt-4o", 0.0, 256)
PATIENT_SECONDS = 5.0


@pytest.fixture(scope="module")
def inn() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
def host(inn) -> Iterator[Server]:
    """A server whose settings a test may change; they are as before afterwards."""
    inn.flush()
    yield inn
    with inn.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all")
        client.execute_command("ACL", "DELUSER", USER)
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.execute_command("CONFIG", "SET", "maxmemory", "0", "save", "", "replica-serve-stale-data", "yes")


@dataclass
class Place:
    """What `faces.Maker` needs to know of a server."""

    url: str


# --- the tools, called with canaries ---------------------------------------------------------------------------------


class Tools:
    """One call of each tool; all of them set to raise in an outage. Every text in them is a canary."""

    def __init__(self, make: Maker, seconds: float | None) -> None:
        # A given client keeps its own time limits.
        options = {} if seconds is None or "client" in make.face else {"options": RedisOptions(timeout_seconds=seconds)}
        self.cache = make("cache", on_outage="raise", key_prefix=KEY, namespace=PAYLOAD, **options)
        limits = RateLimitConfig(key_prefix=KEY)
        self.limiter = make("limiter", on_outage="raise", config=limits, **options)
        self.memory = make("memory", config=ChatMemoryConfig(key_prefix=KEY), namespace=PAYLOAD, **options)

    def writes(self) -> dict[str, Callable[[], Any]]:
        return {
            "cache": lambda: self.cache.put(*REQUEST, LLMResponse(content=PAYLOAD)),
            "limiter": lambda: self.limiter.consume(USER, 7, request_id=PAYLOAD),
            "memory": lambda: self.memory.append(USER, "user", PAYLOAD, request_id=PAYLOAD),
        }

    def reads(self) -> dict[str, Callable[[], Any]]:
        return {
            "cache": lambda: self.cache.get(*REQUEST),
            "limiter": lambda: self.limiter.peek(USER),
            "memory": lambda: self.memory.get_history(USER),
        }


@pytest.fixture
def tools_of() -> Iterator[Callable[..., Tools]]:
    with ExitStack() as stack:
        yield lambda face, url, seconds=PATIENT_SECONDS: Tools(Maker(face, Place(url), stack), seconds)


def check(error: object, kind: type[StoreError] | tuple[type[StoreError], ...], code: str | None = None) -> None:
    """The class, the code, and that nothing in the error or in what it came from tells of a canary."""
    assert isinstance(error, kind), repr(error)
    if code is not None:
        assert error.code == code
    shown: BaseException | None = error
    while shown is not None:
        assert CANARY not in f"{shown}{shown!r}{shown.args!r}{getattr(shown, '__notes__', '')}"
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    assert CANARY not in "".join(traceback.format_exception(error))


def with_credentials(url: str, user: str = "", password: str = PASSWORD) -> str:
    return url.replace("://", f"://{user}:{password}@")


def assert_immediate(seconds: float) -> None:
    assert seconds < PATIENT_SECONDS / 5, f"took {seconds:.2f} s: it must have been tried again"


# --- hopeless --------------------------------------------------------------------------------------------------------


@pytest.mark.cell("TLS and credentials", "cache", "limiter", "memory")
@pytest.mark.parametrize("how", ["wrong password", "no password", "unknown user", "user switched off"])
@pytest.mark.parametrize("face", URL_FACES)
def test_credentials(host, tools_of, face, how):
    """Refused at once, after one attempt; and when they become right, the same object works."""
    host.command("ACL", "SETUSER", USER, "off" if how == "user switched off" else "on", f">{PASSWORD}", "~*", "+@all")
    with Proxy(host.url) as proxy:
        url = {
            "wrong password": with_credentials(proxy.url, USER, PASSWORD + "x"),
            "no password": proxy.url,
            "unknown user": with_credentials(proxy.url, USER + "x"),
            "user switched off": with_credentials(proxy.url, USER),
        }[how]
        if how == "no password":
            host.command("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}")
        tools = tools_of(face, url)
        for number, call in enumerate(tools.writes().values(), 1):
            error, seconds = outcome(call)
            check(error, AuthenticationFailed)
            assert_immediate(seconds)
            assert proxy.accepted == number, "one call, one attempt"
            assert proxy.commands[b"AUTH"] <= number
        with redis.Redis.from_url(with_credentials(host.url) if how == "no password" else host.url) as client:
            client.execute_command("ACL", "SETUSER", "default", "nopass")
            client.execute_command("ACL", "SETUSER", USER, "on", f">{PASSWORD}x", "~*", "+@all")
            client.execute_command("ACL", "SETUSER", USER + "x", "on", f">{PASSWORD}", "~*", "+@all")
        for call in [*tools.writes().values(), *tools.reads().values()]:
            call()
        host.command("ACL", "DELUSER", USER + "x")


@pytest.mark.parametrize("rule", ["no commands", "no keys", "no scripts"])
@pytest.mark.parametrize("face", FACES)
def test_permissions(host, tools_of, face, rule):
    rights = {
        "no commands": ("~*", "-@all", "+@connection"),
        "no keys": ("~elsewhere:*", "+@all"),
        "no scripts": ("~*", "+@all", "-@scripting"),
    }[rule]
    host.command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", *rights)
    with Proxy(host.url) as proxy:
        tools = tools_of(face, with_credentials(proxy.url, USER))
        for call in [*tools.writes().values(), *(() if rule == "no scripts" else tools.reads().values())]:
            sent = proxy.commands.total()
            error, seconds = outcome(call)
            check(error, PermissionDenied)
            assert_immediate(seconds)
        assert outcome(call).result.__class__ is PermissionDenied
        # Once connected, a refused call is one command (of a script that the server does not know, two).
        sent = proxy.commands.total()
        outcome(call)
        assert proxy.commands.total() - sent <= 2


@pytest.mark.cell("bad bytes at rest", "cache", "limiter", "memory")
@pytest.mark.parametrize("face", FACES)
def test_keys_of_another_type(host, tools_of, face):
    tools = tools_of(face, host.url)
    for call in tools.writes().values():
        call()
    with host.client() as client:
        for key in client.scan_iter():
            client.delete(key)
            client.geoadd(key, (1.0, 2.0, PAYLOAD)) if b"index" not in key else client.set(key, PAYLOAD)
    wrong = {**tools.writes(), **{f"{name} read": call for name, call in tools.reads().items()}}
    del wrong["cache read"]  # an MGET: a value of another type is a missing one, hence a miss
    for call in wrong.values():
        error, seconds = outcome(call)
        check(error, WrongKeyType)
        assert_immediate(seconds)
    assert tools.cache.get(*REQUEST) is None


def raw_outcomes(server: Server, call: Any) -> Iterator[object]:
    """How a raw call ends over each kind of port."""
    limits = TimeLimits(PATIENT_SECONDS, PATIENT_SECONDS)
    with redis.Redis.from_url(server.url) as client:
        for url, given in ((server.url, None), (None, client)):
            yield outcome(lambda url=url, given=given: run(open_blocking_port(url, given, None, limits), call)).result
    with start_blocking_portal() as portal:

        async def over(url: str | None) -> Any:
            given = redis.asyncio.Redis.from_url(server.url) if url is None else None
            try:
                return await open_async_port(url, given, None, limits).run(call)
            finally:
                if given is not None:
                    await given.aclose()

        for url in (server.url, None):
            yield outcome(lambda url=url: portal.call(over, url)).result


@pytest.mark.parametrize(
    "call",
    [
        plain_call(b"NOSUCHCOMMAND", (KEY.encode(),), (PAYLOAD.encode(),), bytes, replay_safe=True),
        plain_call(b"CLIENT", (b"NOSUCH" + PAYLOAD.encode(),), (), bytes, replay_safe=True),
        plain_call(b"SET", (KEY.encode(),), (b"v", PAYLOAD.encode()), bytes, replay_safe=True),
        plain_call(b"GET", (KEY.encode(), PAYLOAD.encode()), (), bytes, replay_safe=True),
        script_call(
            Script.of("quoting", b"return redis.error_reply(ARGV[1])"), (), (PAYLOAD.encode(),), bytes, replay_safe=True
        ),
        script_call(Script.of("failing", b"error(ARGV[1])"), (), (PAYLOAD.encode(),), bytes, replay_safe=True),
        script_call(Script.of(KEY, b"this is not Lua: " + PAYLOAD.encode()), (), (), bytes, replay_safe=True),
    ],
    ids=lambda call: call.script.name.replace(CANARY, "") if call.script else call.command[0].decode(),
)
def test_errors_that_quote_arguments(host, call):
    """The server's own text may repeat what it was sent; ours does not pass it on."""
    for error in raw_outcomes(host, call):
        check(error, StoreRefused)


def test_tools_do_not_show_their_url(host):
    limits = TimeLimits(1.0, 1.0)
    with ExitStack() as stack:
        for face in URL_FACES:
            tools = Tools(Maker(face, Place(with_credentials(host.url, USER)), stack), None)
            for tool in (tools.cache, tools.limiter, tools.memory):
                assert PASSWORD not in repr(getattr(tool, "_core", tool))
                assert USER not in repr(getattr(tool, "_core", tool))
    for port in (open_async_port, open_blocking_port):
        assert PASSWORD not in repr(vars(port(with_credentials(host.url, USER), None, None, limits)))


# --- not now ---------------------------------------------------------------------------------------------------------


@pytest.mark.cell("out of memory", "cache", "limiter", "memory")
@pytest.mark.parametrize("face", FACES)
def test_out_of_memory(host, tools_of, face):
    """Writes are refused at once, with nothing half written; reads go on."""
    tools = tools_of(face, host.url)
    tools.memory.append(USER, "user", PAYLOAD)
    host.command("CONFIG", "SET", "maxmemory", "1")
    before = host.command("DBSIZE")
    for call in tools.writes().values():
        error, seconds = outcome(call)
        check(error, StoreNotReady, "OOM")
        assert_immediate(seconds)
        assert not error.may_have_applied
    assert host.command("DBSIZE") == before
    assert len(tools.memory.get_history(USER)) == 1
    host.command("CONFIG", "SET", "maxmemory", "0")
    for call in tools.writes().values():
        call()


@pytest.mark.cell("not ready", "cache", "limiter", "memory")
@pytest.mark.parametrize("face", URL_FACES)
def test_a_disk_that_cannot_be_written(host, tools_of, face):
    """MISCONF: snapshots fail, so writes are refused."""
    dump = host.directory / "dump.rdb"
    dump.mkdir(exist_ok=True)
    (dump / "in the way").touch()
    host.command("CONFIG", "SET", "save", "3600 1")
    with host.client() as client:
        wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"])
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", what="the snapshot failing")
    tools = tools_of(face, host.url)
    for call in tools.writes().values():
        error, seconds = outcome(call)
        check(error, StoreNotReady, "MISCONF")
        assert_immediate(seconds)
    assert tools.memory.get_history(USER) == []


@pytest.mark.cell("not ready", "cache", "limiter", "memory")
@pytest.mark.parametrize("face", URL_FACES)
@pytest.mark.parametrize("code", ["READONLY", "MASTERDOWN"])
def test_a_replica(host, tools_of, face, code):
    """What passes by itself is tried again until the time is up, and no longer."""
    hasty, patient = tools_of(face, host.url, 0.1), tools_of(face, host.url)
    for call in patient.reads().values():
        call()
    host.command("CONFIG", "SET", "replica-serve-stale-data", "yes" if code == "READONLY" else "no")
    host.command("REPLICAOF", "127.0.0.1", "1")
    for call in (hasty.writes() if code == "READONLY" else hasty.reads()).values():
        error = None
        while not isinstance(error, StoreNotReady):  # on a busy machine the time may run out during the last try
            with Watch() as watch:
                error, seconds = outcome(call)
            watch.assert_kept(0.1, seconds)
            check(error, (StoreNotReady, StoreTimeout))
        check(error, StoreNotReady, code)
        assert not error.may_have_applied
    if code == "READONLY":
        assert hasty.memory.get_history(USER) == []
    promotion = threading.Timer(0.1, host.command, ("REPLICAOF", "NO", "ONE"))
    promotion.start()
    patient.writes()["memory"]()
    promotion.join()
    assert len(patient.memory.get_history(USER)) == 1


@pytest.mark.cell("not ready", "cache", "limiter", "memory", "blocking")
def test_a_server_that_is_loading(tools_of):
    """LOADING: the hasty are told, the patient get their answer as soon as there is one."""
    config: dict[str, str] = {}
    with own_server(config=config) as server:
        tools = {face: (tools_of(face, server.url, 0.1), tools_of(face, server.url, 10.0)) for face in URL_FACES}
        for hasty, patient in tools.values():
            hasty.reads()["memory"]()
            patient.writes()["memory"]()
        server.command("DEBUG", "POPULATE", "2000")
        server.command("SAVE")
        server.stop()
        config.update({"key-load-delay": "500", "loading-process-events-interval-bytes": "1024"})
        starter = threading.Thread(target=server.start)
        starter.start()
        seen = set()
        while starter.is_alive():
            for hasty, _ in tools.values():
                error, seconds = outcome(hasty.reads()["memory"])
                if isinstance(error, StoreNotReady):
                    check(error, StoreNotReady, "LOADING")
                    assert seconds < PATIENT_SECONDS / 5
                    seen.add(hasty)
                for _, patient in tools.values() if seen and len(seen) <= 1 else ():
                    assert len(patient.memory.get_history(USER)) == 1
        starter.join()
        assert seen
        for hasty, _ in tools.values():
            assert len(hasty.memory.get_history(USER)) == 1


@pytest.mark.parametrize("face", URL_FACES)
def test_a_server_with_too_many_clients(host, tools_of, face):
    """An outage like others: it passes, and nothing was sent."""
    hasty, patient = tools_of(face, f"{host.url}?client_name=late", 0.2), tools_of(face, f"{host.url}?client_name=late")
    with host.client() as client:
        client.config_set("maxclients", 1)
        try:
            error, _ = outcome(hasty.reads()["memory"])
            check(error, (NotSent, StoreTimeout))
            assert not error.may_have_applied
            relief = threading.Timer(0.1, client.config_set, ("maxclients", 1000))
            relief.start()
            assert patient.memory.get_history(USER) == []
            relief.join()
        finally:
            client.config_set("maxclients", 1000)


@pytest.mark.parametrize("face", ["async url", "blocking url"])
def test_a_server_that_is_busy_with_a_script(host, tools_of, face):
    host.command("CONFIG", "SET", "busy-reply-threshold", "20")
    tools = tools_of(face, host.url)
    tools.reads()["memory"]()
    with host.client() as client:
        loop = threading.Thread(target=lambda: outcome(lambda: client.eval("while true do end", 0)))
        loop.start()
        try:
            wait_until(lambda: isinstance(outcome(lambda: host.command("GET", "x")).result, redis.ResponseError))
            error, seconds = outcome(tools.reads()["memory"])
        finally:
            host.command("SCRIPT", "KILL")
            loop.join()
    check(error, StoreNotReady, "BUSY")
    assert_immediate(seconds)
    assert tools.memory.get_history(USER) == []


def test_something_that_is_no_redis(tools_of):
    """A web server at the port: an outage, in time."""

    class Teapot(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Teapot) as server:
        threading.Thread(target=server.serve_forever).start()
        for face in URL_FACES:
            tools = tools_of(face, f"redis://127.0.0.1:{server.server_address[1]}/0", 0.1)
            for call in tools.writes().values():
                with Watch() as watch:
                    error, seconds = outcome(call)
                watch.assert_kept(0.1, seconds)
                check(error, StoreUnavailable)
                assert not error.may_have_applied
        server.shutdown()


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.cell("kill and restart", "cache", "limiter", "memory")
@pytest.mark.parametrize("face", URL_FACES)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_is_started_anew(face, end, tools_of):
    """The same objects go on; with an append-only file, what was acknowledged is still there."""
    with own_server(aof=True, config={"appendfsync": "always"}) as server:
        tools = tools_of(face, server.url)
        for call in tools.writes().values():
            call()
        getattr(server, end)()
        error = outcome(tools_of(face, server.url, 0.1).reads()["memory"]).result
        check(error, StoreUnavailable)
        server.start()
        assert tools.cache.get(*REQUEST).content == PAYLOAD
        assert tools.limiter.get_remaining(USER) == 10_000 - 7
        for call in tools.writes().values():
            call()
        assert [message["content"] for message in tools.memory.get_history(USER)] == [PAYLOAD]


def test_logs_do_not_show_canaries_either(host, tools_of, caplog):
    caplog.set_level(logging.DEBUG)
    host.command("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "+@all")
    with ExitStack() as stack:
        for face in URL_FACES:
            cache = Maker(face, Place(with_credentials(host.url, USER, PASSWORD + "x")), stack)("cache", key_prefix=KEY)
            assert cache.get(*REQUEST) is None
    assert any(record.levelname == "WARNING" for record in caplog.records)
    assert CANARY not in caplog.text
