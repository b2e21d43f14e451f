"""``rediss+sentinel://`` and ``rediss+cluster://``: TLS to everybody, and certificates that are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from probing import AT_ONCE_SECONDS, Callers, get, put
from servers import Server, ServerNotInstalled, _free_port, redis7
from topologies import SERVICE, cluster, watcher

from ractogateway.errors import CertificateRejected, StoreUnavailable

trustme = pytest.importorskip("trustme", reason="makes the certificates")
KEYS = [b"key-%d" % number for number in range(30)]


@pytest.fixture(scope="module", autouse=True)
def needs_tls() -> None:
    try:
        redis7()
    except ServerNotInstalled as reason:
        pytest.skip(f"the servers out of wheels have no TLS, and {reason}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    trustme.CA().cert_pem.write_to_path(directory / "other.pem")
    certificate = authority.issue_cert("127.0.0.1", "::1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    return directory


def with_tls(files: Path) -> dict[str, str]:
    return {
        "tls-port": str(_free_port()),
        "tls-cert-file": str(files / "cert.pem"),
        "tls-key-file": str(files / "key.pem"),
        "tls-ca-cert-file": str(files / "ca.pem"),
        "tls-auth-clients": "no",
    }


def options(files: Path, authority: str = "ca.pem") -> str:
    return f"ssl_ca_certs={quote(str(files / authority), safe='')}"


def test_sentinel(files):
    secure = with_tls(files)
    with redis7(config=secure) as primary:
        watching = {
            **with_tls(files),
            "tls-replication": "yes",
            "sentinel monitor": f"{SERVICE} 127.0.0.1 {secure['tls-port']} 1",
        }
        with watcher(redis7, files, watching) as sentinel:
            url = f"rediss+sentinel://127.0.0.1:{watching['tls-port']}/{SERVICE}?"
            for kind in Callers.KINDS:
                with Callers(kind, url + options(files)) as callers:
                    assert callers.result(put(b"key", b"value")) == b"OK"
            with Callers("blocking", url + options(files, "other.pem")) as callers:
                refused = callers.outcome(get(b"key"))
            assert isinstance(refused.result, CertificateRejected)
            assert refused.seconds < AT_ONCE_SECONDS
            with Callers("blocking", f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}", 0.3) as callers:
                assert isinstance(callers.outcome(get(b"key")).result, StoreUnavailable), "the server's port wants TLS"
        assert primary.command("GET", "key") == b"value"


def test_cluster_over_ipv6(files):
    secure = {**with_tls(files), "tls-cluster": "yes", "bind": "127.0.0.1 ::1", "cluster-announce-ip": "::1"}
    del secure["tls-port"]

    def make(config: dict[str, str]) -> Server:
        return redis7(config={**config, **secure, "tls-port": str(_free_port())})

    with cluster(make, replicas=0) as nodes:
        assert {entry[2][0] for entry in nodes.nodes[0].command("CLUSTER", "SLOTS")} == {b"::1"}
        ports = [node.config["tls-port"] for node in nodes.nodes]
        url = "rediss+cluster://" + ",".join(f"[::1]:{port}" for port in ports) + "?"
        for kind in Callers.KINDS:
            with Callers(kind, url + options(files)) as callers:
                assert callers.result([put(key, key) for key in KEYS]) == [b"OK"] * len(KEYS)
                assert callers.result([get(key) for key in KEYS]) == KEYS
        assert sum(int(node.command("DBSIZE")) for node in nodes.nodes) == len(KEYS)
        with Callers("blocking", url + options(files, "other.pem")) as callers:
            refused = callers.outcome(get(KEYS[0]))
        assert isinstance(refused.result, CertificateRejected)
        assert refused.seconds < AT_ONCE_SECONDS
