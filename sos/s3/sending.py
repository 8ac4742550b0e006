"""Sends streamed answers within one budget of memory per gateway.

A client that keeps up holds a block for milliseconds; one that does not read would hold some MiB until its deadline,
and a hundred of them hundreds. So a stream either gets a share of the budget and goes at full speed (blocks queued
whole, the next one read meanwhile), or it goes by turns: it reads a block, sends small copies of it for as long as the
client takes them at once, lets go of the block, and asks again when the client has read. A turn never waits for a
client, so whoever reads is served, however many do not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sos.limits import BLOCK_BYTES, KIB, STREAMED_BYTES_MAX
from sos.s3.connection import WRITE_QUEUE_BYTES_MAX

if TYPE_CHECKING:
    from sos.s3.connection import Connection
    from sos.s3.exchange import ByteStream

# What a stream at full speed holds while its client does not read: the queue with the block that filled it, and the
# next block.
_SHARE_BYTES: Final = WRITE_QUEUE_BYTES_MAX + 2 * BLOCK_BYTES
_PIECE_BYTES: Final = (
    64 * KIB
)  # copied and queued; also what a client without a share may leave unread
_TURNS: Final = 8  # at a time; each holds two blocks, beside the budget
_TURN_S_MAX: Final = 0.05  # after it others have their turn, if any wait

assert STREAMED_BYTES_MAX >= 4 * _SHARE_BYTES


class AnswerSender:
    """The streamed answers of one gateway."""

    def __init__(self, budget_bytes: int = STREAMED_BYTES_MAX) -> None:
        self._left_bytes = budget_bytes
        self._turns = asyncio.Semaphore(_TURNS)

    async def send(self, stream: ByteStream, size_bytes: int, connection: Connection) -> None:
        """Write the ``size_bytes`` of ``stream``. Raises: ClientGone; whatever the stream raises."""
        share = min(size_bytes, _SHARE_BYTES)
        sent = 0
        try:
            while share > self._left_bytes:
                connection.limit_queue(_PIECE_BYTES)
                if self._turns.locked():
                    await stream.restart(sent)  # holds nothing while it waits
                async with self._turns:
                    sent, ended = await self._take_turn(stream, sent, connection)
                if ended:
                    return
                await connection.drain()
            self._left_bytes -= share
            try:
                await _send_at_full_speed(stream, connection)
            finally:
                self._left_bytes += share
        finally:
            connection.limit_queue(WRITE_QUEUE_BYTES_MAX)

    async def _take_turn(
        self, stream: ByteStream, sent: int, connection: Connection
    ) -> tuple[int, bool]:
        """Send what the client takes now; returns how far the answer is, and whether that is its end."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + _TURN_S_MAX
        async for view in stream:
            for start in range(0, len(view), _PIECE_BYTES):
                piece = bytes(view[start : start + _PIECE_BYTES])  # a view would keep the block
                connection.write(piece)
                sent += len(piece)
                left_s = ends - loop.time()
                if left_s <= 0 and not self._turns.locked():
                    left_s = _TURN_S_MAX
                if left_s <= 0 or not await connection.drain_within(left_s):
                    await stream.restart(sent)
                    return sent, False
        return sent, True


async def _send_at_full_speed(stream: ByteStream, connection: Connection) -> None:
    connection.limit_queue(WRITE_QUEUE_BYTES_MAX)
    async for view in stream:
        connection.write(view)
        await connection.drain()
    # The share is given back when the client has the rest, and not while it waits in the queue.
    connection.limit_queue(_PIECE_BYTES)
    await connection.drain()
