"""What the rules see and what they may write. Pure.

``CatalogView`` is point lookups only, so that one set of rules runs against the database inside a batch, against
a read view before proposing, and against dictionaries in tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from sos.catalog.model import (
    AccessKeyId,
    AccessKeyRecord,
    BlobId,
    BlobRecord,
    BucketRecord,
    BucketSetting,
    FinishedUpload,
    Manifest,
    Member,
    NodeId,
    ObjectRecord,
    PartRecord,
    Result,
    UploadId,
    UploadRecord,
    VersionNumber,
)
from sos.values import value


class CatalogView(Protocol):
    """The catalog at one log position."""

    def bucket(self, name: str) -> BucketRecord | None: ...

    def object(self, bucket_id: int, key: str) -> ObjectRecord | None: ...

    def version(self, bucket_id: int, key: str, version: VersionNumber) -> ObjectRecord | None:
        """A version by its number, current or not."""
        ...

    def older_version(self, bucket_id: int, key: str, order: int) -> ObjectRecord | None:
        """The noncurrent version of this order."""
        ...

    def older_versions(self, bucket_id: int, key: str) -> Iterator[ObjectRecord]:
        """All noncurrent versions, the newest first."""
        ...

    def upload(self, upload: UploadId) -> UploadRecord | None:
        """A multipart upload in progress."""
        ...

    def finished_upload(self, upload: UploadId) -> FinishedUpload | None:
        """What became of an upload, for a day."""
        ...

    def part(self, upload: UploadId, number: int) -> PartRecord | None: ...

    def parts(self, upload: UploadId) -> dict[int, PartRecord]:
        """All parts by number, ascending: at most ``PARTS_MAX``."""
        ...

    def blob(self, blob: BlobId) -> BlobRecord | None:
        """A counted blob of either kind."""
        ...

    def was_forgotten(self, blob: BlobId) -> bool:
        """Whether a blob that lay in files was forgotten; known as long as the sweep floor lies below its id."""
        ...

    def access_key(self, access_key: AccessKeyId) -> AccessKeyRecord | None: ...

    def members(self) -> tuple[Member, ...]:
        """The voters of the list in force at this position."""
        ...

    def report_sequence(self, node: NodeId) -> int:
        """Of the node's last accepted report; 0 before the first."""
        ...

    def sweep_floor(self) -> int: ...


# --- writes ---------------------------------------------------------------------------------------
@value(kw_only=False)
class PutBucket:
    record: BucketRecord


@dataclass(frozen=True, slots=True)
class RemoveBucket:
    name: str


@value(kw_only=False)
class PutObjectRow:
    bucket_id: int
    key: str
    record: ObjectRecord
    replaces: bool


@dataclass(frozen=True, slots=True)
class RemoveObjectRow:
    bucket_id: int
    key: str


@dataclass(frozen=True, slots=True)
class PutSetting:
    """A configuration document of a bucket; None removes it."""

    bucket_id: int
    setting: BucketSetting
    document: bytes | None


@value(kw_only=False)
class AddVersionRow:
    """A version that is not the current one any more."""

    bucket_id: int
    key: str
    record: ObjectRecord


@dataclass(frozen=True, slots=True)
class RemoveVersionRow:
    bucket_id: int
    key: str
    order: int


@dataclass(frozen=True, slots=True)
class AddUpload:
    record: UploadRecord


@dataclass(frozen=True, slots=True)
class FinishUpload:
    """The upload is no longer in progress; its parts stay. What became of others a day before may be forgotten."""

    record: UploadRecord
    finished: FinishedUpload


@dataclass(frozen=True, slots=True)
class DropUploads:
    """All uploads into a bucket that goes, with their parts."""

    bucket_id: int


@dataclass(frozen=True, slots=True)
class PutPart:
    upload: UploadId
    record: PartRecord


@dataclass(frozen=True, slots=True)
class RemovePart:
    upload: UploadId
    number: int


@dataclass(frozen=True, slots=True)
class PutManifest:
    upload: UploadId
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ReleaseParts:
    """Nothing names these parts any more: their bytes are forgotten, many of them with the entries that follow."""

    upload: UploadId


@value(kw_only=False)
class AddInline:
    """A new body with one reference."""

    blob: BlobId
    data: bytes


@dataclass(frozen=True, slots=True)
class SetInlineCount:
    blob: BlobId
    reference_count: int


@dataclass(frozen=True, slots=True)
class RemoveInline:
    blob: BlobId


@dataclass(frozen=True, slots=True)
class AddBlob:
    record: BlobRecord


@dataclass(frozen=True, slots=True)
class ReplaceBlob:
    """New count or holders of a blob in files."""

    record: BlobRecord


@dataclass(frozen=True, slots=True)
class ForgetBlob:
    """The last reference went: the row goes, nodes may unlink the file, the id is never named again."""

    record: BlobRecord


@dataclass(frozen=True, slots=True)
class AddOwed:
    """``node`` has no copy; no change if that was known."""

    node: NodeId
    blob: BlobId
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RemoveOwed:
    """``node`` owes nothing of ``blob``; no change if it did not."""

    node: NodeId
    blob: BlobId


@dataclass(frozen=True, slots=True)
class SetReportSequence:
    node: NodeId
    sequence: int


@dataclass(frozen=True, slots=True)
class SetSweepFloor:
    floor_index: int


@dataclass(frozen=True, slots=True)
class PutAccessKey:
    record: AccessKeyRecord


Write = (
    PutBucket
    | PutSetting
    | AddVersionRow
    | RemoveVersionRow
    | AddUpload
    | FinishUpload
    | DropUploads
    | PutPart
    | RemovePart
    | PutManifest
    | ReleaseParts
    | RemoveBucket
    | PutObjectRow
    | RemoveObjectRow
    | AddInline
    | SetInlineCount
    | RemoveInline
    | AddBlob
    | ReplaceBlob
    | ForgetBlob
    | AddOwed
    | RemoveOwed
    | SetReportSequence
    | SetSweepFloor
    | PutAccessKey
)


@value(kw_only=False)
class Decision:
    """The result of a command and what it writes, in this order. A refusal writes nothing."""

    result: Result
    writes: tuple[Write, ...] | list[Write] = ()
