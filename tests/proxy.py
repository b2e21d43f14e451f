"""A proxy between a client and a Redis server that does, on command, what networks do.

    with Proxy(server.url) as proxy:
        client = redis.Redis.from_url(proxy.url)
        proxy.faults(lose_one_in=10, losing=(b"EVALSHA", b"EVAL"))

It forwards whole RESP frames, so that a reply is lost as networks lose it: the server has executed the command, and
from that reply on nothing more arrives on that connection. A reply that vanished from the *middle* of a stream would be
no fault of a network but a lie of the proxy: TCP does not do that. ``raw=True`` is for TLS, which shows no frames:
bytes are forwarded as they come, and those that clients sent are kept.

Everything random comes from a generator per connection, seeded with ``seed`` and the connection's number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

__all__ = ["Faults", "Proxy"]

T = TypeVar("T")

_READ_BYTES = 1 << 16
_SECONDS = 5.0
_DOUBLED, _NESTED, _COUNTED = b"%|", b"*~>%|", b"$=!"


@dataclass(frozen=True)
class Faults:
    """What a proxy does to what it forwards; the default does nothing.

    Attributes:
        delay_seconds: every reply waits about so long (half to one and a half times); those behind it too.
        split_bytes: replies arrive in pieces of at most so many bytes.
        lose_one_in: of so many replies one is lost, with all that follow it on that connection.
        losing: names of the commands whose replies count for that; all when empty.
        after_loss: ``cut`` closes the connection then, ``silence`` leaves it open and dead.
        swallow: nothing passes, in either direction (True) or in one (``requests``, ``replies``). A connection that has
            lost bytes this way stays dead in that direction.
        slam: new connections are accepted and closed at once.
    """

    delay_seconds: float = 0.0
    split_bytes: int = 0
    lose_one_in: int = 0
    losing: tuple[bytes, ...] = ()
    after_loss: Literal["cut", "silence"] = "cut"
    swallow: bool | Literal["requests", "replies"] = False
    slam: bool = False


class Proxy:
    """Forwards to the server at ``target``; its own ``url`` is the target's with another address.

    Attributes:
        accepted: connections made so far.
        commands: how often each command passed, by name; ``HELLO`` with credentials counts as ``AUTH``, too.
        replies: replies that passed.
        lost: replies that were lost by ``lose_one_in``, those behind them on the connection not counted.
        sent: of a raw proxy, what each connection's client has sent.
    """

    def __init__(self, target: str, *, seed: int = 0, unix: bool = False, raw: bool = False) -> None:
        self.accepted = 0
        self.commands: Counter[bytes] = Counter()
        self.replies = 0
        self.lost = 0
        self.sent: list[bytearray] = []
        self.seed = seed
        self.raw = raw
        self._faults = Faults()
        self._target = target
        self._path = Path(tempfile.mkdtemp(prefix="ractoproxy-")) / "socket" if unix else None
        self._port = 0
        self._connections: set[_Connection] = set()
        self._countdown = 0
        self._loop = asyncio.new_event_loop()
        self._door: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._owner = os.getpid()

    # --- from the test's thread --------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        parts = urlsplit(self._target)
        user = parts.netloc.rpartition("@")[0] + "@" if "@" in parts.netloc else ""
        if self._path is not None:
            database = "" if parts.scheme == "unix" else parts.path.strip("/")
            return f"unix://{user}{quote(str(self._path))}?{parts.query or f'db={database or 0}'}"
        if parts.scheme == "unix":
            return f"redis://{user}127.0.0.1:{self._port}/0?{parts.query}"
        return parts._replace(netloc=f"{user}127.0.0.1:{self._port}").geturl()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    def faults(self, **changes: Any) -> None:
        """From now on only these faults (see `Faults`); without arguments, none."""
        self._faults = Faults(**changes)
        self._countdown = self._faults.lose_one_in

    def also(self, **changes: Any) -> None:
        """These faults, besides those in force."""
        self._faults = replace(self._faults, **changes)
        self._countdown = self._faults.lose_one_in

    def cut(self) -> None:
        """Close every connection."""
        self._call(self._cut)

    def inject(self, data: bytes) -> None:
        """Send this to every client, as if the server had said it."""
        self._call(lambda: self._inject(data))

    def shut(self) -> None:
        """Close every connection and refuse new ones."""
        self._call(self._shut)

    def reopen(self) -> None:
        """Accept connections again, at the same address."""
        self._call(self._open)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[Self]:
        self.shut()
        try:
            yield self
        finally:
            self.reopen()

    def close(self) -> None:
        """Cut everything and end the thread."""
        if os.getpid() != self._owner or self._loop.is_closed():
            return
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _call(self, function: Callable[[], Awaitable[T]]) -> T:
        async def work() -> T:
            return await function()

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(_SECONDS)

    # --- in the proxy's thread ---------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._door = await asyncio.start_unix_server(self._serve, str(self._path))
        else:
            self._door = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            self._port = self._door.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
        await self._cut()

    async def _end(self) -> None:
        """Leave nothing: a connection may have been accepted at the last moment, and be nobody's yet."""
        await self._shut()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=0.1)
        await asyncio.sleep(0.001)  # an aborted transport closes its socket in a later turn

    async def _cut(self) -> None:
        tasks = [connection.task for connection in self._connections]
        for connection in list(self._connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=_SECONDS)

    async def _inject(self, data: bytes) -> None:
        for connection in self._connections:
            connection.inject(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._faults.slam:
            writer.transport.abort()
            return
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.serve(*await self._dial())
        except OSError:
            pass  # the server is away, or one side has hung up
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target)
        if parts.scheme == "unix":
            return await asyncio.open_unix_connection(unquote(parts.path))
        return await asyncio.open_connection(parts.hostname, parts.port)

    def loses(self, command: bytes) -> bool:
        """Whether the reply to this command is the one that is lost."""
        faults = self._faults
        if not faults.lose_one_in or (faults.losing and command not in faults.losing):
            return False
        self._countdown -= 1
        if self._countdown > 0:
            return False
        self._countdown = faults.lose_one_in
        self.lost += 1
        return True


