"""Multipart uploads: create, parts, complete, abort, and what is in progress (s3.md 7)."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from sos.catalog.model import (
    AbortUpload,
    CompleteUpload,
    CreateUpload,
    Rejection,
    UploadPart,
)
from sos.catalog.rules.conditions import source_allows
from sos.catalog.rules.upload import whole_algorithm
from sos.limits import OBJECT_BYTES_MAX
from sos.service.objects import SOURCE_REJECTIONS, marker_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from sos.catalog.model import (
        AccessKeyId,
        Body,
        BucketRecord,
        PartRecord,
        Result,
        UploadId,
        UploadPage,
        UploadRecord,
    )
    from sos.catalog.views import View
    from sos.clock import Clock, IdSource
    from sos.service.access import CatalogAccess
    from sos.service.copied import Copier
    from sos.service.objects import ObjectService
    from sos.service.requests import (
        CompleteRequest,
        CreateUploadRequest,
        Found,
        PartCopyRequest,
        Target,
        UploadBody,
        UploadDigests,
    )
    from sos.service.storing import BodyStore

T = TypeVar("T")


class UploadService:
    """Use cases about multipart uploads."""

    def __init__(
        self,
        access: CatalogAccess,
        *,
        bodies: BodyStore,
        copier: Copier,
        objects: ObjectService,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._access = access
        self._bodies = bodies
        self._copier = copier
        self._objects = objects
        self._clock = clock
        self._ids = ids

    async def create(self, request: CreateUploadRequest) -> Result:
        """``UploadCreated``, or the rejection."""
        target = request.target
        return await self._access.propose(
            CreateUpload(
                access_key=target.access_key,
                bucket=target.bucket,
                key=target.key,
                random=self._ids.random_bytes(8),
                initiated_ms=self._clock.wall_ms(),
                headers=request.headers,
                algorithm=request.algorithm,
                composite=request.composite,
                tags=request.tags,
            )
        )

    async def find(self, target: Target, upload: UploadId) -> UploadRecord | Rejection:
        """The upload into this key."""

        def query(view: View, bucket: BucketRecord) -> UploadRecord | Rejection:
            return _find(view, bucket, target, upload)

        return await self._read(target.access_key, target.bucket, query)

    async def put_part(
        self,
        target: Target,
        upload: UploadRecord,
        number: int,
        body: UploadBody,
        *,
        is_checksum_sent: bool,
    ) -> Result:
        """Store ``body`` as a part. ``is_checksum_sent``: the checksum of its digests came from the client.

        Raises: Unavailable, OutcomeUnknown; ``body``'s own errors.
        """
        wanted = whole_algorithm(upload)

        async def propose(stored: Body | None, digests: UploadDigests) -> Result:
            whole = None
            if wanted is not None:
                whole = digests.also or digests.checksum
            return await self._access.propose(
                UploadPart(
                    access_key=target.access_key,
                    bucket=target.bucket,
                    key=target.key,
                    upload=upload.upload,
                    number=number,
                    body=stored,
                    md5=digests.md5,
                    modified_ms=self._clock.wall_ms(),
                    sent=digests.checksum if is_checksum_sent else None,
                    whole=whole,
                )
            )

        return await self._bodies.store(body, propose)

    async def copy_part(self, request: PartCopyRequest, upload: UploadRecord) -> Result | Found:
        """Store bytes of an object as a part; the source, when it is larger than a part, or than the range says.

        The bytes are those of one version: a part is not visible, so it makes no difference when it is written.
        """
        self._bodies.check_room()
        found = await self._objects.find(request.source, with_body=True)
        if isinstance(found, Rejection):
            return SOURCE_REJECTIONS.get(found, found)
        if found.record.is_marker:
            return marker_refusal(request.source)
        if not source_allows(request.source_condition, found.record):
            return Rejection.SOURCE_PRECONDITION_FAILED
        size_bytes = found.record.size_bytes
        start, stop = request.span or (0, size_bytes)
        if stop > size_bytes or stop - start > OBJECT_BYTES_MAX:
            return found
        algorithm = upload.algorithm or whole_algorithm(upload)
        assert algorithm is not None, "an upload without an algorithm has a FULL_OBJECT checksum"
        async with aclosing(self._objects.read(found, start, stop)) as chunks:
            body = self._copier.body(chunks, stop - start, algorithm)
            return await self.put_part(
                request.target,
                upload,
                request.number,
                body,
                is_checksum_sent=upload.composite,
            )

    async def complete(self, request: CompleteRequest) -> Result:
        """``Stored``; or ``PartRefused`` or the rejection, and the upload is as it was."""
        target = request.target
        return await self._access.propose(
            CompleteUpload(
                access_key=target.access_key,
                bucket=target.bucket,
                key=target.key,
                upload=request.upload,
                parts=request.parts,
                modified_ms=self._clock.wall_ms(),
                condition=request.condition,
                checksum=request.checksum,
                composite=request.composite,
                size_bytes=request.size_bytes,
            )
        )

    async def abort(self, target: Target, upload: UploadId) -> Result:
        """Let go of the upload and its parts."""
        return await self._access.propose(
            AbortUpload(
                access_key=target.access_key,
                bucket=target.bucket,
                key=target.key,
                upload=upload,
                aborted_ms=self._clock.wall_ms(),
            )
        )

    async def list_parts(
        self, target: Target, upload: UploadId, *, after: int, limit: int
    ) -> tuple[UploadRecord, list[PartRecord]] | Rejection:
        """The upload, and up to ``limit`` of its parts with numbers above ``after``."""

        def query(
            view: View, bucket: BucketRecord
        ) -> tuple[UploadRecord, list[PartRecord]] | Rejection:
            record = _find(view, bucket, target, upload)
            if isinstance(record, Rejection):
                return record
            return record, [*view.parts(upload, after, limit).values()]

        return await self._read(target.access_key, target.bucket, query)

    async def list_uploads(
        self,
        access_key: AccessKeyId,
        bucket: str,
        *,
        prefix: str,
        delimiter: str,
        after_key: str,
        after_upload: UploadId | None,
        limit: int,
    ) -> UploadPage | Rejection:
        """One page of the uploads in progress; one snapshot."""

        def query(view: View, record: BucketRecord) -> UploadPage | Rejection:
            return view.list_uploads(
                record.bucket_id,
                prefix=prefix,
                delimiter=delimiter,
                after_key=after_key,
                after_upload=after_upload,
                limit=limit,
            )

        return await self._read(access_key, bucket, query)

    async def _read(
        self,
        access_key: AccessKeyId,
        bucket: str,
        query: Callable[[View, BucketRecord], T | Rejection],
    ) -> T | Rejection:
        lookups = self._access.lookups

        def in_bucket(view: View) -> T | Rejection:
            if not lookups.may_ask(view, access_key):
                return Rejection.INVALID_ACCESS_KEY
            record = lookups.bucket(view, bucket)
            return Rejection.NO_SUCH_BUCKET if record is None else query(view, record)

        return await self._access.read(in_bucket)


def _find(
    view: View, bucket: BucketRecord, target: Target, upload: UploadId
) -> UploadRecord | Rejection:
    record = view.upload(upload)
    if record is None or (record.bucket_id, record.key) != (bucket.bucket_id, target.key):
        return Rejection.NO_SUCH_UPLOAD
    return record
