"""CreateMultipartUpload, UploadPart, UploadPartCopy, ListParts, CompleteMultipartUpload, AbortMultipartUpload."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from sos.catalog.model import (
    Done,
    PartFault,
    PartRefused,
    Rejection,
    Stored,
    UploadCreated,
)
from sos.catalog.rules.upload import part_refusal, whole_algorithm
from sos.limits import OBJECT_BYTES_MAX, PART_BYTES_MIN
from sos.s3.body import Upload, read_document
from sos.s3.checksums import COMPOSITE, FULL_OBJECT, TYPE_HEADER, checksum_header
from sos.s3.errors import (
    EntityTooSmall,
    InvalidArgument,
    InvalidPart,
    InvalidPartOrder,
    InvalidRequest,
)
from sos.s3.exchange import Response, xml_response
from sos.s3.multipart_xml import (
    parse_complete,
    render_complete,
    render_copy_part,
    render_initiate,
    render_list_parts,
    render_list_uploads,
)
from sos.s3.refusals import Subject, s3_error_for
from sos.service.requests import (
    CompleteRequest,
    CreateUploadRequest,
    Found,
    PartCopyRequest,
    Target,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from sos.catalog.model import ListedPart, Result, UploadRecord
    from sos.s3.errors import S3Error
    from sos.s3.exchange import Exchange
    from sos.s3.handlers.common import Cluster, OwnerCheck
    from sos.s3.operations import (
        AbortMultipartUpload,
        CompleteMultipartUpload,
        CreateMultipartUpload,
        ListMultipartUploads,
        ListParts,
        UploadOperation,
        UploadPart,
        UploadPartCopy,
    )
    from sos.s3.target import S3Settings
    from sos.service.multipart import UploadService


class MultipartHandlers:
    """Operations on multipart uploads."""

    def __init__(
        self,
        uploads: UploadService,
        owners: OwnerCheck,
        cluster: Cluster,
        settings: S3Settings,
        executor: Executor,
    ) -> None:
        self._uploads = uploads
        self._owners = owners
        self._cluster = cluster
        self._scheme = settings.scheme
        self._executor = executor

    async def create(self, exchange: Exchange, operation: CreateMultipartUpload) -> Response:
        """CreateMultipartUpload (S3 API)."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        target = Target(access_key=exchange.access_key, bucket=operation.bucket, key=operation.key)
        result = await self._uploads.create(
            CreateUploadRequest(
                target=target,
                headers=operation.headers,
                algorithm=operation.algorithm,
                composite=operation.composite,
                tags=operation.tags,
            )
        )
        if not isinstance(result, UploadCreated):
            raise self._rejected(result, exchange, target)
        headers = []
        if operation.algorithm is not None:
            kind = COMPOSITE if operation.composite else FULL_OBJECT
            headers = [
                ("x-amz-checksum-algorithm", operation.algorithm.name),
                (TYPE_HEADER, kind),
            ]
        return xml_response(render_initiate(target.bucket, target.key, result.upload), headers)

    async def upload_part(self, exchange: Exchange, operation: UploadPart) -> Response:
        """UploadPart (S3 API). 200 with ETag, and the checksum that the client sent."""
        target, upload = await self._find(exchange, operation)
        plan = operation.body
        digests = plan.digests
        sent = digests.algorithm if digests.has_checksum else None
        refusal = part_refusal(upload, sent)
        if refusal is not None:
            raise self._rejected(refusal, exchange, target, upload)
        wanted = whole_algorithm(upload)
        if sent is None:
            assert wanted is not None, "a COMPOSITE upload was refused without a checksum"
            digests = digests._replace(algorithm=wanted)
        elif wanted is not None and wanted is not sent:
            digests = digests._replace(also=wanted)
        body = Upload(exchange, plan._replace(digests=digests), self._executor)
        result = await self._uploads.put_part(
            target, upload, operation.number, body, is_checksum_sent=sent is not None
        )
        if not isinstance(result, Stored):
            raise self._rejected(result, exchange, target, upload)
        headers = [("ETag", f'"{result.etag}"')]
        if sent is not None:
            headers.append(checksum_header(result.checksum))
        return Response(headers=headers)

    async def upload_part_copy(self, exchange: Exchange, operation: UploadPartCopy) -> Response:
        """UploadPartCopy (S3 API)."""
        target, upload = await self._find(exchange, operation)
        source = operation.source
        await self._owners.check(exchange, source.bucket, operation.expected_source_owner)
        result = await self._uploads.copy_part(
            PartCopyRequest(
                target=target,
                number=operation.number,
                source=Target(
                    access_key=exchange.access_key,
                    bucket=source.bucket,
                    key=source.key,
                    version=self._cluster.parse_source_version(source),
                ),
                span=operation.span,
                source_condition=operation.source_condition,
            ),
            upload,
        )
        if isinstance(result, Found):
            raise _bad_span(operation, result.record.size_bytes)
        if isinstance(result, Rejection):
            names = operation.source_condition_names
            subject = Subject(
                bucket=target.bucket,
                key=target.key,
                source_bucket=source.bucket,
                source_key=source.key,
                source_condition=names[0] if len(names) == 1 else "",
                access_key=exchange.access_key,
                upload=upload.upload.hex(),
                version_id=source.version_id or "",
            )
            raise s3_error_for(result, subject)
        assert isinstance(result, Stored)
        return xml_response(render_copy_part(result))

    async def complete(self, exchange: Exchange, operation: CompleteMultipartUpload) -> Response:
        """CompleteMultipartUpload (S3 API). Its status is final: no bytes are moved."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        parts = parse_complete(await read_document(exchange, operation.body))
        target = Target(access_key=exchange.access_key, bucket=operation.bucket, key=operation.key)
        result = await self._uploads.complete(
            CompleteRequest(
                target=target,
                upload=operation.upload,
                parts=parts,
                condition=operation.condition,
                checksum=operation.checksum,
                composite=operation.composite,
                size_bytes=operation.size_bytes,
            )
        )
        if isinstance(result, PartRefused):
            raise _part_error(result, parts, operation.upload.hex())
        if not isinstance(result, Stored):
            raise self._rejected(result, exchange, target, upload_id=operation.upload.hex())
        path = quote(f"{target.bucket}/{target.key}", safe="/~")
        location = f"{self._scheme}://{operation.host}/{path}"
        document = render_complete(target.bucket, target.key, location, result)
        if result.version is None:
            return xml_response(document)
        version = self._cluster.version_id(result.version)
        return xml_response(document, [("x-amz-version-id", version)])

    async def abort(self, exchange: Exchange, operation: AbortMultipartUpload) -> Response:
        """AbortMultipartUpload (S3 API). 204."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        target = Target(access_key=exchange.access_key, bucket=operation.bucket, key=operation.key)
        result = await self._uploads.abort(target, operation.upload)
        if not isinstance(result, Done):
            raise self._rejected(result, exchange, target, upload_id=operation.upload.hex())
        return Response(status=204)

    async def list_parts(self, exchange: Exchange, operation: ListParts) -> Response:
        """ListParts (S3 API)."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        target = Target(access_key=exchange.access_key, bucket=operation.bucket, key=operation.key)
        found = await self._uploads.list_parts(
            target, operation.upload, after=operation.after, limit=operation.max_parts + 1
        )
        if isinstance(found, Rejection):
            raise self._rejected(found, exchange, target, upload_id=operation.upload.hex())
        upload, parts = found
        return xml_response(
            render_list_parts(operation, upload, parts, owner_id=self._cluster.facts.owner_id)
        )

    async def list_uploads(self, exchange: Exchange, operation: ListMultipartUploads) -> Response:
        """ListMultipartUploads (S3 API)."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        page = await self._uploads.list_uploads(
            exchange.access_key,
            operation.bucket,
            prefix=operation.list.prefix,
            delimiter=operation.list.delimiter,
            after_key=operation.key_marker,
            after_upload=operation.upload_marker,
            limit=operation.list.max_keys,
        )
        if isinstance(page, Rejection):
            target = Target(access_key=exchange.access_key, bucket=operation.bucket, key="")
            raise self._rejected(page, exchange, target)
        return xml_response(
            render_list_uploads(operation, page, owner_id=self._cluster.facts.owner_id)
        )

    async def _find(
        self, exchange: Exchange, operation: UploadOperation
    ) -> tuple[Target, UploadRecord]:
        """The upload that a part is for. Raises: NoSuchUpload, NoSuchBucket, ..."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        target = Target(access_key=exchange.access_key, bucket=operation.bucket, key=operation.key)
        upload = await self._uploads.find(target, operation.upload)
        if isinstance(upload, Rejection):
            raise self._rejected(upload, exchange, target, upload_id=operation.upload.hex())
        return target, upload

    def _rejected(
        self,
        result: Result,
        exchange: Exchange,
        target: Target,
        upload: UploadRecord | None = None,
        *,
        upload_id: str = "",
    ) -> S3Error:
        """The error of a rejection; any other result of another command's kind is our bug."""
        assert isinstance(result, Rejection), f"the catalog answered {type(result).__name__}"
        if upload is not None:
            upload_id = upload.upload.hex()
            if result in (Rejection.PART_CHECKSUM_TYPE, Rejection.PART_CHECKSUM_MISSING):
                assert upload.algorithm is not None
                return InvalidRequest(
                    message="Checksum Type mismatch occurred, expected checksum Type:"
                    f" {upload.algorithm.value}, actual checksum Type: another or none"
                )
        subject = Subject(
            bucket=target.bucket,
            key=target.key,
            access_key=exchange.access_key,
            upload=upload_id,
        )
        return s3_error_for(result, subject)


