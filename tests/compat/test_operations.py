"""Each operation by signed requests of an independent client: statuses, headers, documents (s3.md 1)."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus

import pytest

from tests.compat.conftest import Site
from tests.compat.raw import Credentials, Mode, RawClient, RawResponse, Signer, crc32_base64

SIZES = [0, 1, 5, 16 * 1024, 16 * 1024 + 1, 70_000, 3 * 1024 * 1024 + 17]
ODD_KEYS = [
    "%2e",
    "%2e%2e",
    "a/%2e%2e/b",
    "/leading",
    "trailing/",
    "a//b",
    "a%25b",
    "a%2Bb+c",
    "%20space%20",
    "%F0%9F%98%80",
    "nul%00inside",
    "line%0Abreak%0D",
    "%C3%A9%CC%81",
    "a%3Fb%26c%3Dd%23e",
    "!%27()*",
    "~tilde_-.",
]


def body_of(size: int) -> bytes:
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


def md5_hex(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def client(site: Site) -> Iterator[RawClient]:
    with site.client() as client:
        yield client


def put(
    client: RawClient, bucket: str, key: str, body: bytes = b"x", **headers: str
) -> RawResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.request("PUT", f"/{bucket}/{key}", body=body, headers=named)
    assert response.status == 200, response
    return response


def keys_of(response: RawResponse) -> list[str]:
    return [found.text or "" for found in response.xml().iterfind("Contents/Key")]


# --- objects --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.name)
def test_every_payload_mode_stores_the_bytes(
    client: RawClient, bucket: str, mode: Mode, size: int
) -> None:
    """What is put is what is got, in each payload mode, HTTP-chunked too (s3.md 3.2)."""
    data = body_of(size)
    trailers = (Mode.CHUNKED_TRAILER, Mode.UNSIGNED_TRAILER)
    trailer = ("x-amz-checksum-crc32", crc32_base64(data)) if mode in trailers else None

    for wrapped in (False, True):
        if wrapped and mode in (Mode.SIGNED, Mode.UNSIGNED):
            continue
        stored = client.request(
            "PUT", f"/{bucket}/k", body=data, mode=mode, trailer=trailer, transfer_chunked=wrapped
        )
        got = client.request("GET", f"/{bucket}/k")

        assert stored.status == 200, stored
        assert stored.header("etag") == f'"{md5_hex(data)}"'
        assert stored.header("x-amz-checksum-type") == "FULL_OBJECT"
        if trailer is not None:
            assert stored.header(trailer[0]) == trailer[1]
        else:
            assert stored.header("x-amz-checksum-crc64nvme")
        assert got.status == 200
        assert got.body == data


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_literal(client: RawClient, bucket: str, key: str) -> None:
    """Keys are decoded once, never folded or normalised, and listed as stored (s3.md 2.2)."""
    put(client, bucket, key, b"odd")

    got = client.request("GET", f"/{bucket}/{key}")
    listed = client.request(
        "GET", f"/{bucket}", query=[("list-type", "2"), ("encoding-type", "url")]
    )

    assert got.body == b"odd"
    (name,) = keys_of(listed)
    assert unquote_plus(name) == unquote(key)
    assert client.request("DELETE", f"/{bucket}/{key}").status == 204
    assert client.request("HEAD", f"/{bucket}/{key}").status == 404


def test_stored_headers_come_back_as_sent(client: RawClient, bucket: str) -> None:
    """Content headers and user metadata are stored and returned (S3 API: PutObject)."""
    sent = {
        "content-type": "text/plain; charset=x",
        "cache-control": "no-cache",
        "content-disposition": 'attachment; filename="a.txt"',
        "content-language": "de",
        "content-encoding": "aws-chunked,gzip",
        "expires": "whenever",
        "x-amz-meta-Owner": "me",
        "x-amz-meta-empty": "",
    }
    client.request("PUT", f"/{bucket}/k", body=b"data", headers=sent)

    for method in ("GET", "HEAD"):
        got = client.request(method, f"/{bucket}/k")
        assert got.header("content-type") == "text/plain; charset=x"
        assert got.header("cache-control") == "no-cache"
        assert got.header("content-disposition") == 'attachment; filename="a.txt"'
        assert got.header("content-language") == "de"
        assert got.header("content-encoding") == "gzip"
        assert got.header("expires") == "whenever"
        assert got.header("x-amz-meta-owner") == "me"
        assert got.header("x-amz-meta-empty") == ""
        assert got.header("content-length") == "4"
        assert got.header("accept-ranges") == "bytes"
        assert got.header("last-modified")
    put(client, bucket, "k", b"again")
    replaced = client.request("HEAD", f"/{bucket}/k")
    assert replaced.header("content-type") == "binary/octet-stream"
    assert replaced.header("x-amz-meta-owner") is None


def test_metadata_that_is_not_ascii_comes_back_as_encoded_words(
    client: RawClient, bucket: str
) -> None:
    """Raw UTF-8 in metadata is returned as RFC 2047 words (s3.md 1.1.1)."""
    put(client, bucket, "k", b"x", x_amz_meta_name="Grüße")

    value = client.request("HEAD", f"/{bucket}/k").header("x-amz-meta-name")

    assert value is not None
    assert value.startswith("=?UTF-8?B?")


@pytest.mark.parametrize(
    ("wanted", "content_range", "slice_"),
    [
        ("bytes=0-8", "bytes 0-8/10", slice(0, 9)),
        ("bytes=5-", "bytes 5-9/10", slice(5, 10)),
        ("bytes=5-99", "bytes 5-9/10", slice(5, 10)),
        ("bytes=-3", "bytes 7-9/10", slice(7, 10)),
        ("bytes=-15", "bytes 0-9/10", slice(0, 10)),
    ],
)
def test_ranges(
    client: RawClient, bucket: str, wanted: str, content_range: str, slice_: slice
) -> None:
    """One range is answered exactly (s3.md 5)."""
    data = b"0123456789"
    put(client, bucket, "k", data)

    got = client.request("GET", f"/{bucket}/k", headers={"range": wanted})
    head = client.request("HEAD", f"/{bucket}/k", headers={"range": wanted})

    assert (got.status, got.header("content-range"), got.body) == (206, content_range, data[slice_])
    assert (head.status, head.header("content-range")) == (206, content_range)
    assert head.header("content-length") == str(len(data[slice_]))


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (1024 * 1024 - 1, 1024 * 1024 + 1), (2_000_000, 3_145_745)]
)
def test_ranges_of_a_blob(client: RawClient, bucket: str, start: int, stop: int) -> None:
    """Ranges across block edges read and verify only those blocks (s3.md 5)."""
    data = body_of(3 * 1024 * 1024 + 17)
    put(client, bucket, "k", data)

    got = client.request("GET", f"/{bucket}/k", headers={"range": f"bytes={start}-{stop - 1}"})

    assert got.status == 206
    assert got.body == data[start:stop]


def test_range_on_an_empty_object_is_unsatisfiable(client: RawClient, bucket: str) -> None:
    """Any range on an empty object is 416 with its size (s3.md 5)."""
    put(client, bucket, "k", b"")

    got = client.request("GET", f"/{bucket}/k", headers={"range": "bytes=0-0"})

    assert (got.status, got.code) == (416, "InvalidRange")
    assert got.header("content-range") == "bytes */0"


def test_a_plain_object_is_its_own_only_part(client: RawClient, bucket: str) -> None:
    """partNumber=1 is the whole object as 206; beyond it 416 (s3.md 5)."""
    put(client, bucket, "k", b"0123456789")

    first = client.request("GET", f"/{bucket}/k", query=[("partNumber", "1")])
    second = client.request("GET", f"/{bucket}/k", query=[("partNumber", "2")])

    assert (first.status, first.header("content-range")) == (206, "bytes 0-9/10")
    assert (second.status, second.code) == (416, "InvalidPartNumber")


def test_read_conditions(client: RawClient, bucket: str) -> None:
    """If-* decide 200, 304 and 412 in their order (RFC 9110, 13.2.2; s3.md 4.1)."""
    etag = put(client, bucket, "k", b"data").header("etag") or ""
    modified = client.request("HEAD", f"/{bucket}/k").header("last-modified") or ""
    old = "Wed, 21 Oct 2015 07:28:00 GMT"

    def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.request("GET", f"/{bucket}/k", headers=named).status

    assert status(if_match=etag) == 200
    assert status(if_match=f'"other", {etag}') == 200
    assert status(if_match='"other"') == 412
    assert status(if_match=f"W/{etag}") == 412
    assert status(if_none_match=etag) == 304
    assert status(if_none_match="*") == 304
    assert status(if_none_match='"other"') == 200
    assert status(if_modified_since=modified) == 304
    assert status(if_modified_since=old) == 200
    assert status(if_unmodified_since=old) == 412
    assert status(if_unmodified_since=old, if_match=etag) == 200
    assert status(if_modified_since=modified, if_none_match='"other"') == 200
    assert client.request("GET", f"/{bucket}/none", headers={"if-none-match": "*"}).status == 404
    not_modified = client.request("GET", f"/{bucket}/k", headers={"if-none-match": etag})
    assert not_modified.body == b""
    assert not_modified.header("etag") == etag
    assert not_modified.header("last-modified") == modified


def test_response_overrides_replace_headers(client: RawClient, bucket: str) -> None:
    """response-* parameters replace headers of a 200 (S3 API: GetObject)."""
    put(client, bucket, "k", b"data", content_type="text/plain")

    got = client.request(
        "GET",
        f"/{bucket}/k",
        query=[("response-content-type", "image/png"), ("response-expires", "soon")],
    )

    assert got.header("content-type") == "image/png"
    assert got.header("expires") == "soon"
    assert [name for name, _ in got.headers].count("content-type") == 1


def test_checksums_are_shown_on_demand(client: RawClient, bucket: str) -> None:
    """With x-amz-checksum-mode, a whole object shows its checksum, a range does not (s3.md 8)."""
    data = b"checked"
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    put(client, bucket, "k", data, x_amz_checksum_sha256=digest)
    enabled = {"x-amz-checksum-mode": "ENABLED"}

    whole = client.request("GET", f"/{bucket}/k", headers=enabled)
    head = client.request("HEAD", f"/{bucket}/k", headers=enabled)
    part = client.request("GET", f"/{bucket}/k", headers={**enabled, "range": "bytes=0-1"})
    quiet = client.request("GET", f"/{bucket}/k")

    assert whole.header("x-amz-checksum-sha256") == digest
    assert whole.header("x-amz-checksum-type") == "FULL_OBJECT"
    assert head.header("x-amz-checksum-sha256") == digest
    assert part.header("x-amz-checksum-sha256") is None
    assert quiet.header("x-amz-checksum-sha256") is None


def test_write_conditions(client: RawClient, bucket: str) -> None:
    """Conditional writes and deletes, row by row of the table (s3.md 4.3)."""

    def write(**headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = client.request("PUT", f"/{bucket}/k", body=b"data", headers=named)
        return response.status, response.code

    def delete(**headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = client.request("DELETE", f"/{bucket}/k", headers=named)
        return response.status, response.code

    etag = f'"{md5_hex(b"data")}"'
    assert write(if_match=etag) == (404, "NoSuchKey")
    assert write(if_none_match="*") == (200, "")
    assert write(if_none_match="*") == (412, "PreconditionFailed")
    assert write(if_match=etag) == (200, "")
    assert write(if_match=etag.strip('"')) == (200, "")
    assert write(if_match='"other"') == (412, "PreconditionFailed")
    assert delete(if_match='"other"') == (412, "PreconditionFailed")
    assert delete(if_match=etag) == (204, "")
    assert delete(if_match=etag) == (404, "NoSuchKey")
    assert delete(if_match="*") == (404, "NoSuchKey")
    assert delete() == (204, "")
    assert write() == (200, "")
    assert delete(if_match="*") == (204, "")


def test_a_failed_condition_names_its_header(client: RawClient, bucket: str) -> None:
    """412 carries Condition (s3.md 4.1, 4.3)."""
    put(client, bucket, "k")

    refused = client.request("PUT", f"/{bucket}/k", body=b"y", headers={"if-none-match": "*"})

    assert refused.xml().findtext("Condition") == "If-None-Match"


# --- copies ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 100, 70_000])
def test_copies(client: RawClient, bucket: str, size: int) -> None:
    """A copy keeps bytes, metadata and checksum; REPLACE takes the request's (s3.md 1.1.6)."""
    data = body_of(size)
    put(client, bucket, "source", data, content_type="text/plain", x_amz_meta_a="1")
    source = {"x-amz-copy-source": f"/{bucket}/source"}

    kept = client.request("PUT", f"/{bucket}/kept", headers=source)
    replaced = client.request(
        "PUT",
        f"/{bucket}/replaced",
        headers={**source, "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"},
    )
    summed = client.request(
        "PUT", f"/{bucket}/summed", headers={**source, "x-amz-checksum-algorithm": "CRC32"}
    )

    assert kept.status == 200
    assert kept.xml().tag == "CopyObjectResult"
    assert kept.xml().findtext("ETag") == f'"{md5_hex(data)}"'
    assert summed.xml().findtext("ChecksumCRC32") == crc32_base64(data)
    client.request("DELETE", f"/{bucket}/source")
    first = client.request("GET", f"/{bucket}/kept")
    assert (first.body, first.header("x-amz-meta-a")) == (data, "1")
    assert first.header("content-type") == "text/plain"
    second = client.request("GET", f"/{bucket}/replaced")
    assert (second.body, second.header("x-amz-meta-b")) == (data, "2")
    assert second.header("x-amz-meta-a") is None
    assert second.header("content-type") == "binary/octet-stream"
    assert replaced.status == 200


