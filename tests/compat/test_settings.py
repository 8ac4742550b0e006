"""Tags, CORS and attributes, by boto3 and by hand: over HTTP, over TLS, and with each request on another of three nodes
(s3.md 1.2, 1.3)."""

from __future__ import annotations

import base64
import hashlib
import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.compat.conftest import Site
from tests.compat.test_multipart import PART, Turns, complete, create, data_of, put_part, refused
from tests.compat.test_versioning import set_versioning

TAGS = [{"Key": "team", "Value": "a b"}, {"Key": "größe", "Value": ""}]
MANY = [{"Key": f"k{number}", "Value": "v"} for number in range(11)]


@pytest.fixture
def s3(site: Site) -> Iterator[Any]:
    turns = Turns(site)
    yield turns
    for client in turns.clients:
        client.close()


def tags_of(s3: Any, bucket: str, key: str = "k", **more: Any) -> dict[str, str]:
    answer = s3.get_object_tagging(Bucket=bucket, Key=key, **more)
    return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}


# --- tags of objects --------------------------------------------------------------------------------
def test_tags_come_and_go(s3: Any, bucket: str) -> None:
    """With the object, or later; the object stays what it is (S3 API: PutObjectTagging)."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b=%C3%A4+c&empty=")
    before = s3.head_object(Bucket=bucket, Key="k")
    assert tags_of(s3, bucket) == {"a": "1", "b": "ä c", "empty": ""}
    assert s3.get_object(Bucket=bucket, Key="k")["TagCount"] == 3

    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": TAGS})
    assert tags_of(s3, bucket) == {"team": "a b", "größe": ""}
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert tags_of(s3, bucket) == {}

    after = s3.head_object(Bucket=bucket, Key="k")
    for name in ("ETag", "LastModified", "ContentLength"):
        assert after[name] == before[name]
    s3.put_object(Bucket=bucket, Key="k", Body=b"y")
    assert tags_of(s3, bucket) == {}, "a PUT replaces all of it"
    for call in (
        lambda: tags_of(s3, bucket, "absent"),
        lambda: s3.put_object_tagging(Bucket=bucket, Key="absent", Tagging={"TagSet": TAGS}),
    ):
        assert refused(call)[:2] == ("NoSuchKey", 404)


def test_tags_of_copies_and_uploads(s3: Any, bucket: str) -> None:
    """Copied along unless the directive says REPLACE; an upload's tags are those of its Create."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="same", CopySource=source, Tagging="ignored=1")
    s3.copy_object(
        Bucket=bucket, Key="other", CopySource=source, Tagging="b=2", TaggingDirective="REPLACE"
    )
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, TaggingDirective="REPLACE")
    assert tags_of(s3, bucket, "same") == {"a": "1"}
    assert tags_of(s3, bucket, "other") == {"b": "2"}
    assert tags_of(s3, bucket) == {}
    upload = create(s3, bucket, Tagging="up=load")
    part = put_part(s3, bucket, upload, 1, b"x")
    complete(s3, bucket, upload, [part])
    assert tags_of(s3, bucket) == {"up": "load"}


