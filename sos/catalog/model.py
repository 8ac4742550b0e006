"""The words of the catalog: records, commands, results and rejections. Frozen values, no behaviour that needs I/O.

Whatever varies between nodes (time, ids, random) is decided before a command is proposed and travels in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, NewType

from sos.values import value

BlobId = NewType(
    "BlobId", bytes
)  # 16 bytes: applied index when the upload began (8, big-endian) + 8 random
RequestId = NewType("RequestId", bytes)  # 16 bytes: gateway session (8) + counter (8, big-endian)
AccessKeyId = NewType("AccessKeyId", str)
NodeId = NewType(
    "NodeId", str
)  # "name@incarnation", incarnation = 16 hex digits; Raft counts by this
UploadId = NewType("UploadId", bytes)  # 16 bytes: position number (8, big-endian) + 8 random
VersionNumber = NewType("VersionNumber", int)  # ``Position.number`` of the write; 0 is "null"
NULL_VERSION: Final = VersionNumber(0)


# --- values ---------------------------------------------------------------------------------------
class ChecksumAlgorithm(Enum):
    """S3's checksum algorithms; the value is the header suffix."""

    CRC32 = "crc32"
    CRC32C = "crc32c"
    CRC64NVME = "crc64nvme"
    SHA1 = "sha1"
    SHA256 = "sha256"


@value()
class Checksum:
    """A checksum of bytes (FULL_OBJECT); ``digest`` is raw, big-endian. Of a COMPOSITE one the record says so."""

    algorithm: ChecksumAlgorithm
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHeaders:
    """Headers that are stored and returned as sent (S3 API: PutObject). ``None``: not sent.

    ``user`` holds ``x-amz-meta-*`` without that prefix, names lower-case, in order of name.
    """

    content_type: str | None = None
    cache_control: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    content_language: str | None = None
    expires: str | None = None
    user: tuple[tuple[str, str], ...] = ()


@value()
class InlineBody:
    """A body of at most ``INLINE_BYTES_MAX`` bytes that travels in the command and lives in the catalog."""

    blob: BlobId
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobBody:
    """A body that is durable on ``holders`` before the command is proposed."""

    blob: BlobId
    size_bytes: int
    crc64: bytes  # CRC64NVME of the whole blob, raw
    holders: tuple[NodeId, ...]


Body = InlineBody | BlobBody


@value()
class ObjectRecord:
    """A version of a key: the current one, or one of the noncurrent ones below it.

    What follows ``commit_index`` has its default in nearly all records, which then are written without it.
    """

    blob: BlobId | None  # None: empty object, no bytes anywhere
    inline: bool  # True: the bytes are in the catalog, in the table of inline bodies
    size_bytes: int
    etag: str  # without quotes
    md5: bytes
    modified_ms: int
    checksum: Checksum
    headers: StoredHeaders
    commit_index: int  # log index of the entry that wrote it
    number: int = (
        0  # ``Position.number`` of its command; 0: written before the bucket was ever versioned
    )
    is_null: bool = True  # its version id is "null"; else it is made from ``number``
    is_marker: bool = False  # a delete marker: no bytes, no headers
    older: int = 0  # of the current version: how many noncurrent ones the key has
    null_order: int = 0  # of the current version: ``order`` of the noncurrent null version, 0: none
    composite: bool = False  # the checksum is one of the parts' checksums (COMPOSITE)
    part_count: int = 0  # 0: not uploaded in parts
    manifest: UploadId | None = None  # the bytes are the parts of this upload
    tags: tuple[tuple[str, str], ...] = ()
    acl: str = ""  # name of a canned ACL; "": private
    owner: str = ""  # id of an account; "": the bucket's

    @property
    def order(self) -> int:
        """Among the versions of its key: greater is newer."""
        return self.number or self.commit_index << 16

    @property
    def version(self) -> VersionNumber:
        """What its version id is made from."""
        return NULL_VERSION if self.is_null else VersionNumber(self.number)


class Versioning(Enum):
    """The versioning state of a bucket (S3 API: PutBucketVersioning). The value is what is stored."""

    NEVER = 0
    ENABLED = 1
    SUSPENDED = 2


class BucketSetting(Enum):
    """A configuration document of a bucket, in a row of its own. The value is what is stored."""

    TAGGING = 1
    CORS = 2
    LIFECYCLE = 3
    POLICY = 4
    ACL = 5
    OWNERSHIP = 6
    PUBLIC_ACCESS_BLOCK = 7


