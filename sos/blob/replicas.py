"""Writes a blob to a write quorum of the members, all at once, in bounded memory.

``upload.py`` has the rules of who is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Final

from sos.blob.aligned import aligned_buffer, is_aligned
from sos.blob.files import BlobFiles
from sos.blob.format import Buffer
from sos.blob.handshake import PeerAddress
from sos.blob.lane import Lane, Piece
from sos.blob.peer_client import PeerClient
from sos.blob.upload import Upload, WrittenBlob
from sos.catalog.model import BlobId, NodeId
from sos.checksum import crc64nvme
from sos.clock import Clock, SystemClock
from sos.errors import FatalStop, Unavailable
from sos.failpoints import hit
from sos.limits import (
    BLOB_DURABLE_S_MAX,
    BLOCK_BYTES,
    BODY_IDLE_S_MAX,
    KIB,
    MIB,
    PEER_BODY_IDLE_S_MAX,
)
from sos.telemetry import log

PIECE_BYTES: Final = (
    512 * KIB
)  # divides a block; large enough that frames and thread hops cost little
_PIECE_S_MAX: Final = 5.0
_WINDOW_BYTES_MAX: Final = 8 * MIB  # queued for one member of one write
_WINDOW_BYTES_MIN: Final = 2 * PIECE_BYTES
_WINDOWS_BYTES: Final = 64 * MIB  # shared by the writes of this process
_LINGERING_BYTES: Final = 32 * MIB  # queued for members that are late, of all writes
_REST_S_MIN: Final = (
    0.02  # design, section 5: how long the members beyond the quorum are waited for
)
_REST_S_MAX: Final = 1.0

assert BLOCK_BYTES % PIECE_BYTES == 0
assert _PIECE_S_MAX + BODY_IDLE_S_MAX < PEER_BODY_IDLE_S_MAX


class BlobWriter:
    """The writes of one gateway process."""

    def __init__(
        self,
        files: BlobFiles,
        peers: PeerClient,
        *,
        self_id: NodeId,
        is_named: Callable[[BlobId], bool],
        on_late_holder: Callable[[BlobId, NodeId], None],
        clock: Clock | None = None,
    ) -> None:
        """``is_named``: whether this node's catalog names a blob; then its copy here stays (protocols.md 4.5).

        ``on_late_holder``: a member finished after ``write`` returned; it reports its own copies, too.
        """
        self._files = files
        self._peers = peers
        self._self_id = self_id
        self._is_named = is_named
        self._on_late_holder = on_late_holder
        self._clock = clock or SystemClock()
        self._active = 0
        self._lingering: set[Lane] = set()
        self._background: set[asyncio.Task[None]] = set()

    async def write(
        self,
        chunks: AsyncIterator[Buffer],
        *,
        blob_id: BlobId,
        members: Sequence[PeerAddress],
        quorum: int,
    ) -> WrittenBlob:
        """Store what ``chunks`` yields on ``members``; chunks may have any size and must not change afterwards.

        If ``chunks`` raises, nothing is kept anywhere, and its error rises. Raises: NoMajority (no write quorum), StorageFull
        (none, because disks are full), FatalStop.
        """
        assert quorum >= 1
        started = self._clock.monotonic()
        upload = Upload(quorum=quorum, clock=self._clock, blob_id=blob_id)
        self._active += 1
        try:
            for member in self._chosen(members, quorum):
                upload.lanes.append(self._lane(member, blob_id, upload.changed.set))
            async with aclosing(_pieces(chunks, self._clock)) as pieces:
                async for piece in pieces:
                    await upload.push(piece, self._window_bytes())
            hit("put.replicate.sent")
            upload.finish()
            await upload.wait_for_quorum()
            hit("put.replicate.quorum")
            took = self._clock.monotonic() - started
            rest_s = min(_REST_S_MAX, max(_REST_S_MIN, took / 2))
            await upload.wait_for_rest(rest_s, self._peers.is_suspect)
        except BaseException:
            self._undo(upload, members)
            raise
        finally:
            self._active -= 1
        written = upload.result()
        self._leave_late(upload, members)
        return written

    async def drop(self, blob_id: BlobId, members: Sequence[PeerAddress]) -> None:
        """Have every reachable one of ``members`` drop a blob that no command will name. Never raises: the sweep is the truth."""
        await asyncio.gather(*(self._drop_at(member, blob_id) for member in members))

    async def close(self) -> None:
        """Wait for late answers and for what is being undone."""
        if self._background:
            await asyncio.wait(tuple(self._background))

    # --- members ----------------------------------------------------------------------------------
    def _chosen(self, members: Sequence[PeerAddress], quorum: int) -> list[PeerAddress]:
        """Members that are not down; if that is no quorum, all: one of them may just have come back."""
        up = [member for member in members if not self._peers.is_down(member.node)]
        return up if len(up) >= quorum else list(members)

    def _lane(self, member: PeerAddress, blob_id: BlobId, changed: Callable[[], None]) -> Lane:
        if member.node == self._self_id:
            return Lane(member.node, lambda: self._files.create(blob_id), changed)
        return Lane(member.node, lambda: self._peers.put(member, blob_id), changed)

    def _window_bytes(self) -> int:
        return max(_WINDOW_BYTES_MIN, min(_WINDOW_BYTES_MAX, _WINDOWS_BYTES // self._active))

    # --- after the answer -------------------------------------------------------------------------
    def _leave_late(self, upload: Upload, members: Sequence[PeerAddress]) -> None:
        """Members that did not make it in time: suspect until they answer a probe; a late answer is still reported."""
        addresses = {member.node: member for member in members}
        for lane in upload.lanes:
            if lane.node != self._self_id and (lane.is_alive or lane.was_dropped):
                self._peers.suspect(addresses[lane.node])
            if lane.is_alive and self._may_linger(lane):
                self._spawn(self._await_late(lane, upload))

    def _may_linger(self, lane: Lane) -> bool:
        """Whether ``lane`` may go on: a member that is slow for long must not gather the bodies of many writes here."""
        if (
            lane.queued_bytes + sum(late.queued_bytes for late in self._lingering)
            > _LINGERING_BYTES
        ):
            lane.give_up("too late")
            return False
        self._lingering.add(lane)
        return True

    async def _await_late(self, lane: Lane, upload: Upload) -> None:
        await asyncio.wait((lane.task,), timeout=BLOB_DURABLE_S_MAX)
        self._lingering.discard(lane)
        if upload.holds(lane):
            self._on_late_holder(upload.blob_id, lane.node)
        else:
            lane.give_up("too late")

    def _undo(self, upload: Upload, members: Sequence[PeerAddress]) -> None:
        """Nothing may stay: lanes under way are cut, what is stored or about to be is dropped."""
        addresses = {member.node: member for member in members}
        for lane in upload.lanes:
            if lane.is_alive and not lane.is_committing:
                lane.give_up("the write was given up")
            self._spawn(self._undo_lane(lane, addresses[lane.node], upload.blob_id))

    async def _undo_lane(self, lane: Lane, member: PeerAddress, blob_id: BlobId) -> None:
        await asyncio.wait((lane.task,), timeout=BLOB_DURABLE_S_MAX)
        if lane.stored is not None:
            await self._drop_at(member, blob_id)

    async def _drop_at(self, member: PeerAddress, blob_id: BlobId) -> None:
        try:
            if member.node == self._self_id:
                if self._is_named(blob_id):
                    log.error("blob.drop.refused", blob=blob_id.hex())
                    return
                await self._files.drop(blob_id)
            else:
                await self._peers.drop(member, blob_id)
        except (Unavailable, FatalStop):
            return  # it is an orphan then

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _pieces(chunks: AsyncIterator[Buffer], clock: Clock) -> AsyncGenerator[Piece, None]:
    """Chunks of any size as pieces that end at multiples of ``PIECE_BYTES``.

    From a slow client also shorter ones, so that the members see that the body is alive.
    """
    parts: list[Buffer] = []
    room = PIECE_BYTES
    sent = clock.monotonic()
    async for chunk in chunks:
        rest = memoryview(chunk)
        while len(rest) >= room:
            parts.append(rest[:room])
            rest = rest[room:]
            yield _join(parts)
            sent = clock.monotonic()
            parts, room = [], PIECE_BYTES
        if len(rest):
            parts.append(rest)
            room -= len(rest)
        if parts and clock.monotonic() - sent > _PIECE_S_MAX:
            yield _join(parts)
            sent = clock.monotonic()
            parts = []
    if parts:
        yield _join(parts)


def _join(parts: list[Buffer]) -> Piece:
    if len(parts) == 1 and is_aligned(parts[0]):
        data = parts[0]
    else:
        data = aligned_buffer(sum(map(len, parts)))
        position = 0
        for part in parts:
            data[position : position + len(part)] = part
            position += len(part)
    return Piece(data, crc64nvme(data))
