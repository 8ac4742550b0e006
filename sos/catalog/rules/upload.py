"""Rules of multipart uploads: create, part, complete, abort (S3 API: CreateMultipartUpload and its kin). Pure.

Parts are named like objects' bodies, and belong to their upload. Completing moves no bytes: the object's record names
the upload, and its manifest says which parts lie where. So the parts of an object are never shared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sos.catalog.model import (
    AbortUpload,
    BucketRecord,
    Checksum,
    ChecksumAlgorithm,
    CompleteUpload,
    CreateUpload,
    Done,
    FinishedUpload,
    InlineBody,
    ListedPart,
    Manifest,
    ObjectRecord,
    PartFault,
    PartRecord,
    PartRefused,
    Position,
    Rejection,
    Stored,
    UploadCreated,
    UploadId,
    UploadPart,
    UploadRecord,
)
from sos.catalog.rules.blob import References, decide_body, size_of
from sos.catalog.rules.bucket import admitted, recounted
from sos.catalog.rules.conditions import write_refusal
from sos.catalog.rules.current import BucketChange, stored
from sos.catalog.rules.view import (
    AddUpload,
    CatalogView,
    Decision,
    FinishUpload,
    PutManifest,
    PutPart,
    ReleaseParts,
    RemovePart,
    Write,
)
from sos.catalog.upload_commands import listed_fields
from sos.checksum import combine_crc32, combine_crc32c, combine_crc64nvme, crc32, crc32c
from sos.limits import FINISHED_UPLOAD_MS, MULTIPART_BYTES_MAX, PART_BYTES_MIN
from sos.packing import pack

_DEFAULT_ALGORITHM: Final = ChecksumAlgorithm.CRC64NVME
_HASHES: Final[dict[ChecksumAlgorithm, Callable[[bytes], bytes]]] = {
    ChecksumAlgorithm.CRC32: lambda data: crc32(data).to_bytes(4, "big"),
    ChecksumAlgorithm.CRC32C: lambda data: crc32c(data).to_bytes(4, "big"),
    ChecksumAlgorithm.SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    ChecksumAlgorithm.SHA256: lambda data: hashlib.sha256(data).digest(),
}
_COMBINERS: Final = {
    ChecksumAlgorithm.CRC32: combine_crc32,
    ChecksumAlgorithm.CRC32C: combine_crc32c,
    ChecksumAlgorithm.CRC64NVME: combine_crc64nvme,
}


# --- create, part, abort --------------------------------------------------------------------------
def decide_create_upload(view: CatalogView, command: CreateUpload, position: Position) -> Decision:
    """The id sorts by creation, and nobody can guess it (s3.md 7)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    current = view.object(bucket.bucket_id, command.key)
    record = UploadRecord(
        upload=UploadId(position.number.to_bytes(8, "big") + command.random),
        bucket_id=bucket.bucket_id,
        key=command.key,
        initiated_ms=command.initiated_ms,
        headers=command.headers,
        algorithm=command.algorithm,
        composite=command.composite,
        key_order=_order(current),
        tags=command.tags,
        acl=command.acl,
    )
    writes: list[Write] = [AddUpload(record), recounted(bucket, 0, 0, uploads=1)]
    return Decision(UploadCreated(upload=record.upload), writes)


def decide_upload_part(view: CatalogView, command: UploadPart, position: Position) -> Decision:
    """What is last in the log wins; the bytes of the part before are forgotten only now (s3.md 7)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    upload = _in_progress(view, bucket, command)
    if upload is None:
        return Decision(Rejection.NO_SUCH_UPLOAD)
    refusal = part_refusal(upload, None if command.sent is None else command.sent.algorithm)
    if refusal is not None:
        return Decision(refusal)
    if (command.whole is None) != upload.composite:
        return Decision(Rejection.PART_CHECKSUM_TYPE)
    if command.whole is not None and command.whole.algorithm is not whole_algorithm(upload):
        return Decision(Rejection.PART_CHECKSUM_TYPE)
    body = command.body
    naming = decide_body(view, body)
    if isinstance(naming, Rejection):
        return Decision(naming)
    record = PartRecord(
        number=command.number,
        blob=None if body is None else body.blob,
        inline=isinstance(body, InlineBody),
        size_bytes=size_of(body),
        md5=command.md5,
        modified_ms=command.modified_ms,
        sent=command.sent,
        whole=command.whole,
    )
    references = References(view)
    before = view.part(upload.upload, command.number)
    if before is not None:
        references.release(before.blob)
    checksum = record.sent or record.whole
    assert checksum is not None, "a part has a checksum of one kind at least"
    result = Stored(
        etag=record.md5.hex(),
        modified_ms=record.modified_ms,
        checksum=checksum,
        commit_index=position.index,
    )
    return Decision(result, [*naming, *references.writes(), PutPart(upload.upload, record)])


def whole_algorithm(upload: UploadRecord) -> ChecksumAlgorithm | None:
    """Of the checksum that every part needs for the object's FULL_OBJECT one; None: that one is COMPOSITE."""
    return None if upload.composite else upload.algorithm or _DEFAULT_ALGORITHM


