"""Database values of multipart uploads and of the objects they became. Pure.

As ``records``: ``checksum (8) + msgpack [tag, version, fields...]``.
"""

from __future__ import annotations

import struct
from typing import Final

from sos.catalog.codec import decode_result, encode_result
from sos.catalog.fields import (
    ALGORITHM_NUMBERS,
    ALGORITHMS,
    checksum_fields,
    checksum_from,
    headers_fields,
    headers_from,
    tags_from,
)
from sos.catalog.model import (
    Checksum,
    FinishedUpload,
    Manifest,
    PartRecord,
    Stored,
    UploadId,
    UploadRecord,
)
from sos.catalog.records import unseal_fields
from sos.packing import pack

_ID_BYTES: Final = 16


def encode_upload(record: UploadRecord) -> bytes:
    algorithm = record.algorithm
    return pack(
        (
            65,
            1,
            record.bucket_id,
            record.key,
            record.initiated_ms,
            headers_fields(record.headers),
            None if algorithm is None else ALGORITHM_NUMBERS[algorithm],
            record.composite,
            record.key_order,
            record.tags,
            record.acl,
        )
    )


def decode_upload(row_key: bytes, value: bytes) -> UploadRecord:
    fields = unseal_fields(row_key, value, 65, 9)
    _, _, bucket_id, key, initiated_ms, headers, algorithm, composite, order, tags, acl = fields
    return UploadRecord(
        upload=UploadId(row_key[-_ID_BYTES:]),
        bucket_id=bucket_id,
        key=key,
        initiated_ms=initiated_ms,
        headers=headers_from(headers),
        algorithm=None if algorithm is None else ALGORITHMS[algorithm],
        composite=composite,
        key_order=order,
        tags=tags_from(tags),
        acl=acl,
    )


def encode_uploads_of(uploads: tuple[UploadId, ...]) -> bytes:
    """The uploads in progress of one key, in order of creation."""
    return pack((66, 1, b"".join(uploads)))


def decode_uploads_of(row_key: bytes, value: bytes) -> tuple[UploadId, ...]:
    joined: bytes = unseal_fields(row_key, value, 66, 1)[2]
    return tuple(UploadId(joined[at : at + _ID_BYTES]) for at in range(0, len(joined), _ID_BYTES))


def encode_part(record: PartRecord) -> bytes:
    sent, whole = checksum_fields(record.sent), checksum_fields(record.whole)
    return pack(
        (
            67,
            1,
            record.blob,
            record.inline,
            record.size_bytes,
            record.md5,
            record.modified_ms,
            sent,
            None if whole == sent else whole,
            record.whole is not None,
        )
    )


def decode_part(row_key: bytes, value: bytes) -> PartRecord:
    fields = unseal_fields(row_key, value, 67, 8)
    _, _, blob, inline, size_bytes, md5, modified_ms, sent, whole, has_whole = fields
    sent_checksum = None if sent is None else checksum_from(sent)
    return PartRecord(
        number=int.from_bytes(row_key[-2:], "big"),
        blob=blob,
        inline=inline,
        size_bytes=size_bytes,
        md5=md5,
        modified_ms=modified_ms,
        sent=sent_checksum,
        whole=_whole(sent_checksum, whole) if has_whole else None,
    )


def _whole(sent: Checksum | None, whole: object) -> Checksum | None:
    return sent if whole is None else checksum_from(whole)


def encode_manifest(manifest: Manifest) -> bytes:
    """Ten bytes a part: a read finds its parts without a look at the others."""
    count = len(manifest.numbers)
    numbers = struct.pack(f">{count}H", *manifest.numbers)
    return pack((68, 1, numbers, struct.pack(f">{count}Q", *manifest.ends)))


def decode_manifest(row_key: bytes, value: bytes) -> Manifest:
    _, _, numbers, ends = unseal_fields(row_key, value, 68, 2)
    count = len(numbers) // 2
    return Manifest(
        numbers=struct.unpack(f">{count}H", numbers), ends=struct.unpack(f">{count}Q", ends)
    )


def encode_finished_upload(record: FinishedUpload) -> bytes:
    return pack(
        (
            69,
            1,
            record.bucket_id,
            record.key,
            record.finished_ms,
            record.parts_digest,
            None if record.result is None else encode_result(record.result),
        )
    )


def decode_finished_upload(row_key: bytes, value: bytes) -> FinishedUpload:
    _, _, bucket_id, key, finished_ms, digest, result = unseal_fields(row_key, value, 69, 5)
    stored = None if result is None else decode_result(result)
    assert stored is None or isinstance(stored, Stored)
    return FinishedUpload(
        bucket_id=bucket_id,
        key=key,
        finished_ms=finished_ms,
        parts_digest=digest,
        result=stored,
    )


def encode_releasing() -> bytes:
    """An upload whose parts are being let go, some with each entry; the key says which."""
    return pack((65, 1))
