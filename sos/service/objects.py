"""Objects: put, find, open, delete, delete many, copy.

Order of a write (design 5): bytes durable on a write quorum, then one command; its stored result is the answer.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol

from sos.catalog.model import (
    ALWAYS,
    NULL_VERSION,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    NewBytes,
    PutObject,
    PutObjectTags,
    Rejection,
    Versioning,
    WriteCondition,
)
from sos.catalog.rules.conditions import write_refusal
from sos.errors import Corruption
from sos.failpoints import hit
from sos.limits import COMMIT_S_MAX, INLINE_BYTES_MAX, OBJECT_BYTES_MAX
from sos.service.copied import one_piece
from sos.service.parts import (
    PartsStream,
    SourceStream,
    copies_of,
    find_segments,
    find_span,
)
from sos.service.requests import Found, Target

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from sos.blob.fetch import BlobReader, BlobStream
    from sos.catalog.model import (
        AccessKeyId,
        Body,
        BucketRecord,
        Checksum,
        DeleteEntry,
        ObjectRecord,
        PartRecord,
        Result,
        UploadId,
    )
    from sos.catalog.views import View
    from sos.clock import Clock
    from sos.service.access import CatalogAccess
    from sos.service.copied import Copier
    from sos.service.lookups import Lookups
    from sos.service.members import MemberAddresses
    from sos.service.parts import Segment
    from sos.service.requests import (
        CopyRequest,
        PutRequest,
        UploadBody,
        UploadDigests,
    )
    from sos.service.storing import BodyStore

_WRITERS_MAX: Final = 4096


class Finding(Protocol):
    """Who finds a key when this node cannot: ``sos.service.elsewhere``."""

    async def find(self, target: Target, *, with_body: bool) -> Found | Rejection: ...


class ObjectService:
    """Use cases about objects."""

    def __init__(
        self,
        access: CatalogAccess,
        *,
        bodies: BodyStore,
        copier: Copier,
        members: MemberAddresses,
        reader: BlobReader,
        clock: Clock,
        elsewhere: Finding | None = None,
    ) -> None:
        """``elsewhere``: asked when this node's own rows are damaged."""
        self._elsewhere = elsewhere
        self._access = access
        self._bodies = bodies
        self._copier = copier
        self._members = members
        self._reader = reader
        self._clock = clock
        # access key and bucket of writes that were not refused
        self._writers: set[tuple[AccessKeyId, str]] = set()
        self._versioned: set[str] = set()  # buckets whose deletes make markers, as far as is known

    # --- writes -------------------------------------------------------------------------------
    async def check_write(
        self, target: Target, condition: WriteCondition, size_bytes: int | None = None
    ) -> Rejection | None:
        """Why a write would be refused now; ``None``: go on, apply decides (design 5.1).

        ``size_bytes`` of the body, if it is known: one small body into a bucket that took the last one needs no
        look, which would cost more than the refusal of it by apply.
        """
        writer = (target.access_key, target.bucket)
        is_small = size_bytes is not None and size_bytes <= INLINE_BYTES_MAX
        if is_small and condition is ALWAYS and writer in self._writers:
            return None

        def query(view: View) -> Rejection | None:
            return _judge_early(view, self._access.lookups, target, condition)

        if self._access.peek(query) is None:
            return None
        return await self._access.read(query)

    async def check_bucket(self, access_key: AccessKeyId, bucket: str) -> Rejection | None:
        """Why any write into ``bucket`` would be refused now; ``None``: go on."""
        return await self.check_write(Target(access_key=access_key, bucket=bucket, key=""), ALWAYS)

    async def put(self, request: PutRequest, body: UploadBody) -> Result:
        """Store ``body`` under the key; the catalog's result. ``body``'s own errors pass through.

        Raises: Unavailable, OutcomeUnknown.
        """
        target = request.target
        result = await self._bodies.store(
            body, lambda stored, digests: self._propose_put(request, stored, digests)
        )
        if isinstance(result, Rejection):
            self._writers.discard((target.access_key, target.bucket))
        else:
            if len(self._writers) >= _WRITERS_MAX:
                self._writers.clear()
            self._writers.add((target.access_key, target.bucket))
        return result

    def _propose_put(
        self, request: PutRequest, body: Body | None, digests: UploadDigests
    ) -> Coroutine[Any, Any, Result]:
        target = request.target
        return self._access.propose(
            PutObject(
                access_key=target.access_key,
                bucket=target.bucket,
                key=target.key,
                body=body,
                etag=digests.md5.hex(),
                md5=digests.md5,
                modified_ms=self._clock.wall_ms(),
                checksum=digests.checksum,
                headers=request.headers,
                condition=request.condition,
                tags=request.tags,
            )
        )

    async def put_tags(self, target: Target, tags: tuple[tuple[str, str], ...]) -> Result:
        """Replace the tags of the version that the target names; ``Stored``, or the rejection."""
        return await self._access.propose(
            PutObjectTags(
                access_key=target.access_key,
                bucket=target.bucket,
                key=target.key,
                tags=tags,
                version=target.version,
            )
        )

    async def list_parts(self, found: Found, *, after: int, limit: int) -> list[PartRecord]:
        """Up to ``limit`` parts of an object with numbers above ``after``; none of one that has no parts, or is gone."""
        manifest = found.record.manifest
        if manifest is None:
            return []
        return self._access.peek(lambda view: [*view.parts(manifest, after, limit).values()])

    async def delete(self, target: Target, condition: WriteCondition) -> Result:
        """Delete the key, or the version that the target names; an absent one is a success."""

        def command(modified_ms: int) -> DeleteObject:
            return DeleteObject(
                access_key=target.access_key,
                bucket=target.bucket,
                key=target.key,
                condition=condition,
                modified_ms=modified_ms,
                version=target.version,
            )

        result = await self._propose_delete(target.bucket, command)
        hit("delete.after_commit")
        return result

    async def delete_many(
        self, access_key: AccessKeyId, bucket: str, entries: tuple[DeleteEntry, ...]
    ) -> Result:
        """Delete all ``entries`` in one command."""

        def command(modified_ms: int) -> DeleteObjects:
            return DeleteObjects(
                access_key=access_key, bucket=bucket, entries=entries, modified_ms=modified_ms
            )

        return await self._propose_delete(bucket, command)

    async def _propose_delete(
        self, bucket: str, command: Callable[[int], DeleteObject | DeleteObjects]
    ) -> Result:
        """A delete says when it happens only where that makes a delete marker: elsewhere an older release knows it."""
        if bucket not in self._versioned:
            result = await self._access.propose(command(0))
            if result is not Rejection.DELETE_NEEDS_TIME:
                return result
            if len(self._versioned) >= _WRITERS_MAX:
                self._versioned.clear()
            self._versioned.add(bucket)
        return await self._access.propose(command(self._clock.wall_ms()))

    async def copy(self, request: CopyRequest) -> Result:
        """Point the key at the source's bytes; source and destination are decided at one log index.

        Bytes that were uploaded in parts, or that need another checksum, are read beforehand: they count only if apply
        still finds that version of the source.
        """
        self._bodies.check_room()
        if request.algorithm is None:
            result = await self._propose_copy(request, None, None)
            if result is not Rejection.SOURCE_IN_PARTS:
                return result
        started = self._clock.monotonic()
        while self._clock.monotonic() - started < COMMIT_S_MAX:
            found = await self.find(request.source, with_body=True)
            if isinstance(found, Rejection):
                return SOURCE_REJECTIONS.get(found, found)
            if found.record.is_marker:
                return marker_refusal(request.source)
            result = await self._copy_bytes(request, found)
            if result is not Rejection.SOURCE_CHANGED:
                return result
        return Rejection.SOURCE_CHANGED

    async def _copy_bytes(self, request: CopyRequest, found: Found) -> Result:
        """Read the source for its new checksum, and write its bytes anew if they lie in parts."""
        record = found.record
        if record.manifest is not None and record.size_bytes > OBJECT_BYTES_MAX:
            return Rejection.SOURCE_TOO_LARGE
        async with aclosing(self.read(found, 0, record.size_bytes)) as chunks:
            body = self._copier.body(
                chunks, record.size_bytes, request.algorithm or record.checksum.algorithm
            )
            if record.manifest is None:
                async for _ in body:
                    continue
                digests = body.digests()
                return await self._propose_copy(request, digests.checksum, record.commit_index)
            return await self._bodies.store(
                body,
                lambda stored, digests: self._propose_copy(
                    request,
                    digests.checksum,
                    record.commit_index,
                    NewBytes(body=stored, md5=digests.md5),
                ),
            )

    async def _propose_copy(
        self,
        request: CopyRequest,
        checksum: Checksum | None,
        expected_index: int | None,
        new: NewBytes | None = None,
    ) -> Result:
        target = request.target
        return await self._access.propose(
            CopyObject(
                access_key=target.access_key,
                source_bucket=request.source.bucket,
                source_key=request.source.key,
                source_version=request.source.version,
                bucket=target.bucket,
                key=target.key,
                modified_ms=self._clock.wall_ms(),
                headers=request.headers,
                checksum=checksum,
                expect_commit_index=expected_index,
                source_condition=request.source_condition,
                condition=request.condition,
                changes_something=request.changes_something,
                tags=request.tags,
                new=new,
            )
        )

    # --- reads --------------------------------------------------------------------------------
    async def find(
        self, target: Target, *, with_body: bool, part_number: int | None = None
    ) -> Found | Rejection:
        """The current version of a key, from one view after a barrier; from another member's, if it must be.

        ``part_number``: tell where that part lies; that, and other versions, only this node's own catalog can.
        """
        other = self._elsewhere
        query = self._query(target, with_body=with_body, part_number=part_number)
        if other is None or part_number is not None or target.version is not None:
            return await self._access.read(query)
        return await self._access.read(
            query, elsewhere=lambda: other.find(target, with_body=with_body)
        )

    async def find_here(self, target: Target, *, with_body: bool) -> Found | Rejection:
        """As ``find``, from this node's own catalog or not at all."""
        return await self._access.read(self._query(target, with_body=with_body))

    def _query(
        self, target: Target, *, with_body: bool, part_number: int | None = None
    ) -> Callable[[View], Found | Rejection]:
        lookups = self._access.lookups

        def query(view: View) -> Found | Rejection:
            if not lookups.may_ask(view, target.access_key):
                return Rejection.INVALID_ACCESS_KEY
            bucket = lookups.bucket(view, target.bucket)
            if bucket is None:
                return Rejection.NO_SUCH_BUCKET
            record = _find_record(view, bucket, target)
            if isinstance(record, Rejection):
                return record
            found = self._locate(view, record) if with_body else _unlocated(record)
            if bucket.versioning is not Versioning.NEVER:
                found = found._replace(is_versioned=True)
            if part_number is None or record.manifest is None:
                return found
            return found._replace(span=find_span(view, record.manifest, part_number))

        return query

    def _locate(self, view: View, record: ObjectRecord) -> Found:
        if record.manifest is not None:
            return Found(record=record, data=None, crc64=b"", holders=())
        if record.blob is None:
            return Found(record=record, data=b"", crc64=b"", holders=())
        if record.inline:
            data = view.inline_body(record.blob)
            return Found(record=record, data=data, crc64=b"", holders=())
        blob = view.blob(record.blob)
        assert blob is not None, "an object's blob has a row in the same transaction"
        holders = self._members.of(frozenset(blob.holders))
        return Found(record=record, data=None, crc64=blob.crc64, holders=holders)

    async def open(self, found: Found, start: int, stop: int) -> BlobStream | PartsStream:
        """The bytes ``[start, stop)`` of what is not in ``found``; the first block is verified when this returns.

        Raises: Unavailable: a holder could not be asked. Corruption: no holder has it, or has it whole.
        """
        record = found.record
        if record.manifest is not None:
            return await self._open_parts(record.manifest, start, stop)
        assert record.blob is not None
        return await self._reader.open(
            blob_id=record.blob,
            size_bytes=record.size_bytes,
            crc64=found.crc64,
            holders=found.holders,
            start=start,
            stop=stop,
        )

    async def _open_parts(self, manifest: UploadId, start: int, stop: int) -> PartsStream:
        segments = self._access.peek(lambda view: find_segments(view, manifest, start, stop))
        if segments is None:
            raise Corruption("the parts of the object are let go")
        pinning = self._reader.pin(copies_of(segments, self._members.of))
        stream = PartsStream(segments, self._open_segment, pinning)
        try:
            await stream.begin()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def _open_segment(self, segment: Segment, position: int) -> SourceStream:
        """Raises: as ``open``."""
        start = segment.start + position
        if segment.data is not None:
            chunks = one_piece(segment.data[start : segment.stop])
            return SourceStream(chunks, chunks.aclose)
        assert segment.blob is not None
        stream = await self._reader.open(
            blob_id=segment.blob,
            size_bytes=segment.size_bytes,
            crc64=segment.crc64,
            holders=self._members.of(frozenset(segment.holders)),
            start=start,
            stop=segment.stop,
        )
        return SourceStream(stream, stream.aclose)

    async def read(self, found: Found, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """The bytes ``[start, stop)``, wherever they are. Raises: as ``open``."""
        if found.data is not None:
            yield memoryview(found.data)[start:stop]
            return
        async with await self.open(found, start, stop) as stream:
            async for view in stream:
                yield view


def _find_record(view: View, bucket: BucketRecord, target: Target) -> ObjectRecord | Rejection:
    """The version that is asked for; it may be a delete marker."""
    version = target.version
    if version is None:
        return view.object(bucket.bucket_id, target.key) or Rejection.NO_SUCH_KEY
    if bucket.versioning is Versioning.NEVER and version != NULL_VERSION:
        return Rejection.BUCKET_NEVER_VERSIONED
    return view.version(bucket.bucket_id, target.key, version) or Rejection.NO_SUCH_VERSION


SOURCE_REJECTIONS: Final = {
    Rejection.NO_SUCH_BUCKET: Rejection.NO_SUCH_SOURCE_BUCKET,
    Rejection.NO_SUCH_KEY: Rejection.NO_SUCH_SOURCE_KEY,
    Rejection.NO_SUCH_VERSION: Rejection.NO_SUCH_SOURCE_VERSION,
}


def marker_refusal(source: Target) -> Rejection:
    """Why a delete marker cannot be copied: the key is absent, or it was named."""
    return Rejection.NO_SUCH_SOURCE_KEY if source.version is None else Rejection.SOURCE_IS_MARKER


def _judge_early(
    view: View, lookups: Lookups, target: Target, condition: WriteCondition
) -> Rejection | None:
    """The rules that apply uses, on one view; only apply may say yes."""
    if not lookups.may_ask(view, target.access_key):
        return Rejection.INVALID_ACCESS_KEY
    bucket = lookups.bucket(view, target.bucket)
    if bucket is None:
        return Rejection.NO_SUCH_BUCKET
    if condition is ALWAYS:
        return None
    return write_refusal(condition, view.object(bucket.bucket_id, target.key))


def _unlocated(record: ObjectRecord) -> Found:
    return Found(record=record, data=None, crc64=b"", holders=())