def test_tags_of_versions(s3: Any, bucket: str) -> None:
    """Each version has its own; a delete marker has none."""
    set_versioning(s3, bucket, "Enabled")
    one = s3.put_object(Bucket=bucket, Key="k", Body=b"1", Tagging="v=1")["VersionId"]
    two = s3.put_object(Bucket=bucket, Key="k", Body=b"2", Tagging="v=2")["VersionId"]
    answer = s3.put_object_tagging(
        Bucket=bucket, Key="k", VersionId=one, Tagging={"TagSet": [{"Key": "v", "Value": "old"}]}
    )
    assert answer["VersionId"] == one
    assert tags_of(s3, bucket, VersionId=one) == {"v": "old"}
    assert tags_of(s3, bucket) == tags_of(s3, bucket, VersionId=two) == {"v": "2"}
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    assert refused(lambda: tags_of(s3, bucket))[:2] == ("NoSuchKey", 404)
    by_id = refused(
        lambda: s3.put_object_tagging(
            Bucket=bucket, Key="k", VersionId=marker, Tagging={"TagSet": TAGS}
        )
    )
    assert by_id[:2] == ("MethodNotAllowed", 405)


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        (MANY, "BadRequest"),
        ([{"Key": "k" * 129, "Value": "v"}], "InvalidTag"),
        ([{"Key": "k", "Value": "v" * 257}], "InvalidTag"),
        ([{"Key": "aws:x", "Value": "v"}], "InvalidTag"),
        ([{"Key": "a<b", "Value": "v"}], "InvalidTag"),
        ([{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}], "InvalidTag"),
    ],
)
def test_tags_that_cannot_be(s3: Any, bucket: str, tags: list[Any], code: str) -> None:
    """Section 11: the document and the header alike; nothing is stored."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    answer = refused(
        lambda: s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": tags})
    )
    assert answer[:2] == (code, 400)
    assert tags_of(s3, bucket) == {"a": "1"}


def test_headers_that_cannot_be(s3: Any, bucket: str) -> None:
    """``x-amz-tagging`` that is no query of tags."""
    for text, code in (
        ("=v", "InvalidArgument"),
        ("%zz=1", "InvalidArgument"),
        ("a=1&a=2", "InvalidTag"),
    ):
        answer = refused(
            lambda text=text: s3.put_object(Bucket=bucket, Key="k", Body=b"", Tagging=text)  # type: ignore[misc]
        )
        assert answer[:2] == (code, 400)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


# --- tags of buckets --------------------------------------------------------------------------------
def test_tags_of_buckets(s3: Any, bucket: str) -> None:
    """Put, get, delete; none: 404 NoSuchTagSet; gone with the bucket."""
    assert refused(lambda: s3.get_bucket_tagging(Bucket=bucket))[:2] == ("NoSuchTagSet", 404)
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": TAGS})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == TAGS
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    assert refused(lambda: s3.get_bucket_tagging(Bucket=bucket))[0] == "NoSuchTagSet"
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": MANY})
    s3.delete_bucket_tagging(Bucket=bucket)
    s3.delete_bucket_tagging(Bucket=bucket)
    assert refused(lambda: s3.get_bucket_tagging(Bucket=bucket))[0] == "NoSuchTagSet"


# --- attributes -------------------------------------------------------------------------------------
def test_attributes(s3: Any, bucket: str) -> None:
    """ETag without quotes, checksum with its type, size; parts only of objects in parts (S3 API: GetObjectAttributes)."""
    s3.put_object(Bucket=bucket, Key="one", Body=b"data", ChecksumAlgorithm="SHA256")
    everything = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    found = s3.get_object_attributes(Bucket=bucket, Key="one", ObjectAttributes=everything)
    assert found["ETag"] == hashlib.md5(b"data", usedforsecurity=False).hexdigest()
    sha256 = base64.b64encode(hashlib.sha256(b"data").digest()).decode()
    assert found["Checksum"] == {"ChecksumSHA256": sha256, "ChecksumType": "FULL_OBJECT"}
    assert (found["ObjectSize"], found["StorageClass"]) == (4, "STANDARD")
    assert "ObjectParts" not in found

    upload = create(s3, bucket, ChecksumAlgorithm="SHA256")
    parts = []
    for number, body in ((1, data_of(PART)), (2, b"end")):
        sent = s3.upload_part(
            Bucket=bucket,
            Key="k",
            UploadId=upload,
            PartNumber=number,
            Body=body,
            ChecksumAlgorithm="SHA256",
        )
        parts.append(
            {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": sent["ChecksumSHA256"]}
        )
    complete(s3, bucket, upload, parts)
    found = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts", "Checksum"], MaxParts=1
    )
    assert found["Checksum"]["ChecksumType"] == "COMPOSITE"
    listed = found["ObjectParts"]
    assert (listed["TotalPartsCount"], listed["IsTruncated"]) == (2, True)
    assert listed["Parts"] == [
        {"PartNumber": 1, "Size": PART, "ChecksumSHA256": parts[0]["ChecksumSHA256"]}
    ]
    found = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"], PartNumberMarker=1
    )
    assert [part["PartNumber"] for part in found["ObjectParts"]["Parts"]] == [2]


def test_attributes_that_do_not_exist(site: Site, s3: Any, bucket: str) -> None:
    """Section 11: missing 400 InvalidRequest, unknown 400 InvalidArgument, no object 404."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with site.client() as client:
        query, wanted = [("attributes", "")], {"x-amz-object-attributes": "ETag,Color"}
        none = client.request("GET", f"/{bucket}/k", query=query)
        odd = client.request("GET", f"/{bucket}/k", query=query, headers=wanted)
    assert (none.status, none.code) == (400, "InvalidRequest")
    assert (odd.status, odd.code) == (400, "InvalidArgument")
    absent = refused(
        lambda: s3.get_object_attributes(Bucket=bucket, Key="x", ObjectAttributes=["ETag"])
    )
    assert absent[:2] == ("NoSuchKey", 404)


