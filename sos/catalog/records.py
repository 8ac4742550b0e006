"""Database values: ``checksum (8) + msgpack [tag, version, fields...]``. Pure.

The checksum is the CRC64NVME of key and value, big-endian, so a record that rotted, or that stands under a wrong
key, is never returned: ``Corruption`` names table and key. What passes its checksum is trusted to have the
shape its writer gave it; one that has not comes from a newer version or a bug and is refused the same way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from sos.catalog.fields import (
    ALGORITHM_NUMBERS,
    ALGORITHMS,
    etag_field,
    headers_fields,
    headers_from,
    tags_from,
)
from sos.catalog.keys import describe
from sos.catalog.model import (
    NULL_VERSION,
    AccessKeyId,
    AccessKeyRecord,
    BlobId,
    BlobRecord,
    BucketRecord,
    Checksum,
    ListedObject,
    MemberCopies,
    NodeId,
    ObjectRecord,
    Removal,
    Versioning,
)
from sos.checksum import crc64nvme
from sos.errors import Corruption
from sos.levels import check_version
from sos.packing import PackingError, pack, unpack, unpack_each

CHECKSUM_BYTES: Final = 8
_JOINED_BYTES_MAX: Final = 1024  # copying less than this costs less than a second call
SUM_MODULUS: Final = 1 << 128
_U64: Final = struct.Struct(">Q")


# --- checksums ------------------------------------------------------------------------------------
def checksum(row_key: bytes, body: bytes) -> int:
    """What stands before ``body`` under ``row_key``; also what the record adds to the record sum."""
    if len(body) < _JOINED_BYTES_MAX:
        return crc64nvme(row_key + body)
    return crc64nvme(body, crc64nvme(row_key))


def seal(row_key: bytes, body: bytes) -> bytes:
    """The value to store under ``row_key``."""
    return checksum(row_key, body).to_bytes(CHECKSUM_BYTES, "big") + body


def unseal(row_key: bytes, value: bytes) -> bytes:
    """The checked body of a stored value. Raises: Corruption."""
    body = value[CHECKSUM_BYTES:]
    if checksum(row_key, body).to_bytes(CHECKSUM_BYTES, "big") != value[:CHECKSUM_BYTES]:
        raise Corruption(f"{describe(row_key)}: checksum does not match")
    return body


def record_hash(value: bytes) -> int:
    """What a stored value adds to the record sum: its checksum, which covers key and value."""
    number: int = _U64.unpack_from(value)[0]
    return number


def unseal_fields(row_key: bytes, value: bytes, tag: int, *counts: int) -> list[Any]:
    """Tag, version and fields of a checked record; ``counts``: of the fields in version 1, 2, ...

    Raises: Corruption, MadeByNewer.
    """
    body = value[CHECKSUM_BYTES:]
    if checksum(row_key, body).to_bytes(CHECKSUM_BYTES, "big") != value[:CHECKSUM_BYTES]:
        raise Corruption(f"{describe(row_key)}: checksum does not match")
    try:
        fields = unpack(body)
    except PackingError as error:
        raise Corruption(f"{describe(row_key)}: {error}") from error
    if type(fields) is list and len(fields) > 2 and fields[0] == tag:
        version = fields[1]
        if version == 1 and len(fields) == counts[0] + 2:
            return fields
        if (
            type(version) is int
            and 1 < version <= len(counts)
            and len(fields) == counts[version - 1] + 2
        ):
            return fields
    raise _of_another_version(row_key, fields, tag, len(counts))


def _of_another_version(row_key: bytes, fields: object, tag: int, known: int) -> Corruption:
    """What is wrong with a record whose checksum is right. Raises: MadeByNewer, if a newer release wrote it."""
    match fields:
        case [number, version, *_] if number == tag:
            check_version(describe(row_key), version, known)
    return Corruption(f"{describe(row_key)}: written by another version")


# Tags of records: 32-41 and 48-51 below; 60-64 versions, 65-69 multipart, 70-72 settings, 73-75 keys and access.
# --- records --------------------------------------------------------------------------------------
def encode_bucket(record: BucketRecord) -> bytes:
    plain = (
        record.name,
        record.created_ms,
        record.object_count,
        record.size_bytes,
        record.bucket_id,
    )
    more = bucket_details(record)
    return pack((32, 1, *plain) if more == PLAIN_BUCKET else (32, 2, *plain, *more))


PLAIN_BUCKET: Final = (0, 0, "", 0, 0, 0)


def bucket_details(record: BucketRecord) -> tuple[int, int, str, int, int, int]:
    """What a record of version 2 has more than one of version 1, which has the defaults."""
    return (
        record.versioning.value,
        record.version_count,
        record.owner,
        record.access_epoch,
        record.configured,
        record.upload_count,
    )


def decode_bucket(row_key: bytes, value: bytes) -> BucketRecord:
    _, _, name, created_ms, object_count, size_bytes, bucket_id, *more = unseal_fields(
        row_key, value, 32, 5, 11
    )
    versioning, versions, owner, access_epoch, configured, uploads = more or PLAIN_BUCKET
    return BucketRecord(
        name=name,
        created_ms=created_ms,
        object_count=object_count,
        size_bytes=size_bytes,
        bucket_id=bucket_id,
        versioning=Versioning(versioning),
        version_count=versions,
        owner=owner,
        access_epoch=access_epoch,
        configured=configured,
        upload_count=uploads,
    )


def encode_object(record: ObjectRecord) -> bytes:
    plain = (
        record.size_bytes,
        record.modified_ms,
        etag_field(record.etag, record.md5),
        record.md5,
        ALGORITHM_NUMBERS[record.checksum.algorithm],
        record.checksum.digest,
        record.blob,
        record.inline,
        record.commit_index,
        headers_fields(record.headers),
    )
    more = (
        record.number,
        record.is_null,
        record.older,
        record.null_order,
        record.composite,
        record.part_count,
        record.manifest,
        record.tags,
        record.acl,
        record.owner,
    )
    if more == _PLAIN_OBJECT and not record.is_marker:
        return pack((33, 1, *plain))
    return pack((33, 2, record.is_marker, *plain, *more))


_PLAIN_OBJECT: Final = (0, True, 0, 0, False, 0, None, (), "", "")


def decode_object(row_key: bytes, value: bytes) -> ObjectRecord:
    fields = unseal_fields(row_key, value, 33, 10, 21)
    is_plain = fields[1] == 1
    (
        size_bytes,
        modified_ms,
        etag,
        md5,
        algorithm,
        digest,
        blob,
        inline,
        commit_index,
        headers,
        *more,
    ) = fields[2:] if is_plain else fields[3:]
    record = ObjectRecord(
        blob=blob,
        inline=inline,
        size_bytes=size_bytes,
        etag=etag or md5.hex(),
        md5=md5,
        modified_ms=modified_ms,
        checksum=Checksum(algorithm=ALGORITHMS[algorithm], digest=digest),
        headers=headers_from(headers),
        commit_index=commit_index,
    )
    return record if is_plain else _with_details(record, fields[2], more)


def _with_details(record: ObjectRecord, is_marker: bool, more: Sequence[Any]) -> ObjectRecord:
    number, is_null, older, null_order, composite, parts, manifest, tags, acl, owner = more
    return replace(
        record,
        number=number,
        is_null=is_null,
        is_marker=is_marker,
        older=older,
        null_order=null_order,
        composite=composite,
        part_count=parts,
        manifest=manifest,
        tags=tags_from(tags),
        acl=acl,
        owner=owner,
    )


def decode_listed(rows: Sequence[tuple[bytes, bytes, bytes]]) -> list[ListedObject]:
    """What a listing shows of object records: (S3 key, database key, value) each. Raises: Corruption.

    The hot loops of a page of 1,000, hence inline what ``unseal_fields`` does. Every row is checked before any is read.
    """
    bodies = []
    for _, row_key, value in rows:
        body = value[CHECKSUM_BYTES:]
        if len(value) < CHECKSUM_BYTES or crc64nvme(row_key + body) != _U64.unpack_from(value)[0]:
            raise Corruption(f"{describe(row_key)}: checksum does not match")
        if not body.startswith(_OBJECT_STARTS):
            unseal_fields(row_key, value, 33, 10, 21)  # raises, and says what it is
            raise Corruption(f"{describe(row_key)}: written by another version")
        bodies.append(body)
    try:
        unpacked = unpack_each(bodies)
    except PackingError:
        for _, row_key, value in rows:
            unseal_fields(row_key, value, 33, 10, 21)  # raises for the row that it was
        raise
    listed = []
    for (key, _, _), fields in zip(rows, unpacked, strict=True):
        if fields[1] == 1:
            _, _, size_bytes, modified_ms, etag, md5, algorithm, _, _, _, _, _ = fields
            more = _PLAIN_LISTED
        else:
            _, _, is_marker, size_bytes, modified_ms, etag, md5, algorithm = fields[:8]
            number, is_null, older, _, composite = fields[13:18]
            version = NULL_VERSION if is_null else number
            more = (composite, is_marker, version, older, number)
        entry = (key.decode(), size_bytes, etag or md5.hex(), modified_ms, ALGORITHMS[algorithm])
        listed.append(_listed_object(entry + more))
    return listed


_PLAIN_LISTED: Final[tuple[Any, ...]] = (False, False, NULL_VERSION, 0, 0)


def is_marker_row(value: bytes) -> bool:
    """Whether an object's row is a delete marker; six bytes tell, for listings that step over it. Not checked."""
    return value.startswith(_MARKER_START, CHECKSUM_BYTES)


