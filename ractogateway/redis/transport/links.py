"""The links of each event loop: made, found, and forgotten in a forked child."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TypeVar

from ractogateway._forking import immortalise
from ractogateway.redis.transport.cluster import ClusterLink
from ractogateway.redis.transport.endpoint import Endpoint
from ractogateway.redis.transport.link import Link

L = TypeVar("L", bound=Link)

_LINKS = "_ractogateway_links"
_all_links: weakref.WeakSet[Link] = weakref.WeakSet()


def link_for(loop: asyncio.AbstractEventLoop, endpoint: Endpoint, *, bulky: bool = False) -> Link:
    """The link to this endpoint in this (running) loop; there is one for small replies and one for bulky ones.

    The links live on the loop itself, so they die with it. A registry keyed weakly by the loop would not do: a link
    refers to its loop, and the registry's value would keep its own key alive.
    """
    key = endpoint.bulky_key if bulky else endpoint.key
    link = peek_link(loop, key)
    if link is None or link.closed:
        link = enlist((ClusterLink if endpoint.address.is_cluster else Link)(loop, endpoint), key, endpoint)
    elif not link.belongs_to(endpoint):
        adopt(link, endpoint)
    return link


def enlist(link: L, key: str, endpoint: Endpoint) -> L:
    """Make a new link one of its loop's and of its endpoint's."""
    link.loop.__dict__.setdefault(_LINKS, {})[key] = link
    _register(endpoint, link)
    _all_links.add(link)
    return link


def adopt(link: Link, endpoint: Endpoint) -> None:
    """Give a link whose endpoint is gone to another one of the same address and options."""
    link.adopt(endpoint)
    _register(endpoint, link)


def _register(endpoint: Endpoint, link: Link) -> None:
    # The dead go, or every asyncio.run of a long life would leave one behind: one by one, for loops of other threads
    # may append at the same time, and in place, because the endpoint's finalizer holds this very list.
    for dead in [reference for reference in endpoint.links if reference() is None]:
        with contextlib.suppress(ValueError):
            endpoint.links.remove(dead)
    endpoint.links.append(weakref.ref(link))


def bury_inherited_links() -> None:
    """In a forked child: never touch the parent's connections again.

    Closing one, or merely letting it be collected, would write to the parent's socket or edit the epoll set that the
    two processes share. So they are made immortal, not closed.
    """
    for link in list(_all_links):
        immortalise(link)
        link.closed = True  # nobody may wake the parent's loop, not even to retire it
        link.loop.__dict__.pop(_LINKS, None)
    _all_links.clear()


def peek_link(loop: asyncio.AbstractEventLoop, key: str) -> Link | None:
    """The link with this key (of an endpoint) in this loop, if there is one."""
    links: dict[str, Link] | None = loop.__dict__.get(_LINKS)
    return None if links is None else links.get(key)


async def close_links(loop: asyncio.AbstractEventLoop) -> None:
    """Close all links of this (running) loop."""
    for link in list(loop.__dict__.get(_LINKS, {}).values()):
        await link.aclose()


async def close_endpoint(endpoint: Endpoint) -> None:
    """Close all links to this endpoint: those of the running loop now, those of other loops as soon as they run."""
    here = asyncio.get_running_loop()
    for reference in list(endpoint.links):
        link = reference()
        if link is None or link.closed or link.loop.is_closed():
            continue
        if link.loop is here:
            await link.aclose()
        else:
            with contextlib.suppress(RuntimeError):  # closed between the two lines
                link.loop.call_soon_threadsafe(link.close_soon)
