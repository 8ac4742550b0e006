"""A request's body on its way in: pieces as they arrived, transfer coding removed, never more than asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from sos.limits import (
    BODY_IDLE_S_MAX,
    BODY_S_MAX,
    CLIENT_BYTES_S_MIN,
    CLIENT_SLOW_S_MAX,
    DRAIN_BYTES_MAX,
    MIB,
)
from sos.s3.wire import CONTINUE, TransferDecoder, WireError

if TYPE_CHECKING:
    from sos.s3.wire import WireHead

BODY_QUEUE_BYTES_MAX: Final = 1 * MIB  # received, not yet consumed; then the socket is left alone


class BodyCut(Exception):
    """The body ended early or its framing is broken; the client may still read an answer."""


class BodyIdle(Exception):
    """The client sent nothing for BODY_IDLE_S_MAX, too little for CLIENT_SLOW_S_MAX, or took longer than BODY_S_MAX."""


class ClientGone(Exception):
    """The connection is lost: nothing can be answered any more."""


class BodySource(Protocol):
    """What a body needs of the connection that feeds it."""

    loop: asyncio.AbstractEventLoop
    deadline: float | None

    def write(self, data: bytes) -> None: ...

    def body_consumed(self, queued_bytes: int) -> None: ...


class RequestBody:
    """The bytes of one request's body, transfer coding removed, in the pieces that arrived."""

    __slots__ = (
        "_connection",
        "_continue_due",
        "_decoder",
        "_error",
        "_expires",
        "_queue",
        "_queued_bytes",
        "_remaining",
        "_slow_bytes",
        "_slow_s",
        "_waiter",
        "complete",
    )

    def __init__(self, head: WireHead, connection: BodySource, now: float) -> None:
        self._connection = connection
        self._decoder = TransferDecoder() if head.chunked else None
        self._remaining = head.content_length or 0
        self.complete = not head.has_body  # all bytes were received
        # Also before no bytes at all: botocore takes a final answer without the 100 for the end of the connection's
        # good times, and reads the next answer on it wrongly.
        self._continue_due = head.expects_continue and (
            not self.complete or head.content_length == 0
        )
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._expires = now + BODY_S_MAX
        self._slow_s = 0.0  # spent waiting for the client, and what it sent meanwhile
        self._slow_bytes = 0

    @property
    def drain_is_hopeless(self) -> bool:
        """True if more is to come than is worth reading for the sake of the connection."""
        return self._continue_due or self._error is not None or self._remaining > DRAIN_BYTES_MAX

    @property
    def ends_connection(self) -> bool:
        """Whether the answer that comes now has to be the last: what is unread is too much, or a 100 never came."""
        return self._continue_due if self.complete else self.drain_is_hopeless

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to this body; returns what follows it."""
        self._continue_due = False  # who sends does not wait
        decoder = self._decoder
        rest = b""
        if decoder is not None:
            try:
                pieces, rest = decoder.feed(data)
            except WireError as error:
                self.fail(BodyCut(str(error)))
                return b""
            self._queue.extend(pieces)
            self._queued_bytes += sum(map(len, pieces))
            self.complete = decoder.finished
        else:
            if len(data) > self._remaining:
                data, rest = data[: self._remaining], data[self._remaining :]
            self._queue.append(data)
            self._queued_bytes += len(data)
            self._remaining -= len(data)
            self.complete = not self._remaining
        self._wake()
        return rest

    def fail(self, error: Exception) -> None:
        """Nothing more will come; pieces already received are still read first."""
        if not self.complete and self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def is_full(self) -> bool:
        return self._queued_bytes > BODY_QUEUE_BYTES_MAX

    async def read(self) -> bytes:
        """The next piece, empty at the end. The first call tells a waiting client to go on.

        Raises: BodyCut, BodyIdle, ClientGone.
        """
        while not self._queue:
            if self._error is not None:
                raise self._error
            if self._continue_due:
                self._continue_due = False
                self._connection.write(CONTINUE)
            if self.complete:
                return b""
            await self._wait()
        piece = self._queue.popleft()
        self._queued_bytes -= len(piece)
        self._slow_bytes += len(piece)
        if not self.complete:
            self._connection.body_consumed(self._queued_bytes)
        return piece

    async def _wait(self) -> None:
        connection = self._connection
        loop = connection.loop
        self._waiter = loop.create_future()
        connection.body_consumed(self._queued_bytes)
        began = loop.time()
        connection.deadline = min(began + BODY_IDLE_S_MAX, self._expires)
        try:
            await self._waiter
        finally:
            self._waiter = None
            connection.deadline = None
        self._judge_speed(loop.time() - began)

    def _judge_speed(self, waited_s: float) -> None:
        """Raises: BodyIdle for a client that trickles: a byte now and then must not hold a request for hours."""
        self._slow_s += waited_s
        if self._slow_s >= CLIENT_SLOW_S_MAX and not self.complete and self._error is None:
            if self._slow_bytes < CLIENT_BYTES_S_MIN * self._slow_s:
                error = BodyIdle()
                self.fail(error)
                raise error
            self._slow_s, self._slow_bytes = 0.0, 0

    async def discard(self) -> bool:
        """Read and drop at most DRAIN_BYTES_MAX; True if the end was reached."""
        dropped = 0
        while dropped <= DRAIN_BYTES_MAX:
            try:
                piece = await self.read()
            except (BodyCut, BodyIdle, ClientGone):
                return False
            if not piece:
                return True
            dropped += len(piece)
        return False
