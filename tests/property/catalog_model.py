"""The catalog as plain dictionaries: an oracle that shares no code with rules and store, and a view for rules.

Counts are never kept here but counted, so a counter of the real catalog that drifts shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sos.catalog.model import (
    AccessKeyId,
    BlobBody,
    BlobId,
    Checksum,
    Command,
    CopyObject,
    CreateAccessKey,
    CreateBucket,
    DeleteBucket,
    DeletedMany,
    DeleteObject,
    DeleteObjects,
    Done,
    InlineBody,
    NodeId,
    PutObject,
    RaiseSweepFloor,
    Rejection,
    ReportHolders,
    Result,
    RevokeAccessKey,
    Stored,
    StoredHeaders,
    WriteCondition,
)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object."""

    blob: BlobId | None
    size: int
    etag: str
    modified_ms: int
    checksum: Checksum
    headers: StoredHeaders
    index: int


@dataclass(kw_only=True)
class FileBlob:
    """A blob in files."""

    size: int
    holders: set[NodeId]


@dataclass
class Model:
    """The whole catalog."""

    voters: list[NodeId]
    root: AccessKeyId
    buckets: dict[str, dict[str, Thing]] = field(default_factory=dict)
    files: dict[BlobId, FileBlob] = field(default_factory=dict)
    inline: dict[BlobId, bytes] = field(default_factory=dict)
    forgotten: list[tuple[int, BlobId]] = field(default_factory=list)
    access_keys: dict[AccessKeyId, bool] = field(default_factory=dict)
    sequences: dict[NodeId, int] = field(default_factory=dict)
    floor: int = 0

    def __post_init__(self) -> None:
        self.access_keys[self.root] = True

    # --- derived ----------------------------------------------------------------------------------
    def references(self, blob: BlobId) -> int:
        return sum(
            thing.blob == blob for things in self.buckets.values() for thing in things.values()
        )

    def owed(self, node: NodeId) -> dict[BlobId, int]:
        return {blob: file.size for blob, file in self.files.items() if node not in file.holders}

    def _collect(self, index: int) -> None:
        """Forget what no object names any more."""
        for blob in [blob for blob in self.inline if not self.references(blob)]:
            del self.inline[blob]
        for blob in [blob for blob in self.files if not self.references(blob)]:
            del self.files[blob]
            self.forgotten.append((index, blob))

    # --- commands ---------------------------------------------------------------------------------
    def apply(self, command: Command, index: int) -> Result:
        """What the command answers at this log index; the state changes with it."""
        result = self._apply(command, index)
        self._collect(index)
        return result

    def _apply(self, command: Command, index: int) -> Result:
        match command:
            case ReportHolders():
                return self._report(command)
            case RaiseSweepFloor():
                floor = min(command.floor_index, index)
                raised = floor > self.floor
                self.floor = max(floor, self.floor)
                return Done(existed=raised)
            case CreateAccessKey():
                if command.access_key in self.access_keys:
                    return Rejection.ACCESS_KEY_EXISTS
                self.access_keys[command.access_key] = True
                return Done(existed=False)
            case RevokeAccessKey():
                if command.access_key not in self.access_keys:
                    return Rejection.INVALID_ACCESS_KEY
                was_enabled = self.access_keys[command.access_key]
                self.access_keys[command.access_key] = False
                return Done(existed=was_enabled)
        if not self.access_keys.get(command.access_key, False):
            return Rejection.INVALID_ACCESS_KEY
        match command:
            case CreateBucket():
                if command.bucket in self.buckets:
                    return Rejection.BUCKET_ALREADY_OWNED_BY_YOU
                self.buckets[command.bucket] = {}
                return Done(existed=False)
            case DeleteBucket():
                if command.bucket not in self.buckets:
                    return Rejection.NO_SUCH_BUCKET
                if self.buckets[command.bucket]:
                    return Rejection.BUCKET_NOT_EMPTY
                del self.buckets[command.bucket]
                return Done()
        if command.bucket not in self.buckets:
            return Rejection.NO_SUCH_BUCKET
        match command:
            case PutObject():
                return self._put(command, index)
            case CopyObject():
                return self._copy(command, index)
            case DeleteObject():
                existed = command.key in self.buckets[command.bucket]
                outcome = self._delete(command.bucket, command.key, command.condition.if_match)
                return Done(existed=existed) if outcome is None else outcome
            case DeleteObjects():
                return DeletedMany(
                    outcomes=tuple(
                        Rejection.NO_SUCH_VERSION
                        if entry.version_id not in (None, "null")
                        else self._delete(command.bucket, entry.key, entry.etag)
                        for entry in command.entries
                    )
                )
        raise AssertionError(command)

    def _delete(self, bucket: str, key: str, etag: str | None) -> Rejection | None:
        things = self.buckets[bucket]
        if etag is not None:
            if key not in things:
                return Rejection.NO_SUCH_KEY
            if etag not in ("*", things[key].etag):
                return Rejection.PRECONDITION_FAILED_IF_MATCH
        things.pop(key, None)
        return None

    @staticmethod
    def _refused(condition: WriteCondition, current: Thing | None) -> Rejection | None:
        match = condition.if_match
        if match is not None and current is None:
            return Rejection.NO_SUCH_KEY
        if match is not None and current is not None and match != current.etag:
            return Rejection.PRECONDITION_FAILED_IF_MATCH
        if condition.if_none_match_any and current is not None:
            return Rejection.PRECONDITION_FAILED_IF_NONE_MATCH
        return None

    def _put(self, command: PutObject, index: int) -> Result:
        things = self.buckets[command.bucket]
        refused = self._refused(command.condition, things.get(command.key))
        if refused is not None:
            return refused
        body = command.body
        size = 0
        if body is not None and (body.blob in self.files or body.blob in self.inline):
            return Rejection.BLOB_ALREADY_NAMED
        if isinstance(body, InlineBody):
            self.inline[body.blob] = body.data
            size = len(body.data)
        if isinstance(body, BlobBody):
            if body.blob in (blob for _, blob in self.forgotten):
                below = int.from_bytes(body.blob[:8], "big") < self.floor
                return Rejection.BLOB_BELOW_FLOOR if below else Rejection.BLOB_ALREADY_NAMED
            if int.from_bytes(body.blob[:8], "big") < self.floor:
                return Rejection.BLOB_BELOW_FLOOR
            if len(set(body.holders) & set(self.voters)) <= len(self.voters) // 2:
                return Rejection.HOLDERS_TOO_FEW
            self.files[body.blob] = FileBlob(size=body.size_bytes, holders=set(body.holders))
            size = body.size_bytes
        thing = Thing(
            blob=None if body is None else body.blob,
            size=size,
            etag=command.etag,
            modified_ms=command.modified_ms,
            checksum=command.checksum,
            headers=command.headers,
            index=index,
        )
        return self._stored(command.bucket, command.key, thing)

    def _copy(self, command: CopyObject, index: int) -> Result:
        if command.source_bucket not in self.buckets:
            return Rejection.NO_SUCH_SOURCE_BUCKET
        source = self.buckets[command.source_bucket].get(command.source_key)
        if source is None:
            return Rejection.NO_SUCH_SOURCE_KEY
        condition = command.source_condition
        if condition.if_match is not None and source.etag not in condition.if_match:
            return Rejection.SOURCE_PRECONDITION_FAILED
        if condition.if_none_match is not None and source.etag in condition.if_none_match:
            return Rejection.SOURCE_PRECONDITION_FAILED
        here = (command.bucket, command.key)
        if not command.changes_something and here == (command.source_bucket, command.source_key):
            return Rejection.SELF_COPY_WITHOUT_CHANGE
        if command.expect_commit_index not in (None, source.index):
            return Rejection.SOURCE_CHANGED
        refused = self._refused(command.condition, self.buckets[command.bucket].get(command.key))
        if refused is not None:
            return refused
        thing = replace(
            source,
            modified_ms=command.modified_ms,
            checksum=command.checksum or source.checksum,
            headers=command.headers or source.headers,
            index=index,
        )
        return self._stored(command.bucket, command.key, thing)

    def _stored(self, bucket: str, key: str, thing: Thing) -> Stored:
        self.buckets[bucket][key] = thing
        return Stored(
            etag=thing.etag,
            modified_ms=thing.modified_ms,
            checksum=thing.checksum,
            commit_index=thing.index,
        )

    def _report(self, command: ReportHolders) -> Done:
        if command.sequence <= self.sequences.get(command.node, 0):
            return Done(existed=False)
        self.sequences[command.node] = command.sequence
        for blob in command.gained:
            if blob in self.files and blob not in command.lost:
                self.files[blob].holders.add(command.node)
        for blob in command.lost:
            if blob in self.files:
                self.files[blob].holders.discard(command.node)
        return Done()
