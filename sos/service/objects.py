"""Objects: put, find, open, delete, delete many, copy.

Order of a write (design 5): bytes durable on a write quorum, then one command; its stored result is the
answer. Blobs of a command that was certainly refused are dropped at once, after an unknown outcome never:
the sweep decides then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from sos.catalog.model import (
    ALWAYS,
    BlobBody,
    BlobId,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    InlineBody,
    PutObject,
    Rejection,
    WriteCondition,
)
from sos.catalog.rules.conditions import write_refusal
from sos.errors import Corruption, StorageFull, Unavailable
from sos.failpoints import hit
from sos.limits import COMMIT_S_MAX, INLINE_BYTES_MAX
from sos.service.requests import Found, Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from sos.blob.fetch import BlobReader, BlobStream
    from sos.blob.replicas import BlobWriter
    from sos.blob.upload import WrittenBlob
    from sos.catalog.model import (
        AccessKeyId,
        Body,
        Checksum,
        DeleteEntry,
        ObjectRecord,
        Result,
    )
    from sos.catalog.views import View
    from sos.clock import Clock, IdSource
    from sos.service.access import CatalogAccess
    from sos.service.lookups import Lookups
    from sos.service.members import MemberAddresses
    from sos.service.requests import (
        ChecksumMaker,
        CopyRequest,
        PutRequest,
        UploadBody,
        UploadDigests,
    )

_WRITERS_MAX: Final = 4096
# Needed for another attempt; or an object has it, whatever brought that about.
_KEEP_BLOB: Final = frozenset({Rejection.HOLDERS_TOO_FEW, Rejection.BLOB_ALREADY_NAMED})
_HOLDER_ATTEMPTS_MAX: Final = 4  # the member list changed under a write; more than once is rare


class Finding(Protocol):
    """Who finds a key when this node cannot: ``sos.service.elsewhere``."""

    async def find(self, target: Target, *, with_body: bool) -> Found | Rejection: ...


class ObjectService:
    """Use cases about objects."""

    def __init__(
        self,
        access: CatalogAccess,
        *,
        members: MemberAddresses,
        writer: BlobWriter,
        reader: BlobReader,
        clock: Clock,
        ids: IdSource,
        elsewhere: Finding | None = None,
    ) -> None:
        """``elsewhere``: asked when this node's own rows are damaged."""
        self._elsewhere = elsewhere
        self._access = access
        self._members = members
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._ids = ids
        # access key and bucket of writes that were not refused
        self._writers: set[tuple[AccessKeyId, str]] = set()

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
        if self._access.link.state.is_disk_low:
            raise StorageFull("the disk is nearly full")
        blob = self._new_blob_id()
        expected = body.expected_bytes
        if expected is not None:
            if expected > INLINE_BYTES_MAX:
                return await self._put_blob(request, blob, body, aiter(body))
            return await self._put_inline(request, blob, body, await body.read_whole())
        chunks = aiter(body)
        head: list[bytes] = []
        size = 0
        async for chunk in chunks:
            head.append(chunk)
            size += len(chunk)
            if size > INLINE_BYTES_MAX:
                return await self._put_blob(request, blob, body, _chain(head, chunks))
        return await self._put_inline(request, blob, body, b"".join(head))

    async def _put_inline(
        self, request: PutRequest, blob: BlobId, body: UploadBody, data: bytes
    ) -> Result:
        inline = InlineBody(blob=blob, data=data) if data else None
        result = await self._propose_put(request, inline, body.digests())
        target = request.target
        if isinstance(result, Rejection):
            self._writers.discard((target.access_key, target.bucket))
        else:
            if len(self._writers) >= _WRITERS_MAX:
                self._writers.clear()
            self._writers.add((target.access_key, target.bucket))
        return result

    async def _put_blob(
        self, request: PutRequest, blob: BlobId, body: UploadBody, chunks: AsyncIterator[bytes]
    ) -> Result:
        written = await self._write_blob(blob, chunks)
        digests = body.digests()
        for _ in range(_HOLDER_ATTEMPTS_MAX):
            result = await self._propose_blob(request, written, digests)
            if result is not Rejection.HOLDERS_TOO_FEW:
                return result
            written = await self._write_again(written)
        await self._drop(written)
        return Rejection.HOLDERS_TOO_FEW

    async def _write_blob(self, blob: BlobId, chunks: AsyncIterator[bytes]) -> WrittenBlob:
        state = self._access.link.state
        return await self._writer.write(
            chunks, blob_id=blob, members=self._members.staying(), quorum=state.write_quorum
        )

    async def _write_again(self, written: WrittenBlob) -> WrittenBlob:
        """The same bytes on a write quorum of the members of now, as a new blob.

        A new id and not more copies of the old one: whoever left the list in between cannot hold it.
        Raises: Unavailable: certainly nothing was stored.
        """
        try:
            stream = await self._reader.open(
                blob_id=written.blob_id,
                size_bytes=written.size_bytes,
                crc64=written.crc64,
                holders=self._members.of(frozenset(written.holders)),
            )
            async with stream:
                return await self._write_blob(self._new_blob_id(), _as_bytes(stream))
        except Corruption as error:
            raise Unavailable("the members that held the bytes are gone") from error
        finally:
            await self._drop(written)

    async def _propose_blob(
        self, request: PutRequest, written: WrittenBlob, digests: UploadDigests
    ) -> Result:
        body = BlobBody(
            blob=written.blob_id,
            size_bytes=written.size_bytes,
            crc64=written.crc64,
            holders=written.holders,
        )
        try:
            result = await self._propose_put(request, body, digests)
        except Unavailable:
            await self._drop(written)
            raise
        if isinstance(result, Rejection) and result not in _KEEP_BLOB:
            await self._drop(written)
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
            )
        )

    async def _drop(self, written: WrittenBlob) -> None:
        await self._writer.drop(written.blob_id, self._members.all())

    async def delete(self, target: Target, condition: WriteCondition) -> Result:
        """Delete the key; an absent one is a success."""
        result = await self._access.propose(
            DeleteObject(
                access_key=target.access_key,
                bucket=target.bucket,
                key=target.key,
                condition=condition,
            )
        )
        hit("delete.after_commit")
        return result

    async def delete_many(
        self, access_key: AccessKeyId, bucket: str, entries: tuple[DeleteEntry, ...]
    ) -> Result:
        """Delete all ``entries`` in one command."""
        return await self._access.propose(
            DeleteObjects(access_key=access_key, bucket=bucket, entries=entries)
        )

    async def copy(self, request: CopyRequest) -> Result:
        """Point the key at the source's bytes; source and destination are decided at one log index."""
        if self._access.link.state.is_disk_low:
            raise StorageFull("the disk is nearly full")
        if request.recompute is None:
            return await self._propose_copy(request, None, None)
        started = self._clock.monotonic()
        while self._clock.monotonic() - started < COMMIT_S_MAX:
            source = Target(
                access_key=request.target.access_key,
                bucket=request.source_bucket,
                key=request.source_key,
            )
            found = await self.find(source, with_body=True)
            if isinstance(found, Rejection):
                return _SOURCE_REJECTIONS.get(found, found)
            checksum = await self._compute(found, request.recompute())
            result = await self._propose_copy(request, checksum, found.record.commit_index)
            if result is not Rejection.SOURCE_CHANGED:
                return result
        return Rejection.SOURCE_CHANGED

    async def _compute(self, found: Found, maker: ChecksumMaker) -> Checksum:
        if found.record.blob is None or found.data is not None:
            maker.update(found.data or b"")
            return maker.finish()
        async with await self.open(found, 0, found.record.size_bytes) as stream:
            async for view in stream:
                maker.update(view)
        return maker.finish()

    async def _propose_copy(
        self, request: CopyRequest, checksum: Checksum | None, expected_index: int | None
    ) -> Result:
        target = request.target
        return await self._access.propose(
            CopyObject(
                access_key=target.access_key,
                source_bucket=request.source_bucket,
                source_key=request.source_key,
                bucket=target.bucket,
                key=target.key,
                modified_ms=self._clock.wall_ms(),
                headers=request.headers,
                checksum=checksum,
                expect_commit_index=expected_index,
                source_condition=request.source_condition,
                condition=request.condition,
                changes_something=request.changes_something,
            )
        )

    def _new_blob_id(self) -> BlobId:
        index = self._access.link.applied_index
        return BlobId(index.to_bytes(8, "big") + self._ids.random_bytes(8))

    # --- reads --------------------------------------------------------------------------------
    async def find(self, target: Target, *, with_body: bool) -> Found | Rejection:
        """The current version of a key, from one view after a barrier; from another member's, if it must be."""
        other = self._elsewhere
        query = self._query(target, with_body=with_body)
        if other is None:
            return await self._access.read(query)
        return await self._access.read(
            query, elsewhere=lambda: other.find(target, with_body=with_body)
        )

    async def find_here(self, target: Target, *, with_body: bool) -> Found | Rejection:
        """As ``find``, from this node's own catalog or not at all."""
        return await self._access.read(self._query(target, with_body=with_body))

    def _query(self, target: Target, *, with_body: bool) -> Callable[[View], Found | Rejection]:
        lookups = self._access.lookups

        def query(view: View) -> Found | Rejection:
            if not lookups.may_ask(view, target.access_key):
                return Rejection.INVALID_ACCESS_KEY
            bucket = lookups.bucket(view, target.bucket)
            if bucket is None:
                return Rejection.NO_SUCH_BUCKET
            record = view.object(bucket.bucket_id, target.key)
            if record is None:
                return Rejection.NO_SUCH_KEY
            return self._locate(view, record) if with_body else _unlocated(record)

        return query

    def _locate(self, view: View, record: ObjectRecord) -> Found:
        if record.blob is None:
            return Found(record=record, data=b"", crc64=b"", holders=())
        if record.inline:
            data = view.inline_body(record.blob)
            return Found(record=record, data=data, crc64=b"", holders=())
        blob = view.blob(record.blob)
        assert blob is not None, "an object's blob has a row in the same transaction"
        holders = self._members.of(frozenset(blob.holders))
        return Found(record=record, data=None, crc64=blob.crc64, holders=holders)

    async def open(self, found: Found, start: int, stop: int) -> BlobStream:
        """The bytes ``[start, stop)`` of a blob; the first block is verified when this returns.

        Raises: Unavailable: a holder could not be asked. Corruption: no holder has it, or has it whole.
        """
        assert found.record.blob is not None
        return await self._reader.open(
            blob_id=found.record.blob,
            size_bytes=found.record.size_bytes,
            crc64=found.crc64,
            holders=found.holders,
            start=start,
            stop=stop,
        )


_SOURCE_REJECTIONS: Final = {
    Rejection.NO_SUCH_BUCKET: Rejection.NO_SUCH_SOURCE_BUCKET,
    Rejection.NO_SUCH_KEY: Rejection.NO_SUCH_SOURCE_KEY,
}


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


async def _chain(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in head:
        yield chunk
    async for chunk in rest:
        yield chunk


async def _as_bytes(stream: BlobStream) -> AsyncIterator[bytes]:
    async for view in stream:
        yield bytes(view)