@value()
class BucketRecord:
    """A bucket with its counters (kept by every write in the same transaction).

    ``object_count`` counts current versions that are no delete markers; ``size_bytes`` is of all versions.
    What follows ``bucket_id`` has its default in most records, which then are written without it.
    """

    name: str
    created_ms: int
    object_count: int
    size_bytes: int
    bucket_id: int  # ``Position.number`` of its creation; keys of objects carry it: a re-created bucket is new
    versioning: Versioning = Versioning.NEVER
    version_count: int = 0  # noncurrent versions, and current delete markers
    owner: str = ""  # id of an account; "": the root account
    access_epoch: int = (
        0  # ``Position.number`` of the last change of who may do what; 0: as created
    )
    configured: int = 0  # bit ``1 << setting.value`` for each ``BucketSetting`` that has a row
    upload_count: int = 0  # multipart uploads in progress


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRecord:
    """A counted blob. Only ``reference_count == 0`` forgets it, and then it is never named again.

    ``holders`` holds every node that reported a copy, in order of name, also nodes that are no members (a learner
    collects them before it votes; those of a removed member go with the blob). Inline blobs have no ``crc64``
    and no holders.
    """

    blob: BlobId
    size_bytes: int
    crc64: bytes
    reference_count: int
    inline: bool
    holders: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """A multipart upload in progress (S3 API: CreateMultipartUpload)."""

    upload: UploadId
    bucket_id: int
    key: str
    initiated_ms: int
    headers: StoredHeaders
    algorithm: ChecksumAlgorithm | None  # None: the client named none; the object gets a CRC64NVME
    composite: bool  # of checksums of the parts
    key_order: int  # ``ObjectRecord.order`` of the current version then; 0: the key was absent
    tags: tuple[tuple[str, str], ...] = ()
    acl: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRecord:
    """A part of an upload, and later of the object that it became."""

    number: int
    blob: BlobId | None  # None: no bytes
    inline: bool
    size_bytes: int
    md5: bytes
    modified_ms: int
    sent: Checksum | None  # what the client sent with it
    whole: (
        Checksum | None
    )  # what a FULL_OBJECT checksum is combined from; None: the upload is COMPOSITE


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedUpload:
    """What became of an upload: kept for a day, so that whoever asks again gets the same answer (s3.md 7)."""

    bucket_id: int
    key: str
    finished_ms: int
    parts_digest: bytes  # of the list in its CompleteMultipartUpload; empty: it was aborted
    result: Stored | None  # None: it was aborted


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The parts of an object in order: their numbers, and where each ends in the object, in bytes."""

    numbers: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKeyRecord:
    """An access key. ``root`` keys come with the formation record.

    A key is limited to ``buckets``, and in each to keys with one of ``prefixes``; empty: not limited.
    """

    access_key: AccessKeyId
    secret_key: str
    root: bool
    enabled: bool
    created_ms: int
    name: str = ""  # for people
    account: str = ""  # id of its account; "": the root account
    read_only: bool = False
    buckets: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One voter of the member list in force. ``address`` is HOST:PORT of the node port (Raft)."""

    node: NodeId
    name: str
    address: str
    blob_address: str
    s3_address: str
    leaving: bool = False  # counts for no blob quorum any more (protocols.md 3.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """An incarnation that a committed list removed: it never comes back.

    ``leaving``: it was marked so before, an operator took the member out. Else it had lost its disk or its cluster
    was recovered without it, and its name may come back by itself under a new incarnation (protocols.md 3.3).
    """

    node: NodeId
    leaving: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FormationRecord:
    """What all nodes agree on before the cluster exists; the catalog's state at log index 1."""

    cluster_id: bytes  # 16 bytes
    members: tuple[Member, ...]
    root_access_key: AccessKeyId
    root_secret_key: str
    token_secret: bytes  # 32 bytes; authenticates listing tokens
    owner_id: str  # 64 hex digits: canonical id of the root account
    region: str
    created_ms: int


# --- conditions -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCondition:
    """S3's conditions on writes and deletes (s3.md 4.3), judged in apply against the current version."""

    if_none_match_any: bool = False  # If-None-Match: *
    if_match: str | None = None  # ETag without quotes; "*" only for deletes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopySourceCondition:
    """``x-amz-copy-source-if-*`` (s3.md 4.2). ETags without quotes, "*" allowed; times in whole seconds."""

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    if_modified_since_s: int | None = None
    if_unmodified_since_s: int | None = None


ALWAYS = WriteCondition()
SOURCE_ALWAYS = CopySourceCondition()


