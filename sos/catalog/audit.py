"""Reads every record of a catalog at rest: checksums, sums, counters, and that what is named is there.

For ``sos verify``, in a child process: LMDB may die of a signal on damaged pages.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from sos.catalog import keys, records, upload_records
from sos.catalog.environment import Transaction
from sos.catalog.keys import PIECE
from sos.catalog.model import BlobId, NodeId, UploadId
from sos.catalog.records import SUM_MODULUS, State, record_hash, unseal
from sos.errors import Corruption
from sos.packing import PackingError

_PROGRESS_ROWS: Final = 5000
_ID: Final = struct.Struct(">QQ")
_MIX: Final = 0x9E3779B97F4A7C15  # odd: a multiplication by it loses nothing modulo 2^64
_WORD: Final = (1 << 64) - 1

Tell = Callable[[str, str], None]  # where, what


@dataclass(slots=True, kw_only=True)
class _Totals:
    """What the rows add up to."""

    record_sum: int = 0
    buckets: int = 0
    objects: int = 0
    object_bytes: int = 0
    objects_of_buckets: int = 0
    bytes_of_buckets: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    forgotten: int = 0
    # Over all references and over all counts: equal sums, equal references. No memory per blob is needed.
    references: int = 0
    counts: int = 0
    versions: int = 0  # noncurrent ones, and delete markers
    versions_of_buckets: int = 0
    older: int = 0  # noncurrent ones
    older_of_keys: int = 0
    settings: int = 0
    settings_of_buckets: int = 0
    uploads: int = 0
    uploads_of_buckets: int = 0
    uploads_of_keys: int = 0
    owed: Counter[NodeId] = field(default_factory=Counter)
    owed_bytes: Counter[NodeId] = field(default_factory=Counter)
    copies: dict[NodeId, tuple[int, int]] = field(default_factory=dict)


def audit(transaction: Transaction, tell: Tell, on_rows: Callable[[int], None]) -> bool:
    """Whether nothing was found; each find is told to ``tell``. Raises: LmdbError."""
    totals = _Totals()
    state: State | None = None
    is_sound = True
    cursor = transaction.cursor()
    rows = cursor.iternext(keys=True, values=True) if cursor.set_range(b"\x00") else iter(())
    for number, (row_key, value) in enumerate(rows):
        if number % _PROGRESS_ROWS == 0:
            on_rows(number)
        try:
            unseal(row_key, value)
            if row_key == keys.STATE_KEY:
                state = records.decode_state(row_key, value)
                continue
            totals.record_sum += record_hash(value)
            missing = _take(transaction, totals, row_key, value)
        except Corruption as error:
            tell("", str(error))
            is_sound = False
            continue
        except (PackingError, ValueError, LookupError, TypeError, struct.error) as error:
            tell(keys.describe(row_key), f"cannot be decoded: {error}")
            is_sound = False
            continue
        if missing:
            tell(keys.describe(row_key), missing)
            is_sound = False
    if state is None:
        tell("", "the row that says where the catalog stands is missing")
        return False
    if is_sound:  # else the sums cannot be right, and say nothing new
        for problem in _compare(totals, state):
            tell("", problem)
            is_sound = False
    return is_sound


def _take(transaction: Transaction, totals: _Totals, row_key: bytes, value: bytes) -> str:
    """Add a row to the totals; what it names and is not there."""
    table = row_key[: keys.PREFIX_BYTES]
    if table in (keys.OBJECT, keys.OBJECT_DEEP, keys.VERSION):
        return _take_object(transaction, totals, row_key, value)
    if table == keys.BUCKET:
        bucket = records.decode_bucket(row_key, value)
        totals.buckets += 1
        totals.objects_of_buckets += bucket.object_count
        totals.bytes_of_buckets += bucket.size_bytes
        totals.uploads_of_buckets += bucket.upload_count
        totals.settings_of_buckets += bucket.configured.bit_count()
        totals.versions_of_buckets += bucket.version_count
    elif table == keys.BLOB:
        blob = records.decode_blob(row_key, value)
        totals.blobs += 1
        totals.blob_bytes += blob.size_bytes
        totals.counts += blob.reference_count * _mixed(blob.blob)
    elif table == keys.INLINE:
        count, _ = records.decode_inline(row_key, value)
        totals.counts += count * _mixed(row_key[-16:])
    elif table == keys.OWED:
        node = NodeId(row_key[keys.PREFIX_BYTES : -17].decode())
        totals.owed[node] += 1
        totals.owed_bytes[node] += records.decode_owed(row_key, value)
        if transaction.get(keys.blob_key(BlobId(row_key[-16:]))) is None:
            return "is owed, and has no row of its own"
    elif table == keys.MEMBER:
        node = NodeId(row_key[keys.PREFIX_BYTES :].decode())
        copies = records.decode_member(node, row_key, value)
        totals.copies[node] = copies.blobs_owed, copies.bytes_owed
    elif table == keys.SETTING:
        records.decode_setting(row_key, value)
        totals.settings += 1
    elif table == keys.FORGOTTEN:
        totals.forgotten += 1
    elif row_key[0] not in keys.TABLES:
        return "belongs to no table of this version"
    else:
        return _take_upload(transaction, totals, row_key, value)
    return ""


def _take_upload(transaction: Transaction, totals: _Totals, row_key: bytes, value: bytes) -> str:
    """A row about multipart uploads, or about nothing that is added up."""
    table = row_key[: keys.PREFIX_BYTES]
    if table == keys.UPLOAD:
        upload_records.decode_upload(row_key, value)
        totals.uploads += 1
    elif table in (keys.UPLOADS_OF, keys.UPLOADS_OF_DEEP):
        if not _is_pointer(row_key, keys.UPLOADS_OF):
            uploads = upload_records.decode_uploads_of(row_key, value)
            totals.uploads_of_keys += len(uploads)
            if any(transaction.get(keys.upload_key(upload)) is None for upload in uploads):
                return "lists an upload that has no row"
    elif table == keys.PART:
        return _take_part(transaction, totals, row_key, value)
    elif table == keys.MANIFEST:
        upload_records.decode_manifest(row_key, value)
    elif table == keys.FINISHED_UPLOAD:
        upload_records.decode_finished_upload(row_key, value)
    return ""


def _take_part(transaction: Transaction, totals: _Totals, row_key: bytes, value: bytes) -> str:
    record = upload_records.decode_part(row_key, value)
    upload = UploadId(row_key[keys.PREFIX_BYTES : -2])
    owners = (keys.upload_key(upload), keys.manifest_key(upload), keys.releasing_key(upload))
    if all(transaction.get(owner) is None for owner in owners):
        return "belongs to no upload, and to no object"
    return _take_reference(transaction, totals, record.blob, inline=record.inline)


def _take_reference(
    transaction: Transaction, totals: _Totals, blob: BlobId | None, *, inline: bool
) -> str:
    if blob is None:
        return ""
    totals.references += _mixed(blob)
    blob_key = keys.inline_key if inline else keys.blob_key
    if transaction.get(blob_key(blob)) is None:
        return f"names the blob {blob.hex()}, which has no row"
    return ""


def _is_pointer(row_key: bytes, root: bytes) -> bool:
    """Whether a row of a tree leads to a deeper node."""
    node_bytes = 8 if row_key.startswith(root) else keys.NODE_BYTES
    return len(row_key) - keys.PREFIX_BYTES - node_bytes > PIECE


def _take_object(transaction: Transaction, totals: _Totals, row_key: bytes, value: bytes) -> str:
    is_current = not row_key.startswith(keys.VERSION)
    if is_current and _is_pointer(row_key, keys.OBJECT):
        records.decode_pointer(row_key, value)
        return ""
    record = records.decode_object(row_key, value)
    if is_current:
        totals.older_of_keys += record.older
    else:
        totals.older += 1
    if is_current and not record.is_marker:
        totals.objects += 1
    else:
        totals.versions += 1
    totals.object_bytes += record.size_bytes
    if record.manifest is not None and transaction.get(keys.manifest_key(record.manifest)) is None:
        return "consists of parts, and has no manifest"
    return _take_reference(transaction, totals, record.blob, inline=record.inline)


def _mixed(blob: bytes) -> int:
    """A number that stands for a blob in a sum."""
    numbers: tuple[int, int] = _ID.unpack(blob)
    high, low = numbers
    return ((high * _MIX ^ low) * _MIX) & _WORD


def _compare(totals: _Totals, state: State) -> list[str]:
    """What the rows give and the counters say otherwise."""
    pairs = {
        "sum over the records": (totals.record_sum % SUM_MODULUS, state.record_sum),
        "number of buckets": (totals.buckets, state.bucket_count),
        "number of objects": (totals.objects, state.object_count),
        "bytes of objects": (totals.object_bytes, state.size_bytes),
        "number of objects by buckets": (totals.objects_of_buckets, state.object_count),
        "bytes of objects by buckets": (totals.bytes_of_buckets, state.size_bytes),
        "number of blobs": (totals.blobs, state.blob_count),
        "bytes of blobs": (totals.blob_bytes, state.blob_bytes),
        "number of forgotten blobs": (totals.forgotten, state.forgotten_count),
        "references to blobs": (totals.references, totals.counts),
        "noncurrent versions and delete markers": (totals.versions, totals.versions_of_buckets),
        "noncurrent versions by keys": (totals.older, totals.older_of_keys),
        "settings of buckets": (totals.settings, totals.settings_of_buckets),
        "uploads in progress by buckets": (totals.uploads, totals.uploads_of_buckets),
        "uploads in progress by keys": (totals.uploads, totals.uploads_of_keys),
    }
    problems = [
        f"{name}: {found} by the rows, {kept} by the counters"
        for name, (found, kept) in pairs.items()
        if found != kept
    ]
    for node in totals.copies.keys() | totals.owed.keys():
        found_owed = totals.owed[node], totals.owed_bytes[node]
        if found_owed != totals.copies.get(node, (0, 0)):
            problems.append(f"what {node} owes: {found_owed} by the rows, not by the counters")
    return problems