def test_copy_onto_itself_may_change_metadata(client: RawClient, bucket: str) -> None:
    """A self-copy with REPLACE is how metadata is changed (s3.md 1.1.6)."""
    put(client, bucket, "k", b"data", x_amz_meta_a="1")

    changed = client.request(
        "PUT",
        f"/{bucket}/k",
        headers={
            "x-amz-copy-source": f"{bucket}/k",
            "x-amz-metadata-directive": "REPLACE",
            "x-amz-meta-a": "2",
        },
    )

    assert changed.status == 200
    got = client.request("GET", f"/{bucket}/k")
    assert (got.body, got.header("x-amz-meta-a")) == (b"data", "2")


def test_copy_failures(client: RawClient, bucket: str) -> None:
    """Source and destination failures have their own codes (s3.md 1.1.6, 4.2)."""
    etag = put(client, bucket, "k").header("etag") or ""

    def copy(source: str, target: str = "copy", **headers: str) -> tuple[int, str]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["x-amz-copy-source"] = source
        response = client.request("PUT", f"/{bucket}/{target}", headers=named)
        return response.status, response.code

    assert copy(f"/{bucket}/none") == (404, "NoSuchKey")
    assert copy("/no-such-bucket-here/k") == (404, "NoSuchBucket")
    assert copy(f"/{bucket}/k", x_amz_copy_source_if_match='"other"') == (412, "PreconditionFailed")
    assert copy(f"/{bucket}/k", x_amz_copy_source_if_none_match=etag) == (412, "PreconditionFailed")
    assert copy(f"/{bucket}/k", x_amz_copy_source_if_match=etag) == (200, "")
    assert copy(f"/{bucket}/k", if_none_match="*") == (412, "PreconditionFailed")
    assert copy(f"/{bucket}/k", "third", if_none_match="*") == (200, "")


