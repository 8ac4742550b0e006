"""Rules of objects: put, copy, delete. Pure.

The order of refusals is that of s3.md 1.0: access key, bucket, conditions, then what concerns the blob.
"""

from __future__ import annotations

from sos.catalog.model import (
    BucketRecord,
    CopyObject,
    DeletedMany,
    DeleteEntry,
    DeleteObject,
    DeleteObjects,
    Done,
    InlineBody,
    ObjectRecord,
    Position,
    PutObject,
    Rejection,
    Stored,
    WriteCondition,
)
from sos.catalog.rules.blob import References, decide_naming
from sos.catalog.rules.bucket import recounted
from sos.catalog.rules.conditions import source_allows, write_refusal
from sos.catalog.rules.key import is_valid
from sos.catalog.rules.view import (
    AddInline,
    CatalogView,
    Decision,
    PutObjectRow,
    RemoveObjectRow,
    Write,
)
from sos.limits import OBJECT_BYTES_MAX


def decide_put_object(view: CatalogView, command: PutObject, position: Position) -> Decision:
    """Point a key at a body that the command brings, or whose blob is durable on a write quorum."""
    if not is_valid(view, command.access_key):
        return Decision(Rejection.INVALID_ACCESS_KEY)
    bucket = view.bucket(command.bucket)
    if bucket is None:
        return Decision(Rejection.NO_SUCH_BUCKET)
    current = view.object(bucket.bucket_id, command.key)
    refusal = write_refusal(command.condition, current)
    if refusal is not None:
        return Decision(refusal)
    body = command.body
    writes: list[Write] = []
    size_bytes = 0
    if isinstance(body, InlineBody):
        if view.blob(body.blob) is not None:
            return Decision(Rejection.BLOB_ALREADY_NAMED)
        size_bytes = len(body.data)
        writes.append(AddInline(body.blob, body.data))
    elif body is not None:
        named = decide_naming(view, body)
        if isinstance(named, Rejection):
            return Decision(named)
        size_bytes = body.size_bytes
        writes = named
    record = ObjectRecord(
        blob=None if body is None else body.blob,
        inline=isinstance(body, InlineBody),
        size_bytes=size_bytes,
        etag=command.etag,
        md5=command.md5,
        modified_ms=command.modified_ms,
        checksum=command.checksum,
        headers=command.headers,
        commit_index=position.index,
    )
    if current is not None:
        references = References(view)
        references.release(current.blob)
        writes.extend(references.writes())
    return _store(bucket, command.key, current, record, writes)


def decide_copy_object(view: CatalogView, command: CopyObject, position: Position) -> Decision:
    """Point a key at the blob of the source's current version (s3.md 1.1.6)."""
    if not is_valid(view, command.access_key):
        return Decision(Rejection.INVALID_ACCESS_KEY)
    bucket = view.bucket(command.bucket)
    if bucket is None:
        return Decision(Rejection.NO_SUCH_BUCKET)
    source = _copy_source(view, command)
    if isinstance(source, Rejection):
        return Decision(source)
    current = view.object(bucket.bucket_id, command.key)
    refusal = write_refusal(command.condition, current)
    if refusal is not None:
        return Decision(refusal)
    record = ObjectRecord(
        blob=source.blob,
        inline=source.inline,
        size_bytes=source.size_bytes,
        etag=source.etag,
        md5=source.md5,
        modified_ms=command.modified_ms,
        checksum=source.checksum if command.checksum is None else command.checksum,
        headers=source.headers if command.headers is None else command.headers,
        commit_index=position.index,
    )
    references = References(view)
    references.take(source.blob)
    if current is not None:
        references.release(current.blob)
    return _store(bucket, command.key, current, record, references.writes())


