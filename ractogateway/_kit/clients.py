"""The SDK clients of one kit: one for blocking calls, one for each event loop, made on first use.

Documented code never closes a kit, so nothing here relies on that:

- The blocking client is closed when the kit is collected, or at exit.
- An async client belongs to the loop in which it was made, and can only be closed there. Beside each stands an async
  generator that closes it when it ends. `asyncio.run` ends such generators before it closes its loop
  (`loop.shutdown_asyncgens`), and a collected one is ended in its own loop as well. So two successive `asyncio.run`
  calls with one kit get a client each, and leave no socket behind. A loop that is closed by hand without that call
  leaves its sockets to the garbage collector, as it does for every library.
- A forked child opens its own clients and never touches the inherited ones.

An SDK takes seconds to import and tens of milliseconds to make a client (TLS certificates); async callers do both in a
thread.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

from anyio import move_on_after
from anyio.to_thread import run_sync

from ractogateway._forking import immortalise, renewed_after_fork
from ractogateway.errors import UnsupportedEventLoopError

__all__ = ["Clients", "is_ending"]

CLOSE_SECONDS = 2.0
"""How long closing may take in a loop that is about to end; it is a matter of milliseconds unless a peer is stuck."""


_ending: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def is_ending(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop is about to end: nothing may be begun in it any more that takes more than a moment."""
    return loop in _ending


class _BlockingClient(Protocol):
    def close(self) -> None: ...


class _AsyncClient(Protocol):
    def close(self) -> Awaitable[None]: ...


_B = TypeVar("_B", bound=_BlockingClient)
_A = TypeVar("_A", bound=_AsyncClient)


@dataclass(slots=True)
class _Wish:
    """Whether somebody wants a client closed; else it is its loop that ends, or nobody knows the kit any more."""

    expressed: bool = False


@dataclass(slots=True, eq=False)
class _OfLoop(Generic[_A]):
    """The client of one loop; ``keeper`` closes it."""

    making: asyncio.Lock = field(default_factory=asyncio.Lock)
    wish: _Wish = field(default_factory=_Wish)
    client: _A | None = None
    keeper: AsyncGenerator[None, None] | None = None


class Clients(Generic[_B, _A]):
    """Makes, keeps and closes the clients of one kit. Safe to use from any thread and any asyncio loop.

    ``make_blocking`` and ``make_async`` must not refer to the kit, which would otherwise never be collected. After
    `close` the next use makes new clients.
    """

    def __init__(self, make_blocking: Callable[[], _B], make_async: Callable[[], _A]) -> None:
        self._make_blocking = make_blocking
        self._make_async = make_async
        self._start()
        renewed_after_fork(self)

    def _start(self) -> None:
        self._making_blocking = threading.Lock()  # held for seconds while the SDK is imported
        self._blocking: _B | None = None
        self._close_blocking: weakref.finalize[..., Any] | None = None
        self._lock = threading.Lock()  # held for microseconds, so that event loops may take it
        self._of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop[_A]] = WeakKeyDictionary()

    def blocking(self) -> _B:
        """The blocking client."""
        client = self._blocking
        if client is None:
            with self._making_blocking:
                client = self._blocking
                if client is None:
                    client = self._make_blocking()
                    self._close_blocking = weakref.finalize(self, client.close)
                    self._blocking = client
        return client

    async def of_this_loop(self) -> _A:
        """The async client of the running loop.

        Raises:
            UnsupportedEventLoopError: The running loop is not asyncio's.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UnsupportedEventLoopError("async calls of a kit need a running asyncio event loop") from None
        entry = self._of_loops.get(loop) or self._enter(loop)
        if entry.client is not None:
            return entry.client
        async with entry.making:
            if entry.client is not None:  # made by another task meanwhile
                return entry.client
            client = await run_sync(self._make_async)
            entry.keeper = _keep(client, weakref.ref(self), entry.wish)
            await anext(entry.keeper)  # from here on the loop knows the generator, and ends it
            entry.client = client
            return client

    def close(self) -> None:
        """Close the blocking client now, and the async ones each in its own loop, as soon as that runs."""
        with self._making_blocking:
            closing, self._close_blocking, self._blocking = self._close_blocking, None, None
        if closing is not None:
            closing()
        with self._lock:
            dropped = list(self._of_loops.values())
            self._of_loops.clear()
        for entry in dropped:
            entry.wish.expressed = True
            del entry
        # A keeper that nobody refers to is ended by its loop.
        dropped.clear()

    async def aclose(self) -> None:
        """Close the clients of this loop and of blocking calls now, those of other loops as soon as they run."""
        entry = self._leave(asyncio.get_running_loop())
        if entry is not None and entry.keeper is not None:
            entry.wish.expressed = True
            await entry.keeper.aclose()
        self.close()

    def _enter(self, loop: asyncio.AbstractEventLoop) -> _OfLoop[_A]:
        with self._lock:
            # Connections refer to their loop, so weak keys alone would not let go of a closed one.
            for closed in [other for other in self._of_loops if other.is_closed()]:
                del self._of_loops[closed]
            return self._of_loops.setdefault(loop, _OfLoop())

    def _leave(self, loop: asyncio.AbstractEventLoop, client: object = None) -> _OfLoop[_A] | None:
        """Take out the entry of ``loop``; with ``client``, only while it is still that client's."""
        with self._lock:
            entry = self._of_loops.get(loop)
            if entry is None or (client is not None and entry.client is not client):
                return None
            return self._of_loops.pop(loop)

    def renew_after_fork(self) -> None:
        if self._close_blocking is not None:
            self._close_blocking.detach()
        immortalise((self._blocking, self._of_loops))
        self._start()


async def _keep(client: _AsyncClient, owner: weakref.ref[Any], wish: _Wish) -> AsyncGenerator[None, None]:
    # Refers to its owner weakly: in a cycle, a kit that is dropped would keep its sockets until the next collection.
    try:
        yield
    finally:
        clients = owner()
        if clients is not None:
            if not wish.expressed:
                _ending.add(asyncio.get_running_loop())
            clients._leave(asyncio.get_running_loop(), client)  # noqa: SLF001 - the other half of this very class
        with move_on_after(CLOSE_SECONDS, shield=True):
            await client.close()