def part_refusal(upload: UploadRecord, sent: ChecksumAlgorithm | None) -> Rejection | None:
    """Why a part may not come with a checksum of that algorithm (None: without one; s3.md 8)."""
    if upload.algorithm is None:
        return None
    if sent is None:
        return Rejection.PART_CHECKSUM_MISSING if upload.composite else None
    return None if sent is upload.algorithm else Rejection.PART_CHECKSUM_TYPE


def decide_abort_upload(view: CatalogView, command: AbortUpload, position: Position) -> Decision:
    """After a Complete nothing is deleted; again within a day it succeeds again (s3.md 7)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    upload = _in_progress(view, bucket, command)
    if upload is None:
        finished = _finished(view, bucket, command, command.aborted_ms)
        return Decision(Rejection.NO_SUCH_UPLOAD if finished is None else Done(existed=False))
    finished = FinishedUpload(
        bucket_id=bucket.bucket_id,
        key=upload.key,
        finished_ms=command.aborted_ms,
        parts_digest=b"",
        result=None,
    )
    writes: list[Write] = [
        FinishUpload(upload, finished),
        ReleaseParts(upload.upload),
        recounted(bucket, 0, 0, uploads=-1),
    ]
    return Decision(Done(), writes)


# --- complete -------------------------------------------------------------------------------------
def decide_complete_upload(
    view: CatalogView, command: CompleteUpload, position: Position
) -> Decision:
    """Make the object, or change nothing at all. Again with the same list within a day: the same answer (s3.md 7)."""
    bucket = admitted(view, command)
    if isinstance(bucket, Rejection):
        return Decision(bucket)
    upload = _in_progress(view, bucket, command)
    if upload is None:
        finished = _finished(view, bucket, command, command.modified_ms)
        if finished is None or finished.result is None or finished.parts_digest != _digest(command):
            return Decision(Rejection.NO_SUCH_UPLOAD)
        return Decision(finished.result)
    parts = view.parts(upload.upload)
    assembled = assemble(upload, parts, command)
    if not isinstance(assembled, Assembled):
        return Decision(assembled)
    change = BucketChange(view, bucket, position)
    current = change.current(command.key)
    refusal = write_refusal(command.condition, current)
    if refusal is not None:
        return Decision(refusal)
    condition = command.condition
    is_conditional = condition.if_none_match_any or condition.if_match is not None
    if is_conditional and _order(current) != upload.key_order:
        return Decision(Rejection.KEY_CHANGED_DURING_UPLOAD)
    record = change.place(
        command.key,
        ObjectRecord(
            blob=None,
            inline=False,
            size_bytes=assembled.size_bytes,
            etag=f"{assembled.md5.hex()}-{len(command.parts)}",
            md5=assembled.md5,
            modified_ms=command.modified_ms,
            checksum=assembled.checksum,
            headers=upload.headers,
            commit_index=position.index,
            composite=upload.composite,
            part_count=len(command.parts),
            manifest=upload.upload,
            tags=upload.tags,
            acl=upload.acl,
        ),
    )
    result = stored(bucket, record)
    finished = FinishedUpload(
        bucket_id=bucket.bucket_id,
        key=upload.key,
        finished_ms=command.modified_ms,
        parts_digest=_digest(command),
        result=result,
    )
    listed = {part.number for part in command.parts}
    for number, part in parts.items():
        if number not in listed:
            change.references.release(part.blob)
    writes: list[Write] = [
        PutManifest(upload.upload, assembled.manifest),
        *(RemovePart(upload.upload, number) for number in parts if number not in listed),
        FinishUpload(upload, finished),
    ]
    return Decision(result, change.writes(writes, uploads=-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """What an object of the listed parts is. ``md5``: of the parts' MD5s."""

    manifest: Manifest
    size_bytes: int
    md5: bytes
    checksum: Checksum