# --- deletes --------------------------------------------------------------------------------------
def test_delete_many(client: RawClient, bucket: str) -> None:
    """One request deletes many keys; failures of a key stand inside the 200 (s3.md 1.1.7)."""
    for key in ("a", "b", "c%2Fd"):
        put(client, bucket, key)
    document = (
        b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Object><Key>a</Key></Object><Object><Key>absent</Key></Object>"
        b"<Object><Key>b</Key><ETag>other</ETag></Object><Object><Key>c/d</Key></Object></Delete>"
    )

    answer = client.request(
        "POST",
        f"/{bucket}",
        query=[("delete", "")],
        body=document,
        headers={"x-amz-checksum-crc32": crc32_base64(document)},
    )

    assert answer.status == 200
    deleted = [found.findtext("Key") for found in answer.xml().iterfind("Deleted")]
    errors = [
        (found.findtext("Key"), found.findtext("Code")) for found in answer.xml().iterfind("Error")
    ]
    assert deleted == ["a", "absent", "c/d"]
    assert errors == [("b", "PreconditionFailed")]
    assert keys_of(client.request("GET", f"/{bucket}")) == ["b"]


def test_quiet_delete_many_answers_errors_only(client: RawClient, bucket: str) -> None:
    """Quiet leaves only Error (S3 API: DeleteObjects)."""
    document = b"<Delete><Quiet>true</Quiet><Object><Key>a</Key></Object></Delete>"
    digest = base64.b64encode(hashlib.md5(document, usedforsecurity=False).digest()).decode()

    answer = client.request(
        "POST", f"/{bucket}", query=[("delete", "")], body=document, headers={"content-md5": digest}
    )

    assert answer.status == 200
    assert list(answer.xml()) == []


