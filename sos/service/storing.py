"""Bytes first, then one command that names them: what every upload shares, of objects and of parts (design 5).

Blobs of a command that was certainly refused are dropped at once, after an unknown outcome never: the sweep decides then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sos.catalog.model import BlobBody, BlobId, InlineBody, Rejection
from sos.errors import Corruption, StorageFull, Unavailable
from sos.limits import INLINE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sos.blob.fetch import BlobReader, BlobStream
    from sos.blob.replicas import BlobWriter
    from sos.blob.upload import WrittenBlob
    from sos.catalog.model import Body, Result
    from sos.clock import IdSource
    from sos.service.access import CatalogAccess
    from sos.service.members import MemberAddresses
    from sos.service.requests import UploadBody, UploadDigests

    Propose = Callable[[Body | None, UploadDigests], Awaitable[Result]]

# Needed for another attempt; or an object has it, whatever brought that about.
_KEEP_BLOB: Final = frozenset({Rejection.HOLDERS_TOO_FEW, Rejection.BLOB_ALREADY_NAMED})
_HOLDER_ATTEMPTS_MAX: Final = 4  # the member list changed under a write; more than once is rare


class BodyStore:
    """Makes uploaded bytes durable, and lets a command name them."""

    def __init__(
        self,
        access: CatalogAccess,
        *,
        members: MemberAddresses,
        writer: BlobWriter,
        reader: BlobReader,
        ids: IdSource,
    ) -> None:
        self._access = access
        self._members = members
        self._writer = writer
        self._reader = reader
        self._ids = ids

    def check_room(self) -> None:
        """Raises: StorageFull."""
        if self._access.link.state.is_disk_low:
            raise StorageFull("the disk is nearly full")

    async def store(self, body: UploadBody, propose: Propose) -> Result:
        """The result of ``propose``, called with the durable body. ``body``'s own errors pass through.

        Raises: Unavailable, OutcomeUnknown.
        """
        self.check_room()
        blob = self._new_blob_id()
        expected = body.expected_bytes
        if expected is not None:
            if expected > INLINE_BYTES_MAX:
                return await self._store_blob(propose, blob, body, aiter(body))
            return await self._store_inline(propose, blob, body, await body.read_whole())
        chunks = aiter(body)
        head: list[bytes] = []
        size = 0
        async for chunk in chunks:
            head.append(chunk)
            size += len(chunk)
            if size > INLINE_BYTES_MAX:
                return await self._store_blob(propose, blob, body, _chain(head, chunks))
        return await self._store_inline(propose, blob, body, b"".join(head))

    async def _store_inline(
        self, propose: Propose, blob: BlobId, body: UploadBody, data: bytes
    ) -> Result:
        return await propose(InlineBody(blob=blob, data=data) if data else None, body.digests())

    async def _store_blob(
        self, propose: Propose, blob: BlobId, body: UploadBody, chunks: AsyncIterator[bytes]
    ) -> Result:
        written = await self._write_blob(blob, chunks)
        digests = body.digests()
        for _ in range(_HOLDER_ATTEMPTS_MAX):
            result = await self._propose_blob(propose, written, digests)
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
        self, propose: Propose, written: WrittenBlob, digests: UploadDigests
    ) -> Result:
        body = BlobBody(
            blob=written.blob_id,
            size_bytes=written.size_bytes,
            crc64=written.crc64,
            holders=written.holders,
        )
        try:
            result = await propose(body, digests)
        except Unavailable:
            await self._drop(written)
            raise
        if isinstance(result, Rejection) and result not in _KEEP_BLOB:
            await self._drop(written)
        return result

    async def _drop(self, written: WrittenBlob) -> None:
        await self._writer.drop(written.blob_id, self._members.all())

    def _new_blob_id(self) -> BlobId:
        index = self._access.link.applied_index
        return BlobId(index.to_bytes(8, "big") + self._ids.random_bytes(8))


async def _as_bytes(stream: BlobStream) -> AsyncIterator[bytes]:
    async for view in stream:
        yield bytes(view)


async def _chain(head: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in head:
        yield chunk
    async for chunk in rest:
        yield chunk
