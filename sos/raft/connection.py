"""One TCP connection between two cores: handshake, then sealed frames, as a buffered asyncio protocol.

Before the handshake is done the connection reads exactly the bytes of the next fixed-size message, so an
unauthenticated socket holds less than 1 KiB. It decides nothing: whom to talk to, and which of several
connections lives, is its ``Switchboard``'s business (``sos.raft.transport``).
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, cast

from sos.limits import MIB, PEER_UNACKED_BYTES_MAX
from sos.raft.frames import CHANNEL_PING, PAYLOAD_BYTES_MAX, FrameError, FrameReader, FrameWriter
from sos.raft.handshake import (
    HELLO_BYTES,
    MESSAGE_BYTES,
    Acceptance,
    Claim,
    Handshake,
    HandshakeFailed,
    Refusal,
    RefusalCode,
)

# Above what Raft sends unacknowledged, so that only a peer that stopped reading ever meets it.
OUTPUT_BYTES_MAX: Final = 2 * PEER_UNACKED_BYTES_MAX
_FLUSH_BYTES: Final = (
    1 * MIB
)  # start writing before the turn ends: the kernel and the peer work meanwhile


class Stage(Enum):
    """Which message a connection waits for."""

    HELLO = "hello"
    CLAIM = "claim"
    ACCEPTANCE = "acceptance"
    OPEN = "open"
    CLOSED = "closed"


class Switchboard(Protocol):
    """Decides for connections. Called in the loop's thread."""

    def own_claim(self, connection: Connection) -> Claim | None:
        """What to state to this peer now; None: a better connection exists or is about to."""
        ...

    def judge_claim(self, connection: Connection, claim: Claim) -> Refusal | None:
        """Whether to refuse the peer, who proved the key."""
        ...

    def opened(self, connection: Connection) -> None:
        """Both sides agreed; ``connection.peer`` is set."""
        ...

    def received(self, connection: Connection, channel: int, payload: bytes) -> None:
        """A verified frame; never a ping."""
        ...

    def closed(self, connection: Connection) -> None:
        """The connection ended, for the reason in ``connection.ended``. Called once."""
        ...


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a connection ended.

    ``refusal``: one side refused (``by_peer``: the other one). ``wrong_frame``: what came was not the next
    frame of this connection.
    """

    text: str
    refusal: RefusalCode | None = None
    by_peer: bool = False
    wrong_frame: bool = False


class Connection(asyncio.BufferedProtocol):
    """``wanted`` is the name that was dialed, or None on the accepting side."""

    def __init__(
        self,
        switchboard: Switchboard,
        *,
        key: bytes,
        nonce: bytes,
        wanted: str | None,
        loop: asyncio.AbstractEventLoop,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
    ) -> None:
        self.stage = Stage.HELLO
        self.wanted = wanted
        self.peer: Claim | None = None
        self.number = 0  # the dialer's number of this attempt; both sides know it
        self.ended: Ended | None = None
        self.remote = "?"
        self.was_opened = False
        self.skew_ms: int | None = None  # how far the peer's clock was ahead when it opened
        self.clock_base_ms = 0.0  # and the switchboard's wall clock less its monotonic one
        self.joint = False  # both are formed, in one cluster: the switchboard sets it when it opens
        self.settled: asyncio.Future[None] = loop.create_future()  # open or ended
        self.created_at = self.heard_at = self.sent_at = loop.time()
        self._loop = loop
        self._switchboard = switchboard
        self._handshake = Handshake(dialing=wanted is not None, key=key, nonce=nonce)
        self._transport: asyncio.Transport | None = None
        self._message = bytearray(MESSAGE_BYTES)
        self._expected = HELLO_BYTES
        self._filled = 0
        self._receive_key = b""
        self._reader: FrameReader | None = None
        self._writer: FrameWriter | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._out_bytes_max = output_bytes_max
        self._flush_due = False

    # --- asyncio -----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        made = self._transport = cast(asyncio.Transport, transport)
        sock = made.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = made.get_extra_info("peername")
        if peer:
            self.remote = f"{peer[0]}:{peer[1]}"
        if self.stage is Stage.CLOSED:
            made.abort()
        elif self.wanted is not None:
            made.write(self._handshake.hello())

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._reader is not None:
            return self._reader.space()
        return memoryview(self._message)[self._filled : self._expected]

    def buffer_updated(self, nbytes: int) -> None:
        if self.stage is Stage.OPEN:
            self._take_frames(nbytes)
            return
        if self.stage is Stage.CLOSED:
            self._filled = 0
            return
        self._filled += nbytes
        if self._filled == self._expected:
            message = bytes(self._message[: self._expected])
            self._filled, self._expected = 0, MESSAGE_BYTES
            try:
                self._on_message(message)
            except HandshakeFailed as failure:
                self._on_handshake_failed(failure)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(
            Ended(f"connection lost: {exc}" if exc else "the other side closed the connection")
        )

    # --- what the transport uses ---------------------------------------------------------------------
    def send(self, channel: int, payload: bytes) -> bool:
        """Queue one frame for the end of this turn of the loop; False: too much waits already."""
        transport, writer = self._transport, self._writer
        if self.stage is not Stage.OPEN or transport is None or writer is None:
            return False
        size = len(payload)
        if size > PAYLOAD_BYTES_MAX:
            return False
        if self._out_bytes + transport.get_write_buffer_size() + size > self._out_bytes_max:
            return False
        self._out_bytes += writer.seal_into(self._out, channel, payload)
        if self._out_bytes >= _FLUSH_BYTES:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_turn)
        return True

    def refuse(self, refusal: Refusal) -> None:
        """Tell the peer why, and close."""
        if self._transport is not None and self.stage is not Stage.CLOSED:
            self._transport.write(self._handshake.refusal(refusal))
        self.close(Ended(refusal.text, refusal=refusal.code), gently=True)

    def close(self, ended: Ended, *, gently: bool = False) -> None:
        """End it now: nothing that arrives later is looked at. ``gently``: let what was written leave."""
        transport = self._transport
        self._end(ended)
        if transport is not None:
            if gently:
                transport.close()
            else:
                transport.abort()

    @property
    def version(self) -> int:
        """Of the node protocol on this connection; 0 before it is agreed."""
        return self._handshake.version

    def shrink(self) -> None:
        """Give back memory that large frames needed."""
        if self._reader is not None and self.stage is Stage.OPEN:
            self._reader.shrink()

    # --- handshake -------------------------------------------------------------------------------------
    def _on_message(self, message: bytes) -> None:
        if self.stage is Stage.HELLO:
            self._on_hello(message)
            return
        opened = self._handshake.open(message)
        if isinstance(opened, Refusal):
            self.number = max(self.number, opened.detail)
            self.close(Ended(opened.text, refusal=opened.code, by_peer=True))
        elif self.stage is Stage.CLAIM and isinstance(opened, Claim):
            self._on_claim(opened)
        elif self.stage is Stage.ACCEPTANCE and isinstance(opened, Acceptance):
            self._open()
        else:
            raise HandshakeFailed(RefusalCode.NOT_A_NODE)

    def _on_hello(self, message: bytes) -> None:
        assert self._transport is not None
        self._handshake.take_hello(message)
        self.stage = Stage.CLAIM
        if self.wanted is None:
            self._transport.write(self._handshake.hello())
        else:
            self._send_claim()

    def _send_claim(self) -> bool:
        assert self._transport is not None
        claim = self._switchboard.own_claim(self)
        if claim is None:
            self.close(Ended("another connection was faster"))
            return False
        self.number = claim.connection
        self._transport.write(self._handshake.claim(claim))
        return True

    def _on_claim(self, claim: Claim) -> None:
        assert self._transport is not None
        if self.wanted is None:
            self.number = claim.connection
        self.peer = claim
        refusal = self._switchboard.judge_claim(self, claim)
        if refusal is not None:
            self.refuse(refusal)
        elif self.wanted is None:
            if self._send_claim():
                self.stage = Stage.ACCEPTANCE
                self._set_up_session()
        else:
            self._set_up_session()
            self._transport.write(self._handshake.acceptance())
            self._open()

    def _on_handshake_failed(self, failure: HandshakeFailed) -> None:
        code = failure.code
        if self._transport is not None and code is RefusalCode.OTHER_KEY and self.wanted is None:
            # Under another key this MAC is wrong too: that is how the dialer learns what is the matter.
            self.refuse(Refusal(code=code))
        else:
            gently = code is RefusalCode.OTHER_VERSION  # our hello tells the other side
            if gently and self._transport is not None and self.wanted is None:
                self._transport.write(self._handshake.hello())
            self.close(Ended(str(failure), refusal=code), gently=gently)

    def _set_up_session(self) -> None:
        keys = self._handshake.session_keys()
        self._receive_key = keys.receive
        self._writer = FrameWriter(keys.send)

    def _open(self) -> None:
        self._reader = FrameReader(self._receive_key)
        self.stage = Stage.OPEN
        self.was_opened = True
        self.heard_at = self._loop.time()
        self._switchboard.opened(self)
        if not self.settled.done():
            self.settled.set_result(None)

    # --- frames -----------------------------------------------------------------------------------------
    def _take_frames(self, nbytes: int) -> None:
        reader = self._reader
        assert reader is not None
        self.heard_at = self._loop.time()
        reader.filled(nbytes)
        received = self._switchboard.received
        try:
            while (payload := reader.take()) is not None:
                if reader.channel != CHANNEL_PING:
                    received(self, reader.channel, payload)
                    if self.stage is not Stage.OPEN:
                        return
        except FrameError as error:
            self.close(Ended(str(error), wrong_frame=True))

    def _flush_turn(self) -> None:
        self._flush_due = False
        self.flush()

    def flush(self) -> None:
        """Write what is queued."""
        if not self._out or self._transport is None or self.stage is not Stage.OPEN:
            return
        parts, self._out, self._out_bytes = self._out, [], 0
        self.sent_at = self._loop.time()
        self._transport.writelines(parts)

    def _end(self, ended: Ended) -> None:
        if self.stage is Stage.CLOSED:
            return
        self.stage = Stage.CLOSED
        self.ended = ended
        self._out, self._out_bytes = [], 0
        self._switchboard.closed(self)
        if not self.settled.done():
            self.settled.set_result(None)