def _copy_source(view: CatalogView, command: CopyObject) -> ObjectRecord | Rejection:
    """The source's current version, or why it may not be copied. Conditions come before the destination's."""
    bucket = view.bucket(command.source_bucket)
    if bucket is None:
        return Rejection.NO_SUCH_SOURCE_BUCKET
    source = view.object(bucket.bucket_id, command.source_key)
    if source is None:
        return Rejection.NO_SUCH_SOURCE_KEY
    if not source_allows(command.source_condition, source):
        return Rejection.SOURCE_PRECONDITION_FAILED
    if source.size_bytes > OBJECT_BYTES_MAX:
        return Rejection.SOURCE_TOO_LARGE
    is_self = (command.source_bucket, command.source_key) == (command.bucket, command.key)
    if is_self and not command.changes_something:
        return Rejection.SELF_COPY_WITHOUT_CHANGE
    if command.expect_commit_index not in (None, source.commit_index):
        return Rejection.SOURCE_CHANGED
    return source


def _store(
    bucket: BucketRecord,
    key: str,
    current: ObjectRecord | None,
    record: ObjectRecord,
    writes: list[Write],
) -> Decision:
    """Replace ``current`` by ``record``, after ``writes`` that make its blob and release the old one."""
    replaced_bytes, added = (0, 1) if current is None else (current.size_bytes, 0)
    writes.append(PutObjectRow(bucket.bucket_id, key, record, current is not None))
    writes.append(recounted(bucket, added, record.size_bytes - replaced_bytes))
    stored = Stored(
        etag=record.etag,
        modified_ms=record.modified_ms,
        checksum=record.checksum,
        commit_index=record.commit_index,
    )
    return Decision(stored, writes)


def decide_delete_object(view: CatalogView, command: DeleteObject, position: Position) -> Decision:
    """Remove a key; an absent one succeeds, unless a condition names an ETag (s3.md 4.3)."""
    if not is_valid(view, command.access_key):
        return Decision(Rejection.INVALID_ACCESS_KEY)
    bucket = view.bucket(command.bucket)
    if bucket is None:
        return Decision(Rejection.NO_SUCH_BUCKET)
    current = view.object(bucket.bucket_id, command.key)
    refusal = write_refusal(command.condition, current)
    if refusal is not None:
        return Decision(refusal)
    if current is None:
        return Decision(Done(existed=False))
    references = References(view)
    references.release(current.blob)
    writes = references.writes()
    writes.append(RemoveObjectRow(bucket.bucket_id, command.key))
    writes.append(recounted(bucket, -1, -current.size_bytes))
    return Decision(Done(), writes)


def decide_delete_objects(
    view: CatalogView, command: DeleteObjects, position: Position
) -> Decision:
    """Remove many keys at one log index, each judged alone (s3.md 1.1.7)."""
    if not is_valid(view, command.access_key):
        return Decision(Rejection.INVALID_ACCESS_KEY)
    bucket = view.bucket(command.bucket)
    if bucket is None:
        return Decision(Rejection.NO_SUCH_BUCKET)
    references = References(view)
    removals: list[Write] = []
    outcomes: list[Rejection | None] = []
    removed: set[str] = set()  # only looked up, never walked: its order differs between nodes
    removed_bytes = 0
    for entry in command.entries:
        gone = entry.key in removed
        current = None if gone else view.object(bucket.bucket_id, entry.key)
        outcome = _delete_refusal(entry, current)
        outcomes.append(outcome)
        if outcome is None and current is not None:
            removed.add(entry.key)
            removed_bytes += current.size_bytes
            references.release(current.blob)
            removals.append(RemoveObjectRow(bucket.bucket_id, entry.key))
    result = DeletedMany(outcomes=tuple(outcomes))
    if not removals:
        return Decision(result)
    writes = references.writes()
    writes.extend(removals)
    writes.append(recounted(bucket, -len(removals), -removed_bytes))
    return Decision(result, writes)


def _delete_refusal(entry: DeleteEntry, current: ObjectRecord | None) -> Rejection | None:
    if entry.version_id not in (None, "null"):
        return Rejection.NO_SUCH_VERSION
    if entry.etag is None:
        return None
    return write_refusal(WriteCondition(if_match=entry.etag), current)
