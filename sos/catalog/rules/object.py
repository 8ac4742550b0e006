"""Rules of objects: put, copy, delete. Pure.

The order of refusals is that of s3.md 1.0: access key, bucket, conditions, then what concerns the blob.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from sos.catalog.model import (
    NULL_VERSION,
    BlobId,
    BucketRecord,
    CopyObject,
    Deleted,
    DeletedMany,
    DeleteEntry,
    DeleteObject,
    DeleteObjects,
    Done,
    InlineBody,
    ObjectRecord,
    Position,
    PutObject,
    PutObjectTags,
    Rejection,
    Versioning,
    VersionNumber,
    WriteCondition,
)
from sos.catalog.rules.blob import decide_body, size_of
from sos.catalog.rules.bucket import admitted
from sos.catalog.rules.conditions import source_allows, write_refusal
from sos.catalog.rules.current import BucketChange, stored
from sos.catalog.rules.view import (
    CatalogView,
    Decision,
    Write,
)
from sos.limits import OBJECT_BYTES_MAX


def decide_put_object(view: CatalogView, command: PutObject, position: Position) -> Decision:
    """Point a key at a body that the command brings, or whose blob is durable on a write quorum."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    change = BucketChange(view, bucket, position)
    refusal = write_refusal(command.condition, change.current(command.key))
    if refusal is not None:
        return Decision(refusal)
    body = command.body
    naming = decide_body(view, body)
    if isinstance(naming, Rejection):
        return Decision(naming)
    record = ObjectRecord(
        blob=None if body is None else body.blob,
        inline=isinstance(body, InlineBody),
        size_bytes=size_of(body),
        etag=command.etag,
        md5=command.md5,
        modified_ms=command.modified_ms,
        checksum=command.checksum,
        headers=command.headers,
        commit_index=position.index,
        tags=command.tags,
        acl=command.acl,
    )
    placed = change.place(command.key, record)
    return Decision(stored(bucket, placed), change.writes(naming))


def decide_copy_object(view: CatalogView, command: CopyObject, position: Position) -> Decision:
    """Point a key at the blob of the source's current version (s3.md 1.1.6)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    found = _copy_source(view, command)
    if isinstance(found, Rejection):
        return Decision(found)
    source_bucket, source = found
    change = BucketChange(view, bucket, position)
    refusal = write_refusal(command.condition, change.current(command.key))
    if refusal is not None:
        return Decision(refusal)
    bytes_of_copy = _bytes_of_copy(view, command, source, change)
    if isinstance(bytes_of_copy, Rejection):
        return Decision(bytes_of_copy)
    record = ObjectRecord(
        blob=bytes_of_copy.blob,
        inline=bytes_of_copy.inline,
        size_bytes=source.size_bytes,
        etag=bytes_of_copy.etag,
        md5=bytes_of_copy.md5,
        modified_ms=command.modified_ms,
        checksum=source.checksum if command.checksum is None else command.checksum,
        headers=source.headers if command.headers is None else command.headers,
        commit_index=position.index,
        tags=source.tags if command.tags is None else command.tags,
        acl=command.acl,
    )
    placed = change.place(command.key, record)
    result = stored(bucket, placed)
    if source_bucket.versioning is not Versioning.NEVER:
        result = replace(result, source_version=source.version)
    return Decision(result, change.writes(bytes_of_copy.naming))


class _BytesOfCopy(NamedTuple):
    """``naming``: the writes that a body of its own needs; without one it shares the source's."""

    blob: BlobId | None
    inline: bool
    etag: str
    md5: bytes
    naming: list[Write]


def _bytes_of_copy(
    view: CatalogView, command: CopyObject, source: ObjectRecord, change: BucketChange
) -> _BytesOfCopy | Rejection:
    new = command.new
    if new is None:
        if source.manifest is not None:
            return Rejection.SOURCE_IN_PARTS
        change.references.take(source.blob)
        return _BytesOfCopy(source.blob, source.inline, source.etag, source.md5, [])
    if command.checksum is None or size_of(new.body) != source.size_bytes:
        return Rejection.SOURCE_CHANGED
    naming = decide_body(view, new.body)
    if isinstance(naming, Rejection):
        return naming
    blob = None if new.body is None else new.body.blob
    return _BytesOfCopy(blob, isinstance(new.body, InlineBody), new.md5.hex(), new.md5, naming)