def _bad_span(operation: UploadPartCopy, size_bytes: int) -> S3Error:
    """The source is larger than a part may be, or the range reaches beyond it (s3.md 7)."""
    if operation.span is None:
        return InvalidRequest(
            message="The specified copy source is larger than the maximum allowable size for a copy source:"
            f" {OBJECT_BYTES_MAX}"
        )
    first, stop = operation.span
    text = f"bytes={first}-{stop - 1}"
    if stop > size_bytes:
        return InvalidArgument(
            "x-amz-copy-source-range",
            text,
            message=f"Range specified is not valid for source object of size: {size_bytes}",
        )
    return InvalidRequest(
        message=f"The range is larger than the maximum allowable size of a part: {OBJECT_BYTES_MAX}"
    )


def _part_error(refused: PartRefused, parts: tuple[ListedPart, ...], upload: str) -> S3Error:
    etag = next((part.etag for part in parts if part.number == refused.number), "")
    match refused.fault:
        case PartFault.INVALID:
            return InvalidPart(upload, str(refused.number), etag)
        case PartFault.ORDER:
            return InvalidPartOrder(upload)
        case PartFault.TOO_SMALL:
            return EntityTooSmall(
                str(refused.size_bytes), str(PART_BYTES_MIN), str(refused.number), etag
            )
        case PartFault.CHECKSUM_MISSING:
            return InvalidRequest(
                message="The upload was created using a checksum. The complete request must include the checksum"
                f" for each part. It was missing for part {refused.number} in the request."
            )