# --- buckets --------------------------------------------------------------------------------------
def test_buckets(site: Site, client: RawClient) -> None:
    """Create, create again, head, locate, list, refuse to delete while full, delete (s3.md 1.1)."""
    name = site.new_bucket()

    again = client.request("PUT", f"/{name}")
    head = client.request("HEAD", f"/{name}/")
    location = client.request("GET", f"/{name}", query=[("location", "")])
    listed = client.request("GET", "/")
    put(client, name, "k")
    full = client.request("DELETE", f"/{name}")
    client.request("DELETE", f"/{name}/k")
    gone = client.request("DELETE", f"/{name}")

    assert (again.status, again.header("location")) == (200, f"/{name}")
    assert (head.status, head.header("x-amz-bucket-region")) == (200, "us-east-1")
    assert head.header("x-amz-bucket-arn") == f"arn:aws:s3:::{name}"
    assert location.xml().tag == "LocationConstraint"
    assert not location.xml().text
    assert name in [found.text for found in listed.xml().iterfind("Buckets/Bucket/Name")]
    assert (full.status, full.code) == (409, "BucketNotEmpty")
    assert gone.status == 204
    assert client.request("HEAD", f"/{name}").status == 404
    missing = client.request("GET", f"/{name}")
    assert (missing.status, missing.code) == (404, "NoSuchBucket")
    assert missing.xml().findtext("BucketName") == name
    write = client.request("PUT", f"/{name}/k", body=b"x")
    assert (write.status, write.code) == (404, "NoSuchBucket")


