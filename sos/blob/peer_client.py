"""Calls to the blob ports of other members: pooled connections, and a probe for members that went silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from sos.blob.body import IncomingBody
from sos.blob.connection import Buffer, Connection, deadline
from sos.blob.handshake import PeerAddress, PeerIdentity, greet
from sos.blob.peer import split_ids
from sos.blob.peer_errors import Damaged, NotHere, PeerFull, PeerRefused, PeerUnreachable
from sos.blob.sink import StoredBlob
from sos.blob.wire import (
    AnswerHead,
    Frame,
    RequestHead,
    Status,
    WireError,
    decode_answer,
    encode_end,
    encode_request,
)
from sos.catalog.model import BlobId, NodeId
from sos.checksum import combine_crc64nvme, crc64nvme
from sos.clock import IdSource, SystemIds
from sos.limits import (
    BLOB_DURABLE_S_MAX,
    PEER_BODY_IDLE_S_MAX,
    PEER_CONNECT_S_MAX,
    PEER_DEAD_S,
    PEER_PING_S,
)

SCAN_S_MAX: Final = 120.0  # a peer reads the names of all its blobs
IDLE_CONNECTIONS_MAX: Final = (
    32  # per peer; more concurrent uploads than that open their own each time
)


class PeerAnswer:
    """The answer to a call: its head, and its body as it arrives."""

    def __init__(self, connection: Connection, head: AnswerHead) -> None:
        self._body = IncomingBody(connection, expected=head.has_body, voidable=True)
        self.head = head

    @property
    def is_complete(self) -> bool:
        return self._body.is_complete

    def body(self) -> AsyncGenerator[tuple[memoryview, int], None]:
        """Pieces with their CRC64NVME, each found right, to the authentic end.

        Raises: Damaged (the peer found its copy bad in mid-body), PeerUnreachable.
        """
        return self._body.pieces()


class PutStream:
    """A blob on its way to a peer."""

    def __init__(self, connection: Connection, blob_id: BlobId) -> None:
        self._connection = connection
        self._blob_id = blob_id
        self._size_bytes = 0
        self._crc64 = 0
        self.is_ended = False

    async def write(self, data: Buffer, crc: int | None = None) -> None:
        """Send the next piece, at most 1 MiB. Raises: PeerUnreachable, PeerFull, PeerRefused."""
        if crc is None:
            crc = crc64nvme(data)
        if self._connection.has_frame:  # an answer before the end is a refusal
            await self.commit()
        self._crc64 = combine_crc64nvme(self._crc64, crc, len(data)) if self._size_bytes else crc
        self._size_bytes += len(data)
        await self._connection.write_data(data, crc)

    async def commit(self) -> StoredBlob:
        """End the body and wait until the peer holds it durably. Raises: PeerUnreachable, PeerFull, PeerRefused."""
        self._connection.write_sealed(Frame.END, encode_end(self._size_bytes, self._crc64))
        async with deadline(BLOB_DURABLE_S_MAX):
            head = await _read_answer(self._connection)
        self.is_ended = True
        _raise_for(head)
        return StoredBlob(
            blob_id=self._blob_id,
            size_bytes=head.size_bytes,
            crc64=head.crc64.to_bytes(8, "big"),
        )


class PeerClient:
    """All calls of one process to its peers."""

    def __init__(self, identity: PeerIdentity, *, ids: IdSource | None = None) -> None:
        self._identity = identity
        self._ids = ids or SystemIds()
        self._idle: dict[NodeId, list[Connection]] = {}
        self._probes: dict[NodeId, asyncio.Task[None]] = {}
        self._down: set[NodeId] = set()

    # --- health -----------------------------------------------------------------------------------
    def is_suspect(self, node: NodeId) -> bool:
        """Whether ``node`` was late or silent and has not answered a probe since: nobody waits for it."""
        return node in self._probes

    def is_down(self, node: NodeId) -> bool:
        """Whether ``node`` could not be reached at all: nothing is sent to it either."""
        return node in self._down

    def suspect(self, peer: PeerAddress, *, down: bool = False) -> None:
        """``peer`` was late, or cannot be reached; a probe finds out when that is over."""
        if down:
            self._down.add(peer.node)
            self._forget_connections(peer.node)
        if peer.node not in self._probes:
            task = asyncio.ensure_future(self._probe(peer))
            self._probes[peer.node] = task
            task.add_done_callback(lambda _: self._clear(peer.node))

    def _clear(self, node: NodeId) -> None:
        self._probes.pop(node, None)
        self._down.discard(node)

    async def _probe(self, peer: PeerAddress) -> None:
        while True:
            try:
                await self.ping(peer)
            except (PeerUnreachable, PeerRefused):
                await asyncio.sleep(PEER_PING_S)
            else:
                return

    # --- calls ------------------------------------------------------------------------------------
    async def ping(self, peer: PeerAddress) -> None:
        """Raises: PeerUnreachable, PeerRefused."""
        async with self.call(peer, "GET", "/ping"):
            pass

    async def drop(self, peer: PeerAddress, blob_id: BlobId) -> None:
        """Have ``peer`` unlink a blob. Raises: PeerRefused (its catalog names it, or a pin), PeerUnreachable."""
        async with self.call(peer, "DELETE", f"/blob/{blob_id.hex()}"):
            pass

    async def inventory(self, peer: PeerAddress, after: BlobId | None, limit: int) -> list[BlobId]:
        """A page of the ids that ``peer`` holds, ascending. Raises: PeerUnreachable, PeerRefused."""
        query = f"after={after.hex()}&" if after is not None else ""
        target = f"/inventory?{query}limit={limit}"
        async with self.call(peer, "GET", target, answer_s_max=SCAN_S_MAX) as answer:
            return split_ids(await _collect(answer))

    async def pin(self, peer: PeerAddress, blob_ids: Sequence[BlobId]) -> list[BlobId]:
        """Have ``peer`` keep these blobs for 30 s; returns those it has. Raises: PeerUnreachable, PeerRefused."""
        joined = b"".join(blob_ids)
        async with self.call(peer, "POST", "/pin", body=joined) as answer:
            return split_ids(await _collect(answer))

    @asynccontextmanager
    async def get(
        self, peer: PeerAddress, blob_id: BlobId, start: int, stop: int
    ) -> AsyncIterator[PeerAnswer]:
        """The whole blocks of ``blob_id`` that cover ``[start, stop)``, from ``peer``.

        Raises: NotHere, Damaged, PeerUnreachable, PeerRefused.
        """
        target = f"/blob/{blob_id.hex()}?start={start}&stop={stop}"
        async with self.call(peer, "GET", target) as answer:
            yield answer

    @asynccontextmanager
    async def put(self, peer: PeerAddress, blob_id: BlobId) -> AsyncIterator[PutStream]:
        """Stream a blob to ``peer``; leaving without ``commit`` leaves nothing there.

        Raises: PeerUnreachable, PeerFull, PeerRefused.
        """
        head = RequestHead(method="PUT", target=f"/blob/{blob_id.hex()}", has_body=True)
        async with self._lease(peer, head, PEER_DEAD_S) as (connection, answer):
            if answer.status is not Status.ACCEPTED:
                _raise_for(answer)
                raise WireError("an answer without the body")
            stream = PutStream(connection, blob_id)
            yield stream
            if not stream.is_ended:
                connection.abort()

    @asynccontextmanager
    async def call(
        self,
        peer: PeerAddress,
        method: str,
        target: str,
        *,
        body: Buffer | None = None,
        answer_s_max: float = PEER_DEAD_S,
    ) -> AsyncIterator[PeerAnswer]:
        """One request; the answer is OK, its body is read by the caller. ``body``: at most 1 MiB.

        Raises: NotHere, Damaged, PeerUnreachable, PeerRefused, PeerFull.
        """
        head = RequestHead(method=method, target=target, has_body=body is not None)
        async with self._lease(peer, head, answer_s_max) as (connection, first):
            if first.status is Status.ACCEPTED and body is not None:
                crc = crc64nvme(body)
                await connection.write_data(body, crc)
                connection.write_sealed(Frame.END, encode_end(len(body), crc))
                async with deadline(PEER_BODY_IDLE_S_MAX):
                    first = await _read_answer(connection)
            _raise_for(first)
            answer = PeerAnswer(connection, first)
            yield answer
            if not answer.is_complete:
                connection.abort()  # the caller wants no more of it

    # --- connections ------------------------------------------------------------------------------
    @asynccontextmanager
    async def _lease(
        self, peer: PeerAddress, head: RequestHead, answer_s_max: float
    ) -> AsyncIterator[tuple[Connection, AnswerHead]]:
        """A connection for one exchange, with the first answer to ``head``. It is kept for the next one if all went well."""
        try:
            connection, answer = await self._begin(peer, head, answer_s_max)
        except WireError as error:
            raise PeerUnreachable(f"{peer.node}: {error}") from error
        is_good = False
        try:
            yield connection, answer
            is_good = True
        except (NotHere, PeerRefused, PeerFull):
            is_good = True  # an answer like any other
            raise
        except WireError as error:
            raise PeerUnreachable(f"{peer.node}: {error}") from error
        finally:
            if is_good:
                self._keep(peer.node, connection)
            else:
                connection.abort()

    async def _begin(
        self, peer: PeerAddress, head: RequestHead, answer_s_max: float
    ) -> tuple[Connection, AnswerHead]:
        """Send ``head``, on a pooled connection first: its other end may be gone, then on a new one. All requests may be repeated."""
        while (pooled := self._pooled(peer.node)) is not None:
            try:
                return pooled, await _ask(pooled, head, answer_s_max)
            except PeerUnreachable as error:
                pooled.abort()
                if isinstance(error.__cause__, TimeoutError):
                    self.suspect(peer, down=True)
                    raise
                self._forget_connections(peer.node)
        connection = await self._connect(peer)
        try:
            return connection, await _ask(connection, head, answer_s_max)
        except BaseException as error:
            connection.abort()
            if isinstance(error, PeerUnreachable):
                self.suspect(peer, down=True)
            raise

    async def _connect(self, peer: PeerAddress) -> Connection:
        host, _, port = peer.address.rpartition(":")
        loop = asyncio.get_running_loop()
        try:
            async with deadline(PEER_CONNECT_S_MAX):
                _, connection = await loop.create_connection(
                    Connection, host.strip("[]"), int(port)
                )
        except (OSError, PeerUnreachable) as error:
            self.suspect(peer, down=True)
            raise PeerUnreachable(f"{peer.node} at {peer.address}: {error}") from error
        try:
            async with deadline(PEER_DEAD_S):
                await greet(connection, self._identity, peer.node, self._ids)
        except BaseException as error:
            connection.abort()
            if isinstance(error, PeerUnreachable):
                self.suspect(peer, down=True)
            raise
        return connection

    def _pooled(self, node: NodeId) -> Connection | None:
        idle = self._idle.get(node, [])
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            connection.abort()
        return None

    def _keep(self, node: NodeId, connection: Connection) -> None:
        idle = self._idle.setdefault(node, [])
        if connection.is_usable and len(idle) < IDLE_CONNECTIONS_MAX:
            idle.append(connection)
        else:
            connection.abort()

    def _forget_connections(self, node: NodeId) -> None:
        for connection in self._idle.pop(node, []):
            connection.abort()

    async def close(self) -> None:
        """End probes and close idle connections."""
        probes = tuple(self._probes.values())
        for probe in probes:
            probe.cancel()
        if probes:
            await asyncio.wait(probes)
        for node in tuple(self._idle):
            self._forget_connections(node)


async def _ask(connection: Connection, head: RequestHead, answer_s_max: float) -> AnswerHead:
    connection.write_sealed(Frame.REQUEST, encode_request(head))
    async with deadline(answer_s_max):
        return await _read_answer(connection)


async def _read_answer(connection: Connection) -> AnswerHead:
    _, content = await connection.read_sealed(Frame.ANSWER)
    return decode_answer(content)


async def _collect(answer: PeerAnswer) -> bytes:
    return b"".join([bytes(data) async for data, _ in answer.body()])


def _raise_for(head: AnswerHead) -> None:
    match head.status:
        case Status.OK:
            return
        case Status.NOT_HERE:
            raise NotHere("the peer does not hold this blob")
        case Status.DAMAGED:
            raise Damaged(head.text)
        case Status.NO_SPACE:
            raise PeerFull(head.text)
        case _:
            raise PeerRefused(head.text or head.status.name)
