"""Read views: the catalog at one moment, over one LMDB transaction.

``RowReader`` holds the point lookups; the writer's batch and the readers' ``View`` share them. A view must not
live across an await: it pins old pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from types import TracebackType
from typing import Final, TypeVar

from sos.catalog import keys, records, upload_records
from sos.catalog.codec import decode_formation, decode_member_list
from sos.catalog.environment import LmdbError, Transaction, meaning_of
from sos.catalog.model import (
    AccessKeyId,
    AccessKeyRecord,
    BlobId,
    BlobRecord,
    BucketRecord,
    BucketSetting,
    Counters,
    Digests,
    FinishedUpload,
    ForgottenBlob,
    FormationRecord,
    KeyPage,
    Manifest,
    Member,
    MemberCopies,
    MemberList,
    NodeId,
    ObjectRecord,
    OwedBlob,
    PartRecord,
    Removal,
    RequestId,
    UploadId,
    UploadPage,
    UploadRecord,
    VersionNumber,
    VersionPage,
    VersionPosition,
)
from sos.catalog.pages import list_keys, rows_from
from sos.catalog.records import SUM_MODULUS, State, record_hash, unseal
from sos.catalog.upload_pages import list_uploads
from sos.catalog.version_pages import list_versions
from sos.errors import Corruption
from sos.levels import FIRST
from sos.limits import PARTS_MAX
from sos.packing import PackingError

_Value = TypeVar("_Value")
_ID_BYTES: Final = 16


class RowReader:
    """Point lookups in one transaction. Raises: Corruption for a record that fails its checksum."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._get = transaction.get

    def _row(self, row_key: bytes, decode: Callable[[bytes, bytes], _Value]) -> _Value | None:
        value = self._get(row_key)
        return None if value is None else decode(row_key, value)

    def _need(self, row_key: bytes, decode: Callable[[bytes, bytes], _Value]) -> _Value:
        row = self._row(row_key, decode)
        if row is None:
            raise Corruption(f"{keys.describe(row_key)}: missing")
        return row

    def has_manifest(self, upload: UploadId) -> bool:
        """Whether an object consists of the parts of this upload; it is the last that goes with them."""
        return self._get(keys.manifest_key(upload)) is not None

    def _rows(self, table: bytes, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(database key, value) of a table from ``start`` on."""
        cursor = self._transaction.cursor()
        # After a set_range that finds nothing, iteration would start at the first key of all.
        if not cursor.set_range(start):
            return
        for row_key, value in cursor.iternext(keys=True, values=True):
            if not row_key.startswith(table):
                return
            yield row_key, value

    def bucket(self, name: str) -> BucketRecord | None:
        """The bucket of this name."""
        return self._row(keys.bucket_key(name), records.decode_bucket)

    def object(self, bucket_id: int, key: str) -> ObjectRecord | None:
        """The current version of ``key``."""
        return self._row(keys.object_key(bucket_id, key.encode()), records.decode_object)

    def setting(self, bucket_id: int, setting: BucketSetting) -> bytes | None:
        """A configuration document of a bucket."""
        return self._row(keys.setting_key(bucket_id, setting), records.decode_setting)

    def older_version(self, bucket_id: int, key: str, order: int) -> ObjectRecord | None:
        """The noncurrent version of this order."""
        return self._row(keys.version_key(bucket_id, key.encode(), order), records.decode_object)

    def older_versions(self, bucket_id: int, key: str) -> Iterator[ObjectRecord]:
        """All noncurrent versions, the newest first."""
        table = keys.version_prefix(bucket_id, key.encode())
        for row_key, value in self._rows(table, table):
            yield records.decode_object(row_key, value)

    def version(self, bucket_id: int, key: str, version: VersionNumber) -> ObjectRecord | None:
        """A version by its number, current or not."""
        current = self.object(bucket_id, key)
        if current is None or current.version == version:
            return current
        order = version or current.null_order
        return self.older_version(bucket_id, key, order) if order else None

    def upload(self, upload: UploadId) -> UploadRecord | None:
        """A multipart upload in progress."""
        return self._row(keys.upload_key(upload), upload_records.decode_upload)

    def finished_upload(self, upload: UploadId) -> FinishedUpload | None:
        """What became of an upload, for a day."""
        return self._row(keys.finished_upload_key(upload), upload_records.decode_finished_upload)

    def uploads_of_bucket(self, bucket_id: int) -> list[tuple[bytes, tuple[UploadId, ...]]]:
        """Key and uploads in progress, by key."""
        rows = rows_from(self._transaction, bucket_id, b"", keys.UPLOADS)
        return [
            (key, upload_records.decode_uploads_of(row_key, value)) for key, row_key, value in rows
        ]

    def part(self, upload: UploadId, number: int) -> PartRecord | None:
        """One part of an upload or of the object that it became."""
        return self._row(keys.part_key(upload, number), upload_records.decode_part)

    def parts(
        self, upload: UploadId, after: int = 0, limit: int = PARTS_MAX
    ) -> dict[int, PartRecord]:
        """Its parts by number, ascending, from the first above ``after``."""
        table = keys.part_prefix(upload)
        found: dict[int, PartRecord] = {}
        for row_key, value in self._rows(table, keys.part_key(upload, min(after, PARTS_MAX) + 1)):
            if len(found) >= limit:
                break
            record = upload_records.decode_part(row_key, value)
            found[record.number] = record
        return found

    def manifest(self, upload: UploadId) -> Manifest:
        """How the parts make the object. Raises: Corruption, if it is missing."""
        return self._need(keys.manifest_key(upload), upload_records.decode_manifest)

    def blob(self, blob: BlobId) -> BlobRecord | None:
        """A counted blob of either kind."""
        record = self._row(keys.blob_key(blob), records.decode_blob)
        if record is not None:
            return record
        inline = self._row(keys.inline_key(blob), records.decode_inline)
        if inline is None:
            return None
        count, data = inline
        return BlobRecord(
            blob=blob, size_bytes=len(data), crc64=b"", reference_count=count, inline=True
        )

    def inline_body(self, blob: BlobId) -> bytes | None:
        """The bytes of an inline blob."""
        inline = self._row(keys.inline_key(blob), records.decode_inline)
        return None if inline is None else inline[1]

    def holders(self, blob: BlobId) -> tuple[NodeId, ...]:
        """Nodes with a copy of a blob in files, in order of name, also such as are no members (any more)."""
        record = self._row(keys.blob_key(blob), records.decode_blob)
        return () if record is None else record.holders

    def was_forgotten(self, blob: BlobId) -> bool:
        """Whether a blob in files was forgotten; known while the sweep floor lies below its id."""
        return self._row(keys.tombstone_key(blob), records.decode_tombstone) is not None

    def access_key(self, access_key: AccessKeyId) -> AccessKeyRecord | None:
        """The access key with this id, also a revoked one."""
        row_key = keys.access_key_key(access_key)
        value = self._get(row_key)
        return None if value is None else records.decode_access_key(access_key, row_key, value)

    def member_list(self) -> MemberList:
        """The member list in force, and the index of the entry that set it."""
        index, payload = self._need(keys.MEMBERS_KEY, records.decode_number_and_bytes)
        try:
            epoch, members = decode_member_list(payload)
        except PackingError as error:
            raise Corruption(f"{keys.describe(keys.MEMBERS_KEY)}: {error}") from error
        return MemberList(index=index, members=members, epoch=epoch)

    def level(self) -> int:
        """The highest feature level that was ever applied (``sos.levels``)."""
        return self._row(keys.LEVEL_KEY, records.decode_level) or FIRST

    def members(self) -> tuple[Member, ...]:
        """The voters of the list in force."""
        return self.member_list().members

    def removals(self) -> tuple[Removal, ...]:
        """The last incarnations that lists removed, the newest last."""
        return self._row(keys.REMOVED_KEY, records.decode_removals) or ()

    def member_copies(self, node: NodeId) -> MemberCopies | None:
        """What is known of a node's copies; None for a node that is no member and never reported."""
        row_key = keys.member_key(node)
        value = self._get(row_key)
        return None if value is None else records.decode_member(node, row_key, value)

    def report_sequence(self, node: NodeId) -> int:
        """Of the node's last accepted report; 0 before the first."""
        copies = self.member_copies(node)
        return 0 if copies is None else copies.report_sequence

    def stored_result(self, request_id: RequestId) -> bytes | None:
        """The encoded result that is remembered under a request id."""
        remembered = self._row(keys.request_key(request_id), records.decode_number_and_bytes)
        return None if remembered is None else remembered[1]


class View(RowReader):
    """The catalog at one moment, for gateways and the core's own reads. Use as a context manager."""

    def __init__(self, transaction: Transaction, generation: int) -> None:
        super().__init__(transaction)
        self.generation = generation
        self._state: State = self._need(keys.STATE_KEY, _read_state)

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the transaction. Raises: Corruption, Unavailable, in place of what LMDB raised inside."""
        self.close()
        if isinstance(error, LmdbError) and (meaning := meaning_of(error)) is not None:
            raise meaning from error

    def close(self) -> None:
        """End the transaction; again is no error."""
        self._transaction.abort()

    @property
    def applied_index(self) -> int:
        """Log index up to which this view holds everything."""
        return self._state.index

    @property
    def applied_term(self) -> int:
        """Term of the entry at ``applied_index``."""
        return self._state.term

    def state(self) -> State:
        """A copy of the row that every batch rewrites, for the writer to start from."""
        return replace(self._state)

    def format_version(self) -> int:
        """What wrote the environment."""
        return self._need(keys.FORMAT_KEY, records.decode_number_and_bytes)[0]

    def sweep_floor(self) -> int:
        """Uncommitted blobs whose id starts below it are swept, and never named any more."""
        return self._state.sweep_floor

    def formation(self) -> FormationRecord:
        """What the cluster was formed with."""
        body = self._need(keys.FORMATION_KEY, unseal)
        try:
            return decode_formation(body)
        except PackingError as error:
            raise Corruption(f"{keys.describe(keys.FORMATION_KEY)}: {error}") from error

    # --- lists ------------------------------------------------------------------------------------
    def buckets(self) -> list[BucketRecord]:
        """All buckets by name, in byte order."""
        return [records.decode_bucket(*row) for row in self._rows(keys.BUCKET, keys.BUCKET)]

    def access_keys(self) -> list[AccessKeyRecord]:
        """All access keys by id, revoked ones too."""
        start = keys.PREFIX_BYTES
        return [
            records.decode_access_key(AccessKeyId(row_key[start:].decode()), row_key, value)
            for row_key, value in self._rows(keys.ACCESS_KEY, keys.ACCESS_KEY)
        ]

    def list_keys(
        self,
        bucket_id: int,
        *,
        prefix: str = "",
        delimiter: str = "",
        after: str = "",
        limit: int,
    ) -> KeyPage:
        """The first ``limit`` entries greater than ``after`` (s3.md 6.1); empty parameters are absent ones."""
        return list_keys(
            self._transaction,
            bucket_id,
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            limit=limit,
        )

    def list_versions(
        self,
        bucket_id: int,
        *,
        prefix: str = "",
        delimiter: str = "",
        after: VersionPosition | None = None,
        limit: int,
    ) -> VersionPage:
        """The first ``limit`` versions and common prefixes behind a position (s3.md 6.5)."""
        return list_versions(
            self._transaction,
            bucket_id,
            prefix=prefix,
            delimiter=delimiter,
            after=after,
            limit=limit,
        )

    def list_uploads(
        self,
        bucket_id: int,
        *,
        prefix: str = "",
        delimiter: str = "",
        after_key: str = "",
        after_upload: UploadId | None = None,
        limit: int,
    ) -> UploadPage:
        """The first ``limit`` uploads in progress greater than a position (s3.md 6.6).

        ``after_upload is None``: the position is behind all uploads of ``after_key``.
        """
        return list_uploads(
            self._transaction,
            bucket_id,
            prefix=prefix,
            delimiter=delimiter,
            after_key=after_key,
            after_upload=after_upload,
            limit=limit,
        )

    def blobs(self, after: bytes = b"", limit: int = 1000) -> list[BlobRecord]:
        """Blobs in files by id, from the first greater than ``after``; inline ones are not among them."""
        page: list[BlobRecord] = []
        for row_key, value in self._rows(keys.BLOB, keys.BLOB + _past(after)):
            if len(page) >= limit:
                break
            page.append(records.decode_blob(row_key, value))
        return page

    def owed(self, node: NodeId, after: bytes = b"", limit: int = 1000) -> list[OwedBlob]:
        """Blobs of which ``node`` has no copy, by id, from the first greater than ``after``."""
        page: list[OwedBlob] = []
        table = keys.owed_prefix(node)
        for row_key, value in self._rows(table, table + _past(after)):
            if len(page) >= limit:
                break
            size_bytes = records.decode_owed(row_key, value)
            page.append(OwedBlob(blob=BlobId(row_key[-_ID_BYTES:]), size_bytes=size_bytes))
        return page

    def forgotten(
        self, after: ForgottenBlob | None = None, limit: int = 1000
    ) -> list[ForgottenBlob]:
        """Blobs whose files may be unlinked, in the order in which they were forgotten.

        A row goes when the sweep floor has passed its blob; a node that was away longer finds the file by the sweep.
        """
        page: list[ForgottenBlob] = []
        start = keys.FORGOTTEN
        if after is not None:
            start = keys.forgotten_key(after.index, after.blob) + b"\x00"
        for row_key, value in self._rows(keys.FORGOTTEN, start):
            if len(page) >= limit:
                break
            unseal(row_key, value)
            index = int.from_bytes(row_key[keys.PREFIX_BYTES : -_ID_BYTES], "big")
            page.append(ForgottenBlob(index=index, blob=BlobId(row_key[-_ID_BYTES:])))
        return page

    # --- totals and digests -----------------------------------------------------------------------
    def counters(self) -> Counters:
        """Totals as they are kept with every write."""
        state = self._state
        return Counters(
            bucket_count=state.bucket_count,
            object_count=state.object_count,
            size_bytes=state.size_bytes,
            blob_count=state.blob_count,
            blob_bytes=state.blob_bytes,
            forgotten_count=state.forgotten_count,
            sweep_floor=state.sweep_floor,
        )

    def digests(self) -> Digests:
        """What members compare."""
        state = self._state
        kept = tuple(
            records.decode_number_and_bytes(row_key, value)
            for row_key, value in self._rows(keys.DIGEST, keys.DIGEST)
        )
        return Digests(
            applied_index=state.index,
            applied_term=state.term,
            chain=state.chain,
            record_sum=state.record_sum,
            kept=kept,
        )

    def check_ends(self) -> None:
        """Read the first row of every table. Raises: Corruption."""
        for table in keys.TABLES:
            start = bytes([table])
            row = next(self._rows(start, start), None)
            if row is not None:
                unseal(*row)

    def objects_of(
        self, bucket_id: int, blobs: Set[BlobId], after: str, limit: int
    ) -> tuple[list[str], str | None]:
        """Of the first ``limit`` keys greater than ``after`` those whose bytes are one of ``blobs``; the last key looked
        at, None behind the end."""
        found = []
        target = after.encode() + b"\x00" if after else b""
        rows = rows_from(self._transaction, bucket_id, target)
        for number, (key, row_key, value) in enumerate(rows, 1):
            if records.decode_object(row_key, value).blob in blobs:
                found.append(key.decode())
            if number == limit:
                return found, key.decode()
        return found, None

    def check_rows(self, after: bytes, limit: int) -> tuple[bytes | None, int]:
        """Check the first ``limit`` rows behind database key ``after``: the last one's key, None at the end; their bytes.

        Raises: Corruption.
        """
        size_bytes = 0
        start = after + b"\x00"
        for number, (row_key, value) in enumerate(self._rows(b"", start), 1):
            unseal(row_key, value)
            size_bytes += len(row_key) + len(value)
            if number == limit:
                return row_key, size_bytes
        return None, size_bytes

    def scan_digest(self) -> int:
        """The record sum as the rows really give it: reads and checks every row. For ``verify`` and tests at rest."""
        total = 0
        for row_key, value in self._rows(b"", b"\x00"):
            unseal(row_key, value)
            if row_key != keys.STATE_KEY:
                total += record_hash(value)
        return total % SUM_MODULUS


_last_state: tuple[bytes, State] | None = None


def _read_state(row_key: bytes, value: bytes) -> State:
    """The state in a row that nearly every view finds as the view before did. Views only read it."""
    global _last_state
    last = _last_state
    if last is not None and last[0] == value:
        return last[1]
    state = records.decode_state(row_key, value)
    _last_state = (value, state)
    return state


def _past(after: bytes) -> bytes:
    """The first position greater than ``after``; the start, if it is empty."""
    return after + b"\x00" if after else b""