_OBJECT_STARTS: Final = (  # number of fields, tag, version
    pack((33, 1, *range(10)))[:3],
    pack((33, 2, *range(21)))[:5],
)
_MARKER_START: Final = pack((33, 2, True, *range(20)))[:6]
# Without the call of a Python function that the class itself would be.
_listed_object: Final = partial(tuple.__new__, ListedObject)


def encode_pointer(count: int) -> bytes:
    return pack((34, 1, count))


def decode_pointer(row_key: bytes, value: bytes) -> int:
    count: int = unseal_fields(row_key, value, 34, 1)[2]
    return count


def encode_blob(record: BlobRecord) -> bytes:
    return pack((35, 1, record.size_bytes, record.crc64, record.reference_count, record.holders))


def decode_blob(row_key: bytes, value: bytes) -> BlobRecord:
    _, _, size_bytes, crc64, reference_count, holders = unseal_fields(row_key, value, 35, 4)
    return BlobRecord(
        blob=BlobId(row_key[-16:]),
        size_bytes=size_bytes,
        crc64=crc64,
        reference_count=reference_count,
        inline=False,
        holders=tuple(holders),
    )


def encode_inline(reference_count: int, data: bytes) -> bytes:
    """Body and count share one row: a copy rewrites at most 16 KiB, and a PUT writes one row less."""
    return pack((36, 1, reference_count, data))


