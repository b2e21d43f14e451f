"""As much of HTTP/1.1 as an honest stand-in needs: requests with a length, keep-alive, answers whole or chunked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

__all__ = ["Chunks", "Request", "read_request", "send"]

_MAX_BODY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One request. ``headers`` have lower-case names, ``body`` is parsed JSON (None where it is not an object)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any] | None

    @property
    def bearer(self) -> str:
        """The key of the Authorization header, or ``""``."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else ""


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request, or None where the peer has closed or sends what is no HTTP request with a length."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        method, path, _version = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if not 0 <= length <= _MAX_BODY_BYTES or "transfer-encoding" in headers:
            return None
        raw = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
        return None
    try:
        body = json.loads(raw or b"null")
    except ValueError:
        body = None
    return Request(method, path.partition("?")[0], headers, body if isinstance(body, dict) else None)


async def send(
    writer: asyncio.StreamWriter, status: int, content: object, *, headers: Mapping[str, str], missing_bytes: int = 0
) -> None:
    """A whole answer: bytes as they are, anything else as JSON.

    ``missing_bytes`` of the promised length are held back, as by a connection that breaks.
    """
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {"content-type": "application/json", "content-length": str(len(raw)), **headers}
    writer.write(_head(status, named) + raw[: len(raw) - missing_bytes])
    await writer.drain()


class Chunks:
    """An answer of server-sent events, in the chunked encoding."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def start(self, headers: Mapping[str, str]) -> None:
        """Send the head."""
        named = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked", **headers}
        self._writer.write(_head(HTTPStatus.OK, named))
        await self._writer.drain()

    async def event(self, data: object, *, name: str | None = None) -> None:
        """Send one event: a string as it is, anything else as JSON.

        Raises:
            ConnectionError: The peer has gone.
        """
        head = "" if name is None else f"event: {name}\n"
        raw = f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        self._writer.write(b"%x\r\n%b\r\n" % (len(raw), raw))
        await self._writer.drain()

    async def end(self) -> None:
        """Send the mark that the body is complete."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
