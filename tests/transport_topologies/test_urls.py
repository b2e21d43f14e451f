"""URLs of Sentinels and clusters: what they mean, and errors that never show them."""

from __future__ import annotations

import re

import pytest

from ractogateway.errors import InvalidTypeError, InvalidValueError
from ractogateway.redis import RedisExactCache
from ractogateway.redis.transport.cluster_address import ClusterAddress
from ractogateway.redis.transport.endpoint import address_of
from ractogateway.redis.transport.hosts import Host, HostsUrl
from ractogateway.redis.transport.sentinel import SentinelAddress


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("h1", [("h1", 7)]),
        ("h1:1,h2", [("h1", 1), ("h2", 7)]),
        ("h1:,h2:2", [("h1", 7), ("h2", 2)]),
        ("[::1]:1,[fe80::2%25eth0],h3", [("::1", 1), ("fe80::2%eth0", 7), ("h3", 7)]),
        ("h3,[::1]:1", [("h3", 7), ("::1", 1)]),
        ("u:p@h1,h2", [("h1", 7), ("h2", 7)]),
        ("u:p%40,x@h1", [("h1", 7)]),
        ("h1,h1:7,h2", [("h1", 7), ("h2", 7)]),
    ],
)
def test_hosts(text, hosts):
    assert HostsUrl.parse(f"redis+cluster://{text}/0?a=b", 7).hosts == tuple(Host(*host) for host in hosts)


def test_the_url_of_one_server_keeps_credentials_and_options_as_they_were_written():
    parts = HostsUrl.parse(
        "rediss+sentinel://us%2Fer:pa%40ss@h1,h2/the%2Fservice/3?ssl_ca_certs=%2Fca.pem&sentinel_password=x&client_name=n",
        26379,
    )
    assert parts.path == ("the/service", "3")
    assert parts.option("sentinel_password") == "x"
    assert (
        parts.of_server(Host("h9", 1), database="3")
        == "rediss://us%2Fer:pa%40ss@h9:1/3?ssl_ca_certs=%2Fca.pem&client_name=n"
    )
    assert parts.of_server(Host("::9", 1)) == "rediss://us%2Fer:pa%40ss@[::9]:1/0?ssl_ca_certs=%2Fca.pem&client_name=n"
    assert parts.of_sentinel(Host("h1", 2), ":x") == "rediss://:x@h1:2/0?ssl_ca_certs=%2Fca.pem"
    assert parts.of_sentinel(Host("h1", 2), "") == "rediss://h1:2/0?ssl_ca_certs=%2Fca.pem"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://h1/service",
        "REDIS+Sentinel://h1:1,h2:2/service/15",
        "rediss+sentinel://user:secret@h1,[::1]:5/service/0?sentinel_username=a&sentinel_password=b&ssl_cert_reqs=none",
        "redis+sentinel://h1/service?db=4&client_name=me&max_connections=7",
    ],
)
def test_sentinel_urls(url):
    address = address_of(url)
    assert isinstance(address, SentinelAddress)
    assert address.url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://h1",
        "redis+cluster://h1:1,h2/",
        "redis+cluster://h1/0?db=0",
        "rediss+cluster://:secret@[::1]:5,h2:6/0?ssl_ca_certs=%2Fca.pem",
    ],
)
def test_cluster_urls(url):
    address = address_of(url)
    assert isinstance(address, ClusterAddress)
    assert address.is_cluster
    assert not address.is_embedded


@pytest.mark.parametrize(
    ("url", "about"),
    [
        ("redis+sentinel://secret@h1", "service"),
        ("redis+sentinel://secret@h1/", "service"),
        ("redis+sentinel://secret@h1//3", "service"),
        ("redis+sentinel://secret@h1/service/0/1", "service"),
        ("redis+sentinel://secret@h1/service/secret", "database"),
        ("redis+sentinel://secret@h1/service/-1", "database"),
        ("redis+sentinel://secret@/service", "host"),
        ("redis+sentinel://secret@h1,,h2/service", "host"),
        ("redis+sentinel://secret@h1:secret/service", "port"),
        ("redis+sentinel://secret@h1:0/service", "port"),
        ("redis+sentinel://secret@h1:65536/service", "port"),
        ("redis+sentinel://secret@h1/service?socket_timeout=secret", "option"),
        ("redis+sentinel://secret@h1/service?db=secret", "option"),
        ("redis+sentinel://h1/service?no_such_option=secret", "option"),
        ("redis+cluster://secret@h1/1", "database"),
        ("redis+cluster://secret@h1/0/1", "database"),
        ("redis+cluster://secret@h1?db=1", "database"),
        ("redis+cluster://secret@::1:7000", "host"),
        ("redis+cluster://secret@[::1:7000", "host"),
        ("redis+cluster://secret@", "host"),
        ("redis+cluster://", "host"),
        ("redis+cluster:secret", "scheme"),
        ("redis+other://secret@h1", "scheme"),
        ("rediss+sentinels://secret@h1/service", "scheme"),
        ("secret", "scheme"),
        ("", "scheme"),
    ],
)
def test_urls_that_cannot_work(url, about):
    for use in (address_of, RedisExactCache):
        with pytest.raises(InvalidValueError, match=about) as raised:
            use(url)
        assert "secret" not in str(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_a_url_that_is_no_text():
    with pytest.raises(InvalidTypeError, match="bytes"):
        address_of(b"redis+cluster://h1")


def test_the_error_names_the_schemes_that_work():
    with pytest.raises(InvalidValueError, match=r"'rediss\+sentinels'.*rediss\+sentinel://.*rediss\+cluster://"):
        address_of("rediss+sentinels://h1/service")


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("redis://h:abc/0", "url has a port that is no number"),
        ("redis://u:hunter2#x@h/0", "characters like / and # are written as %2F and %23"),
        ("redis://h:99999", "url has a port that is no number up to 65535"),
        ("redis://[hunter2/0", "url has a host that cannot be read"),
        ("redis://h/hunter2", "url has a database that is no number"),
        ("redis://h?hunter2=1", "url has an option that redis-py does not know"),
        ("redis://h?socket_timeout=hunter2", "url has an option socket_timeout with a value"),
        ("redis://h?db=hunter2", "url has an option db with a value"),
        ("redis://h?ssl_cert_reqs=none", "url has an option of TLS, which is for rediss://"),
        ("rediss://h?ssl_cert_reqs=hunter2", "or that cannot have this value"),
    ],
)
def test_what_is_wrong_with_a_url_is_named_and_not_shown(url, fault):
    with pytest.raises(InvalidValueError, match=re.escape(fault)) as caught:
        address_of(url)
    assert "hunter2" not in str(caught.value)
