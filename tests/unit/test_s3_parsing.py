"""From a head to an operation: what is taken, and what is refused by name (s3.md 1, 2.6, 11)."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from sos.catalog.model import ALWAYS, ChecksumAlgorithm, StoredHeaders, WriteCondition
from sos.limits import METADATA_BYTES_MAX, OBJECT_BYTES_MAX, XML_BYTES_MAX, XML_CONFIG_BYTES_MAX
from sos.s3.metadata import encode_words, normalise_value
from sos.s3.operations import (
    CopyObject,
    CreateBucket,
    DeleteObject,
    DeleteObjects,
    DeleteSubresource,
    GetObject,
    GetSubresource,
    HeadObject,
    ListBuckets,
    ListMultipartUploads,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    PutObject,
)
from sos.s3.parsing import check_location
from sos.s3.sigv4 import PayloadMode, parse_payload
from sos.s3.target import S3Settings
from tests.unit.s3_support import find_operation, refusal

SUPERSET = S3Settings(superset=True)
CHUNKED = parse_payload(PayloadMode.CHUNKED_UNSIGNED_TRAILER.value)
SIZE = {"content-length": "5"}
MD5 = {"content-md5": b64encode(bytes(16)).decode()}


def put(headers: dict[str, str] | None = None, **named: Any) -> PutObject:
    operation = find_operation("PUT", "/buk/k", SIZE | (headers or {}), **named)
    assert isinstance(operation, PutObject)
    return operation


def copy(source: str = "/src/key", headers: dict[str, str] | None = None) -> CopyObject:
    operation = find_operation("PUT", "/buk/k", {"x-amz-copy-source": source} | (headers or {}))
    assert isinstance(operation, CopyObject)
    return operation


# --- PutObject --------------------------------------------------------------------------------------
def test_put_stores_headers_as_sent() -> None:
    """1.1.1: the stored headers, ``aws-chunked`` removed from Content-Encoding, metadata by lower-case name."""
    operation = put(
        {
            "Content-Type": "text/plain",
            "Cache-Control": "no-store",
            "Content-Disposition": "inline",
            "Content-Encoding": "aws-chunked, gzip",
            "Content-Language": "de",
            "Expires": "whenever",
            "x-amz-meta-B": "2",
            "x-amz-meta-a": "",
        }
    )
    assert operation.headers == StoredHeaders(
        content_type="text/plain",
        cache_control="no-store",
        content_disposition="inline",
        content_encoding="gzip",
        content_language="de",
        expires="whenever",
        user=(("a", ""), ("b", "2")),
    )
    assert operation.condition is ALWAYS
    assert (operation.body.size_bytes, operation.body.is_chunked) == (5, False)


def test_put_without_headers_stores_none() -> None:
    """Nothing sent, nothing stored; only ``aws-chunked`` leaves no encoding (1.1.1)."""
    assert put().headers == StoredHeaders()
    assert put({"content-encoding": "aws-chunked"}).headers.content_encoding is None
    assert put({"content-encoding": "gzip,br"}).headers.content_encoding == "gzip,br"


def test_metadata_size() -> None:
    """Section 11: user metadata over 2 KiB -> 400 MetadataTooLarge; names count without their prefix."""
    put({"x-amz-meta-a": "v" * (METADATA_BYTES_MAX - 1)})
    error = refusal(put, {"x-amz-meta-a": "v" * METADATA_BYTES_MAX})
    assert (error.status, error.code) == (400, "MetadataTooLarge")
    assert error.fields == (("Size", "2049"), ("MaxSizeAllowed", "2048"))


def test_metadata_beyond_ascii() -> None:
    """1.1.1: what is not ASCII comes back as RFC 2047 words; words of ASCII come back decoded (seen)."""
    assert put({"x-amz-meta-a": "café"}).headers.user == (("a", "=?UTF-8?B?Y2Fmw6k=?="),)
    assert normalise_value("=?UTF-8?B?Y2Fmw6k=?=") == "=?UTF-8?B?Y2Fmw6k=?="
    assert normalise_value("=?utf-8?Q?caf=C3=A9?=") == "=?UTF-8?B?Y2Fmw6k=?="
    assert normalise_value("=?UTF-8?B?Y2FmZQ==?=") == "cafe"
    assert normalise_value("a =? b") == "a =? b"
    assert normalise_value("=?nonsense?B?Y2FmZQ==?=") == "=?nonsense?B?Y2FmZQ==?="
    assert normalise_value("=?UTF-8?B?DQo=?=").startswith("=?UTF-8?B?")  # never a bare CR LF
    assert all(len(word) <= 75 for word in encode_words("é😀" * 100).split(" "))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "MissingContentLength"),
        ({"content-length": "x"}, "MissingContentLength"),
        ({"transfer-encoding": "chunked"}, "NotImplemented"),
        ({"content-length": str(OBJECT_BYTES_MAX + 1)}, "EntityTooLarge"),
    ],
)
def test_put_lengths(headers: dict[str, str], code: str) -> None:
    """Section 11: PUT without length 411; plain chunked 501; over 5 GiB 400 EntityTooLarge."""
    assert refusal(find_operation, "PUT", "/buk/k", headers).code == code


@pytest.mark.parametrize("length", [None, "", "-1", "x", "1.0"])
def test_aws_chunked_needs_its_decoded_length(length: str | None) -> None:
    """Section 11: aws-chunked without or with a bad decoded length -> 411."""
    headers = {} if length is None else {"x-amz-decoded-content-length": length}
    error = refusal(put, headers, payload=CHUNKED)
    assert (error.status, error.code) == (411, "MissingContentLength")


def test_aws_chunked_body() -> None:
    """2.6: the decoded length is the size; Content-Length is optional then; HTTP chunking may wrap it."""
    headers = {"transfer-encoding": "chunked", "x-amz-decoded-content-length": "7"}
    operation = find_operation("PUT", "/buk/k", headers, payload=CHUNKED)
    assert isinstance(operation, PutObject)
    assert (operation.body.size_bytes, operation.body.is_chunked) == (7, True)
    big = {"x-amz-decoded-content-length": str(OBJECT_BYTES_MAX + 1)}
    assert refusal(put, big, payload=CHUNKED).code == "EntityTooLarge"
    assert (
        put({"x-amz-decoded-content-length": "junk"}).body.size_bytes == 5
    )  # plain: ignored (seen)


def test_plain_chunked_is_superset() -> None:
    """2.6: accepted only by setting, then capped while reading."""
    operation = find_operation("PUT", "/buk/k", {"transfer-encoding": "chunked"}, settings=SUPERSET)
    assert isinstance(operation, PutObject)
    assert (operation.body.size_bytes, operation.body.bytes_max) == (None, OBJECT_BYTES_MAX)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-amz-server-side-encryption": "AES256"}, 501, "NotImplemented"),
        ({"x-amz-server-side-encryption-customer-key": "k"}, 501, "NotImplemented"),
        ({"x-amz-website-redirect-location": "/"}, 501, "NotImplemented"),
        ({"x-amz-write-offset-bytes": "0"}, 501, "NotImplemented"),
        ({"x-amz-if-match-size": "1"}, 501, "NotImplemented"),
        ({"x-amz-if-match-last-modified-time": "x"}, 501, "NotImplemented"),
        ({"x-amz-mfa": "1 2"}, 501, "NotImplemented"),
        ({"x-amz-grant-read": "id=1"}, 501, "NotImplemented"),
        ({"x-amz-object-lock-mode": "GOVERNANCE"}, 501, "NotImplemented"),
        ({"x-amz-bypass-governance-retention": "true"}, 501, "NotImplemented"),
        ({"x-amz-acl": "public-read"}, 501, "NotImplemented"),
        ({"x-amz-acl": "mine"}, 400, "InvalidArgument"),
        ({"x-amz-storage-class": "GLACIER"}, 400, "InvalidStorageClass"),
        ({"x-amz-storage-class": ""}, 400, "InvalidStorageClass"),
        ({"if-modified-since": "x"}, 501, "NotImplemented"),
        ({"if-range": "x"}, 501, "NotImplemented"),
        ({"if-unheard-of": "x"}, 501, "NotImplemented"),
    ],
)
def test_refused_headers_of_a_put(headers: dict[str, str], status: int, code: str) -> None:
    """1.5: an encryption, a lock, an ACL or a condition is never ignored; 501 names the header."""
    error = refusal(put, headers)
    assert (error.status, error.code) == (status, code)
    if status == 501:
        assert error.fields[0][0] == "Header"
        assert error.fields[0][1].lower() in headers


def test_headers_that_pass() -> None:
    """1.0, 1.5: canned ACLs that change nothing, STANDARD, unknown headers, the expected owner."""
    operation = put(
        {
            "x-amz-acl": "bucket-owner-full-control",
            "x-amz-storage-class": "STANDARD",
            "x-amz-request-payer": "requester",
            "x-amz-unheard-of": "1",
            "x-amz-expected-bucket-owner": "me",
        }
    )
    assert operation.expected_owner == "me"


def test_put_conditions() -> None:
    """4.3: the two conditions of a write arrive as the catalog judges them."""
    assert put({"if-none-match": "*"}).condition == WriteCondition(if_none_match_any=True)
    assert put({"if-match": '"abc"'}).condition == WriteCondition(if_match="abc")


def test_put_parameters() -> None:
    """7, 1.1: a part number without its upload, and a version, are errors; never a plain PUT."""
    assert refusal(find_operation, "PUT", "/buk/k?partNumber=1", SIZE).code == "InvalidArgument"
    assert refusal(find_operation, "PUT", "/buk/k?versionId=x", SIZE).code == "InvalidArgument"
    error = refusal(find_operation, "PUT", "/buk/k?partNumber=1&uploadId=u", SIZE)
    assert (error.status, error.fields[0]) == (404, ("UploadId", "u"))


def test_presigned_parameters_count() -> None:
    """2.3: on a presigned URL, a refused feature in the query is refused; without presigning it is a custom name."""
    target = "/buk/k?x-amz-server-side-encryption=AES256"
    assert refusal(find_operation, "PUT", target, SIZE, presigned=True).status == 501
    assert isinstance(find_operation("PUT", target, SIZE), PutObject)
    operation = find_operation("PUT", "/buk/k?X-Amz-Meta-A=1", SIZE, presigned=True)
    assert isinstance(operation, PutObject)
    assert operation.headers.user == (("a", "1"),)


# --- CopyObject -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "bucket", "key"),
    [
        ("src/key", "src", "key"),
        ("/src/key", "src", "key"),
        ("src/a%2Fb%20c+d", "src", "a/b c+d"),
        ("src%2Fkey", "src", "key"),
        ("src//x", "src", "/x"),
        ("src/a%3FversionId=x", "src", "a?versionId=x"),
        ("src/key?versionId=null", "src", "key"),
        ("src/ключ", "src", "ключ"),
    ],
)
def test_copy_source(source: str, bucket: str, key: str) -> None:
    """1.1.6: one leading slash, cut at the last version, decoded once as a path."""
    operation = copy(source)
    assert (operation.source.bucket, operation.source.key) == (bucket, key)


@pytest.mark.parametrize(
    "source",
    [
        *("", "/", "src", "src/", "//key", "src/%zz", "src/%ff", "src/key?versionId="),
    ],
)
def test_bad_copy_source(source: str) -> None:
    """Section 11: without ``/``, without key, undecodable, bad version -> 400 InvalidArgument."""
    error = refusal(copy, source)
    assert (error.status, error.code) == (400, "InvalidArgument")
    assert error.fields[0] == ("ArgumentName", "x-amz-copy-source")


def test_copy_source_that_cannot_exist() -> None:
    """A source bucket that could not be is 404 NoSuchBucket; a key over 1,024 bytes is too long everywhere."""
    assert refusal(copy, "B_/k").code == "NoSuchBucket"
    assert refusal(copy, "src/" + "k" * 1025).code == "KeyTooLongError"


@pytest.mark.parametrize(
    ("headers", "changes"),
    [
        ({}, False),
        ({"x-amz-metadata-directive": "COPY"}, False),
        ({"x-amz-metadata-directive": "REPLACE"}, True),
        ({"x-amz-storage-class": "STANDARD"}, True),
        ({"x-amz-checksum-algorithm": "SHA256"}, True),
        ({"if-match": '"x"'}, True),
        ({"if-none-match": "*"}, False),
        ({"x-amz-meta-a": "1"}, False),
    ],
)
def test_what_makes_a_self_copy_legal(headers: dict[str, str], changes: bool) -> None:
    """1.1.6: REPLACE (even empty), a storage class, a checksum algorithm, a version, or If-Match (seen)."""
    assert copy(headers=headers).changes_something is changes
    assert copy("src/key?versionId=null", headers).changes_something


def test_copy_headers() -> None:
    """1.1.6: COPY ignores the request's metadata, REPLACE takes only the request's."""
    metadata = {"content-type": "a/b", "x-amz-meta-a": "1"}
    assert copy(headers=metadata).headers is None
    replaced = copy(headers=metadata | {"x-amz-metadata-directive": "REPLACE"})
    assert replaced.headers == StoredHeaders(content_type="a/b", user=(("a", "1"),))
    assert copy(headers={"x-amz-checksum-algorithm": "sha1"}).algorithm is ChecksumAlgorithm.SHA1
    conditional = copy(headers={"x-amz-copy-source-if-match": '"e"'})
    assert conditional.source_condition.if_match == ("e",)
    assert conditional.source_condition_names == ("x-amz-copy-source-if-match",)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x-amz-metadata-directive": "MERGE"}, 400, "InvalidArgument"),
        ({"x-amz-tagging-directive": "x"}, 400, "InvalidArgument"),
        ({"x-amz-checksum-algorithm": "MD4"}, 400, "InvalidRequest"),
        ({"content-length": "3"}, 400, "InvalidRequest"),
        ({"x-amz-copy-source-range": "bytes=0-1"}, 501, "NotImplemented"),
        ({"x-amz-copy-source-server-side-encryption-customer-key": "k"}, 501, "NotImplemented"),
    ],
)
def test_refused_copies(headers: dict[str, str], status: int, code: str) -> None:
    """Section 11: unknown directive 400 InvalidArgument, a body 400 InvalidRequest; 501 for what is not done."""
    error = refusal(copy, headers=headers)
    assert (error.status, error.code) == (status, code)


# --- reads and deletes ------------------------------------------------------------------------------
def test_get_object() -> None:
    """1.1.5: overrides, checksum mode and ``versionId=null``; HEAD reads the same."""
    query = "versionId=null&response-content-type=text/html&response-expires=never"
    operation = find_operation("GET", f"/buk/k?{query}", {"x-amz-checksum-mode": "ENABLED"})
    assert isinstance(operation, GetObject)
    assert operation.overrides == (("Content-Type", "text/html"), ("Expires", "never"))
    assert operation.shows_checksum
    assert operation.version_id == "null"
    assert isinstance(find_operation("HEAD", f"/buk/k?{query}"), HeadObject)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_an_empty_version_id(method: str) -> None:
    """Section 11: ``versionId`` empty -> 400 InvalidArgument; which ids are ours the handler knows."""
    error = refusal(find_operation, method, "/buk/k?versionId=")
    assert error.code == "InvalidArgument"
    assert error.fields == (("ArgumentName", "versionId"), ("ArgumentValue", ""))


def test_overrides_cannot_split_the_response() -> None:
    """Section 11: a header value with CR, LF or NUL never reaches a response."""
    for text in ("a%0D%0Ab", "%00", "%7F"):
        error = refusal(find_operation, "GET", f"/buk/k?response-content-type={text}")
        assert error.code == "InvalidArgument"


def test_delete_object() -> None:
    """4.3: ``If-Match``, with ``*`` too; no other condition."""
    operation = find_operation("DELETE", "/buk/k", {"if-match": "*"})
    assert isinstance(operation, DeleteObject)
    assert operation.condition == WriteCondition(if_match="*")
    for headers in (
        {"if-none-match": "*"},
        {"if-unmodified-since": "x"},
        {"x-amz-mfa": "1"},
        {"x-amz-bypass-governance-retention": "true"},
    ):
        assert refusal(find_operation, "DELETE", "/buk/k", headers).status == 501


def test_delete_objects() -> None:
    """1.1.7, section 11: an integrity header is required; 8 MiB at most; no streaming token."""
    bypass = {"x-amz-bypass-governance-retention": "true"}
    assert refusal(find_operation, "POST", "/buk?delete", SIZE | MD5 | bypass).status == 501
    operation = find_operation("POST", "/buk?delete", SIZE | MD5)
    assert isinstance(operation, DeleteObjects)
    crc = SIZE | {"x-amz-checksum-crc32": "AAAAAA=="}
    assert isinstance(find_operation("POST", "/buk?delete", crc), DeleteObjects)
    assert refusal(find_operation, "POST", "/buk?delete", SIZE).code == "InvalidRequest"
    assert refusal(find_operation, "POST", "/buk?delete", MD5).code == "MissingContentLength"
    big = MD5 | {"content-length": str(XML_BYTES_MAX + 1)}
    assert refusal(find_operation, "POST", "/buk?delete", big).code == "MaxMessageLengthExceeded"
    error = refusal(find_operation, "POST", "/buk?delete", SIZE | MD5, payload=CHUNKED)
    assert error.code == "InvalidRequest"


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/buk/k"), ("GET", "/buk"), ("DELETE", "/buk/k"), ("PUT", "/buk"), ("GET", "/")],
)
def test_streaming_tokens_are_for_uploads(method: str, target: str) -> None:
    """3.2: elsewhere 400 InvalidRequest."""
    error = refusal(find_operation, method, target, {"content-length": "0"}, payload=CHUNKED)
    assert (error.status, error.code) == (400, "InvalidRequest")


@pytest.mark.parametrize("target", ["/buk", "/buk?list-type=2", "/buk?location", "/buk?acl", "/"])
@pytest.mark.parametrize("name", ["if-match", "if-none-match", "if-modified-since"])
def test_conditions_without_a_row(target: str, name: str) -> None:
    """1.5: ``If-*`` where section 4 has no row -> 501."""
    assert refusal(find_operation, "GET", target, {name: "*"}).status == 501


# --- buckets ----------------------------------------------------------------------------------------
def test_create_bucket() -> None:
    """1.1.2, 2.6: no length means no body; a Content-Type alone does not make one."""
    for headers in ({}, {"content-length": "0"}, {"content-type": "application/xml"}):
        operation = find_operation("PUT", "/buk", headers)
        assert isinstance(operation, CreateBucket)
        assert operation.body is None
    operation = find_operation("PUT", "/buk", SIZE)
    assert isinstance(operation, CreateBucket)
    assert operation.body is not None
    assert operation.body.bytes_max == XML_CONFIG_BYTES_MAX
    big = {"content-length": str(XML_CONFIG_BYTES_MAX + 1)}
    assert refusal(find_operation, "PUT", "/buk", big).code == "MaxMessageLengthExceeded"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-amz-bucket-object-lock-enabled": "true"}, 501),
        ({"x-amz-bucket-object-lock-enabled": "false"}, 0),
        ({"x-amz-object-ownership": "BucketOwnerEnforced"}, 0),
        ({"x-amz-object-ownership": "ObjectWriter"}, 501),
        ({"x-amz-object-ownership": "Nobody"}, 400),
        ({"x-amz-acl": "private"}, 0),
        ({"x-amz-acl": "public-read"}, 501),
        ({"x-amz-acl": "x"}, 400),
        ({"x-amz-bucket-namespace": "x"}, 501),
        ({"x-amz-grant-read": "x"}, 501),
    ],
)
def test_headers_of_create_bucket(headers: dict[str, str], status: int) -> None:
    """1.5: what a new bucket would not have is refused."""
    if status:
        assert refusal(find_operation, "PUT", "/buk", headers).status == status
    else:
        assert isinstance(find_operation("PUT", "/buk", headers), CreateBucket)


@pytest.mark.parametrize(
    ("constraint", "region", "code"),
    [
        (None, "us-east-1", ""),
        ("", "us-east-1", ""),
        ("us-east-1", "us-east-1", "InvalidLocationConstraint"),
        ("eu-west-1", "us-east-1", "InvalidLocationConstraint"),
        ("eu-west-1", "eu-west-1", ""),
        ("EU", "eu-west-1", ""),
        (None, "eu-west-1", "IllegalLocationConstraintException"),
        ("us-east-1", "eu-west-1", "IllegalLocationConstraintException"),
    ],
)
def test_location_constraints(constraint: str | None, region: str, code: str) -> None:
    """1.1.2, row by row."""
    if code:
        error = refusal(check_location, constraint, region)
        assert (error.status, error.code) == (400, code)
    else:
        check_location(constraint, region)


@pytest.mark.parametrize("name", ["ab", "A-b-c", "a_b", "x" * 64, "192.168.1.1", "caf%C3%A9"])
def test_buckets_that_cannot_exist(name: str) -> None:
    """Section 11: CreateBucket 400 InvalidBucketName, others 404 NoSuchBucket, after everything else."""
    error = refusal(find_operation, "PUT", f"/{name}")
    assert (error.status, error.code) == (400, "InvalidBucketName")
    for method, target in (("GET", f"/{name}"), ("HEAD", f"/{name}/k"), ("DELETE", f"/{name}")):
        error = refusal(find_operation, method, target)
        assert (error.status, error.code) == (404, "NoSuchBucket")


def test_list_buckets() -> None:
    """1.1.3: parameters and their limits."""
    plain = find_operation("GET", "/?x-id=ListBuckets")
    assert plain == ListBuckets(
        prefix="", continuation_token="", bucket_region=None, max_buckets=10_000, shows_region=False
    )
    paged = find_operation("GET", "/?max-buckets=5&prefix=p&continuation-token=")
    assert isinstance(paged, ListBuckets)
    assert (paged.max_buckets, paged.prefix, paged.shows_region) == (5, "p", True)
    for query in ("max-buckets=0", "max-buckets=10001", "max-buckets=x", "bucket-region=a+b"):
        assert refusal(find_operation, "GET", f"/?{query}").code == "InvalidArgument"


def test_lists() -> None:
    """6.1: the parameters of each listing."""
    v2 = find_operation(
        "GET", "/buk?list-type=2&prefix=p&delimiter=%2F&max-keys=2&start-after=s&fetch-owner=true"
    )
    assert isinstance(v2, ListObjectsV2)
    assert (v2.list.prefix, v2.list.delimiter, v2.list.max_keys) == ("p", "/", 2)
    assert (v2.start_after, v2.continuation_token, v2.fetch_owner) == ("s", None, True)
    v1 = find_operation("GET", "/buk?marker=m&encoding-type=url")
    assert isinstance(v1, ListObjects)
    assert (v1.marker, v1.list.encodes_url, v1.list.max_keys) == ("m", True, 1000)
    versions = find_operation("GET", "/buk?versions&key-marker=k&version-id-marker=null")
    assert isinstance(versions, ListObjectVersions)
    assert (versions.key_marker, versions.version_id_marker) == ("k", "null")
    uploads = find_operation("GET", "/buk?uploads&max-uploads=7&upload-id-marker=ignored")
    assert isinstance(uploads, ListMultipartUploads)
    assert uploads.list.max_keys == 7


def test_subresources() -> None:
    """1.4: what is asked of a configuration that is not there."""
    get = find_operation("GET", "/buk?inventory&id=x")
    assert isinstance(get, GetSubresource)
    assert (get.key, get.selector, get.configuration_id) == ("", "inventory", "x")
    delete = find_operation("DELETE", "/buk/k?retention")
    assert isinstance(delete, DeleteSubresource)
    assert (delete.key, delete.selector) == ("k", "retention")
    error = refusal(find_operation, "PUT", "/buk?policy", SIZE)
    assert (error.status, error.code) == (501, "NotImplemented")
    assert error.fields[0] == ("Header", "policy")
