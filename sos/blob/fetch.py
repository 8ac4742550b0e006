"""Reads a blob from whoever holds a good replica: this node's disk first, then other holders, also in mid-stream.

Works in whole blocks: each was verified, at the source and again here, before a byte of it is given out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final, Self

from sos.blob.bad_copies import BadCopies
from sos.blob.files import BlobFiles
from sos.blob.format import block_size
from sos.blob.handshake import PeerAddress
from sos.blob.peer_client import PeerClient
from sos.blob.peer_errors import NotHere
from sos.blob.pinning import Pinning
from sos.catalog.model import BlobId, NodeId
from sos.errors import Corruption, Unavailable
from sos.failpoints import hit
from sos.limits import BLOCK_BYTES

_Blocks = AsyncGenerator[memoryview, None]


class BlobStream:
    """Verified bytes of one range, as ``async for``; use it as ``async with`` so that its source is released."""

    def __init__(
        self,
        first: memoryview | None,
        rest: _Blocks,
        pinning: Pinning,
        *,
        read_from: Callable[[int], _Blocks],
    ) -> None:
        """``read_from``: the bytes of the range from a position in it on."""
        self._first = first
        self._rest = rest
        self._pinning = pinning
        self._read_from = read_from

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> memoryview:
        """Raises: Unavailable, Corruption, when no holder can go on."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._rest)

    async def restart(self, position: int) -> None:
        """Let go of what is in memory; the next piece begins ``position`` bytes into the range, verified again."""
        self._first = None
        await self._rest.aclose()
        self._rest = self._read_from(position)

    async def aclose(self) -> None:
        self._pinning.stop()
        await self._rest.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class BlobReader:
    """The reads of one gateway process."""

    def __init__(
        self,
        files: BlobFiles,
        peers: PeerClient,
        *,
        self_id: NodeId,
        on_lost: Callable[[BlobId], None],
    ) -> None:
        """``on_lost``: this node is a listed holder and has no good copy; the caller reports that to the catalog."""
        self._files = files
        self._peers = peers
        self._self_id = self_id
        self._on_lost = on_lost
        self._bad_copies = BadCopies(files, on_lost)

    async def open(
        self,
        *,
        blob_id: BlobId,
        size_bytes: int,
        crc64: bytes,
        holders: Sequence[PeerAddress],
        start: int = 0,
        stop: int | None = None,
    ) -> BlobStream:
        """The bytes ``[start, stop)`` of a blob as the catalog describes it; the first block is verified when this returns.

        Raises: Unavailable (no good copy found, and a listed holder could not be asked), Corruption (every listed holder said
        "not here" or "damaged").
        """
        stop = size_bytes if stop is None else stop
        assert 0 <= start <= stop <= size_bytes
        wanted = _Wanted(blob_id, size_bytes, crc64, holders)
        bytes_of_range = self._cut(wanted, start, stop)
        try:
            first = await anext(bytes_of_range, None)
        except BaseException:
            await bytes_of_range.aclose()
            raise
        return BlobStream(
            first,
            bytes_of_range,
            self.pin([(blob_id, holders)]),
            read_from=lambda position: self._cut(wanted, start + position, stop),
        )

    def pin(self, copies: Sequence[tuple[BlobId, Sequence[PeerAddress]]]) -> Pinning:
        """Keep blobs at their holders until it is stopped, for a reader that takes long."""
        return Pinning(self._files, self._peers, self_id=self._self_id, copies=copies)

    async def pull(
        self, *, blob_id: BlobId, size_bytes: int, crc64: bytes, holders: Sequence[PeerAddress]
    ) -> bool:
        """Bring a replica to this disk from ``holders``; ``False``: one is here, sound, and was not copied again.

        Raises: as ``open``; DiskFull, FatalStop.
        """
        try:
            async with await self._files.open(blob_id, size_bytes=size_bytes, crc64=crc64):
                if await self._files.exists(blob_id):  # makes the name durable, too
                    return False
        except (FileNotFoundError, Corruption):
            pass  # a bad copy is replaced by the rename
        others = [holder for holder in holders if holder.node != self._self_id]
        first = blob_id[-1] % max(len(others), 1)  # all holders share the work of a resync
        wanted = _Wanted(blob_id, size_bytes, crc64, [*others[first:], *others[:first]])
        async with self._files.create(blob_id) as sink:
            async with aclosing(self._blocks(wanted, 0, wanted.block_count, local=False)) as blocks:
                async for block in blocks:
                    await sink.write(block)
                    hit("resync.blob.partial")
            if sink.size_bytes != size_bytes or sink.crc64 != crc64:
                raise Corruption(f"blob {blob_id.hex()}: the blocks are not the whole")
            await sink.commit()
            return True

    async def close(self) -> None:
        """Wait until bad copies found so far are put away."""
        await self._bad_copies.close()

    async def _cut(self, wanted: _Wanted, start: int, stop: int) -> _Blocks:
        """The blocks that ``[start, stop)`` touches, cut to it."""
        if start == stop:
            return
        position = start - start % BLOCK_BYTES
        last = -(-stop // BLOCK_BYTES)
        blocks = self._blocks(wanted, position // BLOCK_BYTES, last, local=True)
        async with aclosing(blocks):
            async for block in blocks:
                yield block[max(start - position, 0) : stop - position]
                position += len(block)

    async def _blocks(self, wanted: _Wanted, index: int, stop: int, *, local: bool) -> _Blocks:
        """Blocks ``[index, stop)`` from the best sources; goes round them as long as a round yields anything."""
        while True:
            before, unreachable = index, False
            last_error: Exception | None = None
            for source in self._sources(wanted, local=local):
                try:
                    async with aclosing(self._from(source, wanted, index, stop)) as blocks:
                        async for block in blocks:
                            index += 1
                            yield block
                except Unavailable as error:
                    unreachable, last_error = True, error
                except (FileNotFoundError, Corruption) as error:
                    last_error = last_error or error
                if index == stop:
                    return
            if index == before:
                told = f"blob {wanted.blob_id.hex()}: no good copy of block {index} found: {last_error}"
                raise Unavailable(told) if unreachable else Corruption(told)

    def _sources(self, wanted: _Wanted, *, local: bool) -> list[PeerAddress | None]:
        """``None`` is this node. Members that do not answer probes come last."""
        others = [holder for holder in wanted.holders if holder.node != self._self_id]
        others.sort(key=lambda holder: self._peers.is_suspect(holder.node))
        return [None, *others] if local else [*others]

    async def _from(
        self, source: PeerAddress | None, wanted: _Wanted, index: int, stop: int
    ) -> _Blocks:
        blocks = (
            self._from_disk(wanted, index, stop)
            if source is None
            else self._from_peer(source, wanted, index, stop)
        )
        async with aclosing(blocks):
            async for block in blocks:
                if len(block) != block_size(wanted.size_bytes, index):
                    raise Corruption(
                        f"blob {wanted.blob_id.hex()}: block {index} has a wrong length"
                    )
                index += 1
                yield block

    async def _from_disk(self, wanted: _Wanted, index: int, stop: int) -> _Blocks:
        """From this node's disk. A bad copy is put away, and a missing one reported, if the catalog counts on it."""
        try:
            file = await self._files.open(
                wanted.blob_id, size_bytes=wanted.size_bytes, crc64=wanted.crc64
            )
            async with file, aclosing(file.read_blocks(index, stop)) as blocks:
                async for block in blocks:
                    yield block
        except FileNotFoundError:
            if any(holder.node == self._self_id for holder in wanted.holders):
                self._on_lost(wanted.blob_id)
            raise
        except Corruption:
            self._bad_copies.report(
                wanted.blob_id, size_bytes=wanted.size_bytes, crc64=wanted.crc64
            )
            raise

    async def _from_peer(
        self, peer: PeerAddress, wanted: _Wanted, index: int, stop: int
    ) -> _Blocks:
        start = index * BLOCK_BYTES
        end = min(stop * BLOCK_BYTES, wanted.size_bytes)
        async with self._peers.get(peer, wanted.blob_id, start, end) as answer:
            head = answer.head
            if (head.size_bytes, head.crc64.to_bytes(8, "big")) != (
                wanted.size_bytes,
                wanted.crc64,
            ):
                raise NotHere(f"{peer.node} holds other bytes under this id")
            async with aclosing(answer.body()) as body:
                async for block, _ in body:
                    yield block


class _Wanted:
    """A blob as the catalog describes it."""

    __slots__ = ("blob_id", "block_count", "crc64", "holders", "size_bytes")

    def __init__(
        self, blob_id: BlobId, size_bytes: int, crc64: bytes, holders: Sequence[PeerAddress]
    ) -> None:
        self.blob_id = blob_id
        self.size_bytes = size_bytes
        self.crc64 = crc64
        self.holders = holders
        self.block_count: Final = -(-size_bytes // BLOCK_BYTES)