# --- commands -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class CreateBucket:
    access_key: AccessKeyId
    bucket: str
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteBucket:
    access_key: AccessKeyId
    bucket: str


@value()
class PutObject:
    """Point ``key`` at a body. ``body is None``: an empty object."""

    access_key: AccessKeyId
    bucket: str
    key: str
    body: Body | None
    etag: str
    md5: bytes
    modified_ms: int
    checksum: Checksum
    headers: StoredHeaders
    condition: WriteCondition = ALWAYS
    tags: tuple[tuple[str, str], ...] = ()
    acl: str = ""
    access_epoch: int = 0  # of the bucket when the request was admitted; apply refuses another


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBytes:
    """The whole bytes of an object as they were written anew, and their MD5 (its hex form is the ETag)."""

    body: Body | None
    md5: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyObject:
    """Point ``key`` at the source's blob. Apply looks the source row up: blob ids never travel here.

    ``expect_commit_index``: the source version whose bytes the proposer read beforehand (to recompute a
    checksum); apply refuses with SOURCE_CHANGED when it is not current. ``headers is None``: keep the source's.
    ``checksum is None``: keep the source's. ``changes_something``: False when nothing in the request makes a
    copy onto itself legal (s3.md 1.1.6: REPLACE, a storage class, a checksum algorithm, a source version, If-Match).
    ``source_version is None``: the current one. ``tags is None``: keep the source's. ``new``: the bytes of a source
    that was uploaded in parts, written anew as one object.
    """

    access_key: AccessKeyId
    source_bucket: str
    source_key: str
    bucket: str
    key: str
    modified_ms: int
    headers: StoredHeaders | None
    checksum: Checksum | None
    expect_commit_index: int | None = None
    changes_something: bool = True
    source_condition: CopySourceCondition = SOURCE_ALWAYS
    condition: WriteCondition = ALWAYS
    source_version: VersionNumber | None = None
    tags: tuple[tuple[str, str], ...] | None = None
    acl: str = ""
    new: NewBytes | None = None
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteObject:
    """``version is None``: the key, else that version for good."""

    access_key: AccessKeyId
    bucket: str
    key: str
    condition: WriteCondition = ALWAYS
    modified_ms: int = 0  # of the delete marker, if the bucket's versioning makes one
    version: VersionNumber | None = None
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteEntry:
    """One key of a DeleteObjects. ``version_id``: "null", None, or anything else = never issued.

    ``version``: of an id that was issued, also "null"; then ``version_id`` is None.
    """

    key: str
    etag: str | None = None
    version_id: str | None = None
    version: VersionNumber | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteObjects:
    access_key: AccessKeyId
    bucket: str
    entries: tuple[DeleteEntry, ...]
    modified_ms: int = 0  # of delete markers
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportHolders:
    """``node`` reports its own copies. Apply ignores a sequence not above the last one of this incarnation."""

    node: NodeId
    sequence: int
    gained: tuple[BlobId, ...]
    lost: tuple[BlobId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaiseSweepFloor:
    """Uncommitted blobs whose id starts below ``floor_index`` may be swept, and never named any more."""

    floor_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateAccessKey:
    """Limits as in ``AccessKeyRecord``."""

    access_key: AccessKeyId
    secret_key: str
    created_ms: int
    name: str = ""
    read_only: bool = False
    buckets: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeAccessKey:
    access_key: AccessKeyId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetVersioning:
    """Enable or suspend; there is no way back to never."""

    access_key: AccessKeyId
    bucket: str
    versioning: Versioning
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBucketSetting:
    """Set a configuration document of a bucket; ``document is None``: remove it. What it says, the S3 layer knows."""

    access_key: AccessKeyId
    bucket: str
    setting: BucketSetting
    document: bytes | None
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutObjectTags:
    """Replace the tags of a version (None: of the current one); it stays the version it is."""

    access_key: AccessKeyId
    bucket: str
    key: str
    tags: tuple[tuple[str, str], ...]
    version: VersionNumber | None = None
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateUpload:
    """Begin a multipart upload; its id is made of the position and ``random`` (8 bytes)."""

    access_key: AccessKeyId
    bucket: str
    key: str
    random: bytes
    initiated_ms: int
    headers: StoredHeaders
    algorithm: ChecksumAlgorithm | None = None
    composite: bool = False
    tags: tuple[tuple[str, str], ...] = ()
    acl: str = ""
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPart:
    """Set part ``number`` of an upload; one that is there is replaced."""

    access_key: AccessKeyId
    bucket: str
    key: str
    upload: UploadId
    number: int
    body: Body | None
    md5: bytes
    modified_ms: int
    sent: Checksum | None
    whole: Checksum | None
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPart:
    """One part in the document of a CompleteMultipartUpload. ``etag`` without quotes."""

    number: int
    etag: str
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteUpload:
    """Make an object of the listed parts. What is None was not said by the client."""

    access_key: AccessKeyId
    bucket: str
    key: str
    upload: UploadId
    parts: tuple[ListedPart, ...]
    modified_ms: int
    condition: WriteCondition = ALWAYS
    checksum: Checksum | None = None  # of the whole object
    composite: bool | None = None
    size_bytes: int | None = None
    access_epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortUpload:
    access_key: AccessKeyId
    bucket: str
    key: str
    upload: UploadId
    aborted_ms: int
    access_epoch: int = 0


Command = (
    CreateBucket
    | DeleteBucket
    | PutObject
    | CopyObject
    | DeleteObject
    | DeleteObjects
    | ReportHolders
    | RaiseSweepFloor
    | CreateAccessKey
    | RevokeAccessKey
    | SetVersioning
    | PutBucketSetting
    | PutObjectTags
    | CreateUpload
    | UploadPart
    | CompleteUpload
    | AbortUpload
)


@value()
class Operation:
    """One command as it stands in a log entry, with what makes a resend harmless."""

    request_id: RequestId
    first_index: int  # the core's applied index when first proposed; resends keep it
    command: bytes  # encoded by ``catalog.codec.encode_command``


@value()
class Position:
    """Where in the log a command stands: the entry's index and its place among the entry's operations."""

    index: int
    ordinal: int  # below 2 ** 16

    @property
    def number(self) -> int:
        """One number per command, in log order; it fits 8 bytes for 2 ** 47 entries."""
        return self.index << 16 | self.ordinal


# --- results --------------------------------------------------------------------------------------
class Rejection(Enum):
    """The catalog refused a valid command. The value is what is stored; never reuse one.

    30-39 are of versions, 40-59 of multipart uploads, 60-69 of settings and tags, 70-79 of keys and access.
    """

    NO_SUCH_BUCKET = 1
    BUCKET_ALREADY_OWNED_BY_YOU = 2
    BUCKET_NOT_EMPTY = 3
    NO_SUCH_KEY = 4  # If-Match on an absent key
    PRECONDITION_FAILED_IF_MATCH = 5
    PRECONDITION_FAILED_IF_NONE_MATCH = 6
    NO_SUCH_SOURCE_BUCKET = 7
    NO_SUCH_SOURCE_KEY = 8
    SOURCE_PRECONDITION_FAILED = 9
    SOURCE_CHANGED = 10
    HOLDERS_TOO_FEW = 11
    BLOB_BELOW_FLOOR = 12
    BLOB_ALREADY_NAMED = 13
    INVALID_ACCESS_KEY = 14
    TOO_OLD_TO_REMEMBER = 15  # told as unknown: it may have been applied and forgotten
    ACCESS_KEY_EXISTS = 16
    SELF_COPY_WITHOUT_CHANGE = 17
    UNKNOWN_COMMAND = 18  # cannot be decoded by this version
    SOURCE_TOO_LARGE = 19
    NO_SUCH_VERSION = 20  # one key of a DeleteObjects names a version id that was never issued
    ACCESS_CHANGED = 21  # who may do what was changed since the request was admitted: judge again
    SOURCE_IS_MARKER = 30  # a copy names a delete marker by its version id
    NO_SUCH_SOURCE_VERSION = 31
    BUCKET_NEVER_VERSIONED = 32  # it has only "null" versions
    DELETE_NEEDS_TIME = 33  # it would make a delete marker, and the command does not say when
    NO_SUCH_UPLOAD = 40
    KEY_CHANGED_DURING_UPLOAD = (
        41  # a conditional Complete whose key was written or deleted since Create
    )
    PART_CHECKSUM_TYPE = 42  # the part's checksum is not of the upload's algorithm
    PART_CHECKSUM_MISSING = 43  # a COMPOSITE upload wants one with every part
    COMPLETE_TYPE_MISMATCH = 44  # x-amz-checksum-type is not that of Create
    COMPLETE_SIZE_MISMATCH = 45  # x-amz-mp-object-size is not the sum of the parts
    COMPLETE_CHECKSUM_MISMATCH = 46  # the checksum of the whole object is another
    OBJECT_TOO_LARGE = 47
    VERSION_IS_MARKER = 60  # a delete marker has no tags
    SOURCE_IN_PARTS = 48  # its bytes have to be written anew: it was uploaded in parts


@value()
class Stored:
    """PutObject and CopyObject took effect."""

    etag: str
    modified_ms: int
    checksum: Checksum
    commit_index: int
    version: VersionNumber | None = None  # None: the bucket was never versioned
    composite: bool = False
    source_version: VersionNumber | None = (
        None  # of a copy, if the source's bucket was ever versioned
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """A delete in a bucket that was ever versioned. ``version``: of the marker that was made, or of what was removed.

    ``is_marker``: that version is (was) a delete marker.
    """

    version: VersionNumber
    is_marker: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Took effect, nothing to tell. ``existed``: whether it changed anything that was there."""

    existed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedMany:
    """Per entry, in request order: ``None`` = deleted (or was absent), ``Deleted`` in a versioned bucket, else why not."""

    outcomes: tuple[Rejection | Deleted | None, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadCreated:
    """CreateUpload took effect."""

    upload: UploadId


class PartFault(Enum):
    """What is wrong with one listed part. The value is what is stored; never reuse one."""

    INVALID = 1  # not there, or with another ETag or checksum
    ORDER = 2  # numbers do not ascend, or a COMPOSITE upload has gaps
    TOO_SMALL = 3
    CHECKSUM_MISSING = 4  # a COMPOSITE upload wants one with every listed part


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRefused:
    """CompleteUpload was refused for the listed part ``number``; nothing changed."""

    fault: PartFault
    number: int
    size_bytes: int = 0


Result = Stored | Done | Deleted | DeletedMany | UploadCreated | PartRefused | Rejection


# --- what views tell ------------------------------------------------------------------------------
class ListedObject(NamedTuple):
    """One key of a listing. A named tuple: pages of 1,000 are built on a hot path."""

    key: str
    size_bytes: int
    etag: str
    modified_ms: int
    checksum_algorithm: ChecksumAlgorithm
    composite: bool = False
    is_marker: bool = False
    version: VersionNumber = NULL_VERSION
    older: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """The first entries after a position, in byte order; ``last`` is the greatest of both kinds."""

    objects: list[ListedObject]
    common_prefixes: list[str]
    last: str | None
    truncated: bool  # True only if a further entry exists


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPosition:
    """Where a listing of versions begins: behind all versions of ``key``, or behind one of them."""

    key: str
    version: VersionNumber | None = None
    order: int = 0  # of a null version that may be gone meanwhile; 0: look for it


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionPage:
    """The first versions behind a position, by key, the newest of each first; with common prefixes among them.

    ``is_latest`` goes along with ``versions``. ``last``: of the last entry, None if there is none.
    """

    versions: list[ListedObject]
    is_latest: list[bool]
    common_prefixes: list[str]
    last: VersionPosition | None
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadPage:
    """The first uploads after a position, by key and then by creation, with common prefixes among them.

    ``last_key`` and ``last_upload`` (None: a common prefix) are of the last entry.
    """

    uploads: list[UploadRecord]
    common_prefixes: list[str]
    last_key: str
    last_upload: UploadId | None
    truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OwedBlob:
    """A blob of which a member has no copy."""

    blob: BlobId
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ForgottenBlob:
    """A blob that the entry at ``index`` forgot; nodes unlink its file."""

    index: int
    blob: BlobId


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCopies:
    """What the catalog knows of one member's copies.

    The owed list holds blobs named while the node was a member: complete when ``since_index`` is the formation,
    else only the full comparison knows what the node misses of older blobs.
    """

    node: NodeId
    since_index: int
    report_sequence: int  # of its last ReportHolders
    blobs_owed: int
    bytes_owed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """The member list in force in the catalog, and the log index of the entry that set it.

    ``epoch``: of the last `sos recover` before it; 0 if there was none.
    """

    index: int
    members: tuple[Member, ...]
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Totals that are kept, never counted."""

    bucket_count: int
    object_count: int
    size_bytes: int
    blob_count: int  # blobs in files; inline ones do not count
    blob_bytes: int
    forgotten_count: int
    sweep_floor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What members compare. ``chain``: over the writes of every entry, equal on all nodes at equal index.

    ``record_sum``: of the records as they stand, whatever order wrote them; a scan can recompute it.
    ``kept``: the chain at the last indexes divisible by 1,024.
    """

    applied_index: int
    applied_term: int
    chain: bytes
    record_sum: int
    kept: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPoint:
    """What a copy of the catalog holds."""

    index: int
    term: int
    size_bytes: int
