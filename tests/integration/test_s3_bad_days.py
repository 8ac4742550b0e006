"""The S3 answers when the cluster cannot, or does not know, or finds damage (s3.md 1.0, 11; design 5, 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sos.catalog.model import AccessKeyId, RevokeAccessKey
from sos.errors import Corruption, OutcomeUnknown, Unavailable
from sos.limits import INLINE_BYTES_MAX, MIB
from tests.compat.raw import Credentials, Mode, RawClient, Signer
from tests.integration.s3_single import Endpoint, serve
from tests.integration.test_s3_connection import eventually

BUCKET = "bad-days"
LARGE = hashlib.sha256(b"large").digest() * (3 * MIB // 32)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with serve(tmp_path) as endpoint:
        with endpoint.client() as client:
            assert client.request("PUT", f"/{BUCKET}").status == 200
            assert client.request("PUT", f"/{BUCKET}/small", body=b"small").status == 200
            assert client.request("PUT", f"/{BUCKET}/large", body=LARGE).status == 200
        yield endpoint


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[RawClient]:
    with endpoint.client() as client:
        yield client


def test_without_majority_nothing_is_answered_from_a_stale_view(
    endpoint: Endpoint, client: RawClient
) -> None:
    """No barrier: 503 SlowDown with Retry-After, for reads, listings and refusals alike (s3.md 1.0)."""
    endpoint.link.fail_barriers = True

    for method, path in (
        ("GET", f"/{BUCKET}/small"),
        ("HEAD", f"/{BUCKET}/small"),
        ("GET", f"/{BUCKET}"),
        ("GET", "/"),
        ("GET", "/no-such-bucket-here/k"),
        ("PUT", "/no-such-bucket-here/k"),
    ):
        answer = client.request(method, path)
        assert answer.status == 503, (method, path)
        assert answer.header("retry-after") == "1"
        assert answer.code in ("SlowDown", "")


def test_a_write_that_was_certainly_not_applied_is_503(
    endpoint: Endpoint, client: RawClient
) -> None:
    """No leader: 503, and the blob that was written for it is gone again (design 5.6)."""
    files = endpoint.blob_files()
    endpoint.link.proposal_error = Unavailable("no leader")

    for body in (b"x", LARGE):
        answer = client.request("PUT", f"/{BUCKET}/k", body=body)
        assert (answer.status, answer.code) == (503, "SlowDown")
        assert answer.header("retry-after") == "1"

    eventually(lambda: endpoint.blob_files() == files)


def test_a_write_of_unknown_outcome_is_500_and_keeps_its_blob(
    endpoint: Endpoint, client: RawClient
) -> None:
    """Perhaps applied: 500, never 503, and nothing is dropped (design 5)."""
    files = endpoint.blob_files()
    endpoint.link.proposal_error = OutcomeUnknown("deadline")

    answer = client.request("PUT", f"/{BUCKET}/k", body=LARGE)

    assert (answer.status, answer.code) == (500, "InternalError")
    assert len(endpoint.blob_files()) == len(files) + 1


def test_a_refused_write_drops_its_blob(endpoint: Endpoint, client: RawClient) -> None:
    """After a definite refusal by apply the holders drop the blob at once (design 5.6)."""
    files = endpoint.blob_files()
    head, body = client.build("PUT", f"/{BUCKET}/race", body=LARGE, headers={"if-none-match": "*"})
    client.send(head + body[:1000])
    eventually(endpoint.waits_for_a_body)
    with endpoint.client() as other:
        assert other.request("PUT", f"/{BUCKET}/race", body=b"first").status == 200

    client.send(body[1000:])
    answer = client.receive("PUT")

    assert (answer.status, answer.code) == (412, "PreconditionFailed")
    eventually(lambda: endpoint.blob_files() == files)
    assert client.request("GET", f"/{BUCKET}/race").body == b"first"


def test_a_bucket_deleted_while_the_body_arrives(endpoint: Endpoint, client: RawClient) -> None:
    """404 NoSuchBucket, decided in apply (s3.md 11)."""
    with endpoint.client() as other:
        assert other.request("PUT", "/short-lived").status == 200
        head, body = client.build("PUT", "/short-lived/k", body=b"x" * 1000)
        client.send(head + body[:10])
        eventually(endpoint.waits_for_a_body)
        assert other.request("DELETE", "/short-lived").status == 204

    client.send(body[10:])
    answer = client.receive("PUT")

    assert (answer.status, answer.code) == (404, "NoSuchBucket")


def test_a_nearly_full_disk_refuses_new_writes_only(endpoint: Endpoint, client: RawClient) -> None:
    """503 for new objects; reads and deletes go on (design 11)."""
    endpoint.link.state = replace(endpoint.link.state, is_disk_low=True)

    refused = client.request("PUT", f"/{BUCKET}/k", body=b"x")
    copied = client.request(
        "PUT", f"/{BUCKET}/k", headers={"x-amz-copy-source": f"/{BUCKET}/small"}
    )

    assert (refused.status, copied.status) == (503, 503)
    assert refused.header("retry-after") == "1"
    assert client.request("GET", f"/{BUCKET}/small").body == b"small"
    assert client.request("DELETE", f"/{BUCKET}/small").status == 204


def test_damage_in_the_catalog_is_reported_and_not_served(
    endpoint: Endpoint, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that fails its checksum: 503 on this node, and the core is told (issue, item 6)."""

    def damaged(*_: object, **__: object) -> None:
        raise Corruption("table inline, key 00")

    monkeypatch.setattr("sos.catalog.views.View.inline_body", damaged)

    answer = client.request("GET", f"/{BUCKET}/small")

    assert answer.status == 503
    assert endpoint.link.damage == ["table inline, key 00"]