def test_location_constraint_in_us_east_1(client: RawClient) -> None:
    """There, a constraint is wrong and an empty one is right (s3.md 1.1.2)."""
    document = b"<CreateBucketConfiguration><LocationConstraint>%s</LocationConstraint></CreateBucketConfiguration>"

    wrong = client.request("PUT", "/compat-located", body=document % b"us-east-1")
    right = client.request("PUT", "/compat-located", body=document % b"")

    assert (wrong.status, wrong.code) == (400, "InvalidLocationConstraint")
    assert right.status == 200


def test_list_buckets_by_pages(site: Site, client: RawClient) -> None:
    """max-buckets pages with a token, prefix filters (s3.md 1.1.3)."""
    names = sorted(site.new_bucket() for _ in range(3))
    prefix = ("prefix", "compat-")
    seen: list[str] = []
    token: list[tuple[str, str]] = []

    for _ in range(100):
        page = client.request("GET", "/", query=[("max-buckets", "2"), prefix, *token]).xml()
        seen += [found.text or "" for found in page.iterfind("Buckets/Bucket/Name")]
        following = page.findtext("ContinuationToken")
        if following is None:
            break
        token = [("continuation-token", following)]

    assert seen == sorted(seen)
    assert set(names) <= set(seen)


@pytest.mark.parametrize(
    ("selector", "status", "expected"),
    [
        ("accelerate", 200, "AccelerateConfiguration"),
        ("acl", 200, "AccessControlPolicy"),
        ("logging", 200, "BucketLoggingStatus"),
        ("notification", 200, "NotificationConfiguration"),
        ("requestPayment", 200, "RequestPaymentConfiguration"),
        ("uploads", 200, "ListMultipartUploadsResult"),
        ("versioning", 200, "VersioningConfiguration"),
        ("cors", 404, "NoSuchCORSConfiguration"),
        ("encryption", 404, "ServerSideEncryptionConfigurationNotFoundError"),
        ("lifecycle", 404, "NoSuchLifecycleConfiguration"),
        ("object-lock", 404, "ObjectLockConfigurationNotFoundError"),
        ("ownershipControls", 404, "OwnershipControlsNotFoundError"),
        ("policy", 404, "NoSuchBucketPolicy"),
        ("publicAccessBlock", 404, "NoSuchPublicAccessBlockConfiguration"),
        ("replication", 404, "ReplicationConfigurationNotFoundError"),
        ("tagging", 404, "NoSuchTagSet"),
        ("website", 404, "NoSuchWebsiteConfiguration"),
    ],
)
def test_what_is_not_configured_is_told_truthfully(
    client: RawClient, bucket: str, selector: str, status: int, expected: str
) -> None:
    """GET of a sub-resource that we do not configure (s3.md 1.4); DELETE has nothing to delete."""
    got = client.request("GET", f"/{bucket}", query=[(selector, "")])

    assert got.status == status
    assert (got.xml().tag if status == 200 else got.code) == expected
    if selector != "uploads":
        assert client.request("DELETE", f"/{bucket}", query=[(selector, "")]).status in (204, 501)