class _Connection:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.task = asyncio.current_task()
        self._proxy = proxy
        self._random = random.Random(f"{proxy.seed}:{proxy.accepted}")
        self._reader, self._writer = reader, writer
        self._writers = [writer]
        self._pumps: list[asyncio.Future[None]] = []
        self._unanswered: deque[bytes] = deque()
        self._dead: set[str] = set()

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        for pump in self._pumps:
            pump.cancel()

    def inject(self, data: bytes) -> None:
        self._writers[0].write(data)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        for each in self._writers:
            with contextlib.suppress(OSError):  # not TCP
                each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pumps = [asyncio.ensure_future(self._requests(writer)), asyncio.ensure_future(self._replies(reader))]
        await asyncio.wait(self._pumps, return_when=asyncio.FIRST_COMPLETED)
        self.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _requests(self, server: asyncio.StreamWriter) -> None:
        frames = _Frames()
        self._proxy.sent.append(sent := bytearray())
        while data := await self._reader.read(_READ_BYTES):
            if self._swallows("requests"):
                continue
            if self._proxy.raw:
                sent += data
                server.write(data)
                continue
            for frame in frames.feed(data):
                name = _name(frame)
                self._unanswered.append(name)
                self._proxy.commands[name] += 1
                if name == b"HELLO" and b"\r\nAUTH\r\n" in frame.upper():
                    self._proxy.commands[b"AUTH"] += 1
                server.write(frame)
            await server.drain()

    async def _replies(self, server: asyncio.StreamReader) -> None:
        frames = _Frames()
        while data := await server.read(_READ_BYTES):
            if self._proxy.raw:
                await self._send(bytearray(data))
                continue
            out = bytearray()
            for frame in frames.feed(data):
                if frame[:1] != b">" and self._unanswered and self._proxy.loses(self._unanswered.popleft()):
                    await self._send(out)
                    if self._proxy._faults.after_loss == "cut":
                        return
                    self._dead = {"requests", "replies"}
                    break
                self._proxy.replies += 1
                out += frame
            await self._send(out)

    async def _send(self, data: bytearray) -> None:
        faults = self._proxy._faults
        if data and faults.delay_seconds:
            await asyncio.sleep(faults.delay_seconds * self._random.uniform(0.5, 1.5))
        start = 0
        while start < len(data) and not self._swallows("replies"):
            size = self._random.randint(1, faults.split_bytes) if faults.split_bytes else len(data)
            self._writer.write(bytes(data[start : start + size]))
            await self._writer.drain()
            start += size
            if faults.split_bytes:
                await asyncio.sleep(0)  # lets the other side read, so that it sees the pieces

    def _swallows(self, direction: str) -> bool:
        if self._proxy._faults.swallow in (True, direction):
            self._dead.add(direction)
        return direction in self._dead


class _Frames:
    """Cuts a stream into whole RESP values (requests are arrays, replies anything)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        start = 0
        while (end := self._end(start)) >= 0:
            yield bytes(self._buffer[start:end])
            start = end
        del self._buffer[:start]

    def _end(self, start: int) -> int:
        """Where the value that begins at ``start`` ends, -1 when it is not complete."""
        buffer = self._buffer
        line = buffer.find(b"\r\n", start)
        if line < 0:
            return -1
        kind, end = buffer[start : start + 1], line + 2
        if kind in _COUNTED and buffer[start + 1 : start + 2] != b"-":
            end += int(buffer[start + 1 : line]) + 2
            return end if end <= len(buffer) else -1
        if kind in _NESTED:
            for _ in range(int(buffer[start + 1 : line]) * (2 if kind in _DOUBLED else 1) + (kind == b"|")):
                end = self._end(end)
                if end < 0:
                    return -1
        return end


def _name(request: bytes) -> bytes:
    return request.split(b"\r\n", 3)[2].upper()
