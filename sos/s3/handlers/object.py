"""PutObject, GetObject, HeadObject, DeleteObject, CopyObject, DeleteObjects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from sos.catalog.model import (
    Deleted,
    DeletedMany,
    Done,
    Rejection,
    Stored,
    StoredHeaders,
)
from sos.errors import Corruption
from sos.s3.attributes import render_attributes
from sos.s3.body import Upload, read_document
from sos.s3.checksums import checksum_header, checksum_headers
from sos.s3.conditional import Full, NotModified, evaluate_read
from sos.s3.dates import format_http_date
from sos.s3.errors import AccessDenied, InvalidArgument, MethodNotAllowed, NoSuchKey
from sos.s3.exchange import Response, xml_response
from sos.s3.handlers.common import rejected
from sos.s3.limited_keys import allows_key
from sos.s3.metadata import DEFAULT_CONTENT_TYPE, META_PREFIX
from sos.s3.refusals import Subject, s3_error_for
from sos.s3.tagging import OBJECT_TAGS_MAX, parse_tagging, render_tagging
from sos.s3.xml import parse_delete, render_copy_result, render_delete_result
from sos.service.requests import CopyRequest, PutRequest, Target

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from sos.catalog.model import DeleteEntry, ObjectRecord, VersionNumber
    from sos.clock import Clock
    from sos.s3.errors import S3Error
    from sos.s3.exchange import Exchange
    from sos.s3.handlers.common import Cluster, OwnerCheck
    from sos.s3.operations import (
        CopyObject,
        DeleteObject,
        DeleteObjects,
        DeleteObjectTagging,
        GetObject,
        GetObjectAttributes,
        GetObjectTagging,
        HeadObject,
        PutObject,
        PutObjectTagging,
        ReadOperation,
        VersionOperation,
    )
    from sos.s3.tagging import Tags
    from sos.service.objects import ObjectService
    from sos.service.requests import Found

PLAIN: Final = StoredHeaders()
_IS_MARKER: Final = ("x-amz-delete-marker", "true")
_NOT_OURS: Final = "?"  # before an id in a command: apply never takes it for "null"
_ID_CHARS_MAX: Final = 1024
_READ_ATTEMPTS_MAX: Final = (
    3  # a key overwritten between the barrier and the first byte, again and again
)


class ObjectHandlers:
    """Operations on objects."""

    def __init__(
        self,
        objects: ObjectService,
        owners: OwnerCheck,
        cluster: Cluster,
        clock: Clock,
        executor: Executor,
    ) -> None:
        self._objects = objects
        self._owners = owners
        self._cluster = cluster
        self._clock = clock
        self._executor = executor

    # --- writes -------------------------------------------------------------------------------
    async def put_object(self, exchange: Exchange, operation: PutObject) -> Response:
        """PutObject (S3 API). 200 with ETag and checksum, after commit."""
        target = _target(exchange, operation.bucket, operation.key)
        if operation.expected_owner is not None:
            await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        refusal = await self._objects.check_write(
            target, operation.condition, operation.body.size_bytes
        )
        if refusal is not None:
            raise rejected(refusal, exchange, operation.bucket, operation.key)
        upload = Upload(exchange, operation.body, self._executor)
        request = PutRequest(
            target=target,
            headers=operation.headers,
            condition=operation.condition,
            tags=operation.tags,
        )
        result = await self._objects.put(request, upload)
        if not isinstance(result, Stored):
            raise _unexpected(result, exchange, operation.bucket, operation.key)
        headers = [("ETag", f'"{result.etag}"'), *checksum_headers(result.checksum)]
        if result.version is not None:
            headers.append(self._version_header(result.version))
        return Response(headers=headers)

    async def copy_object(self, exchange: Exchange, operation: CopyObject) -> Response:
        """CopyObject (S3 API). Source and destination are decided at one log index."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        source = operation.source
        await self._owners.check(exchange, source.bucket, operation.expected_source_owner)
        result = await self._objects.copy(
            CopyRequest(
                target=_target(exchange, operation.bucket, operation.key),
                source=Target(
                    access_key=exchange.access_key,
                    bucket=source.bucket,
                    key=source.key,
                    version=self._cluster.parse_source_version(source),
                ),
                headers=operation.headers,
                source_condition=operation.source_condition,
                condition=operation.condition,
                changes_something=operation.changes_something,
                algorithm=operation.algorithm,
                tags=operation.tags,
            )
        )
        if isinstance(result, Rejection):
            names = operation.source_condition_names
            subject = Subject(
                bucket=operation.bucket,
                key=operation.key,
                source_bucket=source.bucket,
                source_key=source.key,
                version_id=source.version_id or "",
                source_condition=names[0] if len(names) == 1 else "",
                access_key=exchange.access_key,
            )
            raise s3_error_for(result, subject)
        assert isinstance(result, Stored)
        document = render_copy_result(
            etag=result.etag, modified_ms=result.modified_ms, checksum=result.checksum
        )
        headers = []
        if result.version is not None:
            headers.append(self._version_header(result.version))
        if result.source_version is not None:
            name = "x-amz-copy-source-version-id"
            headers.append((name, self._cluster.version_id(result.source_version)))
        return xml_response(document, headers)

    async def delete_object(self, exchange: Exchange, operation: DeleteObject) -> Response:
        """DeleteObject (S3 API). 204, also for an absent key."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        target = _target(
            exchange, operation.bucket, operation.key, self._version(operation.version_id)
        )
        result = await self._objects.delete(target, operation.condition)
        if isinstance(result, Deleted):
            headers = [self._version_header(result.version)]
            if result.is_marker:
                headers.append(_IS_MARKER)
            return Response(status=204, headers=headers)
        if not isinstance(result, Done):
            raise _unexpected(
                result, exchange, operation.bucket, operation.key, operation.version_id
            )
        return Response(status=204)

    async def delete_objects(self, exchange: Exchange, operation: DeleteObjects) -> Response:
        """DeleteObjects (S3 API). One command for all keys; failures of a key are told inside the 200."""
        bucket = operation.bucket
        await self._owners.check(exchange, bucket, operation.expected_owner)
        refusal = await self._objects.check_bucket(exchange.access_key, bucket)
        if refusal is not None:
            raise rejected(refusal, exchange, bucket)
        request = parse_delete(await read_document(exchange, operation.body))
        allowed = [allows_key(exchange.key, entry.key) for entry in request.entries]
        entries = tuple(
            self._with_version(entry)
            for entry, is_allowed in zip(request.entries, allowed, strict=True)
            if is_allowed
        )
        result = await self._objects.delete_many(exchange.access_key, bucket, entries)
        if not isinstance(result, DeletedMany):
            raise _unexpected(result, exchange, bucket, "")
        decided = iter(result.outcomes)
        outcomes = [next(decided) if is_allowed else AccessDenied() for is_allowed in allowed]
        return xml_response(render_delete_result(request, outcomes, self._cluster.version_id))

    def _with_version(self, entry: DeleteEntry) -> DeleteEntry:
        """An entry whose version id is one of ours names it by number; of another nothing can be deleted."""
        if entry.version_id is None:
            return entry
        try:
            version = self._cluster.parse_version_id(entry.version_id)
        except InvalidArgument:
            return replace(entry, version_id=f"{_NOT_OURS}{entry.version_id}"[:_ID_CHARS_MAX])
        return replace(entry, version_id=None, version=version)

    def _version(self, text: str | None) -> VersionNumber | None:
        """Raises: InvalidArgument."""
        return None if text is None else self._cluster.parse_version_id(text)

    def _version_header(self, version: VersionNumber) -> tuple[str, str]:
        return "x-amz-version-id", self._cluster.version_id(version)

    # --- reads --------------------------------------------------------------------------------
    async def get_object(self, exchange: Exchange, operation: GetObject) -> Response:
        """GetObject (S3 API). Every byte of the answer was verified before it leaves."""
        lost_index = -1
        for _ in range(_READ_ATTEMPTS_MAX):
            found = await self._find(exchange, operation, with_body=True)
            plan = self._plan(operation, found)
            if plan.status == 304 or found.data is not None:
                data = found.data or b""
                whole = plan.stop - plan.start == len(data)
                body = data if whole else data[plan.start : plan.stop]
                return Response(status=plan.status, headers=plan.headers, body=body)
            try:
                stream = await self._objects.open(found, plan.start, plan.stop)
            except Corruption:
                # Gone everywhere before the first byte: damage only if the key still names it.
                if found.record.commit_index == lost_index:
                    raise
                lost_index = found.record.commit_index
                continue
            return Response(
                status=plan.status,
                headers=plan.headers,
                stream=stream,
                content_length=plan.stop - plan.start,
            )
        raise Corruption("the object was replaced over and over while it was read")

    async def head_object(self, exchange: Exchange, operation: HeadObject) -> Response:
        """HeadObject (S3 API). As GetObject, without a body."""
        found = await self._find(exchange, operation, with_body=False)
        plan = self._plan(operation, found)
        return Response(
            status=plan.status, headers=plan.headers, content_length=plan.stop - plan.start
        )

    async def _find(
        self, exchange: Exchange, operation: ReadOperation, *, with_body: bool
    ) -> Found:
        if operation.expected_owner is not None:
            await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        target = _target(
            exchange, operation.bucket, operation.key, self._version(operation.version_id)
        )
        found = await self._objects.find(
            target, with_body=with_body, part_number=operation.conditions.part_number
        )
        if isinstance(found, Rejection):
            raise _unexpected(
                found, exchange, operation.bucket, operation.key, operation.version_id
            )
        if found.record.is_marker:
            raise self._marker_error(exchange, operation, found.record)
        return found

    # --- tags and attributes ------------------------------------------------------------------
    async def get_tagging(self, exchange: Exchange, operation: GetObjectTagging) -> Response:
        """GetObjectTagging (S3 API). An empty set for an object without tags."""
        found = await self._find_version(exchange, operation)
        return xml_response(render_tagging(found.record.tags), self._version_headers(found))

    async def put_tagging(self, exchange: Exchange, operation: PutObjectTagging) -> Response:
        """PutObjectTagging (S3 API). 200."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        tags = parse_tagging(await read_document(exchange, operation.body), OBJECT_TAGS_MAX)
        return await self._put_tags(exchange, operation, tags, 200)

    async def delete_tagging(self, exchange: Exchange, operation: DeleteObjectTagging) -> Response:
        """DeleteObjectTagging (S3 API). 204."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        return await self._put_tags(exchange, operation, (), 204)

    async def _put_tags(
        self, exchange: Exchange, operation: VersionOperation, tags: Tags, status: int
    ) -> Response:
        version = self._version(operation.version_id)
        target = _target(exchange, operation.bucket, operation.key, version)
        result = await self._objects.put_tags(target, tags)
        if not isinstance(result, Stored):
            raise _unexpected(
                result, exchange, operation.bucket, operation.key, operation.version_id
            )
        if result.version is None:
            return Response(status=status)
        return Response(status=status, headers=[self._version_header(result.version)])

    async def get_attributes(self, exchange: Exchange, operation: GetObjectAttributes) -> Response:
        """GetObjectAttributes (S3 API)."""
        found = await self._find_version(exchange, operation)
        record = found.record
        parts = await self._objects.list_parts(
            found, after=operation.after, limit=operation.max_parts + 1
        )
        document = render_attributes(
            operation.wanted,
            record,
            parts,
            after=operation.after,
            max_parts=operation.max_parts,
        )
        modified = ("Last-Modified", format_http_date(record.modified_ms // 1000))
        return xml_response(document, [modified, *self._version_headers(found)])

    async def _find_version(self, exchange: Exchange, operation: VersionOperation) -> Found:
        """Raises: as ``get_object``."""
        await self._owners.check(exchange, operation.bucket, operation.expected_owner)
        version = self._version(operation.version_id)
        target = _target(exchange, operation.bucket, operation.key, version)
        found = await self._objects.find(target, with_body=False)
        if isinstance(found, Rejection):
            raise _unexpected(
                found, exchange, operation.bucket, operation.key, operation.version_id
            )
        if found.record.is_marker:
            raise self._marker_error(exchange, operation, found.record)
        return found

    def _version_headers(self, found: Found) -> list[tuple[str, str]]:
        return [self._version_header(found.record.version)] if found.is_versioned else []

    def _marker_error(
        self, exchange: Exchange, operation: ReadOperation | VersionOperation, record: ObjectRecord
    ) -> S3Error:
        """A delete marker is no object: 404 as the current version, 405 by its own id (s3.md 1.1.5)."""
        headers = (_IS_MARKER, self._version_header(record.version))
        if operation.version_id is None:
            return NoSuchKey(operation.key, headers=headers)
        modified = ("Last-Modified", format_http_date(record.modified_ms // 1000))
        return MethodNotAllowed(
            exchange.head.method,
            "DeleteMarker",
            headers=(*headers, modified, ("Allow", "DELETE")),
        )

    def _plan(self, operation: ReadOperation, found: Found) -> _ReadPlan:
        """Status, headers and range of the answer. Raises: PreconditionFailed, InvalidRange, ..."""
        record, span = found.record, found.span
        outcome = evaluate_read(
            operation.conditions,
            etag=record.etag,
            modified_ms=record.modified_ms,
            size_bytes=record.size_bytes,
            now_ms=self._clock.wall_ms(),
            part_count=record.part_count,
            span=None if span is None else (span.start, span.stop),
        )
        headers = [
            ("Last-Modified", format_http_date(record.modified_ms // 1000)),
            ("ETag", f'"{record.etag}"'),
        ]
        if found.is_versioned:
            headers.append(self._version_header(record.version))
        stored = record.headers
        if isinstance(outcome, NotModified):
            if stored.cache_control is not None:
                headers.append(("Cache-Control", stored.cache_control))
            if stored.expires is not None:
                headers.append(("Expires", stored.expires))
            return _ReadPlan(304, headers, 0, 0)
        headers.append(("Accept-Ranges", "bytes"))
        if record.tags:
            headers.append(("x-amz-tagging-count", str(len(record.tags))))
        headers += _stored_headers(stored, operation.overrides)
        if isinstance(outcome, Full):
            status, start, stop = 200, 0, record.size_bytes
            shows_checksum = operation.shows_checksum
        else:
            status, start, stop = 206, outcome.start, outcome.stop
            shows_checksum = operation.shows_checksum and outcome.shows_checksum
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{record.size_bytes}"))
        if operation.conditions.part_number is not None and record.part_count:
            headers.append(("x-amz-mp-parts-count", str(record.part_count)))
            if operation.shows_checksum and span is not None and span.checksum is not None:
                headers.append(checksum_header(span.checksum))
        elif shows_checksum:
            parts = record.part_count if record.composite else 0
            headers += checksum_headers(record.checksum, parts)
        return _ReadPlan(status, headers, start, stop)


class _ReadPlan(NamedTuple):
    """How a read is answered; bytes ``[start, stop)``. A named tuple: one per GET, on the hot path."""

    status: int
    headers: list[tuple[str, str]]
    start: int
    stop: int


def _stored_headers(
    stored: StoredHeaders, overrides: tuple[tuple[str, str], ...]
) -> list[tuple[str, str]]:
    headers = [("Content-Type", stored.content_type or DEFAULT_CONTENT_TYPE)]
    if stored is not PLAIN and stored != PLAIN:
        for name, value in (
            ("Cache-Control", stored.cache_control),
            ("Content-Disposition", stored.content_disposition),
            ("Content-Encoding", stored.content_encoding),
            ("Content-Language", stored.content_language),
            ("Expires", stored.expires),
        ):
            if value is not None:
                headers.append((name, value))
        headers += [(META_PREFIX + name, value) for name, value in stored.user]
    if overrides:
        replaced = {name for name, _ in overrides}
        headers = [header for header in headers if header[0] not in replaced]
        headers += overrides
    return headers


def _target(
    exchange: Exchange, bucket: str, key: str, version: VersionNumber | None = None
) -> Target:
    return Target(exchange.access_key, bucket, key, version)


def _unexpected(
    result: object, exchange: Exchange, bucket: str, key: str, version_id: str | None = None
) -> S3Error:
    """The error of a rejection; any other result of another command's kind is our bug."""
    assert isinstance(result, Rejection), f"the catalog answered {type(result).__name__}"
    subject = Subject(
        bucket=bucket, key=key, access_key=exchange.access_key, version_id=version_id or ""
    )
    return s3_error_for(result, subject)
