"""Versioned bytes of the commands about multipart uploads; ``commands`` has those of the others. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sos.catalog.fields import (
    ALGORITHM_NUMBERS,
    ALGORITHMS,
    ID_BYTES,
    access_key_id,
    body_fields,
    body_from,
    bucket_name,
    checksum_fields,
    checksum_from,
    condition_fields,
    condition_from,
    exact_bytes,
    flag,
    headers_fields,
    headers_from,
    items,
    key_text,
    number,
    refuse,
    tags_from,
    text,
)
from sos.catalog.model import (
    AbortUpload,
    Checksum,
    ChecksumAlgorithm,
    CompleteUpload,
    CreateUpload,
    ListedPart,
    UploadId,
    UploadPart,
)
from sos.limits import PARTS_MAX


def _create_fields(c: CreateUpload) -> tuple[object, ...]:
    return (
        20,
        1,
        c.access_key,
        c.bucket,
        c.key,
        c.random,
        c.initiated_ms,
        headers_fields(c.headers),
        None if c.algorithm is None else ALGORITHM_NUMBERS[c.algorithm],
        c.composite,
        c.tags,
        c.acl,
        c.access_epoch,
    )


def _part_fields(c: UploadPart) -> tuple[object, ...]:
    return (
        21,
        1,
        c.access_key,
        c.bucket,
        c.key,
        c.upload,
        c.number,
        body_fields(c.body),
        c.md5,
        c.modified_ms,
        checksum_fields(c.sent),
        checksum_fields(c.whole),
        c.access_epoch,
    )


def _complete_fields(c: CompleteUpload) -> tuple[object, ...]:
    return (
        22,
        1,
        c.access_key,
        c.bucket,
        c.key,
        c.upload,
        listed_fields(c.parts),
        c.modified_ms,
        condition_fields(c.condition),
        checksum_fields(c.checksum),
        c.composite,
        c.size_bytes,
        c.access_epoch,
    )


def listed_fields(parts: tuple[ListedPart, ...]) -> list[tuple[object, ...]]:
    """The list of a CompleteMultipartUpload as it is written, and as its digest is made."""
    return [(part.number, part.etag, checksum_fields(part.checksum)) for part in parts]


def _abort_fields(c: AbortUpload) -> tuple[object, ...]:
    return (23, 1, c.access_key, c.bucket, c.key, c.upload, c.aborted_ms, c.access_epoch)


ENCODERS: Final[dict[type, Callable[[Any], tuple[object, ...]]]] = {
    CreateUpload: _create_fields,
    UploadPart: _part_fields,
    CompleteUpload: _complete_fields,
    AbortUpload: _abort_fields,
}


# --- decoders -------------------------------------------------------------------------------------
def upload_id(value: object) -> UploadId:
    return UploadId(exact_bytes(value, ID_BYTES))


def _part_number(value: object) -> int:
    part = number(value)
    if not 1 <= part <= PARTS_MAX:
        raise refuse("part number")
    return part


def _checksum_or_none(value: object) -> Checksum | None:
    return None if value is None else checksum_from(value)


def _part_checksum(value: object) -> Checksum | None:
    """Of a part: apply combines it, so it has the length that its algorithm gives."""
    checksum = _checksum_or_none(value)
    if checksum is not None and len(checksum.digest) != _DIGEST_BYTES[checksum.algorithm]:
        raise refuse("digest")
    return checksum


_DIGEST_BYTES: Final = {
    ChecksumAlgorithm.CRC32: 4,
    ChecksumAlgorithm.CRC32C: 4,
    ChecksumAlgorithm.CRC64NVME: 8,
    ChecksumAlgorithm.SHA1: 20,
    ChecksumAlgorithm.SHA256: 32,
}
_FULL_ALGORITHMS: Final = frozenset(
    {ChecksumAlgorithm.CRC32, ChecksumAlgorithm.CRC32C, ChecksumAlgorithm.CRC64NVME}
)


def _check_pair(algorithm: ChecksumAlgorithm | None, *, composite: bool) -> None:
    """Which types an algorithm has (s3.md 8); the S3 layer says it to clients."""
    if composite:
        if algorithm is None or algorithm is ChecksumAlgorithm.CRC64NVME:
            raise refuse("checksum type")
    elif algorithm is not None and algorithm not in _FULL_ALGORITHMS:
        raise refuse("checksum type")


def _create(fields: list[Any]) -> CreateUpload:
    (
        access_key,
        bucket,
        key,
        random,
        initiated_ms,
        headers,
        algorithm,
        composite,
        tags,
        acl,
        access_epoch,
    ) = fields
    named = None if algorithm is None else ALGORITHMS[algorithm]
    _check_pair(named, composite=flag(composite))
    return CreateUpload(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        random=exact_bytes(random, 8),
        initiated_ms=number(initiated_ms),
        headers=headers_from(headers),
        algorithm=named,
        composite=composite,
        tags=tags_from(tags),
        acl=text(acl),
        access_epoch=number(access_epoch),
    )


def _part(fields: list[Any]) -> UploadPart:
    (
        access_key,
        bucket,
        key,
        upload,
        part,
        body,
        md5,
        modified_ms,
        sent,
        whole,
        access_epoch,
    ) = fields
    return UploadPart(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        upload=upload_id(upload),
        number=_part_number(part),
        body=body_from(body),
        md5=exact_bytes(md5, 16),
        modified_ms=number(modified_ms),
        sent=_part_checksum(sent),
        whole=_part_checksum(whole),
        access_epoch=number(access_epoch),
    )


def _listed(value: object) -> ListedPart:
    part, etag, checksum = items(value)
    return ListedPart(number=number(part), etag=text(etag), checksum=_checksum_or_none(checksum))


def _complete(fields: list[Any]) -> CompleteUpload:
    (
        access_key,
        bucket,
        key,
        upload,
        parts,
        modified_ms,
        condition,
        checksum,
        composite,
        size_bytes,
        access_epoch,
    ) = fields
    return CompleteUpload(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        upload=upload_id(upload),
        parts=tuple(_listed(part) for part in items(parts)),
        modified_ms=number(modified_ms),
        condition=condition_from(condition),
        checksum=_checksum_or_none(checksum),
        composite=None if composite is None else flag(composite),
        size_bytes=None if size_bytes is None else number(size_bytes),
        access_epoch=number(access_epoch),
    )


def _abort(fields: list[Any]) -> AbortUpload:
    access_key, bucket, key, upload, aborted_ms, access_epoch = fields
    return AbortUpload(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        upload=upload_id(upload),
        aborted_ms=number(aborted_ms),
        access_epoch=number(access_epoch),
    )


DECODERS: Final[dict[tuple[int, int], Callable[[list[Any]], Any]]] = {
    (20, 1): _create,
    (21, 1): _part,
    (22, 1): _complete,
    (23, 1): _abort,
}
