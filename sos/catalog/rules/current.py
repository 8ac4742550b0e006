"""What a command does to the versions of keys in one bucket. Pure.

Every rule that writes or removes a version goes through here, so that counts, references and the order of versions are
kept in one place. The row of a key is its current version (S3 API: "current version"), which may be a delete marker;
noncurrent ones have rows of their own, and the current row says how many there are and which of them is the null one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from sos.catalog.model import (
    BucketRecord,
    Checksum,
    ChecksumAlgorithm,
    Deleted,
    ObjectRecord,
    Position,
    Stored,
    StoredHeaders,
    Versioning,
    VersionNumber,
)
from sos.catalog.rules.blob import References
from sos.catalog.rules.bucket import recounted
from sos.catalog.rules.view import (
    AddVersionRow,
    CatalogView,
    PutObjectRow,
    ReleaseParts,
    RemoveObjectRow,
    RemoveVersionRow,
    Write,
)

_NO_CHECKSUM: Final = Checksum(algorithm=ChecksumAlgorithm.CRC64NVME, digest=bytes(8))
_NO_HEADERS: Final = StoredHeaders()


def stored(bucket: BucketRecord, record: ObjectRecord) -> Stored:
    """The result of a command that made ``record`` the current version."""
    return Stored(
        etag=record.etag,
        modified_ms=record.modified_ms,
        checksum=record.checksum,
        commit_index=record.commit_index,
        version=None if bucket.versioning is Versioning.NEVER else record.version,
        composite=record.composite,
    )


class BucketChange:
    """The changes of one command to one bucket, gathered: a command may touch many keys, and one key or blob many times."""

    __slots__ = (
        "_added",
        "_bucket",
        "_gone",
        "_objects",
        "_position",
        "_rows",
        "_seen",
        "_size_bytes",
        "_versions",
        "_view",
        "references",
    )

    def __init__(self, view: CatalogView, bucket: BucketRecord, position: Position) -> None:
        self.references = References(view)
        self._view = view
        self._bucket = bucket
        self._position = position
        self._rows: list[Write] = []
        self._seen: dict[str, ObjectRecord | None] = {}
        # noncurrent versions that this command made or removed, by key and order
        self._added: dict[tuple[str, int], ObjectRecord] = {}
        self._gone: set[tuple[str, int]] = set()  # only looked up: its order differs between nodes
        self._objects = 0
        self._versions = 0
        self._size_bytes = 0

    def current(self, key: str) -> ObjectRecord | None:
        """The current version of ``key``, with what this command did to it so far."""
        if key not in self._seen:
            self._seen[key] = self._view.object(self._bucket.bucket_id, key)
        return self._seen[key]

    # --- what commands do -------------------------------------------------------------------------
    def place(self, key: str, record: ObjectRecord) -> ObjectRecord:
        """Make ``record`` the current version of ``key``; the record as it is stored.

        Its bytes are the caller's to name or to take; those of what it replaces are released here.
        """
        current = self.current(key)
        versioning = self._bucket.versioning
        if versioning is Versioning.NEVER:
            if current is not None:
                self._drop(current)
        else:
            is_null = versioning is Versioning.SUSPENDED
            older, null_order = 0, 0
            if current is not None:
                older, null_order = current.older, current.null_order
                if is_null and current.is_null:
                    self._drop(current)
                else:
                    self._demote(key, current)
                    older += 1
                    if current.is_null:
                        null_order = current.order
            if is_null and null_order:  # there is one null version at most
                self._remove_older(key, null_order)
                older, null_order = older - 1, 0
            record = replace(
                record,
                number=self._position.number,
                is_null=is_null,
                older=older,
                null_order=null_order,
            )
        self._count(record, 1, is_current=True)
        self._put_row(key, current, record)
        return record

    def delete(self, key: str, modified_ms: int) -> Deleted | None:
        """A delete without a version id: the key goes, or a delete marker becomes its current version.

        None in a bucket that was never versioned, where an absent key changes nothing.
        """
        current = self.current(key)
        if self._bucket.versioning is not Versioning.NEVER:
            already = current is not None and current.number == self._position.number
            if already and current is not None and current.is_marker:
                return Deleted(version=current.version, is_marker=True)  # twice in one command
            marker = self.place(key, self._marker(modified_ms))
            return Deleted(version=marker.version, is_marker=True)
        if current is not None:
            self._drop(current)
            self._remove_row(key)
        return None

    def delete_version(self, key: str, version: VersionNumber) -> Deleted:
        """Remove one version for good, if it is there; the next older one becomes current if it was that."""
        current = self.current(key)
        if current is None:
            return Deleted(version=version, is_marker=False)
        if current.version == version:
            self._drop(current)
            self._promote(key, current)
            return Deleted(version=version, is_marker=current.is_marker)
        order = version or current.null_order
        record = self._older(key, order) if order else None
        if record is None:
            return Deleted(version=version, is_marker=False)
        self._remove_older(key, order)
        null_order = 0 if record.is_null else current.null_order
        self._put_row(
            key, current, replace(current, older=current.older - 1, null_order=null_order)
        )
        return Deleted(version=version, is_marker=record.is_marker)

    def revise(self, key: str, record: ObjectRecord) -> None:
        """Write a version anew, with other tags or another ACL; it keeps its place and its bytes."""
        current = self.current(key)
        assert current is not None, "a version of a key that is not there"
        if current.version == record.version:
            self._put_row(key, current, record)
            return
        self._rows.append(RemoveVersionRow(self._bucket.bucket_id, key, record.order))
        self._rows.append(AddVersionRow(self._bucket.bucket_id, key, record))

    def writes(self, naming: Sequence[Write] = (), *, uploads: int = 0) -> list[Write]:
        """All writes: ``naming`` of new blobs, references, rows, the bucket's counters. Nothing, if nothing changed.

        ``uploads``: by how many the uploads in progress change.
        """
        if not self._rows:
            return []
        return [
            *naming,
            *self.references.writes(),
            *self._rows,
            recounted(
                self._bucket,
                self._objects,
                self._size_bytes,
                versions=self._versions,
                uploads=uploads,
            ),
        ]

    # --- the rows of a key ------------------------------------------------------------------------
    def _put_row(self, key: str, before: ObjectRecord | None, record: ObjectRecord) -> None:
        self._rows.append(PutObjectRow(self._bucket.bucket_id, key, record, before is not None))
        self._seen[key] = record

    def _remove_row(self, key: str) -> None:
        self._rows.append(RemoveObjectRow(self._bucket.bucket_id, key))
        self._seen[key] = None

    def _demote(self, key: str, current: ObjectRecord) -> None:
        record = replace(current, older=0, null_order=0)
        self._count(record, -1, is_current=True)
        self._count(record, 1, is_current=False)
        self._rows.append(AddVersionRow(self._bucket.bucket_id, key, record))
        self._added[key, record.order] = record
        self._gone.discard((key, record.order))

    def _promote(self, key: str, removed: ObjectRecord) -> None:
        """The newest of the noncurrent versions takes the place of the current one that was removed."""
        record = next(self._newest_older(key), None)
        if record is None:
            self._remove_row(key)
            return
        self._take_older(key, record)
        self._count(record, -1, is_current=False)
        self._count(record, 1, is_current=True)
        null_order = 0 if record.is_null else removed.null_order
        promoted = replace(record, older=removed.older - 1, null_order=null_order)
        self._put_row(key, removed, promoted)

    def _remove_older(self, key: str, order: int) -> None:
        record = self._older(key, order)
        assert record is not None, "a noncurrent version that the current one knows is not there"
        self._take_older(key, record)
        self._count(record, -1, is_current=False)
        self._release(record)

    def _take_older(self, key: str, record: ObjectRecord) -> None:
        self._rows.append(RemoveVersionRow(self._bucket.bucket_id, key, record.order))
        self._added.pop((key, record.order), None)
        self._gone.add((key, record.order))

    def _older(self, key: str, order: int) -> ObjectRecord | None:
        if (key, order) in self._gone:
            return None
        added = self._added.get((key, order))
        return added or self._view.older_version(self._bucket.bucket_id, key, order)

    def _newest_older(self, key: str) -> Iterator[ObjectRecord]:
        """What this command demoted is newer than all that was there before."""
        added = [record for (of, _), record in self._added.items() if of == key]
        yield from sorted(added, key=lambda record: record.order, reverse=True)
        for record in self._view.older_versions(self._bucket.bucket_id, key):
            if (key, record.order) not in self._gone:
                yield record

    def _marker(self, modified_ms: int) -> ObjectRecord:
        return ObjectRecord(
            blob=None,
            inline=False,
            size_bytes=0,
            etag="",
            md5=b"",
            modified_ms=modified_ms,
            checksum=_NO_CHECKSUM,
            headers=_NO_HEADERS,
            commit_index=self._position.index,
            is_marker=True,
        )

    # --- counts and bytes -------------------------------------------------------------------------
    def _drop(self, current: ObjectRecord) -> None:
        """The current version goes for good."""
        self._count(current, -1, is_current=True)
        self._release(current)

    def _count(self, record: ObjectRecord, change: int, *, is_current: bool) -> None:
        if is_current and not record.is_marker:
            self._objects += change
        else:
            self._versions += change
        self._size_bytes += change * record.size_bytes

    def _release(self, record: ObjectRecord) -> None:
        if record.manifest is None:
            self.references.release(record.blob)
        else:
            self._rows.append(ReleaseParts(record.manifest))