# --- cross-origin requests --------------------------------------------------------------------------
RULES = [
    {
        "ID": "pages",
        "AllowedOrigins": ["https://*.example.org"],
        "AllowedMethods": ["PUT", "GET"],
        "AllowedHeaders": ["x-amz-*", "content-type"],
        "ExposeHeaders": ["ETag"],
        "MaxAgeSeconds": 60,
    },
    {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]},
]


def send(site: Site, method: str, path: str, headers: dict[str, str]) -> Any:
    """An unsigned request, as a browser sends its preflight."""
    parts = urlsplit(site.url())
    assert parts.hostname is not None
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=20, context=site.client_tls
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_cors_document(s3: Any, bucket: str) -> None:
    """Put, get, delete; none: 404 NoSuchCORSConfiguration; what cannot be is refused (section 11)."""
    missing = refused(lambda: s3.get_bucket_cors(Bucket=bucket))
    assert missing[:2] == ("NoSuchCORSConfiguration", 404)
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == RULES
    for rule, code in (
        ({"AllowedOrigins": ["*"], "AllowedMethods": ["PATCH"]}, "InvalidRequest"),
        ({"AllowedOrigins": ["*.a.*"], "AllowedMethods": ["GET"]}, "InvalidRequest"),
        ({"AllowedOrigins": [], "AllowedMethods": ["GET"]}, "MalformedXML"),
    ):
        answer = refused(
            lambda rule=rule: s3.put_bucket_cors(  # type: ignore[misc]
                Bucket=bucket, CORSConfiguration={"CORSRules": [rule]}
            )
        )
        assert answer[:2] == (code, 400)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == RULES
    s3.delete_bucket_cors(Bucket=bucket)
    assert refused(lambda: s3.get_bucket_cors(Bucket=bucket))[0] == "NoSuchCORSConfiguration"


def test_preflight(site: Site, s3: Any, bucket: str) -> None:
    """OPTIONS without a signature: the first rule that matches, or 403 (s3.md 1.3)."""
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    wanted = {
        "Origin": "https://app.example.org",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "X-Amz-Date, Content-Type",
    }
    answer = send(site, "OPTIONS", f"/{bucket}/k", wanted)
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.org"
    assert answer.headers["Access-Control-Allow-Methods"] == "PUT, GET"
    assert answer.headers["Access-Control-Allow-Headers"] == "x-amz-date, content-type"
    assert answer.headers["Access-Control-Expose-Headers"] == "ETag"
    assert answer.headers["Access-Control-Max-Age"] == "60"
    assert "Origin" in answer.headers["Vary"]
    for change in (
        {"Origin": "https://example.com"},
        {"Access-Control-Request-Method": "DELETE"},
        {"Access-Control-Request-Headers": "authorization"},
    ):
        assert send(site, "OPTIONS", f"/{bucket}/k", wanted | change).status == 403
    assert send(site, "OPTIONS", "/no-such-bucket-anywhere/k", wanted).status == 403
    assert send(site, "OPTIONS", f"/{bucket}/k", {}).status == 400
    s3.delete_bucket_cors(Bucket=bucket)
    assert send(site, "OPTIONS", f"/{bucket}/k", wanted).status == 403


def test_real_requests_carry_the_headers(site: Site, s3: Any, bucket: str) -> None:
    """Errors too; without an Origin nothing (s3.md 1.3)."""
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": RULES})
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with site.client() as client:
        plain = client.request("GET", f"/{bucket}/k")
        crossed = client.request("GET", f"/{bucket}/k", headers={"origin": "http://other"})
        absent = client.request("GET", f"/{bucket}/no", headers={"origin": "http://other"})
    assert plain.header("access-control-allow-origin") is None
    assert (crossed.status, crossed.body) == (200, b"x")
    for answer in (crossed, absent):
        assert answer.header("access-control-allow-origin") == "*"
    assert absent.status == 404
