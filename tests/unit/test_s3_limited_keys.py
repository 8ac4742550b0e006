"""What limited access keys may do: every operation, right and wrong (s3.md 1.3; faults.md 3.6)."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from sos.catalog.model import AccessKeyId, AccessKeyRecord
from sos.s3 import operations as ops
from sos.s3.limited_keys import allows, allows_key, is_limited
from tests.unit.s3_support import find_operation

SIZE = {"content-length": "0"}
UPLOAD = "0" * 32
KEY = AccessKeyRecord(
    access_key=AccessKeyId("K"), secret_key="s", root=False, enabled=True, created_ms=1
)
# One request of each operation: method, target, headers, whether it only reads, whether it is of one object.
REQUESTS: dict[type, tuple[str, str, dict[str, str], bool, bool]] = {
    ops.ListBuckets: ("GET", "/", {}, True, False),
    ops.CreateBucket: ("PUT", "/buk", {}, False, False),
    ops.HeadBucket: ("HEAD", "/buk", {}, True, False),
    ops.DeleteBucket: ("DELETE", "/buk", {}, False, False),
    ops.GetBucketLocation: ("GET", "/buk?location", {}, True, False),
    ops.GetBucketVersioning: ("GET", "/buk?versioning", {}, True, False),
    ops.PutBucketVersioning: ("PUT", "/buk?versioning", SIZE, False, False),
    ops.GetBucketSetting: ("GET", "/buk?cors", {}, True, False),
    ops.PutBucketSetting: ("PUT", "/buk?cors", SIZE, False, False),
    ops.DeleteBucketSetting: ("DELETE", "/buk?cors", {}, False, False),
    ops.GetSubresource: ("GET", "/buk?acl", {}, True, False),
    ops.DeleteSubresource: ("DELETE", "/buk?website", {}, False, False),
    ops.ListObjects: ("GET", "/buk?prefix=in/", {}, True, True),
    ops.ListObjectsV2: ("GET", "/buk?list-type=2&prefix=in/x", {}, True, True),
    ops.ListObjectVersions: ("GET", "/buk?versions&prefix=in/", {}, True, True),
    ops.ListMultipartUploads: ("GET", "/buk?uploads&prefix=in/", {}, True, True),
    ops.DeleteObjects: ("POST", "/buk?delete", {**SIZE, "content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, False, True),
    ops.PutObject: ("PUT", "/buk/in/k", SIZE, False, True),
    ops.CopyObject: ("PUT", "/buk/in/k", {"x-amz-copy-source": "buk/in/s"}, False, True),
    ops.GetObject: ("GET", "/buk/in/k", {}, True, True),
    ops.HeadObject: ("HEAD", "/buk/in/k", {}, True, True),
    ops.DeleteObject: ("DELETE", "/buk/in/k", {}, False, True),
    ops.GetObjectTagging: ("GET", "/buk/in/k?tagging", {}, True, True),
    ops.PutObjectTagging: ("PUT", "/buk/in/k?tagging", SIZE, False, True),
    ops.DeleteObjectTagging: ("DELETE", "/buk/in/k?tagging", {}, False, True),
    ops.GetObjectAttributes: ("GET", "/buk/in/k?attributes", {"x-amz-object-attributes": "ETag"}, True, True),
    ops.CreateMultipartUpload: ("POST", "/buk/in/k?uploads", {}, False, True),
    ops.UploadPart: ("PUT", f"/buk/in/k?partNumber=1&uploadId={UPLOAD}", SIZE, False, True),
    ops.UploadPartCopy: ("PUT", f"/buk/in/k?partNumber=1&uploadId={UPLOAD}", {"x-amz-copy-source": "buk/in/s"}, False, True),
    ops.ListParts: ("GET", f"/buk/in/k?uploadId={UPLOAD}", {}, True, True),
    ops.CompleteMultipartUpload: ("POST", f"/buk/in/k?uploadId={UPLOAD}", SIZE, False, True),
    ops.AbortMultipartUpload: ("DELETE", f"/buk/in/k?uploadId={UPLOAD}", {}, False, True),
}  # fmt: skip
HARMLESS = (ops.ListBuckets, ops.HeadBucket, ops.GetBucketLocation, ops.GetBucketVersioning)


def test_no_operation_is_left_out() -> None:
    """A new operation is refused to limited keys until somebody says what it is; this table says it of all."""
    assert set(get_args(ops.Operation)) == set(REQUESTS)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_each_operation_for_each_kind_of_key(kind: type) -> None:
    """Unlimited, read only, of this bucket, of another, of this prefix, of another."""
    method, target, headers, reads, of_object = REQUESTS[kind]
    operation = find_operation(method, target, headers)
    assert type(operation) is kind
    here, there = replace(KEY, buckets=("a", "buk")), replace(KEY, buckets=("a",))
    below, beside = replace(KEY, prefixes=("x/", "in/")), replace(KEY, prefixes=("out/",))

    assert allows(KEY, operation)
    assert allows(replace(KEY, read_only=True), operation) is reads
    assert allows(here, operation)
    assert allows(there, operation) is (kind is ops.ListBuckets)
    assert allows(below, operation) is (of_object or kind in HARMLESS)
    # the keys of a DeleteObjects are judged one by one, when its document was read
    assert allows(beside, operation) is (kind in HARMLESS or kind is ops.DeleteObjects)
    assert allows(replace(here, read_only=True, prefixes=("in/",)), operation) is (
        reads and (of_object or kind in HARMLESS)
    )


@pytest.mark.parametrize("source", ["other/in/s", "buk/out/s"])
def test_a_copy_reads_its_source(source: str) -> None:
    """Limits hold for both ends."""
    key = replace(KEY, buckets=("buk",), prefixes=("in/",))
    headers = {"x-amz-copy-source": source}
    copies = (
        ("PUT", "/buk/in/k"),
        ("PUT", f"/buk/in/k?partNumber=1&uploadId={UPLOAD}"),
    )
    for method, target in copies:
        assert not allows(key, find_operation(method, target, headers))


def test_lists_show_no_more_than_the_prefix() -> None:
    """A listing has to ask for what the key may see."""
    key = replace(KEY, prefixes=("in/",))
    for query in ("", "&prefix=i", "&prefix=out/"):
        assert not allows(key, find_operation("GET", f"/buk?list-type=2{query}"))


def test_single_keys() -> None:
    """Of a DeleteObjects, one by one."""
    key = replace(KEY, prefixes=("in/", "x"))
    assert [allows_key(key, name) for name in ("in/a", "in", "xyz", "a")] == [
        True,
        False,
        True,
        False,
    ]
    assert allows_key(KEY, "anything")
    assert [is_limited(one) for one in (KEY, key, replace(KEY, read_only=True))] == [
        False,
        True,
        True,
    ]