def test_subresources_of_an_object(client: RawClient, bucket: str) -> None:
    """An object's tagging is an empty set; of an absent object it is 404 (s3.md 1.4)."""
    put(client, bucket, "k")

    tags = client.request("GET", f"/{bucket}/k", query=[("tagging", "")])
    absent = client.request("GET", f"/{bucket}/none", query=[("tagging", "")])

    assert tags.xml().tag == "Tagging"
    assert list(tags.xml().iterfind("TagSet/Tag")) == []
    assert (absent.status, absent.code) == (404, "NoSuchKey")


# --- listings -------------------------------------------------------------------------------------
def test_listing_pages_join_to_the_whole(client: RawClient, bucket: str) -> None:
    """Pages joined are the whole listing, in byte order, without repeats (s3.md 6.1, 6.4)."""
    names = [f"{letter}/{number}" for letter in "abc" for number in range(4)] + ["z", "a"]
    for name in names:
        put(client, bucket, name)

    for delimiter in ("", "/"):
        seen: list[str] = []
        query = [("list-type", "2"), ("max-keys", "2"), ("delimiter", delimiter)]
        token: list[tuple[str, str]] = []
        for _ in range(100):
            page = client.request("GET", f"/{bucket}", query=[*query, *token]).xml()
            seen += [found.text or "" for found in page.iterfind("Contents/Key")]
            seen += [found.text or "" for found in page.iterfind("CommonPrefixes/Prefix")]
            following = page.findtext("NextContinuationToken")
            assert (page.findtext("IsTruncated") == "true") == (following is not None)
            if following is None:
                break
            token = [("continuation-token", following)]
        expected = sorted(names) if not delimiter else ["a", "a/", "b/", "c/", "z"]
        assert sorted(seen) == expected
        assert len(seen) == len(set(seen))


def test_listing_v1_and_v2_documents(client: RawClient, bucket: str) -> None:
    """Element order and presence of both versions (s3.md 6.2)."""
    for name in ("a", "b/1", "c"):
        put(client, bucket, name)

    v1 = client.request("GET", f"/{bucket}", query=[("max-keys", "1"), ("delimiter", "/")]).xml()
    v2 = client.request(
        "GET",
        f"/{bucket}",
        query=[("list-type", "2"), ("start-after", "a"), ("fetch-owner", "true")],
    ).xml()

    assert [child.tag for child in v1][:6] == [
        "Name",
        "Prefix",
        "Marker",
        "NextMarker",
        "MaxKeys",
        "Delimiter",
    ]
    assert v1.findtext("NextMarker") == "a"
    assert [child.tag for child in v2][:6] == [
        "Name",
        "Prefix",
        "StartAfter",
        "KeyCount",
        "MaxKeys",
        "IsTruncated",
    ]
    assert [found.text for found in v2.iterfind("Contents/Key")] == ["b/1", "c"]
    contents = v2.find("Contents")
    assert contents is not None
    assert [child.tag for child in contents] == [
        "Key",
        "LastModified",
        "ETag",
        "ChecksumAlgorithm",
        "ChecksumType",
        "Size",
        "Owner",
        "StorageClass",
    ]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", contents.findtext("LastModified") or ""
    )


def test_listing_of_no_keys(client: RawClient, bucket: str) -> None:
    """max-keys=0 is an empty page that is not truncated (s3.md 6.1)."""
    put(client, bucket, "a")

    page = client.request("GET", f"/{bucket}", query=[("list-type", "2"), ("max-keys", "0")]).xml()

    assert page.findtext("KeyCount") == "0"
    assert page.findtext("IsTruncated") == "false"


def test_versions_of_an_unversioned_bucket(client: RawClient, bucket: str) -> None:
    """Every object is its one version null (s3.md 1.4, 6.5)."""
    put(client, bucket, "a")
    put(client, bucket, "b")

    page = client.request("GET", f"/{bucket}", query=[("versions", ""), ("max-keys", "1")]).xml()
    by_id = client.request("GET", f"/{bucket}/a", query=[("versionId", "null")])

    assert page.findtext("Version/VersionId") == "null"
    assert page.findtext("Version/IsLatest") == "true"
    assert page.findtext("NextKeyMarker") == "a"
    assert by_id.status == 200


