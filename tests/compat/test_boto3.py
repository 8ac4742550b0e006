"""SOS through boto3 as people use it: defaults, odd configurations, error classes (s3.md 10)."""

from __future__ import annotations

import hashlib
import io
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.compat.conftest import Site

CONFIGS: dict[str, Any] = {
    "defaults": {},
    "no default checksums": {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    },
    "unsigned payload": {"s3": {"payload_signing_enabled": False}},
    "path style": {"s3": {"addressing_style": "path"}},
}


@pytest.fixture(params=CONFIGS, ids=list(CONFIGS))
def s3(site: Site, request: pytest.FixtureRequest) -> Iterator[Any]:
    config = Config(signature_version="s3v4", retries={"max_attempts": 0}, **CONFIGS[request.param])
    client = boto3.client(
        "s3",
        endpoint_url=site.url(),
        aws_access_key_id=site.credentials.access_key,
        aws_secret_access_key=site.credentials.secret_key,
        region_name=site.credentials.region,
        verify=str(site.certificate) if site.certificate else None,
        config=config,
    )
    yield client
    client.close()


def data_of(size: int) -> bytes:
    return (hashlib.sha256(b"boto").digest() * (size // 32 + 1))[:size]


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize("size", [0, 5, 16_384, 100_000, 5 * 1024 * 1024])
def test_put_get_head_delete(s3: Any, bucket: str, size: int) -> None:
    """The first thing that anybody tries works, with every checksum default (s3.md 8)."""
    data = data_of(size)

    stored = s3.put_object(Bucket=bucket, Key="a/b c+d", Body=data, Metadata={"who": "me"})
    got = s3.get_object(Bucket=bucket, Key="a/b c+d")
    head = s3.head_object(Bucket=bucket, Key="a/b c+d")

    assert got["Body"].read() == data
    assert got["ETag"] == stored["ETag"]
    assert head["ContentLength"] == size
    assert head["Metadata"] == {"who": "me"}
    s3.delete_object(Bucket=bucket, Key="a/b c+d")
    with pytest.raises(ClientError) as gone:
        s3.head_object(Bucket=bucket, Key="a/b c+d")
    assert code_of(gone) == ("404", 404)


def test_file_like_bodies(s3: Any, bucket: str) -> None:
    """boto3 sends Expect for every file-like body (s3.md 10)."""
    data = data_of(300_000)

    s3.put_object(Bucket=bucket, Key="k", Body=io.BytesIO(data))
    s3.upload_fileobj(
        io.BytesIO(data), bucket, "u", Config=TransferConfig(multipart_threshold=1024**3)
    )

    target = io.BytesIO()
    s3.download_fileobj(bucket, "u", target)
    assert target.getvalue() == data
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data


def test_ranged_downloads(s3: Any, bucket: str) -> None:
    """A managed download in ranges, with If-Match, gives the whole (s3.md 10)."""
    data = data_of(1_000_000)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    target = io.BytesIO()

    s3.download_fileobj(
        bucket,
        "k",
        target,
        Config=TransferConfig(multipart_threshold=100_000, multipart_chunksize=100_000),
    )

    assert target.getvalue() == data


def test_listings_through_paginators(s3: Any, bucket: str) -> None:
    """Paginators of both versions, with a delimiter, see every key once (s3.md 6)."""
    names = [f"d{number % 3}/k {number}+é" for number in range(10)]
    for name in names:
        s3.put_object(Bucket=bucket, Key=name, Body=b"")

    for operation in ("list_objects_v2", "list_objects"):
        pages = s3.get_paginator(operation).paginate(
            Bucket=bucket, PaginationConfig={"PageSize": 3}
        )
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == sorted(names)
        pages = s3.get_paginator(operation).paginate(
            Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 2}
        )
        prefixes = [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", [])]
        assert prefixes == ["d0/", "d1/", "d2/"]
    versions = s3.list_object_versions(Bucket=bucket)
    assert len(versions["Versions"]) == 10


def test_batch_delete(s3: Any, bucket: str) -> None:
    """delete_objects removes what is there and what is not (s3.md 1.1.7)."""
    for number in range(5):
        s3.put_object(Bucket=bucket, Key=f"k{number}", Body=b"x")

    answer = s3.delete_objects(
        Bucket=bucket,
        Delete={"Objects": [{"Key": f"k{number}"} for number in range(7)]},
    )

    assert len(answer["Deleted"]) == 7
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_copy(s3: Any, bucket: str) -> None:
    """copy_object and the managed copy (which heads first)."""
    s3.put_object(Bucket=bucket, Key="from", Body=b"data", Metadata={"a": "1"})

    s3.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from"})
    s3.copy({"Bucket": bucket, "Key": "to"}, bucket, "third")

    got = s3.get_object(Bucket=bucket, Key="third")
    assert got["Body"].read() == b"data"
    assert got["Metadata"] == {"a": "1"}


def test_conditional_writes(s3: Any, bucket: str) -> None:
    """IfNoneMatch and IfMatch, the base of lock files and commits (s3.md 4.3, 10)."""
    first = s3.put_object(Bucket=bucket, Key="lock", Body=b"1", IfNoneMatch="*")

    with pytest.raises(ClientError) as taken:
        s3.put_object(Bucket=bucket, Key="lock", Body=b"2", IfNoneMatch="*")
    second = s3.put_object(Bucket=bucket, Key="lock", Body=b"3", IfMatch=first["ETag"])
    with pytest.raises(ClientError) as stale:
        s3.put_object(Bucket=bucket, Key="lock", Body=b"4", IfMatch=first["ETag"])

    assert code_of(taken) == ("PreconditionFailed", 412)
    assert code_of(stale) == ("PreconditionFailed", 412)
    assert s3.head_object(Bucket=bucket, Key="lock")["ETag"] == second["ETag"]


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksum_algorithms(s3: Any, bucket: str, algorithm: str) -> None:
    """Every algorithm that SDKs offer is verified, stored and shown (s3.md 8)."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"data", ChecksumAlgorithm=algorithm)

    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")

    assert got["Body"].read() == b"data"
    assert got[f"Checksum{algorithm}"]


def test_errors_have_their_classes(s3: Any, bucket: str) -> None:
    """boto3 maps codes to exception classes: they must be exact (s3.md 10)."""
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="none")
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.list_objects_v2(Bucket="no-such-bucket-here")
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="k", ServerSideEncryption="AES256")
    assert code_of(refused) == ("NotImplemented", 501)


def test_presigned_urls(site: Site, s3: Any, bucket: str) -> None:
    """A URL from generate_presigned_url works in any HTTP client (s3.md 3.3)."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"shared")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})

    with urllib.request.urlopen(url, context=site.client_tls) as answer:
        body = answer.read()

    assert body == b"shared"


def test_waiters_and_buckets(s3: Any, bucket: str) -> None:
    """Waiters poll HEAD: the statuses must be right."""
    s3.get_waiter("bucket_exists").wait(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    s3.get_waiter("object_exists").wait(Bucket=bucket, Key="k")
    s3.get_bucket_location(Bucket=bucket)
    assert s3.get_bucket_versioning(Bucket=bucket).get("Status") is None
    assert s3.get_bucket_acl(Bucket=bucket)["Grants"][0]["Permission"] == "FULL_CONTROL"
    names = [found["Name"] for found in s3.list_buckets()["Buckets"]]
    assert bucket in names
    with pytest.raises(ClientError) as full:
        s3.delete_bucket(Bucket=bucket)
    assert code_of(full) == ("BucketNotEmpty", 409)
