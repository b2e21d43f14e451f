"""Credentials that a provider gives anew for each connection, and may renew while connections live.

A provider is what redis-py calls one (``redis.CredentialProvider``, and its streaming kind, of which the providers for
cloud identities are made). redis-py asks it when it makes a connection. Renewals are sent here: a connection that was
taken over is not redis-py's any more.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import anyio.to_thread

from ractogateway._checks import type_name
from ractogateway._forking import renewed_after_fork
from ractogateway.errors import InvalidTypeError, NotSent
from ractogateway.redis.transport import failures
from ractogateway.redis.transport.exchange import Exchange

logger = logging.getLogger("ractogateway.redis.transport")


class Renewed(Protocol):
    """What holds authenticated connections: a link."""

    loop: Any

    def authenticate(self, exchange: Renewal) -> None:
        """Send the exchange over each of them. Called in the loop's thread."""


class Credentials:
    """One provider, with all that was authenticated by it. Made by `credentials_of` only."""

    def __init__(self, provider: Any) -> None:
        self.provider = provider
        self._holders: weakref.WeakSet[Renewed] = weakref.WeakSet()
        self._lock = threading.RLock()
        renewed_after_fork(self)
        if hasattr(provider, "on_next"):
            reference: weakref.ref[Credentials] = weakref.ref(self)
            provider.on_next(lambda token: _pass_on(reference, token))

    def renew_after_fork(self) -> None:
        """In a forked child: the connections are the parent's."""
        self._lock = threading.RLock()
        self._holders = weakref.WeakSet()

    def enlist(self, holder: Renewed) -> None:
        """Tell it of renewals from now on."""
        with self._lock:
            self._holders.add(holder)

    def renew(self, words: Sequence[str]) -> None:
        """Authenticate what is connected anew. From any thread."""
        with self._lock:
            holders = list(self._holders)
        for holder in holders:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                holder.loop.call_soon_threadsafe(holder.authenticate, Renewal(words))

    # --- as redis-py sees it -----------------------------------------------------------------------------------------

    def get_credentials(self) -> Any:
        """User and password, or the password alone, for a blocking client.

        Raises:
            NotSent: the provider failed.
        """
        try:
            return self.provider.get_credentials()
        except Exception as error:
            raise _provider_failed(error) from error

    async def get_credentials_async(self) -> Any:
        """The same. A provider that can only block does so in a thread of its own."""
        try:
            if _is_awaitable(self.provider):
                return await self.provider.get_credentials_async()
            return await anyio.to_thread.run_sync(self.provider.get_credentials, abandon_on_cancel=True)
        except Exception as error:
            raise _provider_failed(error) from error


class Renewal(Exchange):
    """AUTH on a connection that is in use."""

    __slots__ = ("_words",)

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(((b"AUTH", *(word.encode() for word in words)),))
        self._words = words

    def again(self) -> Renewal:
        """The same for another connection."""
        return Renewal(self._words)

    def wake(self) -> None:
        reply = self.replies[0]
        if isinstance(reply, Exception):
            logger.warning("Redis rejected renewed credentials (%s)", failures.server_error_code(reply))


def _pass_on(reference: weakref.ref[Credentials], token: Any) -> None:
    credentials = reference()
    if credentials is not None:
        user = token.try_get("oid")
        credentials.renew((user, token.get_value()) if user else (token.get_value(),))


def _is_awaitable(provider: Any) -> bool:
    """Whether it has a way of its own to be awaited: redis-py's base class calls the blocking one, in the loop."""
    method = getattr(type(provider), "get_credentials_async", None)
    return inspect.iscoroutinefunction(method) and not method.__module__.startswith("redis.credentials")


def _provider_failed(error: Exception) -> NotSent:
    return NotSent(f"the credential provider failed ({type(error).__name__})")


_known: weakref.WeakValueDictionary[int, Credentials] = weakref.WeakValueDictionary()
_known_lock = threading.RLock()


def credentials_of(provider: object) -> Credentials:
    """The credentials of this provider: one object, whose identity is the provider's.

    Raises:
        InvalidTypeError: it is no credential provider.
    """
    if not callable(getattr(provider, "get_credentials", None)):
        raise InvalidTypeError(f"credential_provider must be a redis.CredentialProvider, not {type_name(provider)}")
    with _known_lock:
        # A number is some other object's only after this one, and with it its entry, is gone.
        found = _known.get(id(provider))
        if found is None:
            found = _known[id(provider)] = Credentials(provider)
        return found