def test_a_damaged_only_replica_is_never_served(endpoint: Endpoint, client: RawClient) -> None:
    """Wrong bytes never leave: 500 before the first byte, a cut connection after it (s3.md 1.1.5)."""
    (path,) = [path for path in endpoint.blob_files() if path.stat().st_size > MIB]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))

    with pytest.raises(EOFError):
        client.request("GET", f"/{BUCKET}/large")
    eventually(
        lambda: not path.exists()
    )  # in quarantine: until then another reader is cut off as well
    with endpoint.client() as other:
        answer = other.request("GET", f"/{BUCKET}/large")

    assert (answer.status, answer.code) == (500, "InternalError")


def test_a_missing_only_replica_is_an_error_not_a_404(
    endpoint: Endpoint, client: RawClient
) -> None:
    """The key still names the blob: it is damage, never 'no such key' (design 6)."""
    for path in endpoint.blob_files():
        if path.stat().st_size > MIB:
            path.unlink()

    answer = client.request("GET", f"/{BUCKET}/large")

    assert (answer.status, answer.code) == (500, "InternalError")
    assert client.request("HEAD", f"/{BUCKET}/large").status == 200


def test_a_revoked_key_reads_and_writes_nothing(endpoint: Endpoint, client: RawClient) -> None:
    """A key that this node still remembers is refused by the view or by apply (design 5.1)."""
    key = AccessKeyId(client.credentials.access_key)
    endpoint.start(endpoint.link.propose(RevokeAccessKey(access_key=key))).result(10)

    for method, path, body in (
        ("GET", f"/{BUCKET}/small", b""),
        ("GET", "/", b""),
        ("GET", f"/{BUCKET}", b""),
        ("GET", f"/{BUCKET}?location=", b""),
        ("PUT", f"/{BUCKET}/k", b"x"),
        ("PUT", "/another-bucket", b""),
        ("DELETE", f"/{BUCKET}/small", b""),
    ):
        plain, _, name = path.partition("?")
        query = [(name.rstrip("="), "")] if name else []
        answer = client.request(method, plain, query=query, body=body)
        assert (answer.status, answer.code) == (403, "InvalidAccessKeyId"), path


def test_refusals_come_after_a_barrier_and_successes_of_writes_need_none(
    endpoint: Endpoint, client: RawClient
) -> None:
    """A node's own view may let a request go on, never refuse it (design 5.1)."""

    def barriers(method: str, path: str, body: bytes = b"", **headers: str) -> int:
        before = endpoint.link.barrier_count
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method, path, body=body, headers=named)
        return endpoint.link.barrier_count - before

    assert barriers("PUT", f"/{BUCKET}/k", b"x") == 0
    assert barriers("PUT", f"/{BUCKET}/k", b"x", if_none_match="*") == 1
    assert barriers("PUT", "/no-such-bucket-here/k", b"x") == 1
    assert barriers("GET", f"/{BUCKET}/k") == 1
    client.signer = Signer(Credentials(access_key="NOBODY", secret_key="x" * 10))
    assert barriers("GET", f"/{BUCKET}/k") == 1


@pytest.mark.parametrize("size", [INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1])
def test_a_wrong_digest_stores_nothing(endpoint: Endpoint, client: RawClient, size: int) -> None:
    """A body that fails its digest leaves no object and no file, inline or blob (s3.md 8)."""
    files = endpoint.blob_files()

    answer = client.request(
        "PUT",
        f"/{BUCKET}/k",
        body=b"x" * size,
        headers={"x-amz-checksum-crc32": "AAAAAA=="},
        mode=Mode.UNSIGNED,
    )

    assert (answer.status, answer.code) == (400, "BadDigest")
    eventually(lambda: endpoint.blob_files() == files)
    assert client.request("HEAD", f"/{BUCKET}/k").status == 404