# --- who asks -------------------------------------------------------------------------------------
def test_presigned_urls(client: RawClient, bucket: str) -> None:
    """A presigned URL does what it was signed for, until it expires (s3.md 3.3)."""
    put(client, bucket, "k", b"shared")
    signer = client.signer

    def get(target: str, method: str = "GET") -> RawResponse:
        client.send(f"{method} {target} HTTP/1.1\r\nHost: {client.authority}\r\n\r\n".encode())
        return client.receive(method)

    good = get(signer.presign("GET", client.authority, f"/{bucket}/k"))
    other_method = get(signer.presign("GET", client.authority, f"/{bucket}/k"), "HEAD")
    past = Signer(signer.credentials, now=time.time() - 1000)
    expired = get(past.presign("GET", client.authority, f"/{bucket}/k", expires="10"))
    future = Signer(signer.credentials, now=time.time() + 3600)
    early = get(future.presign("GET", client.authority, f"/{bucket}/k"))

    assert good.body == b"shared"
    assert other_method.status == 403
    assert (expired.status, expired.code) == (403, "AccessDenied")
    assert (early.status, early.code) == (403, "AccessDenied")


def test_presigned_put_with_metadata_parameters(client: RawClient, bucket: str) -> None:
    """x-amz-* parameters of a presigned URL act as headers (s3.md 2.3)."""
    target = client.signer.presign(
        "PUT", client.authority, f"/{bucket}/k", query=[("x-amz-meta-from", "url")]
    )

    client.send(
        f"PUT {target} HTTP/1.1\r\nHost: {client.authority}\r\nContent-Length: 2\r\n\r\nhi".encode()
    )
    stored = client.receive("PUT")

    assert stored.status == 200, stored
    got = client.request("GET", f"/{bucket}/k")
    assert (got.body, got.header("x-amz-meta-from")) == (b"hi", "url")


def test_requests_of_strangers(site: Site, bucket: str) -> None:
    """Wrong keys, signatures, regions and clocks have their own codes (s3.md 3.4)."""

    def code(credentials: Credentials, now: float | None = None) -> tuple[int, str]:
        with site.client() as client:
            client.credentials = credentials
            client.signer = Signer(credentials, now=now)
            response = client.request("GET", f"/{bucket}")
            return response.status, response.code

    good = site.credentials
    unknown = Credentials(access_key="NOBODY", secret_key="x" * 20)
    wrong = Credentials(access_key=good.access_key, secret_key="wrong" * 4)
    elsewhere = Credentials(
        access_key=good.access_key, secret_key=good.secret_key, region="eu-west-1"
    )

    assert code(good) == (200, "")
    assert code(unknown) == (403, "InvalidAccessKeyId")
    assert code(wrong) == (403, "SignatureDoesNotMatch")
    assert code(elsewhere) == (400, "AuthorizationHeaderMalformed")
    assert code(good, time.time() - 1000) == (403, "RequestTimeTooSkewed")
    with site.client() as client:
        client.send(f"GET /{bucket} HTTP/1.1\r\nHost: {client.authority}\r\n\r\n".encode())
        nobody = client.receive()
    assert (nobody.status, nobody.code) == (403, "AccessDenied")


def test_chunk_signatures_are_verified(client: RawClient, bucket: str) -> None:
    """A changed byte in a signed chunk is found, and nothing is stored (s3.md 3.2)."""
    head, sent = client.build("PUT", f"/{bucket}/k", body=body_of(100_000), mode=Mode.CHUNKED)
    changed = bytearray(sent)
    changed[50_000] ^= 1

    client.send(head + bytes(changed))
    refused = client.receive("PUT")

    assert (refused.status, refused.code) == (403, "SignatureDoesNotMatch")
    assert client.request("HEAD", f"/{bucket}/k").status == 404


def test_request_ids(client: RawClient, bucket: str) -> None:
    """Each answer has its request id, which the error document repeats (s3.md 1.0)."""
    answer = client.request("GET", f"/{bucket}/none")

    request_id = answer.header("x-amz-request-id") or ""
    assert re.fullmatch("[0-9A-Z]{16}", request_id)
    assert answer.xml().findtext("RequestId") == request_id
    assert answer.xml().findtext("HostId") == answer.header("x-amz-id-2")
    assert 40 <= len(answer.header("x-amz-id-2") or "") <= 80
    assert answer.header("server") == "SOS"
