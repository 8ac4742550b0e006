"""Listing multipart uploads in progress: by key in byte order, then by creation (s3.md 6.6)."""

from __future__ import annotations

from sos.catalog.environment import Transaction
from sos.catalog.keys import UPLOADS, successor, upload_key
from sos.catalog.model import UploadId, UploadPage, UploadRecord
from sos.catalog.pages import rows_from
from sos.catalog.upload_records import decode_upload, decode_uploads_of


def list_uploads(
    transaction: Transaction,
    bucket_id: int,
    *,
    prefix: str,
    delimiter: str,
    after_key: str,
    after_upload: UploadId | None,
    limit: int,
) -> UploadPage:
    """The first ``limit`` entries behind a position: uploads, and common prefixes in place of what they hold."""
    page = _Page(limit)
    start, cut, after = prefix.encode(), delimiter.encode(), after_key.encode()
    target: bytes | None = max(start, after)
    while target is not None and not page.truncated:
        rows = rows_from(transaction, bucket_id, target, UPLOADS)
        target = None
        for key, row_key, value in rows:
            if not key.startswith(start):
                break
            end = key.find(cut, len(start)) if cut else -1
            if end >= 0:
                common = key[: end + len(cut)]
                if common > after:
                    page.add_prefix(common.decode())
                target = successor(common)
                break
            if key == after and after_upload is None:
                continue
            for upload in decode_uploads_of(row_key, value):
                if key == after and after_upload is not None and upload <= after_upload:
                    continue
                page.add(_need(transaction, upload))
            if page.truncated:
                break
    return page.finish()


class _Page:
    """Takes entries until it is full; one more shows that it is truncated."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._uploads: list[UploadRecord] = []
        self._prefixes: list[str] = []
        self._last: tuple[str, UploadId | None] = ("", None)
        self.truncated = limit <= 0  # nothing is looked for then

    def add(self, record: UploadRecord) -> None:
        if self._take((record.key, record.upload)):
            self._uploads.append(record)

    def add_prefix(self, prefix: str) -> None:
        if self._take((prefix, None)):
            self._prefixes.append(prefix)

    def _take(self, entry: tuple[str, UploadId | None]) -> bool:
        if not self._left:
            self.truncated = True
            return False
        self._left -= 1
        self._last = entry
        return True

    def finish(self) -> UploadPage:
        key, upload = self._last
        return UploadPage(
            uploads=self._uploads,
            common_prefixes=self._prefixes,
            last_key=key,
            last_upload=upload,
            truncated=self.truncated and bool(key),
        )


def _need(transaction: Transaction, upload: UploadId) -> UploadRecord:
    row_key = upload_key(upload)
    value = transaction.get(row_key)
    assert value is not None, "an upload that its key lists has a row"
    return decode_upload(row_key, value)
