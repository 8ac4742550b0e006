"""One request on a connection of the blob port, as the handler of its route sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import parse_qsl, urlsplit

from sos.blob.body import IncomingBody
from sos.blob.connection import Buffer, Connection, deadline
from sos.blob.wire import (
    AnswerHead,
    Frame,
    RequestHead,
    Status,
    encode_answer,
    encode_end,
)
from sos.catalog.model import NodeId
from sos.checksum import combine_crc64nvme
from sos.errors import Corruption, Unavailable
from sos.limits import DRAIN_BYTES_MAX, PEER_BODY_IDLE_S_MAX


class PeerExchange:
    """One request of a peer, for a route's handler: read the body if there is one, answer once."""

    def __init__(self, connection: Connection, head: RequestHead, sender: NodeId) -> None:
        parts = urlsplit(head.target)
        self.method = head.method
        self.path = parts.path
        self.query = dict(parse_qsl(parts.query))
        self.sender = sender
        self.is_answered = False
        self._connection = connection
        self._body = IncomingBody(connection, expected=head.has_body, voidable=False)

    @property
    def body_left(self) -> bool:
        """Whether the peer still has a body under way: the connection cannot take another request before its end."""
        return not self._body.is_complete

    def accept(self) -> None:
        """Tell the peer to send its body: nothing stands against it so far."""
        self._connection.write_sealed(
            Frame.ANSWER, encode_answer(AnswerHead(status=Status.ACCEPTED))
        )

    def body(self) -> AsyncGenerator[tuple[memoryview, int], None]:
        """Pieces with their CRC64NVME, each found right, to the authentic end of the body.

        Raises: WireError, PeerUnreachable (silent or gone).
        """
        return self._body.pieces()

    async def answer(
        self, status: Status, text: str = "", *, size_bytes: int = 0, crc64: int = 0
    ) -> None:
        """Answer without a body."""
        self._write_answer(AnswerHead(status=status, text=text, size_bytes=size_bytes, crc64=crc64))
        await self._connection.drain()

    async def answer_body(
        self, pieces: AsyncIterator[tuple[Buffer, int]], *, size_bytes: int = 0, crc64: int = 0
    ) -> None:
        """Answer OK with a body of pieces (at most 1 MiB each) and their CRC64NVME; it is sent as the peer reads.

        If ``pieces`` raises Corruption, Unavailable or OSError the peer is told that the body is void, and the error rises.
        """
        self._write_answer(
            AnswerHead(status=Status.OK, size_bytes=size_bytes, crc64=crc64, has_body=True)
        )
        sent_bytes, sent_crc = 0, 0
        try:
            async for data, crc in pieces:
                async with deadline(PEER_BODY_IDLE_S_MAX):
                    await self._connection.write_data(data, crc)
                sent_crc = combine_crc64nvme(sent_crc, crc, len(data)) if sent_bytes else crc
                sent_bytes += len(data)
        except (Corruption, Unavailable, OSError) as error:
            self._connection.write_frame(Frame.ABORT, type(error).__name__.encode())
            raise
        self._connection.write_sealed(Frame.END, encode_end(sent_bytes, sent_crc))
        async with deadline(PEER_BODY_IDLE_S_MAX):
            await self._connection.drain()

    def _write_answer(self, head: AnswerHead) -> None:
        assert not self.is_answered
        self.is_answered = True
        self._connection.write_sealed(Frame.ANSWER, encode_answer(head))

    async def drain_body(self) -> None:
        """Read what the peer still sends, so that it gets to read our answer; a long rest is cut off."""
        await self._body.discard(DRAIN_BYTES_MAX)
