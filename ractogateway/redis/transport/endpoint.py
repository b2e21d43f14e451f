"""Where Redis is, and who still needs a way there.

An `Endpoint` is one URL with one set of options. All objects of a process that name the same pair share it, and with it
the connections: it is the reference count that decides when they close.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio.to_thread
from redis.asyncio import connection as redis_connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis.config import RedisOptions, default_url
from ractogateway.redis.embedded import embedded_url, parse_embedded

if TYPE_CHECKING:
    from ractogateway.redis.transport.link import Link

_SCHEMES = ("redis", "rediss", "unix", "embedded")


class Address:
    """A URL, checked, that makes unconnected connections."""

    def __init__(self, url: str | None) -> None:
        self.url = check_url(url)
        self.is_embedded = urlsplit(self.url).scheme == "embedded"

    async def connection(self) -> Any:
        """A new redis.asyncio connection, not connected yet."""
        return self._build(await anyio.to_thread.run_sync(self.resolve) if self.is_embedded else self.url)

    def resolve(self) -> str:
        """The URL of the server itself. Starts it, in a fraction of a second, where it is an embedded one."""
        return embedded_url(parse_embedded(self.url)) if self.is_embedded else self.url

    @staticmethod
    def _build(url: str) -> Any:
        options: dict[str, Any] = dict(redis_connection.parse_url(url))
        kind = options.pop("connection_class", redis_connection.Connection)
        for pool_option in ("max_connections", "timeout"):
            options.pop(pool_option, None)
        # Time limits and retries are ours: redis-py's defaults differ in every major release, repeat scripts that timed
        # out, and wrap each reply in a timer that can swallow a cancellation.
        options.update(
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            health_check_interval=0,
            protocol=3,
            decode_responses=False,
        )
        return kind(**options)


class Endpoint:
    """An address with options; see the module's docstring. Made by `endpoint_for` only."""

    def __init__(self, address: Address, options: RedisOptions) -> None:
        self.address = address
        self.options = options
        # A string, whose hash is computed once: it is looked up with every command. It never leaves the process.
        self.key = f"{options!r} {address.url}"
        self.bulky_key = f"bulky {self.key}"
        self.links: list[weakref.ref[Link]] = []
        # The list, not self: a finalizer that referred to its object would keep it alive.
        weakref.finalize(self, _retire_all, self.links).atexit = False


_endpoints: weakref.WeakValueDictionary[tuple[str, RedisOptions], Endpoint] = weakref.WeakValueDictionary()
_endpoints_lock = threading.Lock()


def endpoint_for(url: str | None, options: RedisOptions) -> Endpoint:
    """The endpoint of this URL and these options, shared within the process."""
    address = Address(url)
    with _endpoints_lock:
        endpoint = _endpoints.get((address.url, options))
        if endpoint is None:
            endpoint = _endpoints[address.url, options] = Endpoint(address, options)
        return endpoint


def replace_lock_after_fork() -> None:
    """A thread of the parent may have held the lock; in the child it would stay held for ever."""
    global _endpoints_lock  # noqa: PLW0603 - the lock is module state by nature
    _endpoints_lock = threading.Lock()


def check_url(url: str | None) -> str:
    """A URL that can be used, or an error that never shows it: it may hold a password."""
    if url is None:
        url = default_url()
    if not isinstance(url, str):
        raise InvalidTypeError(f"url must be a str, not {type(url).__name__}")
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        raise InvalidValueError("url cannot be parsed") from None
    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        shown = f" {scheme!r}" if scheme else ""
        raise InvalidValueError(f"url has an unknown scheme{shown}; known are {known}")
    if scheme == "embedded":
        parse_embedded(url)
        return url
    try:
        Address._build(url)  # noqa: SLF001 - the same module; builds, does not connect
    except (ValueError, TypeError):
        raise InvalidValueError("url has a port, a database or an option that redis-py does not understand") from None
    return url


def _retire_all(links: list[weakref.ref[Link]]) -> None:
    # Runs wherever the last owner happened to be collected, perhaps in another thread than the loop's: no locks here.
    for reference in links:
        link = reference()
        if link is None or link.closed or link.loop.is_closed():
            continue
        try:
            link.loop.call_soon_threadsafe(link.retire)
        except RuntimeError:  # the loop was closed between the two lines
            continue
