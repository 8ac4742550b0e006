"""One frozen dataclass per S3 operation: what a request asks for, every header and parameter read. Pure.

Made by ``parsing.parse_operation``. Ranges, digests and conditions are values here, not text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sos.catalog.model import (
    BucketSetting,
    Checksum,
    ChecksumAlgorithm,
    CopySourceCondition,
    StoredHeaders,
    UploadId,
    WriteCondition,
)
from sos.s3.checksums import DigestPlan
from sos.s3.conditional import ReadConditions
from sos.s3.listing import ListParameters
from sos.s3.sigv4 import Payload


class BodyPlan(NamedTuple):
    """How to read a request body; a named tuple: one per upload, on the hot path. ``size_bytes``: of the decoded body; ``None`` = not announced (superset).

    ``is_chunked``: aws-chunked, to be peeled. ``bytes_max``: refuse more while reading.
    """

    payload: Payload
    digests: DigestPlan
    size_bytes: int | None
    bytes_max: int
    is_chunked: bool


class CopySource(NamedTuple):
    """What ``x-amz-copy-source`` names; ``version_id`` as the client sent it, None: the current version."""

    bucket: str
    key: str
    version_id: str | None


# --- operations -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class ListBuckets:
    """``shows_region``: any parameter was given (s3.md 1.1.3)."""

    prefix: str
    continuation_token: str
    bucket_region: str | None
    max_buckets: int
    shows_region: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketOperation:
    """An operation on a bucket. ``expected_owner``: ``x-amz-expected-bucket-owner``, not yet judged."""

    bucket: str
    expected_owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBucket(BucketOperation):
    """``body is None``: empty. Its location constraint goes to ``parsing.check_location``."""

    body: BodyPlan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadBucket(BucketOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteBucket(BucketOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class GetBucketLocation(BucketOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class ListObjects(BucketOperation):
    list: ListParameters
    marker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListObjectsV2(BucketOperation):
    """``continuation_token`` goes to ``listing.list_position``, with the cluster's token secret."""

    list: ListParameters
    continuation_token: str | None
    start_after: str | None
    fetch_owner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListObjectVersions(BucketOperation):
    list: ListParameters
    key_marker: str
    version_id_marker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListMultipartUploads(BucketOperation):
    """``list.max_keys`` is ``max-uploads``; ``upload_marker is None``: behind all uploads of ``key_marker``."""

    list: ListParameters
    key_marker: str
    upload_marker: UploadId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetBucketVersioning(BucketOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBucketVersioning(BucketOperation):
    body: BodyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingOperation(BucketOperation):
    setting: BucketSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class GetBucketSetting(SettingOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBucketSetting(SettingOperation):
    body: BodyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteBucketSetting(SettingOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteObjects(BucketOperation):
    """Its body goes to ``xml.parse_delete``, once its digests held."""

    body: BodyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSubresource(BucketOperation):
    """``GET ?selector`` of a configuration that is not there (s3.md 1.4). ``key`` is empty on a bucket."""

    key: str
    selector: str
    configuration_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSubresource(BucketOperation):
    """``DELETE ?selector``: 204, there is nothing to delete. ``key`` is empty on a bucket."""

    key: str
    selector: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectOperation(BucketOperation):
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PutObject(ObjectOperation):
    headers: StoredHeaders
    condition: WriteCondition
    body: BodyPlan
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyObject(ObjectOperation):
    """``headers is None``: keep the source's. ``algorithm``: recompute the checksum with it.

    ``changes_something``: a copy onto itself is legal (s3.md 1.1.6).
    """

    source: CopySource
    source_condition: CopySourceCondition
    source_condition_names: tuple[str, ...]
    expected_source_owner: str | None
    condition: WriteCondition
    headers: StoredHeaders | None
    algorithm: ChecksumAlgorithm | None
    changes_something: bool
    tags: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOperation(ObjectOperation):
    """``overrides``: response headers to replace on a 200 or 206."""

    conditions: ReadConditions
    overrides: tuple[tuple[str, str], ...]
    shows_checksum: bool
    version_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetObject(ReadOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadObject(ReadOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteObject(ObjectOperation):
    condition: WriteCondition
    version_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionOperation(ObjectOperation):
    version_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GetObjectTagging(VersionOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class PutObjectTagging(VersionOperation):
    body: BodyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteObjectTagging(VersionOperation):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class GetObjectAttributes(VersionOperation):
    """``wanted``: names of attributes. ``after``, ``max_parts``: which parts."""

    wanted: frozenset[str]
    after: int
    max_parts: int


# --- multipart uploads --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class CreateMultipartUpload(ObjectOperation):
    """``algorithm is None``: none was named."""

    headers: StoredHeaders
    algorithm: ChecksumAlgorithm | None
    composite: bool
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOperation(ObjectOperation):
    upload: UploadId


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPart(UploadOperation):
    number: int
    body: BodyPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPartCopy(UploadOperation):
    """``span``: bytes ``[start, stop)`` of the source; None: all."""

    number: int
    source: CopySource
    span: tuple[int, int] | None
    source_condition: CopySourceCondition
    source_condition_names: tuple[str, ...]
    expected_source_owner: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListParts(UploadOperation):
    """Parts with numbers above ``after``."""

    after: int
    max_parts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteMultipartUpload(UploadOperation):
    """``checksum``, ``composite`` and ``size_bytes`` are what the client says of the object; None: nothing."""

    body: BodyPlan
    condition: WriteCondition
    checksum: Checksum | None
    composite: bool | None
    size_bytes: int | None
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortMultipartUpload(UploadOperation):
    pass


Operation = (
    CreateMultipartUpload
    | UploadPart
    | UploadPartCopy
    | ListParts
    | CompleteMultipartUpload
    | AbortMultipartUpload
    | ListBuckets
    | CreateBucket
    | HeadBucket
    | DeleteBucket
    | GetBucketLocation
    | ListObjects
    | ListObjectsV2
    | ListObjectVersions
    | ListMultipartUploads
    | GetBucketSetting
    | PutBucketSetting
    | DeleteBucketSetting
    | GetObjectTagging
    | PutObjectTagging
    | DeleteObjectTagging
    | GetObjectAttributes
    | GetBucketVersioning
    | PutBucketVersioning
    | DeleteObjects
    | GetSubresource
    | DeleteSubresource
    | PutObject
    | CopyObject
    | GetObject
    | HeadObject
    | DeleteObject
)