def decode_inline(row_key: bytes, value: bytes) -> tuple[int, bytes]:
    _, _, reference_count, data = unseal_fields(row_key, value, 36, 2)
    return reference_count, data


def encode_owed(size_bytes: int) -> bytes:
    return pack((37, 1, size_bytes))


def decode_owed(row_key: bytes, value: bytes) -> int:
    size_bytes: int = unseal_fields(row_key, value, 37, 1)[2]
    return size_bytes


def encode_forgotten(size_bytes: int) -> bytes:
    return pack((38, 1, size_bytes))


def encode_tombstone(forgotten_index: int) -> bytes:
    return pack((39, 1, forgotten_index))


def decode_tombstone(row_key: bytes, value: bytes) -> int:
    index: int = unseal_fields(row_key, value, 39, 1)[2]
    return index


def encode_member(record: MemberCopies) -> bytes:
    return pack(
        (
            40,
            1,
            record.since_index,
            record.report_sequence,
            record.blobs_owed,
            record.bytes_owed,
        )
    )


def decode_member(node: NodeId, row_key: bytes, value: bytes) -> MemberCopies:
    _, _, since_index, report_sequence, blobs_owed, bytes_owed = unseal_fields(
        row_key, value, 40, 4
    )
    return MemberCopies(
        node=node,
        since_index=since_index,
        report_sequence=report_sequence,
        blobs_owed=blobs_owed,
        bytes_owed=bytes_owed,
    )


