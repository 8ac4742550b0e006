"""Settings that change what is answered: virtual hosts, regions, the superset (s3.md 0, 1.1.2, 2.1)."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sos.s3.target import S3Settings
from tests.compat.raw import Credentials, RawClient, Signer
from tests.compat.tls import make_certificate
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster
from tests.integration.s3_single import ACCESS_KEY, SECRET_KEY, serve


def test_virtual_host_style(tmp_path: Path) -> None:
    """``<bucket>.<domain>`` names the bucket, the path is the key; other hosts are path style (s3.md 2.1)."""
    settings = S3Settings(domains=("s3.test",))
    with serve(tmp_path, settings=settings) as endpoint, endpoint.client() as client:
        host = {"host": f"my.bucket.s3.test:{endpoint.port}"}

        created = client.request("PUT", "/", headers=host)
        stored = client.request("PUT", "/a/b", headers=host, body=b"virtual")
        listed = client.request("GET", "/", headers=host)
        by_path = client.request("GET", "/my.bucket/a/b")

        assert (created.status, stored.status) == (200, 200)
        assert listed.xml().findtext("Contents/Key") == "a/b"
        assert by_path.body == b"virtual"


def test_another_region(tmp_path: Path) -> None:
    """Outside us-east-1 the constraint must name the region, and re-creation is a 409 (s3.md 1.1.2)."""
    settings = S3Settings(region="eu-west-1")
    document = (
        b"<CreateBucketConfiguration><LocationConstraint>%s</LocationConstraint>"
        b"</CreateBucketConfiguration>"
    )
    with serve(tmp_path, settings=settings) as endpoint, endpoint.client() as client:
        client.signer = Signer(
            Credentials(access_key=ACCESS_KEY, secret_key=SECRET_KEY, region="eu-west-1")
        )

        none = client.request("PUT", "/located")
        other = client.request("PUT", "/located", body=document % b"eu-central-1")
        right = client.request("PUT", "/located", body=document % b"eu-west-1")
        again = client.request("PUT", "/located", body=document % b"EU")
        location = client.request("GET", "/located", query=[("location", "")])

        assert (none.status, none.code) == (400, "IllegalLocationConstraintException")
        assert (other.status, other.code) == (400, "IllegalLocationConstraintException")
        assert right.status == 200
        assert (again.status, again.code) == (409, "BucketAlreadyOwnedByYou")
        assert location.xml().text == "eu-west-1"


def test_superset_accepts_plain_chunked_bodies(tmp_path: Path) -> None:
    """With ``s3.superset`` a chunked body without a length is stored, small or large (s3.md 2.6)."""
    settings = S3Settings(superset=True)
    with serve(tmp_path, settings=settings) as endpoint, endpoint.client() as client:
        assert client.request("PUT", "/chunked").status == 200

        for size in (0, 10, 16_385, 3_000_000):
            data = b"c" * size
            stored = client.request("PUT", "/chunked/k", body=data, transfer_chunked=True)
            assert stored.status == 200
            assert client.request("GET", "/chunked/k").body == data


def test_a_node_serves_https_from_certificate_files(tmp_path: Path) -> None:
    """``--s3-tls-cert`` and ``--s3-tls-key`` on the real command line: TLS only, and every operation works."""
    certificate, key = make_certificate(tmp_path)
    flags = ["--s3-tls-cert", str(certificate), "--s3-tls-key", str(key)]
    with Cluster(tmp_path / "cluster", count=1, flags=flags) as cluster:
        cluster.start()
        credentials = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
        port = cluster.nodes[0].s3_port
        trusting = ssl.create_default_context(cafile=str(certificate))
        with RawClient("127.0.0.1", port, credentials, tls=trusting) as client:
            assert client.request("PUT", "/secure").status == 200
            data = b"over TLS " * 100_000
            assert client.request("PUT", "/secure/k", body=data).status == 200
            assert client.request("GET", "/secure/k").body == data
        with RawClient("127.0.0.1", port, credentials) as plain, pytest.raises(EOFError):
            plain.request("GET", "/secure/k")
