"""The lanes of one write, and the rules of who is waited for.

The pace is that of the slowest member of the fastest quorum. A member beyond the quorum that falls behind is waited for a little
(``_LAG_GRACE_S`` and a fifth of the upload's time, in all), then dropped from this write: resync brings it its copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sos.blob.lane import Lane, Piece
from sos.blob.peer_errors import PeerFull
from sos.catalog.model import BlobId, NodeId
from sos.checksum import combine_crc64nvme
from sos.clock import Clock
from sos.errors import DiskFull, FatalStop, NoMajority, StorageFull, Unavailable
from sos.failpoints import hit
from sos.limits import BLOB_DURABLE_S_MAX

_LAG_GRACE_S: Final = 0.25
_LAG_GRACE_SHARE: Final = 0.2
_STALL_S: Final = 10.0  # the quorum takes nothing for so long: give up


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBlob:
    """A blob that is durable on ``holders``, at least a write quorum. ``crc64``: of the whole, raw."""

    blob_id: BlobId
    size_bytes: int
    crc64: bytes
    holders: tuple[NodeId, ...]


class Upload:
    """One write while it runs. ``changed`` is set by the lanes."""

    def __init__(self, *, blob_id: BlobId, quorum: int, clock: Clock) -> None:
        self.blob_id = blob_id
        self.lanes: list[Lane] = []
        self.changed = asyncio.Event()
        self._quorum = quorum
        self._clock = clock
        self._started = clock.monotonic()
        self._held_s = 0.0  # time that the source waited only for members beyond the quorum
        self._size_bytes = 0
        self._crc64 = 0

    async def push(self, piece: Piece, window_bytes: int) -> None:
        """Give ``piece`` to every lane; returns when the source may go on. Raises: Unavailable, FatalStop."""
        count = len(piece.data)
        if self._size_bytes:
            self._crc64 = combine_crc64nvme(self._crc64, piece.crc, count)
        else:
            self._crc64 = piece.crc
        self._size_bytes += count
        for lane in self.lanes:
            if lane.is_alive:
                lane.push(piece)
        while True:
            self.changed.clear()
            self._check_quorum_possible()
            alive = [lane for lane in self.lanes if lane.is_alive]
            behind = [lane for lane in alive if lane.queued_bytes > window_bytes]
            if not behind:
                return
            if len(alive) - len(behind) >= self._quorum:
                await self._hold_for(behind)
            elif not await self._wait(_STALL_S):
                raise self._unavailable()

    async def _hold_for(self, behind: list[Lane]) -> None:
        """The quorum could go on: wait for the others out of the budget of this write, then drop them."""
        before = self._clock.monotonic()
        budget_s = _LAG_GRACE_S + _LAG_GRACE_SHARE * (before - self._started) - self._held_s
        if budget_s > 0:
            await self._wait(budget_s)
            self._held_s += self._clock.monotonic() - before
            return
        for lane in behind:
            lane.give_up("fell behind")

    def finish(self) -> None:
        """The source ended: the lanes commit."""
        for lane in self.lanes:
            if lane.is_alive:
                lane.push(None)

    async def wait_for_quorum(self) -> None:
        """Until a write quorum is durable. Raises: Unavailable, FatalStop."""
        told_first = False
        while True:
            self.changed.clear()
            self._check_quorum_possible()
            stored = sum(self.holds(lane) for lane in self.lanes)
            if stored and not told_first:
                told_first = True
                hit("put.replicate.one_ack")
            if stored >= self._quorum:
                return
            if not await self._wait(BLOB_DURABLE_S_MAX):
                raise self._unavailable()

    async def wait_for_rest(self, seconds: float, is_suspect: Callable[[NodeId], bool]) -> None:
        """A little longer, for members beyond the quorum that were not late the last time. Raises: FatalStop."""
        deadline = self._clock.monotonic() + seconds
        while True:
            self.changed.clear()
            self._check_quorum_possible()
            left_s = deadline - self._clock.monotonic()
            awaited = (lane for lane in self.lanes if lane.is_alive and not is_suspect(lane.node))
            if left_s <= 0 or not any(awaited):
                return
            await self._wait(left_s)

    def holds(self, lane: Lane) -> bool:
        """Whether ``lane`` durably stored the very bytes that were sent."""
        stored = lane.stored
        return (
            stored is not None
            and stored.size_bytes == self._size_bytes
            and stored.crc64 == self._crc64.to_bytes(8, "big")
        )

    def result(self) -> WrittenBlob:
        """What is durable now."""
        return WrittenBlob(
            blob_id=self.blob_id,
            size_bytes=self._size_bytes,
            crc64=self._crc64.to_bytes(8, "big"),
            holders=tuple(lane.node for lane in self.lanes if self.holds(lane)),
        )

    async def _wait(self, seconds: float) -> bool:
        """Until a lane moved; ``False`` when none did in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True

    def _check_quorum_possible(self) -> None:
        possible = 0
        for lane in self.lanes:
            if isinstance(lane.error, FatalStop):
                raise lane.error  # this process acknowledges nothing any more
            possible += lane.is_alive or self.holds(lane)
        if possible < self._quorum:
            raise self._unavailable()

    def _unavailable(self) -> Unavailable:
        errors = [lane.error for lane in self.lanes if lane.error is not None]
        told = "; ".join(f"{lane.node}: {lane.error}" for lane in self.lanes if lane.error)
        message = f"no write quorum of {self._quorum}: {told or 'too few members answer'}"
        if any(isinstance(error, DiskFull | PeerFull) for error in errors):
            return StorageFull(message)
        return NoMajority(message)