def _copy_source(
    view: CatalogView, command: CopyObject
) -> tuple[BucketRecord, ObjectRecord] | Rejection:
    """The version to copy, or why it may not be copied. Conditions come before the destination's."""
    bucket = view.bucket(command.source_bucket)
    if bucket is None:
        return Rejection.NO_SUCH_SOURCE_BUCKET
    version = command.source_version
    if version is None:
        source = view.object(bucket.bucket_id, command.source_key)
        if source is None or source.is_marker:
            return Rejection.NO_SUCH_SOURCE_KEY
    elif bucket.versioning is Versioning.NEVER and version != NULL_VERSION:
        return Rejection.BUCKET_NEVER_VERSIONED
    else:
        source = view.version(bucket.bucket_id, command.source_key, version)
        if source is None:
            return Rejection.NO_SUCH_SOURCE_VERSION
        if source.is_marker:
            return Rejection.SOURCE_IS_MARKER
    if not source_allows(command.source_condition, source):
        return Rejection.SOURCE_PRECONDITION_FAILED
    if source.size_bytes > OBJECT_BYTES_MAX:
        return Rejection.SOURCE_TOO_LARGE
    is_self = (command.source_bucket, command.source_key) == (command.bucket, command.key)
    if is_self and not command.changes_something:
        return Rejection.SELF_COPY_WITHOUT_CHANGE
    if command.expect_commit_index not in (None, source.commit_index):
        return Rejection.SOURCE_CHANGED
    return bucket, source


def decide_put_object_tags(
    view: CatalogView, command: PutObjectTags, position: Position
) -> Decision:
    """Other tags for a version that stays as it is (S3 API: PutObjectTagging)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    change = BucketChange(view, bucket, position)
    record = change.current(command.key)
    if record is None:
        return Decision(Rejection.NO_SUCH_KEY)
    if command.version is not None and command.version != record.version:
        if bucket.versioning is Versioning.NEVER:
            return Decision(Rejection.BUCKET_NEVER_VERSIONED)
        record = view.version(bucket.bucket_id, command.key, command.version)
        if record is None:
            return Decision(Rejection.NO_SUCH_VERSION)
    if record.is_marker:
        if command.version is None:
            return Decision(Rejection.NO_SUCH_KEY)
        return Decision(Rejection.VERSION_IS_MARKER)
    record = replace(record, tags=command.tags)
    change.revise(command.key, record)
    return Decision(stored(bucket, record), change.writes())


def decide_delete_object(view: CatalogView, command: DeleteObject, position: Position) -> Decision:
    """Remove a key, or one of its versions; an absent one succeeds, unless a condition names an ETag (s3.md 4.3)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    change = BucketChange(view, bucket, position)
    current = change.current(command.key)
    refusal = write_refusal(command.condition, current)
    if refusal is not None:
        return Decision(refusal)
    deleted = _delete(change, bucket, command.key, command.version, command.modified_ms)
    if isinstance(deleted, Rejection):
        return Decision(deleted)
    result = Done(existed=current is not None) if deleted is None else deleted
    return Decision(result, change.writes())


def _delete(
    change: BucketChange,
    bucket: BucketRecord,
    key: str,
    version: VersionNumber | None,
    modified_ms: int,
) -> Deleted | Rejection | None:
    if version is None:
        if bucket.versioning is not Versioning.NEVER and not modified_ms:
            return Rejection.DELETE_NEEDS_TIME
        return change.delete(key, modified_ms)
    if bucket.versioning is not Versioning.NEVER:
        return change.delete_version(key, version)
    if version != NULL_VERSION:
        return Rejection.BUCKET_NEVER_VERSIONED
    return change.delete(key, modified_ms)


def decide_delete_objects(
    view: CatalogView, command: DeleteObjects, position: Position
) -> Decision:
    """Remove many keys at one log index, each judged alone (s3.md 1.1.7)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    if bucket.versioning is not Versioning.NEVER and not command.modified_ms:
        return Decision(Rejection.DELETE_NEEDS_TIME)
    change = BucketChange(view, bucket, position)
    outcomes: list[Rejection | Deleted | None] = []
    for entry in command.entries:
        refusal = _delete_refusal(entry, change.current(entry.key))
        outcomes.append(
            refusal or _delete(change, bucket, entry.key, entry.version, command.modified_ms)
        )
    return Decision(DeletedMany(outcomes=tuple(outcomes)), change.writes())


def _delete_refusal(entry: DeleteEntry, current: ObjectRecord | None) -> Rejection | None:
    if entry.version_id not in (None, "null"):
        return Rejection.NO_SUCH_VERSION
    if entry.etag is None:
        return None
    return write_refusal(WriteCondition(if_match=entry.etag), current)
