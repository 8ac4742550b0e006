"""One member's share of one write: a queue of pieces in memory, and a task that carries them to its disk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from sos.blob.peer_errors import PeerUnreachable
from sos.blob.sink import StoredBlob
from sos.catalog.model import NodeId
from sos.errors import Corruption, DiskFull, FatalStop, Unavailable

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of one block, shared by all lanes; never changed."""

    data: Buffer
    crc: int


class Target(Protocol):
    """Where a lane leads: a local sink or a stream to a peer. Left without ``commit`` it keeps nothing."""

    async def write(self, data: Buffer, crc: int | None = None) -> None: ...

    async def commit(self) -> StoredBlob: ...


class Lane:
    """Runs from construction. ``on_change`` is called when it took a piece and when it ended."""

    def __init__(
        self,
        node: NodeId,
        target: Callable[[], AbstractAsyncContextManager[Target]],
        on_change: Callable[[], None],
    ) -> None:
        self.node = node
        self.stored: StoredBlob | None = None
        self.error: Exception | None = None
        self.queued_bytes = 0
        self.is_committing = False
        self.was_dropped = False
        self._target = target
        self._on_change = on_change
        self._pieces: deque[Piece | None] = deque()  # None: the end of the body
        self._waiting: asyncio.Future[None] | None = None
        self.task = asyncio.ensure_future(self._run())

    @property
    def is_alive(self) -> bool:
        """Neither stored yet nor failed."""
        return self.stored is None and self.error is None

    def push(self, piece: Piece | None) -> None:
        """Queue a piece; ``None`` ends the body."""
        self._pieces.append(piece)
        if piece is not None:
            self.queued_bytes += len(piece.data)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def give_up(self, reason: str) -> None:
        """Drop this member from the write; what it holds in memory goes at once."""
        if self.is_alive:
            self.was_dropped = True
            self.error = PeerUnreachable(reason)
            self._pieces.clear()
            self.queued_bytes = 0
            self.task.cancel()

    async def _run(self) -> None:
        try:
            async with self._target() as target:
                while (piece := await self._next()) is not None:
                    await target.write(piece.data, piece.crc)
                self.is_committing = True
                self.stored = await target.commit()
        except (Unavailable, DiskFull, Corruption, FatalStop) as error:
            self.error = self.error or error
        except BaseException as error:
            # Cancelled, or a bug: whoever waits for this lane must not wait for ever.
            self.error = self.error or PeerUnreachable(f"ended by {type(error).__name__}")
            raise
        finally:
            self._pieces.clear()
            self.queued_bytes = 0
            self._on_change()

    async def _next(self) -> Piece | None:
        while not self._pieces:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        piece = self._pieces.popleft()
        if piece is not None:
            self.queued_bytes -= len(piece.data)
            self._on_change()
        return piece
