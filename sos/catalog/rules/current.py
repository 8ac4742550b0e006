"""What a command does to the versions of keys in one bucket. Pure.

Every rule that writes or removes a version goes through here, so that counts, references and the order of versions
are kept in one place.
"""

from __future__ import annotations

from collections.abc import Sequence

from sos.catalog.model import BucketRecord, ObjectRecord, Position, Stored, Versioning
from sos.catalog.rules.blob import References
from sos.catalog.rules.bucket import recounted
from sos.catalog.rules.view import (
    CatalogView,
    PutObjectRow,
    ReleaseParts,
    RemoveObjectRow,
    Write,
)


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
    """The changes of one command to one bucket, gathered: a command may touch many keys, and one blob many times."""

    __slots__ = ("_bucket", "_objects", "_rows", "_size_bytes", "references")

    def __init__(self, view: CatalogView, bucket: BucketRecord, position: Position) -> None:
        self.references = References(view)
        self._bucket = bucket
        self._rows: list[Write] = []
        self._objects = 0
        self._size_bytes = 0

    def place(self, key: str, current: ObjectRecord | None, record: ObjectRecord) -> ObjectRecord:
        """Make ``record`` the current version of ``key``; the record as it is stored.

        Its bytes are the caller's to name or to take; those of what it replaces are released here.
        """
        if current is None:
            self._objects += 1
        else:
            self._release(current)
            self._size_bytes -= current.size_bytes
        self._size_bytes += record.size_bytes
        self._rows.append(PutObjectRow(self._bucket.bucket_id, key, record, current is not None))
        return record

    def remove(self, key: str, current: ObjectRecord) -> None:
        """Remove the current version of ``key``."""
        self._release(current)
        self._objects -= 1
        self._size_bytes -= current.size_bytes
        self._rows.append(RemoveObjectRow(self._bucket.bucket_id, key))

    def _release(self, record: ObjectRecord) -> None:
        if record.manifest is None:
            self.references.release(record.blob)
        else:
            self._rows.append(ReleaseParts(record.manifest))

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
            recounted(self._bucket, self._objects, self._size_bytes, uploads=uploads),
        ]
