"""Where the compatibility suite runs: by default an endpoint in this process over HTTP and over TLS, and three
real nodes in turn; or any endpoints by URL::

    SOS_COMPAT_ENDPOINTS=http://127.0.0.1:9000,http://127.0.0.1:9001 \
    SOS_COMPAT_ACCESS_KEY=... SOS_COMPAT_SECRET_KEY=... pytest tests/compat

Several URLs are used in turn, request by request where a test makes a new client.
"""

from __future__ import annotations

import itertools
import os
import ssl
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sos.tls import tls_context
from tests.compat.raw import Credentials, RawClient
from tests.compat.tls import make_certificate
from tests.integration import s3_single
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster

ENDPOINTS = os.environ.get("SOS_COMPAT_ENDPOINTS", "")


@dataclass
class Site:
    """One S3 service under test: its endpoints in turn, and what only an endpoint of this process offers."""

    urls: list[str]
    credentials: Credentials
    client_tls: ssl.SSLContext | None = None
    certificate: Path | None = None
    inside: s3_single.Endpoint | None = None
    _turn: Iterator[str] = field(init=False)
    _names: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self._turn = itertools.cycle(self.urls)

    def url(self) -> str:
        return next(self._turn)

    def client(self) -> RawClient:
        """A new connection to the next endpoint."""
        parts = urllib.parse.urlsplit(self.url())
        assert parts.hostname is not None
        assert parts.port is not None
        tls = self.client_tls if parts.scheme == "https" else None
        return RawClient(parts.hostname, parts.port, self.credentials, tls=tls)

    def new_bucket(self) -> str:
        """A bucket of this test alone."""
        name = f"compat-{os.getpid()}-{next(self._names)}"
        with self.client() as client:
            response = client.request("PUT", f"/{name}")
        assert response.status == 200, response
        return name


def _modes() -> list[str]:
    return ["given"] if ENDPOINTS else ["http", "tls", "cluster"]


@pytest.fixture(scope="session", params=_modes())
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    if request.param == "given":
        yield Site(
            urls=ENDPOINTS.split(","),
            credentials=Credentials(
                access_key=os.environ["SOS_COMPAT_ACCESS_KEY"],
                secret_key=os.environ["SOS_COMPAT_SECRET_KEY"],
            ),
        )
        return
    data = tmp_path_factory.mktemp("site")
    if request.param == "cluster":
        with Cluster(data) as cluster:
            cluster.start()
            yield Site(
                urls=[node.endpoint for node in cluster.nodes],
                credentials=Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY),
            )
        return
    credentials = Credentials(access_key=s3_single.ACCESS_KEY, secret_key=s3_single.SECRET_KEY)
    if request.param == "http":
        with s3_single.serve(data) as endpoint:
            url = f"http://127.0.0.1:{endpoint.port}"
            yield Site(urls=[url], credentials=credentials, inside=endpoint)
        return
    certificate, key = make_certificate(data)
    server_tls = tls_context(str(certificate), str(key))
    client_tls = ssl.create_default_context(cafile=str(certificate))
    with s3_single.serve(data / "node", tls=server_tls) as endpoint:
        yield Site(
            urls=[f"https://127.0.0.1:{endpoint.port}"],
            credentials=credentials,
            client_tls=client_tls,
            certificate=certificate,
            inside=endpoint,
        )


@pytest.fixture
def bucket(site: Site) -> str:
    return site.new_bucket()
