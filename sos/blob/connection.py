"""One connection of the blob port: frames over TCP, received straight into the buffer they are used from.

A plain framed protocol instead of HTTP: it binds the authentication to the connection and each frame to its place, bodies arrive in
memory that direct I/O can write from (decision record on the blob port).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

from sos.blob.aligned import aligned_buffer
from sos.blob.peer_errors import PeerUnreachable
from sos.blob.wire import (
    CRC,
    FRAME_HEAD,
    FRAME_KINDS,
    HEAD_BYTES_MAX,
    Frame,
    Seal,
    WireError,
    length_max,
)
from sos.checksum import crc64nvme
from sos.limits import KIB, MIB

Buffer = bytes | bytearray | memoryview
_STRANGER_BUFFER_BYTES: Final = (
    FRAME_HEAD.size + HEAD_BYTES_MAX
)  # until the other side proved itself
_BUFFER_BYTES: Final = 32 * KIB
_RECEIVED_BYTES_MAX: Final = 2 * MIB  # beyond that the socket is not read: TCP slows the sender
_SENDING_BYTES_MAX: Final = 1 * MIB


class Connection(asyncio.BufferedProtocol):
    """Frames in and out. One reader task and one writer task at a time.

    ``seal_out`` and ``seal_in`` are set by the handshake; sealed frames before that are an error of ours.
    """

    def __init__(self) -> None:
        self.seal_out: Seal | None = None
        self.seal_in: Seal | None = None
        self._transport: asyncio.Transport | None = None
        self._closed_early = False  # before there was a transport
        self._trusted = False
        self._buffer = memoryview(bytearray(_STRANGER_BUFFER_BYTES))
        self._buffered = 0
        self._kind = 0  # of the frame whose payload is being received
        self._payload: memoryview | None = None
        self._filled = 0
        self._received: deque[tuple[int, memoryview]] = deque()
        self._received_bytes = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._is_writing_paused = False
        self._lost: Exception | None = None

    # --- called by the transport ------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._closed_early:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_SENDING_BYTES_MAX)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("closed by the other side"))

    def eof_received(self) -> bool:
        self._fail(ConnectionResetError("closed by the other side"))
        return False

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        _wake(self._writer)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._payload is not None:
            return self._payload[self._filled :]
        return self._buffer[self._buffered :]

    def buffer_updated(self, count: int) -> None:
        if self._payload is not None:
            self._filled += count
            if self._filled == len(self._payload):
                self._take(self._kind, self._payload)
                self._payload = None
            return
        self._buffered += count
        try:
            self._cut_frames()
        except WireError as error:
            self._fail(error)
            self.close()

    def _cut_frames(self) -> None:
        """Cut the frames that the small buffer holds; a long one is received into its own buffer from here on."""
        position, stop = 0, self._buffered
        while stop - position >= FRAME_HEAD.size:
            kind, length = FRAME_HEAD.unpack_from(self._buffer, position)
            self._check_head(kind, length)
            start = position + FRAME_HEAD.size
            if stop - start < length and start + length > len(self._buffer):
                # The bytes behind the checksum of DATA go to the disk from here.
                payload = aligned_buffer(length, skip=CRC.size)
                self._filled = stop - start
                payload[: self._filled] = self._buffer[start:stop]
                self._kind, self._payload = kind, payload
                position = stop
                break
            if stop - start < length:
                break
            position = start + length
            self._take(kind, memoryview(bytes(self._buffer[start:position])))
        rest = stop - position
        if rest and position:
            self._buffer[:rest] = bytes(self._buffer[position:stop])
        self._buffered = rest

    def _check_head(self, kind: int, length: int) -> None:
        """Before anything is allocated. A stranger gets no further than the frames of the handshake."""
        if kind not in FRAME_KINDS or length > length_max(kind):
            raise WireError("not a frame of the blob protocol")
        if not self._trusted and kind > Frame.REFUSED:
            raise WireError("a request before the handshake")

    def _take(self, kind: int, payload: memoryview) -> None:
        self._received.append((kind, payload))
        self._received_bytes += len(payload)
        if self._received_bytes >= _RECEIVED_BYTES_MAX and self._transport is not None:
            self._transport.pause_reading()
        _wake(self._reader)

    def _fail(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error
        _wake(self._reader)
        _wake(self._writer)

    # --- used by the two ends ---------------------------------------------------------------------
    @property
    def is_usable(self) -> bool:
        """Nothing went wrong, and nothing unexpected waits to be read."""
        return self._lost is None and not self._received and not self.is_closing

    @property
    def has_frame(self) -> bool:
        return bool(self._received)

    @property
    def is_closing(self) -> bool:
        """Whether this side closed it, or it is gone."""
        return self._transport is None or self._transport.is_closing()

    def trust(self, seal_in: Seal, seal_out: Seal) -> None:
        """The handshake succeeded: requests and bodies may pass from now on."""
        self.seal_in, self.seal_out = seal_in, seal_out
        self._trusted = True
        larger = memoryview(bytearray(_BUFFER_BYTES))
        larger[: self._buffered] = self._buffer[: self._buffered]
        self._buffer = larger

    async def read_frame(self) -> tuple[Frame, memoryview]:
        """The next frame; the caller sets the deadline. Raises: PeerUnreachable when the connection is gone, WireError."""
        while not self._received:
            if self._lost is not None:
                if isinstance(self._lost, WireError):
                    raise self._lost
                raise PeerUnreachable(f"connection lost: {self._lost}") from self._lost
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        kind, payload = self._received.popleft()
        before, self._received_bytes = self._received_bytes, self._received_bytes - len(payload)
        if before >= _RECEIVED_BYTES_MAX > self._received_bytes and not self.is_closing:
            assert self._transport is not None
            self._transport.resume_reading()
        return Frame(kind), payload

    async def read_sealed(self, *expected: Frame) -> tuple[Frame, bytes]:
        """The next frame, which must be sealed and of an ``expected`` type. Raises: as ``read_frame``."""
        kind, payload = await self.read_frame()
        if kind not in expected:
            raise WireError(f"unexpected frame {kind.name}")
        return kind, self.open_seal(kind, payload)

    def open_seal(self, kind: Frame, payload: memoryview) -> bytes:
        assert self.seal_in is not None
        return self.seal_in.unwrap(kind, bytes(payload))

    def write_frame(self, kind: Frame, payload: bytes) -> None:
        """Queue a short frame. Does nothing on a lost connection: the reader learns of it."""
        if not self.is_closing:
            assert self._transport is not None
            self._transport.write(FRAME_HEAD.pack(kind, len(payload)) + payload)

    def write_sealed(self, kind: Frame, content: bytes) -> None:
        """Queue a frame that carries a MAC."""
        assert self.seal_out is not None
        self.write_frame(kind, self.seal_out.wrap(kind, content))

    async def write_data(self, data: Buffer, crc: int) -> None:
        """Send one piece of a body; waits while the other side does not read. Raises: PeerUnreachable.

        ``data`` must not change until it was sent.
        """
        if not self.is_closing:
            assert self._transport is not None
            head = FRAME_HEAD.pack(Frame.DATA, CRC.size + len(data)) + CRC.pack(crc)
            self._transport.write(head)
            self._transport.write(data)
        await self.drain()

    async def drain(self) -> None:
        """Until the socket took enough of what was queued. Raises: PeerUnreachable."""
        while self._is_writing_paused and self._lost is None:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        if self._lost is not None:
            raise PeerUnreachable(f"connection lost: {self._lost}") from self._lost

    def close(self) -> None:
        """Close after what was queued is sent."""
        if self._transport is not None:
            self._transport.close()
        self._closed_early = True

    def abort(self) -> None:
        """Close at once; what was queued is dropped."""
        if self._transport is not None:
            self._transport.abort()
        self._closed_early = True


def data_of(payload: memoryview) -> tuple[memoryview, int]:
    """The bytes of a DATA frame and their checksum, found right. Raises: WireError."""
    if len(payload) < CRC.size:
        raise WireError("malformed data")
    (crc,) = CRC.unpack_from(payload)
    data = payload[CRC.size :]
    if crc64nvme(data) != crc:
        raise WireError("a piece of a body fails its checksum")
    return data, crc


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """``asyncio.timeout`` that tells a silent peer as an unreachable one."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise PeerUnreachable("no answer in time") from error


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
