"""Errors of the way to Redis say where it led and what the system said, and show no credentials."""

from __future__ import annotations

import asyncio
import re
import socket

import pytest
from secrecy import SECRET_PASSWORD

from ractogateway.errors import NotSent, StoreRefused
from ractogateway.redis.transport.endpoint import address_of


def failure(url: str, kind: type[Exception]) -> str:
    """Of one attempt: a tool tries again until its time is up."""
    with pytest.raises(kind) as caught:
        asyncio.run(address_of(url).connect(10.0))
    assert SECRET_PASSWORD not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_where_nobody_listens(host):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    said = failure(f"redis://u:{SECRET_PASSWORD}@{host}:{port}/0", NotSent)
    assert said == f"could not connect to Redis at {host}:{port} (connection refused)"


def test_a_host_that_nobody_knows(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = failure(f"redis://u:{SECRET_PASSWORD}@nowhere.invalid/0", NotSent)
    assert said == "could not connect to Redis at nowhere.invalid:6379 (the name of the host is not known)"


def test_a_socket_that_is_not_there():
    said = failure("unix:///nowhere/redis.sock", NotSent)
    assert said == "could not connect to Redis at the socket /nowhere/redis.sock (no such file or directory)"


def test_a_database_that_the_server_does_not_have(any_server):
    said = failure(re.sub(r"/\d+$", "", any_server.url) + "/9999", StoreRefused)
    assert said.startswith("Redis has no database of this number: its index is out of range")
