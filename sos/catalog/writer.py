"""Rows of one write transaction: what rules read, and how their writes become rows, sums and trail.

Rows that most operations touch (bucket counters, member counters) are kept in memory and written once, by
``finish``. The *trail* collects what the digest chain covers: the logical writes of an entry, which do not depend
on how entries fell into batches.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, ClassVar, Final

from sos.catalog import keys, records
from sos.catalog.environment import Transaction
from sos.catalog.keys import PIECE
from sos.catalog.model import (
    AccessKeyId,
    AccessKeyRecord,
    BlobId,
    BucketRecord,
    Member,
    MemberCopies,
    NodeId,
)
from sos.catalog.records import CHECKSUM_BYTES, SUM_MODULUS, State, checksum, record_hash, seal
from sos.catalog.rules import view as writes
from sos.catalog.views import RowReader
from sos.packing import pack

# Forgotten blobs stay listed for this many entries: a node that was away longer finds their files by the sweep.
FORGOTTEN_ENTRIES: Final = 1_000_000
_PURGED_WITH_EACH: Final = 2  # more than one: old rows shrink while new ones come
_PURGED_WITH_FLOOR: Final = 1000
_DROPPED_WITH_EACH: Final = 256  # about a millisecond
_COUNTS: Final = struct.Struct(">QQQ")
_FLOOR: Final = struct.Struct(">Q")


class RowWriter(RowReader):
    """The catalog inside one write transaction, as rules see it. ``state`` is this transaction's own copy."""

    def __init__(self, transaction: Transaction, state: State) -> None:
        super().__init__(transaction)
        self.state = state
        self._put = transaction.put
        self._pop = transaction.pop
        self._trail: list[bytes] = []
        self._sum = state.record_sum
        self._buckets: dict[str, BucketRecord | None] = {}
        self._changed_buckets: dict[str, None] = {}
        self._access_keys: dict[AccessKeyId, AccessKeyRecord | None] = {}
        self._copies: dict[NodeId, MemberCopies | None] = {}
        self._changed_copies: dict[NodeId, None] = {}
        self._voters: tuple[Member, ...] | None = None
        # Removed nodes whose owed lists are not gone yet.
        self._dropping = list(self._row(keys.DROPPING_KEY, records.decode_nodes) or ())

    # --- what rules see, cached where most operations look ----------------------------------------
    def bucket(self, name: str) -> BucketRecord | None:
        cached = self._buckets.get(name)
        if cached is None and name not in self._buckets:
            cached = self._buckets[name] = super().bucket(name)
        return cached

    def access_key(self, access_key: AccessKeyId) -> AccessKeyRecord | None:
        cached = self._access_keys.get(access_key)
        if cached is None and access_key not in self._access_keys:
            cached = self._access_keys[access_key] = super().access_key(access_key)
        return cached

    def members(self) -> tuple[Member, ...]:
        if self._voters is None:
            self._voters = super().members()
        return self._voters

    def member_copies(self, node: NodeId) -> MemberCopies | None:
        if node not in self._copies:
            self._copies[node] = super().member_copies(node)
        return self._copies[node]

    def sweep_floor(self) -> int:
        return self.state.sweep_floor

    def perform(self, write: writes.Write) -> None:
        """Carry out one write of a decision."""
        self.WRITERS[type(write)](self, write)

    def finish(self) -> None:
        """Write the rows that were kept in memory, and where the catalog now stands."""
        for name in self._changed_buckets:
            bucket = self._buckets[name]
            if bucket is None:
                self._take(keys.bucket_key(name))
            else:
                self._replace(keys.bucket_key(name), records.encode_bucket(bucket))
        for node in self._changed_copies:
            copies = self._copies[node]
            if copies is None:
                self._take(keys.member_key(node))
            else:
                self._replace(keys.member_key(node), records.encode_member(copies))
        state = self.state
        state.record_sum = self._sum % SUM_MODULUS
        self._put(keys.STATE_KEY, seal(keys.STATE_KEY, records.encode_state(state)))

    def commit(self) -> None:
        """End the transaction; after ``finish``."""
        self._transaction.commit()

    def abort(self) -> None:
        """End the transaction without any of its writes."""
        self._transaction.abort()

    # --- rows -------------------------------------------------------------------------------------
    def _add(self, row_key: bytes, body: bytes) -> None:
        """Write a row that is certainly new."""
        hash_number = checksum(row_key, body)
        stamp = hash_number.to_bytes(CHECKSUM_BYTES, "big")
        is_new = self._put(row_key, stamp + body, overwrite=False)
        assert is_new, f"{keys.describe(row_key)} is there already"
        self._sum += hash_number
        self._trail.append(stamp)

    def _replace(self, row_key: bytes, body: bytes) -> None:
        """Write a row that may be there."""
        before = self._get(row_key)
        if before is not None:
            self._sum -= record_hash(before)
        hash_number = checksum(row_key, body)
        stamp = hash_number.to_bytes(CHECKSUM_BYTES, "big")
        self._put(row_key, stamp + body)
        self._sum += hash_number
        self._trail.append(stamp)

    def _take(self, row_key: bytes) -> bytes | None:
        """Remove a row; its value, None if it was not there."""
        value = self._pop(row_key)
        if value is not None:
            self._sum -= record_hash(value)
            self._trail.append(b"-" + value[:CHECKSUM_BYTES])
        return value

    def _first_key(self, table: bytes) -> bytes | None:
        """The first key of a table."""
        cursor = self._transaction.cursor()
        if not cursor.set_range(table):
            return None
        row_key = cursor.key()
        return row_key if row_key.startswith(table) else None

    # --- writes of rules --------------------------------------------------------------------------
    def _write_bucket(self, write: writes.PutBucket) -> None:
        record = write.record
        before = self.bucket(record.name)
        state = self.state
        if before is None:
            state.bucket_count += 1
        else:
            state.object_count -= before.object_count
            state.size_bytes -= before.size_bytes
        state.object_count += record.object_count
        state.size_bytes += record.size_bytes
        self._buckets[record.name] = record
        self._changed_buckets[record.name] = None
        counts = _COUNTS.pack(record.bucket_id, record.object_count, record.size_bytes)
        self._trail.append(counts)
        if (details := records.bucket_details(record)) != records.PLAIN_BUCKET:
            self._trail.append(pack(details))

    def _remove_bucket(self, write: writes.RemoveBucket) -> None:
        self.state.bucket_count -= 1
        self._buckets[write.name] = None
        self._changed_buckets[write.name] = None

    def _write_object(self, write: writes.PutObjectRow) -> None:
        key = write.key.encode()
        row_key = keys.object_key(write.bucket_id, key)
        body = records.encode_object(write.record)
        if write.replaces:
            self._replace(row_key, body)
            return
        self._add(row_key, body)
        if len(key) > PIECE:
            self._count_pointers(write.bucket_id, key, 1)

    def _remove_object(self, write: writes.RemoveObjectRow) -> None:
        key = write.key.encode()
        removed = self._take(keys.object_key(write.bucket_id, key))
        assert removed is not None, "a key that is removed has no row"
        if len(key) > PIECE:
            self._count_pointers(write.bucket_id, key, -1)

    def _put_setting(self, write: writes.PutSetting) -> None:
        row_key = keys.setting_key(write.bucket_id, write.setting)
        if write.document is None:
            self._take(row_key)
        else:
            self._replace(row_key, records.encode_setting(write.document))

    def _add_version(self, write: writes.AddVersionRow) -> None:
        row_key = keys.version_key(write.bucket_id, write.key.encode(), write.record.order)
        self._add(row_key, records.encode_object(write.record))

    def _remove_version(self, write: writes.RemoveVersionRow) -> None:
        row_key = keys.version_key(write.bucket_id, write.key.encode(), write.order)
        removed = self._take(row_key)
        assert removed is not None, "a version that is removed has no row"

    def _count_pointers(
        self, bucket_id: int, key: bytes, change: int, tree: keys.Tree = keys.OBJECTS
    ) -> None:
        """A long key came or went: the pointers on its way count the rows of their nodes."""
        for row_key in keys.pointer_keys(bucket_id, key, tree):
            before = self._row(row_key, records.decode_pointer) or 0
            if before + change == 0:
                self._take(row_key)
                continue  # a row of the node above went
            assert before + change > 0, "a pointer counts fewer than no rows"
            self._replace(row_key, records.encode_pointer(before + change))
            if before:
                return  # nothing came or went in the node above

    def _add_inline(self, write: writes.AddInline) -> None:
        self._add(keys.inline_key(write.blob), records.encode_inline(1, write.data))

    def _set_inline_count(self, write: writes.SetInlineCount) -> None:
        data = self.inline_body(write.blob)
        assert data is not None, "an inline body that is counted is gone"
        body = records.encode_inline(write.reference_count, data)
        self._replace(keys.inline_key(write.blob), body)

    def _remove_inline(self, write: writes.RemoveInline) -> None:
        self._take(keys.inline_key(write.blob))

    def _add_blob(self, write: writes.AddBlob) -> None:
        record = write.record
        self._add(keys.blob_key(record.blob), records.encode_blob(record))
        self.state.blob_count += 1
        self.state.blob_bytes += record.size_bytes

    def _replace_blob(self, write: writes.ReplaceBlob) -> None:
        self._replace(keys.blob_key(write.record.blob), records.encode_blob(write.record))

    def _forget_blob(self, write: writes.ForgetBlob) -> None:
        record, state = write.record, self.state
        blob = record.blob
        self._take(keys.blob_key(blob))
        state.blob_count -= 1
        state.blob_bytes -= record.size_bytes
        state.forgotten_count += 1
        forgotten = records.encode_forgotten(record.size_bytes)
        self._add(keys.forgotten_key(state.index, blob), forgotten)
        if (
            keys.first_index_of(blob) >= state.sweep_floor
        ):  # below it the floor alone forbids the id
            self._add(keys.tombstone_key(blob), records.encode_tombstone(state.index))
        self._purge_forgotten()
        self._purge_tombstones(_PURGED_WITH_EACH)

    def _purge_forgotten(self) -> None:
        end = keys.forgotten_key(max(0, self.state.index - FORGOTTEN_ENTRIES), BlobId(b""))
        for _ in range(_PURGED_WITH_EACH):
            row_key = self._first_key(keys.FORGOTTEN)
            if row_key is None or row_key >= end:
                return
            self._take(row_key)
            self.state.forgotten_count -= 1

    def _purge_tombstones(self, limit: int) -> None:
        """What lies below the sweep floor is refused by the floor; its tombstone is of no more use."""
        floor = self.state.sweep_floor
        for _ in range(limit):
            row_key = self._first_key(keys.TOMBSTONE)
            if row_key is None or keys.first_index_of(BlobId(row_key[-16:])) >= floor:
                return
            self._take(row_key)

    def _set_sweep_floor(self, write: writes.SetSweepFloor) -> None:
        self.state.sweep_floor = write.floor_index
        self._trail.append(_FLOOR.pack(write.floor_index))
        self._purge_tombstones(_PURGED_WITH_FLOOR)

    def _add_owed(self, write: writes.AddOwed) -> None:
        row_key = keys.owed_key(write.node, write.blob)
        if self._get(row_key) is not None:
            return
        self._add(row_key, records.encode_owed(write.size_bytes))
        self._count_owed(write.node, 1, write.size_bytes)

    def _remove_owed(self, write: writes.RemoveOwed) -> None:
        row_key = keys.owed_key(write.node, write.blob)
        size_bytes = self._row(row_key, records.decode_owed)
        if size_bytes is not None:
            self._take(row_key)
            if write.node not in self._dropping:
                self._count_owed(write.node, -1, -size_bytes)

    def _count_owed(self, node: NodeId, blobs: int, size_bytes: int) -> None:
        copies = self.member_copies(node)
        assert copies is not None, "only members owe blobs"
        self._set_copies(
            node,
            (
                copies.since_index,
                copies.report_sequence,
                copies.blobs_owed + blobs,
                copies.bytes_owed + size_bytes,
            ),
        )

    def _set_copies(self, node: NodeId, fields: tuple[int, int, int, int]) -> None:
        since_index, sequence, blobs, size_bytes = fields
        assert blobs >= 0, "a member owes fewer than no blobs"
        assert size_bytes >= 0, "a member owes fewer than no bytes"
        self._copies[node] = MemberCopies(
            node=node,
            since_index=since_index,
            report_sequence=sequence,
            blobs_owed=blobs,
            bytes_owed=size_bytes,
        )
        self._changed_copies[node] = None

    def _drop_copies(self, node: NodeId) -> None:
        """Its holder entries go with their blobs; rules count members only. A long owed list goes by and by."""
        self._copies[node] = None
        self._changed_copies[node] = None
        if not self._drop_owed(node, _DROPPED_WITH_EACH):
            self._set_dropping([*self._dropping, node])

    def _drop_owed(self, node: NodeId, limit: int | None) -> bool:
        """Remove up to ``limit`` rows of what ``node`` owed; whether none is left."""
        table = keys.owed_prefix(node)
        count = 0
        while (row_key := self._first_key(table)) is not None:
            if count == limit:
                return False
            self._take(row_key)
            count += 1
        return True

    def _go_on_dropping(self) -> None:
        """With each entry a bounded part: a million rows at once would stop every node for seconds."""
        if self._dropping and self._drop_owed(self._dropping[0], _DROPPED_WITH_EACH):
            self._set_dropping(self._dropping[1:])

    def _finish_dropping(self, node: NodeId) -> None:
        """A node begins an owed list: nothing may be left of an old one."""
        if node in self._dropping:
            self._drop_owed(node, None)
            self._set_dropping([other for other in self._dropping if other != node])

    def _set_dropping(self, nodes: list[NodeId]) -> None:
        self._dropping = nodes
        if nodes:
            self._replace(keys.DROPPING_KEY, records.encode_nodes(nodes))
        else:
            self._take(keys.DROPPING_KEY)

    def _set_report_sequence(self, write: writes.SetReportSequence) -> None:
        copies = self.member_copies(write.node)
        if copies is None:  # a learner collects copies before it votes
            self._set_copies(write.node, (self.state.index, write.sequence, 0, 0))
            return
        owed = (copies.blobs_owed, copies.bytes_owed)
        self._set_copies(write.node, (copies.since_index, write.sequence, *owed))

    def _write_access_key(self, write: writes.PutAccessKey) -> None:
        record = write.record
        row_key = keys.access_key_key(record.access_key)
        self._replace(row_key, records.encode_access_key(record))
        self._access_keys[record.access_key] = record

    WRITERS: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        writes.PutBucket: _write_bucket,
        writes.RemoveBucket: _remove_bucket,
        writes.PutObjectRow: _write_object,
        writes.RemoveObjectRow: _remove_object,
        writes.PutSetting: _put_setting,
        writes.AddVersionRow: _add_version,
        writes.RemoveVersionRow: _remove_version,
        writes.AddInline: _add_inline,
        writes.SetInlineCount: _set_inline_count,
        writes.RemoveInline: _remove_inline,
        writes.AddBlob: _add_blob,
        writes.ReplaceBlob: _replace_blob,
        writes.ForgetBlob: _forget_blob,
        writes.AddOwed: _add_owed,
        writes.RemoveOwed: _remove_owed,
        writes.SetReportSequence: _set_report_sequence,
        writes.SetSweepFloor: _set_sweep_floor,
        writes.PutAccessKey: _write_access_key,
    }
