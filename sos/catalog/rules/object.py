"""Rules of objects: put, copy, delete. Pure.

The order of refusals is that of s3.md 1.0: access key, bucket, conditions, then what concerns the blob.
"""

from __future__ import annotations

from typing import NamedTuple

from sos.catalog.model import (
    BlobId,
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
    current = view.object(bucket.bucket_id, command.key)
    refusal = write_refusal(command.condition, current)
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
    change = BucketChange(view, bucket, position)
    placed = change.place(command.key, current, record)
    return Decision(stored(bucket, placed), change.writes(naming))


def decide_copy_object(view: CatalogView, command: CopyObject, position: Position) -> Decision:
    """Point a key at the blob of the source's current version (s3.md 1.1.6)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    source = _copy_source(view, command)
    if isinstance(source, Rejection):
        return Decision(source)
    current = view.object(bucket.bucket_id, command.key)
    refusal = write_refusal(command.condition, current)
    if refusal is not None:
        return Decision(refusal)
    change = BucketChange(view, bucket, position)
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
    placed = change.place(command.key, current, record)
    return Decision(stored(bucket, placed), change.writes(bytes_of_copy.naming))


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


def decide_delete_object(view: CatalogView, command: DeleteObject, position: Position) -> Decision:
    """Remove a key; an absent one succeeds, unless a condition names an ETag (s3.md 4.3)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    current = view.object(bucket.bucket_id, command.key)
    refusal = write_refusal(command.condition, current)
    if refusal is not None:
        return Decision(refusal)
    if current is None:
        return Decision(Done(existed=False))
    change = BucketChange(view, bucket, position)
    change.remove(command.key, current)
    return Decision(Done(), change.writes())


def decide_delete_objects(
    view: CatalogView, command: DeleteObjects, position: Position
) -> Decision:
    """Remove many keys at one log index, each judged alone (s3.md 1.1.7)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    change = BucketChange(view, bucket, position)
    outcomes: list[Rejection | None] = []
    removed: set[str] = set()  # only looked up, never walked: its order differs between nodes
    for entry in command.entries:
        gone = entry.key in removed
        current = None if gone else view.object(bucket.bucket_id, entry.key)
        outcome = _delete_refusal(entry, current)
        outcomes.append(outcome)
        if outcome is None and current is not None:
            removed.add(entry.key)
            change.remove(entry.key, current)
    return Decision(DeletedMany(outcomes=tuple(outcomes)), change.writes())


def _delete_refusal(entry: DeleteEntry, current: ObjectRecord | None) -> Rejection | None:
    if entry.version_id not in (None, "null"):
        return Rejection.NO_SUCH_VERSION
    if entry.etag is None:
        return None
    return write_refusal(WriteCondition(if_match=entry.etag), current)
