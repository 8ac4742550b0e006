"""Small blobs from one holder in one answer: a request, a thread job and a turn of syncs each would cost more than the bytes.

What a holder cannot give, and what it does not know how to (an older version), is left out: then it is asked for alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from sos.blob.exchange import PeerExchange
from sos.blob.files import BlobFiles
from sos.blob.format import BLOB_ID_BYTES, Buffer
from sos.blob.group import SmallBlob
from sos.blob.handshake import PeerAddress
from sos.blob.peer import PeerServer, receive_ids, split_ids
from sos.blob.peer_client import PeerClient
from sos.catalog.model import BlobId, NodeId
from sos.checksum import crc64nvme
from sos.errors import Corruption, DiskFull, Unavailable
from sos.limits import RESYNC_BUNDLE_BLOB_BYTES, RESYNC_BUNDLE_BLOBS
from sos.telemetry import log

ROUTE: Final = "/bundle"


class WantedBlob(NamedTuple):
    """A blob as the catalog describes it."""

    blob_id: BlobId
    size_bytes: int
    crc64: bytes


class BundleServer:
    """Gives bundles of this node's replicas. Route ``POST /bundle``: ids, one after the other.

    The answer has one piece for each blob that is here: its id, then its bytes.
    """

    def __init__(self, files: BlobFiles) -> None:
        self._files = files

    def serve(self, server: PeerServer) -> None:
        server.add_route("POST", ROUTE, self._bundle)

    async def _bundle(self, exchange: PeerExchange) -> None:
        received = await receive_ids(exchange, RESYNC_BUNDLE_BLOBS)
        if received is None:
            return
        found = await self._files.read_small(
            split_ids(received), bytes_max=RESYNC_BUNDLE_BLOB_BYTES
        )
        async with aclosing(_pieces(found)) as pieces:
            await exchange.answer_body(pieces)


async def _pieces(found: Sequence[SmallBlob]) -> AsyncGenerator[tuple[Buffer, int], None]:
    for blob in found:
        piece = blob.blob_id + blob.data
        yield piece, crc64nvme(piece)


class BundleReader:
    """Brings bundles to this disk."""

    def __init__(self, files: BlobFiles, peers: PeerClient, *, self_id: NodeId) -> None:
        self._files = files
        self._peers = peers
        self._self_id = self_id

    def source(self, blob_id: BlobId, holders: Sequence[PeerAddress]) -> PeerAddress | None:
        """Whom to ask: another one for other blobs, so that all holders share the work."""
        others = [
            holder
            for holder in holders
            if holder.node != self._self_id and not self._peers.is_suspect(holder.node)
        ]
        return others[blob_id[-1] % len(others)] if others else None

    async def pull(self, source: PeerAddress, wanted: Sequence[WantedBlob]) -> frozenset[BlobId]:
        """Those of ``wanted`` that were copied from ``source``: each verified, and durable when this returns.

        What is left out is here already, or must be asked for alone. Raises: FatalStop.
        """
        absent = set(await self._files.absent([one.blob_id for one in wanted]))
        by_id = {one.blob_id: one for one in wanted if one.blob_id in absent}
        if not by_id:
            return frozenset()
        received: list[SmallBlob] = []
        try:
            await self._receive(source, by_id, received)
        except (Unavailable, Corruption) as error:
            # What came before need not come again.
            log.info("resync.bundle.broken", peer=source.node, why=str(error))
        if not received:
            return frozenset()
        try:
            await self._files.store_small(received)
        except (Unavailable, DiskFull) as error:
            log.info("resync.bundle.unstored", blobs=len(received), why=str(error))
            return frozenset()
        return frozenset(blob.blob_id for blob in received)

    async def _receive(
        self, source: PeerAddress, wanted: dict[BlobId, WantedBlob], received: list[SmallBlob]
    ) -> None:
        """Raises: Unavailable, Corruption."""
        async with (
            self._peers.call(source, "POST", ROUTE, body=b"".join(wanted)) as answer,
            aclosing(answer.body()) as body,
        ):
            async for piece, _ in body:
                blob_id, data = BlobId(bytes(piece[:BLOB_ID_BYTES])), piece[BLOB_ID_BYTES:]
                one, crc = wanted.pop(blob_id, None), crc64nvme(data)
                if one is None or (len(data), crc.to_bytes(8, "big")) != (
                    one.size_bytes,
                    one.crc64,
                ):
                    raise Corruption(f"{source.node} gave other bytes for {blob_id.hex()}")
                received.append(SmallBlob(blob_id=blob_id, data=data, crc=crc))
