"""A person with boto3 who does things in the wrong order, or asks for what is not there yet.

Every request goes to the next endpoint (three nodes in turn on a cluster), so what one node was told must
be the truth on the others.
"""

from __future__ import annotations

import itertools
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.compat.conftest import Site

ODD_KEYS = (
    *("ünïcode/日本語", "emoji😀", "a b+c", "a%2Fb", "%", "a//b", "//", "/", "/lead", "trail/", ".", ".."),
    *("../../x", "a/../b", "..%2f", "back\\slash", "tab\tx", "line\nx", "return\rx", "nul\0x", "\x01\x1f\x7f"),
    *("x" * 1024, "é" * 512, " lead", "trail ", "q?x=1", "#f", "a&b=c;d", "<k>&\"'", "\u202ertl", "\ufffe"),
    *("NFC\u00e9", "NFDe\u0301", "data.mdb", "?uploads", "`$(x)`", "~", "*", "(a)!", "=", "@"),
)  # fmt: skip


class Turns:
    """boto3 clients of every endpoint, used in turn."""

    def __init__(self, site: Site) -> None:
        self._clients = [
            boto3.client(
                "s3",
                endpoint_url=url,
                aws_access_key_id=site.credentials.access_key,
                aws_secret_access_key=site.credentials.secret_key,
                region_name=site.credentials.region,
                verify=str(site.certificate) if site.certificate else None,
                config=Config(signature_version="s3v4", retries={"max_attempts": 0}),
            )
            for url in site.urls
        ]
        self._turn = itertools.cycle(self._clients)

    def __getattr__(self, name: str) -> Any:
        return getattr(next(self._turn), name)

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def s3(site: Site) -> Iterator[Turns]:
    turns = Turns(site)
    yield turns
    turns.close()


def told(call: Callable[[], Any]) -> tuple[int, str, str]:
    """Status, code and message of a refusal."""
    with pytest.raises(ClientError) as caught:
        call()
    response = caught.value.response
    error = response["Error"]
    return response["ResponseMetadata"]["HTTPStatusCode"], error["Code"], error.get("Message", "")


def test_before_there_is_a_bucket(s3: Turns) -> None:
    """Everything in a bucket that nobody made: 404 with its name, small and large bodies alike (s3.md 9)."""
    name = "nobody-made-this-bucket"
    calls: list[Callable[[], Any]] = [
        lambda: s3.put_object(Bucket=name, Key="k", Body=b"x"),
        lambda: s3.put_object(Bucket=name, Key="k", Body=b"x" * 3_000_000),
        lambda: s3.get_object(Bucket=name, Key="k"),
        lambda: s3.delete_object(Bucket=name, Key="k"),
        lambda: s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "k"}]}),
        lambda: s3.list_objects_v2(Bucket=name),
        lambda: s3.list_objects(Bucket=name),
        lambda: s3.list_object_versions(Bucket=name),
        lambda: s3.get_bucket_location(Bucket=name),
        lambda: s3.get_bucket_versioning(Bucket=name),
        lambda: s3.delete_bucket(Bucket=name),
        lambda: s3.copy_object(Bucket=name, Key="k", CopySource=f"{name}/k"),
    ]
    for call in calls:
        assert told(call)[:2] == (404, "NoSuchBucket")
    assert told(lambda: s3.head_bucket(Bucket=name))[:2] == (404, "404")
    assert told(lambda: s3.head_object(Bucket=name, Key="k"))[:2] == (404, "404")


def test_a_bucket_goes_only_when_it_is_empty_and_comes_back_empty(s3: Turns, bucket: str) -> None:
    """409 while a key is left; afterwards a bucket of the same name is a new one (s3.md 1.1.4)."""
    for _ in range(3):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
        assert told(lambda: s3.delete_bucket(Bucket=bucket))[:2] == (409, "BucketNotEmpty")
        s3.delete_object(Bucket=bucket, Key="k")
        s3.delete_bucket(Bucket=bucket)
        assert told(lambda: s3.get_object(Bucket=bucket, Key="k"))[:2] == (404, "NoSuchBucket")
        s3.create_bucket(Bucket=bucket)
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
        assert told(lambda: s3.get_object(Bucket=bucket, Key="k"))[:2] == (404, "NoSuchKey")


def test_odd_keys_live_through_every_operation(s3: Turns, bucket: str) -> None:
    """Stored, read, copied, presigned, listed and deleted, each on the next endpoint (s3.md 2.2)."""
    for key in ODD_KEYS:
        body = key.encode()
        s3.put_object(Bucket=bucket, Key=key, Body=body)
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
        assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == body
        page = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
        assert page["Contents"][0]["Key"] == key
    s3.delete_object(Bucket=bucket, Key="copy")
    pages = [s3.list_objects_v2(Bucket=bucket, MaxKeys=7)]
    while pages[-1]["IsTruncated"]:
        token = pages[-1]["NextContinuationToken"]
        pages.append(s3.list_objects_v2(Bucket=bucket, MaxKeys=7, ContinuationToken=token))
    listed = [row["Key"] for page in pages for row in page["Contents"]]
    assert listed == sorted(ODD_KEYS, key=str.encode)
    for key in ODD_KEYS:
        s3.delete_object(Bucket=bucket, Key=key)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_presigned_urls_of_odd_keys(site: Site, s3: Turns, bucket: str) -> None:
    """What the SDK encodes into a URL names the same key as what it signs into a header."""
    for key in ODD_KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
        with urllib.request.urlopen(url, timeout=20, context=site.client_tls) as answer:
            assert answer.read() == key.encode()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda s3, b: s3.put_bucket_policy(Bucket=b, Policy="{}"), "PUT ?policy"),
        (lambda s3, b: s3.put_object(Bucket=b, Key="k", ACL="public-read"), "x-amz-acl"),
        (
            lambda s3, b: s3.put_object(Bucket=b, Key="k", ServerSideEncryption="AES256"),
            "x-amz-server-side-encryption",
        ),
        (lambda s3, b: s3.put_object(Bucket=b, Key="k", WriteOffsetBytes=1), "x-amz-write-offset"),
        (lambda s3, b: s3.put_object(Bucket=b, Key="k", IfMatch="*"), "If-Match"),
    ],
)  # fmt: skip
def test_what_is_not_offered_yet_says_so(
    s3: Turns, bucket: str, call: Callable[[Turns, str], Any], named: str
) -> None:
    """501 whose message, all that most tools print, names what was asked for; nothing stored (s3.md 0)."""
    status, code, message = told(lambda: call(s3, bucket))
    assert (status, code) == (501, "NotImplemented")
    assert named in message
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
