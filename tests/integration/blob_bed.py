"""Nodes' blob parts in one process, joined by real sockets on loopback."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sos.blob.fetch import BlobReader
from sos.blob.files import BlobFiles, StoredBlob, prepare_directories
from sos.blob.handshake import PeerAddress, PeerIdentity
from sos.blob.layout import TEMPORARY
from sos.blob.peer import PeerServer
from sos.blob.peer_client import PeerClient
from sos.blob.replicas import BlobWriter
from sos.blob.upload import WrittenBlob
from sos.catalog.model import BlobId, NodeId
from sos.errors import FatalStop

CLUSTER = b"cluster-id-16byt"
KEY = b"a cluster key of 32 bytes length"


def listener() -> socket.socket:
    """A listening socket on a port that node ports may have."""
    for _ in range(200):
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            opened.bind(("127.0.0.1", random.randint(10000, 32767)))
        except OSError:
            opened.close()
            continue
        opened.listen(128)
        return opened
    raise AssertionError("no free port")


def node_id(number: int) -> NodeId:
    return NodeId(f"n{number}@{number:016x}")


class Node:
    """One node: its files, its blob port, and what it does with its peers."""

    def __init__(
        self, number: int, path: Path, *, key: bytes = KEY, cluster: bytes = CLUSTER
    ) -> None:
        self.id = node_id(number)
        self.path = path
        path.mkdir()
        prepare_directories(str(path))
        self.fatal: list[FatalStop] = []
        self.files = BlobFiles(str(path), on_fatal=self.fatal.append, reserve_bytes=0)
        self.identity = PeerIdentity(cluster_id=cluster, node=self.id, cluster_key=key)
        self.named: set[BlobId] = set()
        self.lost: list[BlobId] = []
        self.late: list[tuple[BlobId, NodeId]] = []
        self.refused: dict[NodeId, str] = {}
        self.server = PeerServer(
            self.files,
            self.identity,
            is_named=self.named.__contains__,
            on_lost=self.lost.append,
            admit=self.refused.get,
        )
        self.peers = PeerClient(self.identity)
        self.writer = BlobWriter(
            self.files,
            self.peers,
            self_id=self.id,
            is_named=self.named.__contains__,
            on_late_holder=lambda blob, node: self.late.append((blob, node)),
        )
        self.reader = BlobReader(self.files, self.peers, self_id=self.id, on_lost=self.lost.append)
        self._listener = listener()
        self.address = PeerAddress(
            node=self.id, address=f"127.0.0.1:{self._listener.getsockname()[1]}"
        )

    async def start(self) -> None:
        await self.server.start(self._listener)

    async def stop_serving(self) -> None:
        """From outside: the node is dead."""
        await self.server.close()

    async def close(self) -> None:
        await self.writer.close()
        await self.reader.close()
        await self.peers.close()
        await self.server.close()
        self._listener.close()
        self.files.close()

    def file(self, blob_id: BlobId) -> Path:
        return self.path / f"{blob_id[-1]:02x}" / blob_id.hex()

    def stored(self) -> list[str]:
        """Names of all blobs and temporary files on this disk."""
        return sorted(
            file.name
            for directory in self.path.iterdir()
            if directory.name not in ("pins", "quarantine")
            for file in directory.rglob("*")
            if file.is_file() and file.suffix != ".lock"
        )

    def temporary(self) -> list[Path]:
        return [
            f for f in (self.path / TEMPORARY).rglob("*") if f.is_file() and f.suffix != ".lock"
        ]

    async def put(self, blob_id: BlobId, data: bytes) -> StoredBlob:
        async with self.files.create(blob_id) as sink:
            await sink.write(data)
            return await sink.commit()

    async def write(
        self,
        blob_id: BlobId,
        data: bytes,
        members: Sequence[Node],
        *,
        quorum: int = 2,
        step: int = 100_000,
    ) -> WrittenBlob:
        return await self.writer.write(
            chunked(data, step),
            blob_id=blob_id,
            members=[member.address for member in members],
            quorum=quorum,
        )

    async def read(
        self,
        written: WrittenBlob | StoredBlob,
        holders: Sequence[Node],
        start: int = 0,
        stop: int | None = None,
    ) -> bytes:
        stream = await self.reader.open(
            blob_id=written.blob_id,
            size_bytes=written.size_bytes,
            crc64=written.crc64,
            holders=[holder.address for holder in holders],
            start=start,
            stop=stop,
        )
        async with stream:
            return b"".join([bytes(view) async for view in stream])


async def chunked(data: bytes, step: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


@asynccontextmanager
async def nodes(path: Path, count: int) -> AsyncIterator[list[Node]]:
    """``count`` nodes that serve their blob ports."""
    made = [Node(number, path / f"n{number}") for number in range(1, count + 1)]
    try:
        for node in made:
            await node.start()
        yield made
    finally:
        for node in made:
            await node.close()
