"""Certificate files of the S3 port that change while a node runs (issue 6, 5)."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest

from tests.compat.raw import Credentials, RawClient
from tests.compat.tls import make_certificate
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster
from tests.integration.stores import until


def certificate_of(port: int) -> bytes:
    """What a new handshake is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10).encode()


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, list[tuple[Path, Path]]]:
    """A directory whose certificate.pem and key.pem are served, and two pairs to put there."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(make_certificate(tmp_path / name))
    served = tmp_path / "served"
    served.mkdir()
    put(served, made[0])
    return served, made


def put(served: Path, pair: tuple[Path, Path]) -> None:
    """Replaced by rename, as tools that renew certificates do."""
    for path, name in zip(pair, ("certificate.pem", "key.pem"), strict=True):
        shutil.copy(path, served / "new")
        (served / "new").rename(served / name)


def test_new_files_are_served_and_nothing_is_dropped(
    tmp_path: Path, pairs: tuple[Path, list[tuple[Path, Path]]]
) -> None:
    """New handshakes see the new certificate; an open connection goes on; files that cannot be used change nothing."""
    served, (one, two) = pairs
    flags = [
        "--s3-tls-cert",
        str(served / "certificate.pem"),
        "--s3-tls-key",
        str(served / "key.pem"),
    ]
    with Cluster(tmp_path / "cluster", count=1, flags=flags) as cluster:
        cluster.start()
        (node,) = cluster.nodes
        trusted = ssl.create_default_context(cafile=str(one[0]))
        credentials = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
        first = certificate_of(node.s3_port)
        assert first.split() == one[0].read_bytes().split()
        with RawClient("127.0.0.1", node.s3_port, credentials, tls=trusted) as client:
            assert client.request("PUT", "/bucket").status == 200
            put(served, two)
            until(
                lambda: certificate_of(node.s3_port) != first,
                "the new certificate is served",
                deadline_s=15,
            )
            assert certificate_of(node.s3_port).split() == two[0].read_bytes().split()
            assert client.request("PUT", "/bucket/k", body=b"x").status == 200

            put(served, (one[0], two[1]))  # of different keys
            until(
                lambda: b"s3.tls.kept" in node.log_path.read_bytes(),
                "what cannot be used is logged",
                deadline_s=15,
            )
            assert certificate_of(node.s3_port).split() == two[0].read_bytes().split()
            assert client.request("GET", "/bucket/k").body == b"x"

            put(served, one)
            until(
                lambda: certificate_of(node.s3_port).split() == one[0].read_bytes().split(),
                "a good pair is served again",
                deadline_s=15,
            )
            assert client.request("GET", "/bucket/k").body == b"x"
