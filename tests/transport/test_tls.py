"""TLS: replies of many records arrive whole, on every event loop; certificates are looked at; no secret in an error.

The multiplexer's buffer is the point of the first test: asyncio's TLS protocol slices the buffer that it is given, and
a slice of anything but a memoryview is a copy, into which the second record of a reply would vanish.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import ServerNotInstalled, _free_port, redis7

from ractogateway.errors import AuthenticationFailed, CertificateRejected, StoreError, StoreUnavailable
from ractogateway.messages import LLMResponse
from ractogateway.redis import AsyncRedisExactCache, RedisExactCache, RedisOptions

trustme = pytest.importorskip("trustme", reason="makes the certificates")

RECORD = 16_384
"""A TLS record holds no more (RFC 8446, 5.1)."""


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """``good``; ``unknown`` (authority), ``host`` (another host's certificate), ``password`` (wrong), ``plain`` (no
    TLS).
    """
    directory: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    trustme.CA().cert_pem.write_to_path(directory / "other.pem")
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    port = _free_port()
    config = {
        "tls-port": str(port),
        "tls-cert-file": str(directory / "cert.pem"),
        "tls-key-file": str(directory / "key.pem"),
        "tls-ca-cert-file": str(directory / "ca.pem"),
        "tls-auth-clients": "no",
    }
    try:
        server = redis7(config=config)
    except ServerNotInstalled as reason:
        pytest.skip(f"the servers out of wheels have no TLS, and {reason}")
    with server:
        server.command("ACL", "SETUSER", "app", "on", ">hunter2", "~*", "+@all")
        trusted, untrusted = f"ssl_ca_certs={directory / 'ca.pem'}", f"ssl_ca_certs={directory / 'other.pem'}"
        yield {
            "good": f"rediss://app:hunter2@localhost:{port}/0?{trusted}",
            "unknown": f"rediss://app:hunter2@localhost:{port}/0?{untrusted}",
            "host": f"rediss://app:hunter2@127.0.0.1:{port}/0?{trusted}",
            "password": f"rediss://app:hunter3@localhost:{port}/0?{trusted}",
            "plain": f"redis://app:hunter2@localhost:{port}/0",
        }


async def storm(url: str) -> None:
    options = RedisOptions(timeout_seconds=30.0)
    cache = AsyncRedisExactCache(
        url=url, ttl_seconds=60, on_outage="raise", compress_above_bytes=10**9, options=options
    )
    dice = random.Random(7)

    async def one(number: int) -> None:
        text = f"{number} " * dice.randint(1, 5 * RECORD // len(f"{number} "))
        await cache.put(str(number), "", "m", 0, 1, LLMResponse(content=text))
        for _ in range(5):
            hit = await cache.get(str(number), "", "m", 0, 1)
            assert hit is not None
            assert hit.content == text

    await asyncio.gather(*(one(number) for number in range(60)))


def test_replies_of_several_records_on_stock_asyncio(urls):
    asyncio.run(storm(urls["good"]))


def test_replies_of_several_records_on_uvloop(urls):
    uvloop = pytest.importorskip("uvloop", reason="optional")
    uvloop.run(storm(urls["good"]))


def test_blocking_callers(urls):
    cache = RedisExactCache(url=urls["good"], ttl_seconds=60, on_outage="raise", compress_above_bytes=10**9)
    text = "x" * 10 * RECORD
    cache.put("q", "", "m", 0, 1, LLMResponse(content=text))
    assert cache.get("q", "", "m", 0, 1).content == text


@pytest.mark.cell("TLS and credentials", "cache", "blocking")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unknown", CertificateRejected),
        ("host", CertificateRejected),
        ("password", AuthenticationFailed),
        ("plain", StoreUnavailable),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(urls, name, kind):
    cache = RedisExactCache(url=urls[name], on_outage="raise", options=RedisOptions(timeout_seconds=1.0))
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        cache.get("q", "", "m", 0, 1)
    assert isinstance(caught.value, StoreError)
    if kind is not StoreUnavailable:
        assert time.monotonic() - began < 0.9, "a refusal is final: nothing is tried again"
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__
