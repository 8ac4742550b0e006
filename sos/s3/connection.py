"""One client connection: asyncio's byte stream in, requests in order to a handler, answers out.

Promises: one request at a time in the order sent; a body is read only as fast as it is consumed; every
wait on the client has a deadline; an answer reaches a client that is still sending (RFC 9112, 9.6:
half-close, read a little, close); a kept connection always stands at the start of the next request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast

from sos.limits import BODY_IDLE_S_MAX, CLIENT_BYTES_S_MIN, HEADERS_S_MAX, KIB, MIB
from sos.s3.request_body import BODY_QUEUE_BYTES_MAX, BodyCut, BodyIdle, ClientGone, RequestBody
from sos.s3.wire import HEAD_BYTES_MAX, WireError, WireHead, is_no_head, parse_head

if TYPE_CHECKING:
    from collections.abc import Callable

KEEP_ALIVE_S_MAX: Final = 300.0  # an idle connection; SDK pools rarely rest longer
LINGER_S_MAX: Final = 1.0  # after an answer that closes: let the client read it
WRITE_QUEUE_BYTES_MAX: Final = 2 * MIB  # one block on its way, the next one being read
_PIPELINED_BYTES_MAX: Final = 256 * KIB


class RequestHandler(Protocol):
    """What a connection hands its requests to. Neither method raises."""

    async def handle(self, head: WireHead, body: RequestBody, connection: Connection) -> None: ...

    def refuse(self, error: WireError | BodyIdle, connection: Connection) -> None:
        """Write the answer to something that is no request; the connection closes afterwards."""
        ...


class Connection(asyncio.Protocol):
    """An HTTP/1.1 server connection. ``on_close`` is called once, when it is gone."""

    __slots__ = (
        "_body",
        "_can_half_close",
        "_draining",
        "_eof",
        "_head_started",
        "_lingering",
        "_lost",
        "_must_close",
        "_on_close",
        "_paused_reading",
        "_pending",
        "_scanned",
        "_stalled_bytes",
        "_task",
        "_transport",
        "_waiter",
        "_writable",
        "deadline",
        "handler",
        "loop",
    )

    def __init__(
        self,
        handler: RequestHandler,
        loop: asyncio.AbstractEventLoop,
        on_close: Callable[[Connection], None],
    ) -> None:
        self.handler = handler
        self.loop = loop
        self.deadline: float | None = None  # read by the server's sweep
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending = bytearray()  # bytes of the next head, and what was pipelined behind it
        self._scanned = 0  # of _pending, known to hold no end of a head
        self._head_started = False
        self._body: RequestBody | None = None
        self._waiter: asyncio.Future[None] | None = None  # waits for a head
        self._writable: asyncio.Future[None] | None = None  # set while the client reads too slowly
        self._stalled_bytes = 0
        self._can_half_close = False
        self._paused_reading = False
        self._eof = False
        self._lost = False
        self._lingering = False
        self._must_close = False
        self._draining = False

    # --- the transport calls ------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # uvloop's does not say so by its class
        self._transport = transport
        self._can_half_close = transport.can_write_eof()
        self.limit_queue(WRITE_QUEUE_BYTES_MAX)
        self.deadline = self.loop.time() + KEEP_ALIVE_S_MAX
        self._task = self.loop.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        body = self._body
        if body is not None and not body.complete:
            data = body.feed(data)
            if body.is_full:
                self._pause_reading()
            if not data:
                return
        self._pending += data
        if self._waiter is not None:
            if not self._head_started:
                self._head_started = True
                self.deadline = self.loop.time() + HEADERS_S_MAX
            if (
                self._head_end() >= 0
                or len(self._pending) > HEAD_BYTES_MAX
                or is_no_head(self._pending)
            ):
                self._wake()
        elif len(self._pending) > _PIPELINED_BYTES_MAX:
            self._pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        if self._body is not None:
            self._body.fail(BodyCut("the client ended the stream"))
        self._wake()
        # Stay half open while an answer is due; a TLS transport closes both ways whatever is returned.
        return self._can_half_close and not self._lingering

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._body is not None:
            self._body.fail(ClientGone())
        self._wake()
        self.resume_writing()
        self._on_close(self)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    # --- what the handler uses ----------------------------------------------------------------
    @property
    def is_lost(self) -> bool:
        return self._lost

    def close_after_answer(self) -> None:
        """The answer that is about to be written is the last one on this connection."""
        self._must_close = True

    def answer_closes(self) -> bool:
        """Whether the answer must say ``Connection: close``; asked once, right before its head."""
        body = self._body
        if body is not None and body.ends_connection:
            self._must_close = True
        if self._draining or (self._eof and not self._pending):
            self._must_close = True
        return self._must_close

    def write(self, data: bytes | memoryview) -> None:
        """Queue bytes for the client; silently dropped once it is gone."""
        if self._transport is not None and not self._lost:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written. Raises: ClientGone."""
        if self._writable is not None:
            assert self._transport is not None
            self._stalled_bytes = self._transport.get_write_buffer_size()
            self.deadline = self.loop.time() + BODY_IDLE_S_MAX
            try:
                await self._writable
            finally:
                self.deadline = None
        if self._lost:
            raise ClientGone

    async def drain_within(self, seconds: float) -> bool:
        """As ``drain``, but for ``seconds`` at most; whether the client has taken enough. Raises: ClientGone."""
        if self._writable is not None:
            await asyncio.wait((self._writable,), timeout=seconds)
        if self._lost:
            raise ClientGone
        return self._writable is None

    def limit_queue(self, bytes_max: int) -> None:
        """How much may wait for the client before ``drain`` does; half of it must be gone before it goes on."""
        if self._transport is not None and not self._lost:
            self._transport.set_write_buffer_limits(high=bytes_max, low=bytes_max // 2)

    def abort(self) -> None:
        """Reset the connection: the only honest end of an answer that cannot be completed."""
        self._must_close = True
        if self._transport is not None:
            self._transport.abort()

    def body_consumed(self, queued_bytes: int) -> None:
        """Called by the body: room for more when its queue is half empty."""
        if self._paused_reading and queued_bytes < BODY_QUEUE_BYTES_MAX // 2:
            self._resume_reading()

    # --- what the server uses -----------------------------------------------------------------
    def on_deadline(self, now: float) -> None:
        """The deadline passed: the client is too slow at whatever it is doing."""
        if self._writable is not None and self._transport is not None:
            size = self._transport.get_write_buffer_size()
            if (
                self._stalled_bytes - size >= CLIENT_BYTES_S_MIN * BODY_IDLE_S_MAX
            ):  # slow, but it reads
                self._stalled_bytes = size
                self.deadline = now + BODY_IDLE_S_MAX
            else:
                self.abort()
            return
        self.deadline = None
        if self._body is not None and not self._body.complete and not self._lingering:
            self._body.fail(BodyIdle())
        elif self._waiter is not None and self._head_started:
            self.handler.refuse(BodyIdle(), self)
            self._close()
        else:
            self._close()

    def start_draining(self) -> None:
        """No further request: an idle connection closes now, a busy one after its answer."""
        self._draining = True
        if self._waiter is not None and not self._head_started:
            self._close()

    @property
    def is_reading_head(self) -> bool:
        """Whether a head began to arrive and has not ended."""
        return self._waiter is not None and self._head_started

    @property
    def is_reading_body(self) -> bool:
        """Whether a request is under way whose body has not arrived whole."""
        return self._body is not None and not self._body.complete

    @property
    def task(self) -> asyncio.Task[None] | None:
        return self._task

    # --- the requests, one after the other ------------------------------------------------------
    async def _run(self) -> None:
        try:
            while not (self._must_close or self._lost):
                head = await self._next_head()
                if head is None:
                    break
                body = RequestBody(head, self, self.loop.time())
                self._body = body
                if not head.keep_alive:
                    self._must_close = True
                if body.complete:
                    pass
                elif self._pending:
                    self._feed_pending(body)
                elif self._eof:
                    body.fail(BodyCut("the client ended the stream"))
                await self.handler.handle(head, body, self)
                await self._finish_body(body)
                self._body = None
        except WireError as error:
            self._must_close = True
            self.handler.refuse(error, self)
        finally:
            self._end()

    def _feed_pending(self, body: RequestBody) -> None:
        received = bytes(self._pending)
        self._pending.clear()
        rest = body.feed(received)
        self._pending += rest
        if self._eof:
            body.fail(BodyCut("the client ended the stream"))

    async def _next_head(self) -> WireHead | None:
        """The next request's head; None when there will be none. Raises: WireError."""
        self._head_started = bool(self._pending)
        end = self._head_end() if self._head_started else -1
        if end < 0 and not self._eof and not is_no_head(self._pending):
            wait_s = HEADERS_S_MAX if self._head_started else KEEP_ALIVE_S_MAX
            self.deadline = self.loop.time() + wait_s
            if self._paused_reading:
                self._resume_reading()
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
                self.deadline = None
            end = self._head_end()
        if self._lost or self._must_close:
            return None
        if end < 0:
            if len(self._pending) > HEAD_BYTES_MAX:
                raise WireError("the request head is too large", too_large=True)
            if self._pending.strip(b"\r\n"):
                raise WireError("the request head is incomplete")
            return None
        if end > HEAD_BYTES_MAX:
            raise WireError("the request head is too large", too_large=True)
        head = bytes(self._pending[:end])
        del self._pending[: end + 4]
        self._scanned = 0
        return parse_head(head)

    def _head_end(self) -> int:
        """Where the next head's final CRLF CRLF stands, or -1."""
        pending = self._pending
        if not self._scanned:
            while pending.startswith(b"\r\n"):  # RFC 9112, 2.2: blank lines before a request
                del pending[:2]
        end = pending.find(b"\r\n\r\n", self._scanned)
        if end < 0:
            self._scanned = max(len(pending) - 3, 0)
        return end

    async def _finish_body(self, body: RequestBody) -> None:
        """Leave the connection at the next request, or decide to close it."""
        if body.complete or self._must_close or self._lost:
            return
        try:
            async with asyncio.timeout(LINGER_S_MAX):
                reached = await body.discard()
        except TimeoutError:
            reached = False
        if not reached:
            self._must_close = True

    def _end(self) -> None:
        """Close, or linger first when the client may still be sending (RFC 9112, 9.6)."""
        transport = self._transport
        if transport is None or self._lost or transport.is_closing():
            return
        busy = (self._body is not None and not self._body.complete) or bool(self._pending)
        if busy and not self._eof and self._can_half_close:
            self._lingering = True
            self._pending.clear()
            self._resume_reading()
            transport.write_eof()
            self.deadline = self.loop.time() + LINGER_S_MAX
        else:
            transport.close()

    def _close(self) -> None:
        self._must_close = True
        self._wake()
        if self._transport is not None and (self._lingering or self._waiter is None):
            self._transport.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause_reading(self) -> None:
        if not self._paused_reading and self._transport is not None:
            self._paused_reading = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        transport = self._transport
        if self._paused_reading and transport is not None and not transport.is_closing():
            self._paused_reading = False
            transport.resume_reading()
