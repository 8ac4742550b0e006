"""Rows of multipart uploads, of parts and of manifests, inside one write transaction.

Parts of objects that are gone are let go in portions, some with each entry: ten thousand at once, or a thousand objects
of as many in one DeleteObjects, would stop every node for seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from sos.catalog import keys, upload_records
from sos.catalog.environment import Transaction
from sos.catalog.keys import PIECE, UPLOADS
from sos.catalog.model import UploadId
from sos.catalog.records import State
from sos.catalog.rules import view as writes
from sos.catalog.rules.blob import References
from sos.catalog.writer import RowWriter
from sos.limits import FINISHED_UPLOAD_MS, PARTS_RELEASED_MAX

_PURGED_WITH_EACH: Final = 2  # more than one: old rows shrink while new ones come


class UploadWriter(RowWriter):
    """``RowWriter`` with the writes about multipart uploads."""

    def __init__(self, transaction: Transaction, state: State) -> None:
        super().__init__(transaction, state)
        self._release_left = 0
        self._is_releasing = self._first_key(keys.RELEASING) is not None

    def _go_on_releasing(self) -> None:
        """With each entry: parts that could not be let go with the entry that released them."""
        self._release_left = PARTS_RELEASED_MAX
        while self._is_releasing and self._release_left:
            row_key = self._first_key(keys.RELEASING)
            if row_key is None:
                self._is_releasing = False
            elif self._release(UploadId(row_key[keys.PREFIX_BYTES :])):
                self._take(row_key)

    def _release_parts(self, write: writes.ReleaseParts) -> None:
        if not self._release(write.upload):
            self._add(keys.releasing_key(write.upload), upload_records.encode_releasing())
            self._is_releasing = True

    def _release(self, upload: UploadId) -> bool:
        """Let go of parts, as many as this entry still may; whether none is left."""
        parts = self.parts(upload, limit=self._release_left + 1)
        references = References(self)
        for number in list(parts)[: self._release_left]:
            references.release(parts[number].blob)
            self._take(keys.part_key(upload, number))
        for write in references.writes():
            self.perform(write)
        if len(parts) > self._release_left:
            self._release_left = 0
            return False
        self._release_left -= len(parts)
        self._take(keys.manifest_key(upload))
        return True

    # --- uploads ----------------------------------------------------------------------------------
    def _add_upload(self, write: writes.AddUpload) -> None:
        record = write.record
        self._add(keys.upload_key(record.upload), upload_records.encode_upload(record))
        key = record.key.encode()
        row_key = keys.tree_key(UPLOADS, record.bucket_id, key)
        others = self._row(row_key, upload_records.decode_uploads_of) or ()
        uploads = tuple(sorted((*others, record.upload)))
        self._replace(row_key, upload_records.encode_uploads_of(uploads))
        if not others and len(key) > PIECE:
            self._count_pointers(record.bucket_id, key, 1, UPLOADS)

    def _remove_upload(self, bucket_id: int, key: bytes, upload: UploadId) -> None:
        removed = self._take(keys.upload_key(upload))
        assert removed is not None, "an upload that ends has a row"
        row_key = keys.tree_key(UPLOADS, bucket_id, key)
        all_of_key = self._row(row_key, upload_records.decode_uploads_of) or ()
        left = tuple(other for other in all_of_key if other != upload)
        if left:
            self._replace(row_key, upload_records.encode_uploads_of(left))
            return
        self._take(row_key)
        if len(key) > PIECE:
            self._count_pointers(bucket_id, key, -1, UPLOADS)

    def _finish_upload(self, write: writes.FinishUpload) -> None:
        record, finished = write.record, write.finished
        self._remove_upload(record.bucket_id, record.key.encode(), record.upload)
        row = upload_records.encode_finished_upload(finished)
        self._add(keys.finished_upload_key(record.upload), row)
        self._purge_finished(finished.finished_ms - FINISHED_UPLOAD_MS)

    def _purge_finished(self, before_ms: int) -> None:
        """The first rows in order of creation; one that ended late keeps those behind it for a day more."""
        for _ in range(_PURGED_WITH_EACH):
            row_key = self._first_key(keys.FINISHED_UPLOAD)
            if row_key is None:
                return
            record = self._need(row_key, upload_records.decode_finished_upload)
            if record.finished_ms >= before_ms:
                return
            self._take(row_key)

    def _drop_uploads(self, write: writes.DropUploads) -> None:
        page = self.uploads_of_bucket(write.bucket_id)
        for key, uploads in page:
            for upload in uploads:
                self._remove_upload(write.bucket_id, key, upload)
                self._release_parts(writes.ReleaseParts(upload))

    # --- parts ------------------------------------------------------------------------------------
    def _put_part(self, write: writes.PutPart) -> None:
        row_key = keys.part_key(write.upload, write.record.number)
        self._replace(row_key, upload_records.encode_part(write.record))

    def _remove_part(self, write: writes.RemovePart) -> None:
        self._take(keys.part_key(write.upload, write.number))

    def _put_manifest(self, write: writes.PutManifest) -> None:
        row = upload_records.encode_manifest(write.manifest)
        self._add(keys.manifest_key(write.upload), row)

    WRITERS: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        **RowWriter.WRITERS,
        writes.AddUpload: _add_upload,
        writes.FinishUpload: _finish_upload,
        writes.DropUploads: _drop_uploads,
        writes.PutPart: _put_part,
        writes.RemovePart: _remove_part,
        writes.PutManifest: _put_manifest,
        writes.ReleaseParts: _release_parts,
    }
