"""Where Redis is, and who still needs a way there.

An `Endpoint` is one URL with one set of options. All objects of a process that name the same pair share it, and with it
the connections: it is the reference count that decides when they close.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis.config import RedisOptions, default_url
from ractogateway.redis.transport.address import Address, ServerAddress
from ractogateway.redis.transport.cluster_address import ClusterAddress
from ractogateway.redis.transport.credentials import Credentials
from ractogateway.redis.transport.sentinel import SentinelAddress

if TYPE_CHECKING:
    from ractogateway.redis.transport.link import Link

_KINDS: Mapping[str, type[Address]] = {
    "redis": ServerAddress,
    "rediss": ServerAddress,
    "unix": ServerAddress,
    "redis+sentinel": SentinelAddress,
    "rediss+sentinel": SentinelAddress,
    "redis+cluster": ClusterAddress,
    "rediss+cluster": ClusterAddress,
    "embedded": ServerAddress,
}
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)


def address_of(url: str | None, credentials: Credentials | None = None) -> Address:
    """The address that a URL stands for; None is the default one.

    Raises:
        InvalidTypeError, InvalidValueError: the URL cannot be used. It is not shown, for it may hold a password.
    """
    if url is None:
        url = default_url()
    if not isinstance(url, str):
        raise InvalidTypeError(f"url must be a str, not {type(url).__name__}")
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    kind = _KINDS.get(scheme)
    if kind is None:
        known = ", ".join(f"{name}://" for name in _KINDS)
        shown = f" {scheme!r}" if _SCHEME.fullmatch(scheme) else ""
        raise InvalidValueError(f"url has an unknown scheme{shown}; known are {known}")
    try:
        return kind(url, credentials)
    except ValueError as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError("url cannot be parsed") from None


class Endpoint:
    """An address with options; see the module's docstring. Made by `endpoint_for` only."""

    def __init__(self, address: Address, options: RedisOptions) -> None:
        self.address = address
        self.options = options
        # A string, whose hash is computed once: it is looked up with every command. It never leaves the process.
        self.key = f"{options!r} {id(address.credentials)} {address.url}"
        self.bulky_key = f"bulky {self.key}"
        self.links: list[weakref.ref[Link]] = []
        # The ports that were not closed: with the last of them, the connections are closed at once. Ports that are
        # forgotten instead are the finalizer's business.
        self.users: weakref.WeakSet[object] = weakref.WeakSet()
        # The list, not self: a finalizer that referred to its object would keep it alive.
        weakref.finalize(self, _retire_all, self.links).atexit = False


_endpoints: weakref.WeakValueDictionary[tuple[str, RedisOptions, Credentials | None], Endpoint] = (
    weakref.WeakValueDictionary()
)
_endpoints_lock = threading.RLock()  # reentrant: a signal handler may come here in the thread that holds it


def endpoint_for(url: str | None, options: RedisOptions, credentials: Credentials | None = None) -> Endpoint:
    """The endpoint of this URL, these options and credentials, shared within the process."""
    address = address_of(url, credentials)
    with _endpoints_lock:
        endpoint = _endpoints.get((address.url, options, credentials))
        if endpoint is None:
            endpoint = _endpoints[address.url, options, credentials] = Endpoint(address, options)
        return endpoint


def replace_lock_after_fork() -> None:
    """A thread of the parent may have held the lock; in the child it would stay held for ever."""
    global _endpoints_lock  # noqa: PLW0603 - the lock is module state by nature
    _endpoints_lock = threading.RLock()


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
