"""Values of the catalog for tests: a formation record, one of each command and result, log entries."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sos.catalog.codec import decode_result, encode_command, encode_entry
from sos.catalog.model import (
    NULL_VERSION,
    AbortUpload,
    AccessKeyId,
    BlobBody,
    BlobId,
    Body,
    BucketSetting,
    Checksum,
    ChecksumAlgorithm,
    Command,
    CompleteUpload,
    CopyObject,
    CopySourceCondition,
    CreateAccessKey,
    CreateBucket,
    CreateUpload,
    DeleteBucket,
    Deleted,
    DeletedMany,
    DeleteEntry,
    DeleteObject,
    DeleteObjects,
    Done,
    FormationRecord,
    InlineBody,
    ListedPart,
    Member,
    NewBytes,
    NodeId,
    ObjectRecord,
    Operation,
    PartFault,
    PartRefused,
    PutBucketSetting,
    PutObject,
    PutObjectTags,
    RaiseSweepFloor,
    Rejection,
    ReportHolders,
    RequestId,
    Result,
    RevokeAccessKey,
    SetVersioning,
    Stored,
    StoredHeaders,
    UploadCreated,
    UploadId,
    UploadPart,
    Versioning,
    VersionNumber,
    WriteCondition,
)
from sos.catalog.store import CatalogStore

ROOT = AccessKeyId("ROOTKEY")
MD5 = bytes(range(16))
CHECKSUM = Checksum(
    algorithm=ChecksumAlgorithm.CRC64NVME, digest=b"\x01\x02\x03\x04\x05\x06\x07\x08"
)
PLAIN = StoredHeaders(content_type="text/plain")
NODES = tuple(NodeId(f"n{number}@{number:016x}") for number in range(1, 5))


def member(node: NodeId) -> Member:
    name = node.partition("@")[0]
    return Member(
        node=node,
        name=name,
        address=f"127.0.0.1:{11000 + int(name[1:])}",
        blob_address=f"127.0.0.1:{12000 + int(name[1:])}",
        s3_address=f"127.0.0.1:{9000 + int(name[1:])}",
    )


def formation(members: int = 3) -> FormationRecord:
    return FormationRecord(
        cluster_id=b"c" * 16,
        members=tuple(member(node) for node in NODES[:members]),
        root_access_key=ROOT,
        root_secret_key="root-secret",
        token_secret=b"t" * 32,
        owner_id="0" * 64,
        region="us-east-1",
        created_ms=1_760_000_000_000,
    )


def blob_id(number: int, first_index: int = 1) -> BlobId:
    return BlobId(first_index.to_bytes(8, "big") + number.to_bytes(8, "big"))


def blob_body(
    number: int, holders: tuple[NodeId, ...] = NODES[:3], *, size: int = 100_000
) -> BlobBody:
    return BlobBody(blob=blob_id(number), size_bytes=size, crc64=b"crc64crc", holders=holders)


def inline_body(number: int, data: bytes = b"inline") -> InlineBody:
    return InlineBody(blob=blob_id(number), data=data)


def put(
    key: str,
    body: Body | None = None,
    *,
    bucket: str = "bucket",
    md5: bytes = MD5,
    condition: WriteCondition | None = None,
    access_key: AccessKeyId = ROOT,
    modified_ms: int = 1_760_000_000_123,
) -> PutObject:
    return PutObject(
        access_key=access_key,
        bucket=bucket,
        key=key,
        body=body,
        etag=md5.hex(),
        md5=md5,
        modified_ms=modified_ms,
        checksum=CHECKSUM,
        headers=PLAIN,
        condition=condition or WriteCondition(),
    )


def copy(
    source: str, key: str, *, bucket: str = "bucket", source_bucket: str = "bucket"
) -> CopyObject:
    return CopyObject(
        access_key=ROOT,
        source_bucket=source_bucket,
        source_key=source,
        bucket=bucket,
        key=key,
        modified_ms=1_760_000_000_456,
        headers=None,
        checksum=None,
    )


def delete(key: str, *, if_match: str | None = None, bucket: str = "bucket") -> DeleteObject:
    return DeleteObject(
        access_key=ROOT, bucket=bucket, key=key, condition=WriteCondition(if_match=if_match)
    )


def create_bucket(name: str = "bucket") -> CreateBucket:
    return CreateBucket(access_key=ROOT, bucket=name, created_ms=1_760_000_000_001)


def object_record(key_number: int = 1) -> ObjectRecord:
    return ObjectRecord(
        blob=blob_id(key_number),
        inline=True,
        size_bytes=6,
        etag=MD5.hex(),
        md5=MD5,
        modified_ms=1_760_000_000_123,
        checksum=CHECKSUM,
        headers=PLAIN,
        commit_index=7,
    )


RICH_HEADERS = StoredHeaders(
    content_type="a/b",
    cache_control="no-cache",
    content_disposition="inline",
    content_encoding="gzip",
    content_language="de",
    expires="never",
    user=(("a", "1"), ("b", "2")),
)

# One of each command; names are those of the golden file.
COMMANDS: dict[str, Command] = {
    "create_bucket": create_bucket(),
    "delete_bucket": DeleteBucket(access_key=ROOT, bucket="bucket"),
    "put_empty": put("empty"),
    "put_inline": put("käse/\x00", inline_body(1)),
    "put_blob": put("big", blob_body(2), condition=WriteCondition(if_none_match_any=True)),
    "put_rich": PutObject(
        access_key=ROOT,
        bucket="bucket",
        key="rich",
        body=None,
        etag="0123-2",
        md5=MD5,
        modified_ms=0,
        checksum=Checksum(algorithm=ChecksumAlgorithm.SHA256, digest=b"s" * 32),
        headers=RICH_HEADERS,
        condition=WriteCondition(if_match="abc"),
    ),
    "copy": copy("a", "b"),
    "copy_rich": CopyObject(
        access_key=ROOT,
        source_bucket="source",
        source_key="a",
        bucket="bucket",
        key="b",
        modified_ms=5,
        headers=StoredHeaders(),
        checksum=CHECKSUM,
        expect_commit_index=9,
        changes_something=False,
        source_condition=CopySourceCondition(
            if_match=("a", "*"),
            if_none_match=("b",),
            if_modified_since_s=-1,
            if_unmodified_since_s=2,
        ),
        condition=WriteCondition(if_match="d"),
    ),
    "delete": delete("key", if_match="*"),
    "delete_objects": DeleteObjects(
        access_key=ROOT,
        bucket="bucket",
        entries=(DeleteEntry(key="a"), DeleteEntry(key="b", etag="e", version_id="null")),
    ),
    "report_holders": ReportHolders(
        node=NODES[0], sequence=3, gained=(blob_id(1), blob_id(2)), lost=(blob_id(3),)
    ),
    "raise_sweep_floor": RaiseSweepFloor(floor_index=77),
    "create_access_key": CreateAccessKey(
        access_key=AccessKeyId("AKIANEW"), secret_key="secret", created_ms=1
    ),
    "revoke_access_key": RevokeAccessKey(access_key=AccessKeyId("AKIANEW")),
}

# With what the second level added to them (``sos.levels``).
SECOND_COMMANDS: dict[str, Command] = {
    "put_2": replace(
        put("tagged"), tags=(("a", "1"), ("b", "")), acl="public-read", access_epoch=9 << 16
    ),
    "copy_2": replace(
        copy("a", "b"),
        source_version=VersionNumber(3 << 16),
        tags=(),
        acl="private",
        new=NewBytes(body=inline_body(4), md5=MD5),
        access_epoch=1 << 16,
    ),
    "delete_2": replace(delete("key"), modified_ms=5, version=NULL_VERSION, access_epoch=1 << 16),
    "create_access_key_2": CreateAccessKey(
        access_key=AccessKeyId("AKIANEW"),
        secret_key="secret",
        created_ms=1,
        name="ci",
        read_only=True,
        buckets=("a",),
        prefixes=("p/", "q/"),
    ),
    "set_versioning": SetVersioning(
        access_key=ROOT, bucket="bucket", versioning=Versioning.SUSPENDED, access_epoch=3
    ),
    "put_bucket_setting": PutBucketSetting(
        access_key=ROOT,
        bucket="bucket",
        setting=BucketSetting.CORS,
        document=b"rules",
        access_epoch=3,
    ),
    "put_object_tags": PutObjectTags(
        access_key=ROOT,
        bucket="bucket",
        key="k",
        tags=(("a", "1"),),
        version=VersionNumber(5),
        access_epoch=3,
    ),
    "create_upload": CreateUpload(
        access_key=ROOT,
        bucket="bucket",
        key="k",
        random=b"rrrrrrrr",
        initiated_ms=1,
        headers=PLAIN,
        algorithm=ChecksumAlgorithm.SHA256,
        composite=True,
        tags=(("a", "1"),),
        acl="private",
        access_epoch=2,
    ),
    "upload_part": UploadPart(
        access_key=ROOT,
        bucket="bucket",
        key="k",
        upload=UploadId(b"u" * 16),
        number=10_000,
        body=inline_body(5),
        md5=MD5,
        modified_ms=3,
        sent=None,
        whole=CHECKSUM,
    ),
    "complete_upload": CompleteUpload(
        access_key=ROOT,
        bucket="bucket",
        key="k",
        upload=UploadId(b"u" * 16),
        parts=(
            ListedPart(number=1, etag="e"),
            ListedPart(number=2, etag="f", checksum=CHECKSUM),
        ),
        modified_ms=4,
        condition=WriteCondition(if_none_match_any=True),
        checksum=CHECKSUM,
        composite=False,
        size_bytes=9,
    ),
    "abort_upload": AbortUpload(
        access_key=ROOT, bucket="bucket", key="k", upload=UploadId(b"u" * 16), aborted_ms=5
    ),
    "delete_objects_2": DeleteObjects(
        access_key=ROOT,
        bucket="bucket",
        entries=(
            DeleteEntry(key="a", version=VersionNumber(3 << 16)),
            DeleteEntry(key="b", etag="e", version_id="odd"),
        ),
        modified_ms=5,
        access_epoch=1 << 16,
    ),
}

RESULTS: dict[str, Result] = {
    "stored": Stored(etag=MD5.hex(), modified_ms=5, checksum=CHECKSUM, commit_index=9),
    "done": Done(),
    "done_absent": Done(existed=False),
    "deleted_many": DeletedMany(outcomes=(None, Rejection.NO_SUCH_KEY)),
    "rejection": Rejection.PRECONDITION_FAILED_IF_MATCH,
    "stored_2": Stored(
        etag="0123-2",
        modified_ms=5,
        checksum=CHECKSUM,
        commit_index=9,
        version=VersionNumber(9 << 16),
        composite=True,
        source_version=NULL_VERSION,
    ),
    "upload_created": UploadCreated(upload=UploadId(b"u" * 16)),
    "part_refused": PartRefused(fault=PartFault.TOO_SMALL, number=3, size_bytes=5),
    "deleted": Deleted(version=VersionNumber(9 << 16), is_marker=True),
    "deleted_many_2": DeletedMany(
        outcomes=(None, Deleted(version=NULL_VERSION, is_marker=False), Rejection.NO_SUCH_KEY)
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A log entry as the catalog wants it."""

    index: int
    term: int
    payload: bytes


@dataclass(slots=True)
class Log:
    """Makes entries that follow each other, with fresh request ids."""

    index: int = 1
    requests: int = 0
    term: int = 1
    entries: list[Entry] = field(default_factory=list)

    def request_id(self) -> RequestId:
        self.requests += 1
        return RequestId(b"session1" + self.requests.to_bytes(8, "big"))

    def operation(self, command: Command) -> Operation:
        return Operation(
            request_id=self.request_id(), first_index=self.index, command=encode_command(command)
        )

    def payload(self, data: bytes) -> Entry:
        self.index += 1
        entry = Entry(index=self.index, term=self.term, payload=data)
        self.entries.append(entry)
        return entry

    def entry(self, *commands: Command) -> Entry:
        return self.payload(encode_entry([self.operation(command) for command in commands]))


def run(store: CatalogStore, log: Log, *commands: Command) -> list[Result]:
    """Apply the commands as one entry; their results."""
    (results,) = store.apply([log.entry(*commands)])
    assert results is not None
    return [decode_result(result) for result in results]