def encode_access_key(record: AccessKeyRecord) -> bytes:
    plain = (record.secret_key, record.root, record.enabled, record.created_ms)
    more = (record.name, record.account, record.read_only, record.buckets, record.prefixes)
    return pack((41, 1, *plain) if more == _PLAIN_ACCESS_KEY else (41, 2, *plain, *more))


_PLAIN_ACCESS_KEY: Final = ("", "", False, (), ())


def decode_access_key(access_key: AccessKeyId, row_key: bytes, value: bytes) -> AccessKeyRecord:
    _, _, secret_key, root, enabled, created_ms, *more = unseal_fields(row_key, value, 41, 4, 9)
    name, account, read_only, buckets, prefixes = more or _PLAIN_ACCESS_KEY
    return AccessKeyRecord(
        access_key=access_key,
        secret_key=secret_key,
        root=root,
        enabled=enabled,
        created_ms=created_ms,
        name=name,
        account=account,
        read_only=read_only,
        buckets=tuple(buckets),
        prefixes=tuple(prefixes),
    )


def encode_setting(document: bytes) -> bytes:
    """A configuration document of a bucket, opaque here."""
    return pack((70, 1, document))


def decode_setting(row_key: bytes, value: bytes) -> bytes:
    document: bytes = unseal_fields(row_key, value, 70, 1)[2]
    return document


# --- meta -----------------------------------------------------------------------------------------
@dataclass(slots=True, kw_only=True)
class State:
    """The row that every batch rewrites: where the catalog stands, its digests and its totals.

    Not frozen: a batch counts in its own copy, dozens of times per entry.
    """

    index: int
    term: int
    chain: bytes
    record_sum: int
    sweep_floor: int
    bucket_count: int
    object_count: int
    size_bytes: int
    blob_count: int
    blob_bytes: int
    forgotten_count: int


def encode_state(state: State) -> bytes:
    return pack(
        (
            48,
            1,
            state.index,
            state.term,
            state.chain,
            state.record_sum.to_bytes(16, "big"),
            state.sweep_floor,
            state.bucket_count,
            state.object_count,
            state.size_bytes,
            state.blob_count,
            state.blob_bytes,
            state.forgotten_count,
        )
    )


def decode_state(row_key: bytes, value: bytes) -> State:
    _, _, index, term, chain, record_sum, floor, *counts = unseal_fields(row_key, value, 48, 11)
    bucket_count, object_count, size_bytes, blob_count, blob_bytes, forgotten_count = counts
    return State(
        index=index,
        term=term,
        chain=chain,
        record_sum=int.from_bytes(record_sum, "big"),
        sweep_floor=floor,
        bucket_count=bucket_count,
        object_count=object_count,
        size_bytes=size_bytes,
        blob_count=blob_count,
        blob_bytes=blob_bytes,
        forgotten_count=forgotten_count,
    )


def encode_removals(removals: Sequence[Removal]) -> bytes:
    return pack((49, 1, [(removal.node, removal.leaving) for removal in removals]))


def decode_removals(row_key: bytes, value: bytes) -> tuple[Removal, ...]:
    rows = unseal_fields(row_key, value, 49, 1)[2]
    return tuple(Removal(node=NodeId(node), leaving=leaving) for node, leaving in rows)


def encode_nodes(nodes: Sequence[NodeId]) -> bytes:
    return pack((50, 1, nodes))


def decode_nodes(row_key: bytes, value: bytes) -> tuple[NodeId, ...]:
    return tuple(NodeId(node) for node in unseal_fields(row_key, value, 50, 1)[2])


def encode_level(level: int) -> bytes:
    return pack((51, 1, level))


def decode_level(row_key: bytes, value: bytes) -> int:
    level: int = unseal_fields(row_key, value, 51, 1)[2]
    return level


def encode_number_and_bytes(number: int, data: bytes) -> bytes:
    """A number and opaque bytes: stored results, member lists, chain digests."""
    return _U64.pack(number) + data


def decode_number_and_bytes(row_key: bytes, value: bytes) -> tuple[int, bytes]:
    body = unseal(row_key, value)
    if len(body) < 8:
        raise Corruption(f"{describe(row_key)}: too short")
    return _U64.unpack_from(body)[0], body[8:]
