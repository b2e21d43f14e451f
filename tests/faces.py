"""Every way to use a tool, behind blocking methods, so that one suite serves all of them.

An async core is put behind blocking calls by a portal, which runs it in an event loop of its own thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import fakeredis
import redis
import redis.asyncio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from servers import Server

from ractogateway.redis import (
    AsyncRedisChatMemory,
    AsyncRedisExactCache,
    AsyncRedisRateLimiter,
    AsyncReservation,
    RedisChatMemory,
    RedisExactCache,
    RedisOptions,
    RedisRateLimiter,
)

_ASYNC = {"cache": AsyncRedisExactCache, "limiter": AsyncRedisRateLimiter, "memory": AsyncRedisChatMemory}
_BLOCKING = {"cache": RedisExactCache, "limiter": RedisRateLimiter, "memory": RedisChatMemory}


class Awaited:
    """An async core whose methods block."""

    def __init__(self, core: Any, portal: BlockingPortal) -> None:
        self._core = core
        self._portal = portal

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._core, name)
        if not callable(method):
            return method

        def blocking(*arguments, **named):
            result = self._portal.call(partial(method, *arguments, **named))
            return Awaited(result, self._portal) if isinstance(result, AsyncReservation) else result

        return blocking

    def __enter__(self) -> Self:
        self._portal.call(self._core.__aenter__)
        return self

    def __exit__(self, *error: object) -> None:
        self._portal.call(self._core.__aexit__, *error)

    @property
    def stats(self) -> Any:
        return self._portal.call(self._core.stats)

    def __len__(self) -> int:
        return self._portal.call(self._core.size)

    def __bool__(self) -> bool:
        return bool(self._core)


class Maker:
    """Makes tools of one face over one server; remembers what to close."""

    def __init__(self, face: str, server: Server, stack: ExitStack) -> None:
        self.face = face
        self._server = server
        self._url = getattr(server, "secret_url", server.url)  # a Sentinel or a cluster has none
        self._stack = stack
        self._portal: BlockingPortal | None = None
        self._client: Any = None

    def __call__(self, tool: str, **settings: Any) -> Any:
        return getattr(self, "_" + self.face.replace(" ", "_"))(tool, settings)

    def _async_url(self, tool, settings):
        return Awaited(_ASYNC[tool](url=self._url, **_patient(settings)), self.portal)

    def _async_client(self, tool, settings):
        return self._over_async_client(tool, settings, redis.asyncio.Redis.from_url, self._url)

    def _async_client_decoded(self, tool, settings):
        make = partial(redis.asyncio.Redis.from_url, decode_responses=True)
        return self._over_async_client(tool, settings, make, self._url)

    def _async_fake(self, tool, settings):
        return self._over_async_client(tool, settings, fakeredis.FakeAsyncRedis)

    def _blocking_url(self, tool, settings):
        return _BLOCKING[tool](url=self._url, **_patient(settings))

    def _blocking_client(self, tool, settings):
        return self._over_client(tool, settings, lambda: redis.Redis.from_url(self._url))

    def _blocking_client_decoded(self, tool, settings):
        return self._over_client(tool, settings, lambda: redis.Redis.from_url(self._url, decode_responses=True))

    def _blocking_fake(self, tool, settings):
        return self._over_client(tool, settings, fakeredis.FakeRedis)

    def _aio_of_url(self, tool, settings):
        return Awaited(self._blocking_url(tool, settings).aio, self.portal)

    def _aio_of_client(self, tool, settings):
        return Awaited(self._blocking_client(tool, settings).aio, self.portal)

    def _over_client(self, tool, settings, make):
        if self._client is None:
            self._client = make()
            self._stack.callback(self._client.close)
        return _BLOCKING[tool](client=self._client, **settings)

    def _over_async_client(self, tool, settings, make, *arguments):
        async def in_its_loop():
            return make(*arguments)

        if self._client is None:
            self._client = self.portal.call(in_its_loop)
            self._stack.callback(self.portal.call, self._client.aclose)
        return Awaited(_ASYNC[tool](client=self._client, **settings), self.portal)

    @property
    def portal(self) -> BlockingPortal:
        if self._portal is None:
            self._portal = self._stack.enter_context(start_blocking_portal())
        return self._portal


def _patient(settings: dict[str, Any]) -> dict[str, Any]:
    """With a time limit that a busy machine keeps too: a cache's own is so short that it would miss now and then."""
    return {"options": RedisOptions(timeout_seconds=5.0), **settings}


FACES = [
    "async url",
    "async client",
    "async client decoded",
    "async fake",
    "blocking url",
    "blocking client",
    "blocking client decoded",
    "blocking fake",
    "aio of url",
    "aio of client",
]
