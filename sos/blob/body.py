"""The body of a request or an answer on the blob port, as it arrives: the same frames and checks for both ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from sos.blob.connection import Connection, data_of, deadline
from sos.blob.peer_errors import Damaged
from sos.blob.wire import Frame, WireError, decode_end
from sos.checksum import combine_crc64nvme
from sos.limits import PEER_BODY_IDLE_S_MAX, PEER_CONNECT_S_MAX


class IncomingBody:
    """Reads the frames of one body to its authentic end."""

    def __init__(self, connection: Connection, *, expected: bool, voidable: bool) -> None:
        """``expected``: whether the head announced one. ``voidable``: an answer's, whose sender may find its copy bad."""
        self._connection = connection
        self._voidable = voidable
        self.is_complete = not expected

    async def pieces(self) -> AsyncGenerator[tuple[memoryview, int], None]:
        """Pieces with their CRC64NVME, each found right, to the authentic end.

        Raises: WireError, PeerUnreachable (silent or gone), Damaged (the sender declared the body void).
        """
        size_bytes, crc64 = 0, 0
        while not self.is_complete:
            async with deadline(PEER_BODY_IDLE_S_MAX):
                kind, payload = await self._connection.read_frame()
            match kind:
                case Frame.DATA:
                    data, crc = data_of(payload)
                    crc64 = combine_crc64nvme(crc64, crc, len(data)) if size_bytes else crc
                    size_bytes += len(data)
                    yield data, crc
                case Frame.END:
                    end = decode_end(self._connection.open_seal(kind, payload))
                    if end != (size_bytes, crc64):
                        raise WireError("the body is not the one that was sent")
                    self.is_complete = True
                case Frame.ABORT if self._voidable:
                    self.is_complete = True
                    raise Damaged("the peer found its copy damaged")
                case _:
                    raise WireError(f"unexpected frame {kind.name}")

    async def discard(self, bytes_max: int) -> None:
        """Read on without a look at the bytes, to the end of the body or of ``bytes_max``.

        Raises: WireError, PeerUnreachable.
        """
        while not self.is_complete and bytes_max > 0:
            async with deadline(PEER_CONNECT_S_MAX):
                kind, payload = await self._connection.read_frame()
            bytes_max -= len(payload)
            if kind is Frame.END:
                self._connection.open_seal(kind, payload)
            self.is_complete = kind is not Frame.DATA
