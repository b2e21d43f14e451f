"""Faults as small objects: what is done to a server, or to the way to it, while callers use it.

    with scene_of(FREEZE, "valkey9") as scene:
        with FREEZE.raging(scene):
            …

A scene is a server of one kind as the fault needs it (append-only file, settings, a proxy before it); nobody else uses
it. Faults that are the business of a whole topology make scenes of their own, see `failures_of_nodes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from proxy import Proxy
from redis.credentials import CredentialProvider
from servers import FACTORIES, Server, ServerNotInstalled, valkey9, wait_until

__all__ = ["FAULTS", "KINDS", "LIBFAKETIME", "SCRIPTS", "Clock", "Fault", "Scene", "again_and_again", "scene_of"]

KINDS = ("valkey9", "redis8", "redis7")
SCRIPTS = (b"EVALSHA", b"EVAL")
LIBFAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_SHORT_SECONDS = 0.3
"""Less than any time limit of the callers, for what comes again and again."""


@dataclass
class Scene:
    """Where the callers connect to, and by what handles the fault gets at it."""

    url: str
    server: Server
    proxy: Proxy | None = None
    clock: Clock | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """For the callers' `RedisOptions`."""


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Attributes:
        row: of the matrix.
        name: what is done, for the names of tests.
        raging: does it while the block lasts.
        forgets: what the server itself may lose of what it has acknowledged: a restart without a file, say.
        stops: ``all``, while the fault lasts nothing can be served; ``writes``, what is read by plain commands can.
        aof, config: of the server.
        network: it needs a proxy.
        kinds: the servers that it works with.
    """

    row: str
    name: str
    raging: Callable[[Scene], AbstractContextManager[object]]
    forgets: Literal["nothing", "everything", "the last moments"] = "nothing"
    stops: Literal["nothing", "writes", "all"] = "nothing"
    aof: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    network: bool = False
    needs: Literal["", "clock", "user"] = ""
    kinds: tuple[str, ...] = KINDS


class Clock:
    """Sets the clock of one server, by so many seconds from now on: libfaketime reads the offset from a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0.0
        self.step(0.0)

    @property
    def environment(self) -> dict[str, str]:
        """Of the server."""
        return {
            "LD_PRELOAD": str(LIBFAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, seconds: float) -> None:
        self._offset += seconds
        written = self._file.with_suffix(".new")
        written.write_text(f"{self._offset:+.3f}\n")
        written.rename(self._file)  # the server never reads half of it


class Rotating(CredentialProvider):
    """A user whose password changes; new connections get the one of the moment."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def password(self) -> str:
        return f"password {self.number}"

    def get_credentials(self) -> tuple[str, str]:
        return "app", self.password


@contextmanager
def scene_of(fault: Fault, kind: str, directory: Path) -> Iterator[Scene]:
    """A server of this kind as the fault needs it; `ServerNotInstalled` where there is none, or no libfaketime."""
    with ExitStack() as stack:
        clock = None
        if fault.needs == "clock":
            if not LIBFAKETIME:
                raise ServerNotInstalled("libfaketime is not installed")
            clock = Clock(directory / "clock")
            server = stack.enter_context(valkey9(env=clock.environment))
        else:
            server = stack.enter_context(FACTORIES[kind](aof=fault.aof, config=dict(fault.config)))
        scene = Scene(server.url, server, clock=clock)
        if fault.network:
            scene.proxy = stack.enter_context(Proxy(server.url, seed=5))
            scene.url = scene.proxy.url
        if fault.needs == "user":
            scene.options["credential_provider"] = provider = Rotating()
            server.command("ACL", "SETUSER", "app", "on", f">{provider.password}", "~*", "&*", "+@all")
        yield scene


@contextmanager
def again_and_again(strike: Callable[[], object], pause_seconds: float = 0.0) -> Iterator[None]:
    """Strike in a thread until the block ends; what goes wrong in doing so is raised then."""
    over, errors = threading.Event(), []

    def work() -> None:
        try:
            while not over.is_set():
                strike()
                over.wait(pause_seconds)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors, errors


# --- the server ------------------------------------------------------------------------------------------------------


@contextmanager
def killed(scene: Scene) -> Iterator[None]:
    scene.server.kill()
    yield
    scene.server.start()


def frozen(scene: Scene) -> AbstractContextManager[object]:
    return scene.server.frozen()


@contextmanager
def connections_cut(scene: Scene) -> Iterator[None]:
    with scene.server.client() as admin:
        cut = lambda: admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # noqa: E731
        with again_and_again(cut, 0.03):
            yield


@contextmanager
def writes_paused(scene: Scene) -> Iterator[None]:
    with scene.server.client() as admin:
        admin.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
        yield
        admin.execute_command("CLIENT", "UNPAUSE")


@contextmanager
def all_paused(scene: Scene) -> Iterator[None]:
    """A pause of everything cannot be ended by a command: it is renewed until it is to end."""
    with scene.server.client() as admin:
        # The pause ends by itself, and with it the wait of this command, which is the next one's beginning.
        pause = lambda: admin.execute_command("CLIENT", "PAUSE", round(1000 * _SHORT_SECONDS), "ALL")  # noqa: E731
        with again_and_again(pause):
            yield
        admin.ping()  # answered when the last one is over


@contextmanager
def asleep(scene: Scene) -> Iterator[None]:
    with scene.server.client() as admin:
        nap = lambda: admin.execute_command("DEBUG", "SLEEP", str(_SHORT_SECONDS))  # noqa: E731
        with again_and_again(nap, 0.02):
            yield


@contextmanager
def scripts_flushed(scene: Scene) -> Iterator[None]:
    with scene.server.client() as admin, again_and_again(lambda: admin.execute_command("SCRIPT", "FLUSH")):
        yield


@contextmanager
def data_flushed(scene: Scene) -> Iterator[None]:
    with scene.server.client() as admin, again_and_again(admin.flushall, 0.05):
        yield


@contextmanager
def without_memory(scene: Scene) -> Iterator[None]:
    scene.server.command("CONFIG", "SET", "maxmemory", 1)
    yield
    scene.server.command("CONFIG", "SET", "maxmemory", 0)


@contextmanager
def without_disk(scene: Scene) -> Iterator[None]:
    """MISCONF: something is in the way of the snapshot."""
    in_the_way = scene.server.directory / "dump.rdb"
    in_the_way.mkdir(exist_ok=True)
    (in_the_way / "file").touch()
    with scene.server.client() as admin:
        admin.config_set("save", "3600 1")
        wait_until(lambda: not admin.info("persistence")["rdb_bgsave_in_progress"])
        admin.bgsave()
        wait_until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", what="the snapshot failing")
        yield
        admin.config_set("save", "")


@contextmanager
def a_replica(scene: Scene) -> Iterator[None]:
    """READONLY: it follows somebody who is not there, and is promoted again."""
    scene.server.command("REPLICAOF", "127.0.0.1", "1")
    yield
    scene.server.command("REPLICAOF", "NO", "ONE")


@contextmanager
def loading(scene: Scene) -> Iterator[None]:
    """LOADING: a file that takes a second; the block ends when it is read."""
    server = scene.server
    server.command("DEBUG", "POPULATE", "2000")
    server.command("SAVE")
    server.kill()
    server.config.update({"key-load-delay": "500", "loading-process-events-interval-bytes": "1024"})
    starter = threading.Thread(target=server.start)
    starter.start()
    yield
    starter.join()


@contextmanager
def clock_stepping(scene: Scene) -> Iterator[None]:
    clock = scene.clock
    assert clock is not None
    steps = iter([-5.0, 0.3, -1.9, 4.0, -0.2] * 1000)
    with again_and_again(lambda: clock.step(next(steps)), 0.1):
        yield


@contextmanager
def password_rotating(scene: Scene) -> Iterator[None]:
    """A second password is given, told to new connections, and the first one taken away with those that used it."""
    provider = scene.options["credential_provider"]

    def rotate() -> None:
        before = provider.password
        admin.execute_command("ACL", "SETUSER", "app", f">password {provider.number + 1}")
        provider.number += 1
        admin.execute_command("ACL", "SETUSER", "app", f"<{before}")
        admin.execute_command("CLIENT", "KILL", "USER", "app")

    with scene.server.client() as admin, again_and_again(rotate, 0.1):
        yield


# --- the way to it ---------------------------------------------------------------------------------------------------


def over_the_network(**faults: Any) -> Callable[[Scene], AbstractContextManager[object]]:
    """The proxy does this while the block lasts; what it has done to a connection stays done."""

    @contextmanager
    def raging(scene: Scene) -> Iterator[None]:
        assert scene.proxy is not None
        scene.proxy.faults(**faults)
        yield
        scene.proxy.faults()

    return raging


@contextmanager
def refused(scene: Scene) -> Iterator[None]:
    assert scene.proxy is not None
    with scene.proxy.refusing():
        yield


ALWAYS, EVERY_SECOND = {"appendfsync": "always"}, {"appendfsync": "everysec"}
FULL = {"maxmemory-policy": "noeviction"}

FAULTS = {
    fault.name: fault
    for fault in [
        Fault("kill and restart", "killed, AOF always", killed, stops="all", aof=True, config=ALWAYS),
        Fault("kill and restart", "killed, AOF everysec", killed, "the last moments", "all", True, EVERY_SECOND),
        Fault("kill and restart", "killed, no AOF", killed, "everything", "all"),
        Fault("freeze", "frozen", frozen, stops="all"),
        Fault("reply lost", "reply lost, cut", over_the_network(lose_one_in=7, losing=SCRIPTS), network=True),
        Fault(
            "reply lost",
            "reply lost, silence",
            over_the_network(lose_one_in=20, losing=SCRIPTS, after_loss="silence"),
            network=True,
        ),
        Fault("connections cut", "connections cut", connections_cut),
        # What could be read waits behind the write that waits on the same connection.
        Fault("pause", "writes paused", writes_paused, stops="all"),
        Fault("pause", "all paused", all_paused),
        Fault("slow server", "asleep", asleep),
        Fault("slow network", "slow network", over_the_network(delay_seconds=0.01, split_bytes=40), network=True),
        Fault("scripts flushed", "scripts flushed", scripts_flushed),
        Fault("data flushed", "data flushed", data_flushed, "everything"),
        Fault("out of memory", "out of memory", without_memory, stops="writes", config=FULL),
        Fault("not ready", "MISCONF", without_disk, stops="writes"),
        Fault("not ready", "READONLY", a_replica, stops="writes"),
        Fault("not ready", "LOADING", loading, "everything", "all"),
        Fault("clock jump", "clock stepping", clock_stepping, needs="clock", kinds=("valkey9",)),
        Fault("partition", "partition", over_the_network(swallow=True), stops="all", network=True),
        Fault("partition", "requests swallowed", over_the_network(swallow="requests"), stops="all", network=True),
        Fault("partition", "replies swallowed", over_the_network(swallow="replies"), stops="all", network=True),
        Fault("partition", "refused", refused, stops="all", network=True),
        Fault("TLS and credentials", "password rotating", password_rotating, needs="user"),
    ]
}
