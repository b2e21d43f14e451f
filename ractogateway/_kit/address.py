"""Where a kit's requests go."""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address
from urllib.parse import SplitResult, urlsplit

from ractogateway.errors import InvalidTypeError, InvalidValueError

__all__ = ["host_and_port", "resolve_url"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[\w.-]+)(:[0-9]*)?")


def resolve_url(base_url: object, *, variable: str, default: str) -> str:
    """``base_url`` without a slash at its end; None means the environment's ``variable``, then ``default``.

    Resolved once, when a kit is made, so that its clients and its cache entries always mean the same server.

    Raises:
        InvalidTypeError: ``base_url`` is neither a string nor None.
        InvalidValueError: It is no HTTP address. The message does not show it, since it may hold a password.
    """
    if base_url is not None and not isinstance(base_url, str):
        raise InvalidTypeError(f"base_url must be a str or None, not {type(base_url).__name__}")
    url = base_url if base_url is not None else os.environ.get(variable) or default
    url = url.strip()
    if not url.isprintable() or " " in url:
        raise InvalidValueError("base_url must not hold spaces or characters that cannot be printed")
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.netloc:
        raise InvalidValueError("base_url must start with http:// or https:// and name a host")
    # Of the authority only the host is case-insensitive; what may stand before it is a user name and password.
    user, at, host = parts.netloc.rpartition("@")
    if not _is_host_and_port(host, parts):
        raise InvalidValueError("base_url must name a host, or a host and a port from 1 to 65535")
    rest = url.partition("://")[2][len(parts.netloc) :]
    return f"{parts.scheme}://{user}{at}{host.lower()}{rest}".rstrip("/")


def host_and_port(url: str) -> str:
    """What errors may show of an address that `resolve_url` gave: neither user and password nor path and query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"


def _split(url: str) -> SplitResult | None:
    # None instead of an error, here and below: the standard library's errors quote what they were given, and one of
    # ours that is raised while they are handled would keep them as its __context__.
    try:
        return urlsplit(url)
    except ValueError:
        return None


def _is_host_and_port(text: str, parts: SplitResult) -> bool:
    if not _HOST_AND_PORT.fullmatch(text):
        return False
    try:
        if parts.port == 0:
            return False
        host = parts.hostname or ""
        if text.startswith("["):
            IPv6Address(host)
        else:
            host.encode("idna")  # refuses empty and overlong labels, also in ASCII
    except ValueError:
        return False
    return True