def assemble(
    upload: UploadRecord, parts: dict[int, PartRecord], command: CompleteUpload
) -> Assembled | PartRefused | Rejection:
    """The object that ``command`` asks for, or why there is none; checks in the order of s3.md 7."""
    listed = command.parts
    fault = _list_fault(upload, parts, listed)
    if fault is not None:
        return fault
    chosen = [parts[part.number] for part in listed]
    ends: list[int] = []
    size_bytes = 0
    for part in chosen:
        size_bytes += part.size_bytes
        ends.append(size_bytes)
    if size_bytes > MULTIPART_BYTES_MAX:
        return Rejection.OBJECT_TOO_LARGE
    checksum = _checksum(upload, chosen)
    if command.composite is not None and command.composite != upload.composite:
        return Rejection.COMPLETE_TYPE_MISMATCH
    if command.checksum is not None and command.checksum != checksum:
        return Rejection.COMPLETE_CHECKSUM_MISMATCH
    if command.size_bytes is not None and command.size_bytes != size_bytes:
        return Rejection.COMPLETE_SIZE_MISMATCH
    md5s = b"".join([part.md5 for part in chosen])
    return Assembled(
        manifest=Manifest(numbers=tuple(part.number for part in listed), ends=tuple(ends)),
        size_bytes=size_bytes,
        md5=hashlib.md5(md5s, usedforsecurity=False).digest(),
        checksum=checksum,
    )


def _list_fault(
    upload: UploadRecord, parts: dict[int, PartRecord], listed: tuple[ListedPart, ...]
) -> PartRefused | None:
    if not listed:
        return PartRefused(fault=PartFault.INVALID, number=0)
    before = 0
    for part in listed:
        if part.number <= before or (upload.composite and part.number != before + 1):
            return PartRefused(fault=PartFault.ORDER, number=part.number)
        before = part.number
    for part in listed:
        if upload.composite and part.checksum is None:
            return PartRefused(fault=PartFault.CHECKSUM_MISSING, number=part.number)
        record = parts.get(part.number)
        if record is None or record.md5.hex() != part.etag or not _agrees(upload, record, part):
            return PartRefused(fault=PartFault.INVALID, number=part.number)
    for part in listed[:-1]:
        size_bytes = parts[part.number].size_bytes
        if size_bytes < PART_BYTES_MIN:
            return PartRefused(fault=PartFault.TOO_SMALL, number=part.number, size_bytes=size_bytes)
    return None


def _agrees(upload: UploadRecord, record: PartRecord, listed: ListedPart) -> bool:
    """Whether the checksum in the list, if there is one, is that of the part.

    An upload without an algorithm takes none in its list (seen).
    """
    if listed.checksum is None:
        return True
    if upload.algorithm is None:
        return False
    return listed.checksum in (record.sent, record.whole)


def _checksum(upload: UploadRecord, parts: list[PartRecord]) -> Checksum:
    algorithm = whole_algorithm(upload)
    if algorithm is None:
        assert upload.algorithm is not None, "COMPOSITE is of an algorithm"
        digests = b"".join([part.sent.digest for part in parts if part.sent is not None])
        return Checksum(algorithm=upload.algorithm, digest=_HASHES[upload.algorithm](digests))
    combine = _COMBINERS[algorithm]
    value, digest_bytes = 0, 0
    for part in parts:
        assert part.whole is not None, "each part of such an upload has one"
        digest_bytes = len(part.whole.digest)
        value = combine(value, int.from_bytes(part.whole.digest, "big"), part.size_bytes)
    return Checksum(algorithm=algorithm, digest=value.to_bytes(digest_bytes, "big"))


def _digest(command: CompleteUpload) -> bytes:
    return hashlib.blake2b(pack(listed_fields(command.parts)), digest_size=16).digest()


# --- looking up -----------------------------------------------------------------------------------
_UploadCommand = UploadPart | CompleteUpload | AbortUpload


def _in_progress(
    view: CatalogView, bucket: BucketRecord, command: _UploadCommand
) -> UploadRecord | None:
    """The upload, if it is one into this key (s3.md 7)."""
    upload = view.upload(command.upload)
    if upload is None or (upload.bucket_id, upload.key) != (bucket.bucket_id, command.key):
        return None
    return upload


def _finished(
    view: CatalogView, bucket: BucketRecord, command: _UploadCommand, now_ms: int
) -> FinishedUpload | None:
    finished = view.finished_upload(command.upload)
    if finished is None or (finished.bucket_id, finished.key) != (bucket.bucket_id, command.key):
        return None
    return finished if now_ms - finished.finished_ms < FINISHED_UPLOAD_MS else None


def _order(current: ObjectRecord | None) -> int:
    return 0 if current is None else current.order
