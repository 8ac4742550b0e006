"""The blob port of a node: serves its replicas to the other members, and takes theirs.

Routes (the targets of REQUEST frames)::

    PUT    /blob/ID                    body: the blob; answers with length and checksum of what is durable here
    GET    /blob/ID?start=N&stop=N     whole verified blocks that cover the byte range; NOT_HERE told apart from DAMAGED
    DELETE /blob/ID                    refused when this node's catalog names the blob
    GET    /inventory?after=ID&limit=N ids in byte order, 16 bytes each
    POST   /pin                        body: ids; answers with those that are here, kept for 30 s
    GET    /ping

Others (snapshots) are added with ``add_route``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

from sos.blob.bad_copies import BadCopies
from sos.blob.connection import Buffer, Connection, deadline
from sos.blob.exchange import PeerExchange
from sos.blob.files import BlobFiles
from sos.blob.format import BLOB_ID_BYTES
from sos.blob.handshake import Admit, PeerAddress, PeerIdentity, receive
from sos.blob.peer_errors import PeerRefused, PeerUnreachable
from sos.blob.wire import (
    Frame,
    Status,
    WireError,
    decode_request,
)
from sos.catalog.model import BlobId, NodeId
from sos.checksum import crc64nvme
from sos.clock import IdSource, SystemIds
from sos.errors import Corruption, DiskFull, FatalStop, Unavailable
from sos.limits import BLOCK_BYTES, PEER_DEAD_S
from sos.telemetry import log

__all__ = ["Handler", "PeerAddress", "PeerExchange", "PeerIdentity", "PeerServer"]

CONNECTIONS_MAX: Final = 1024
STRANGERS_MAX: Final = 512  # connections in their handshake; each holds at most 8 KiB
INVENTORY_LIMIT_MAX: Final = BLOCK_BYTES // BLOB_ID_BYTES  # one DATA frame


Handler = Callable[[PeerExchange], Awaitable[None]]


class PeerServer:
    """Serves the blob port in one gateway process; siblings serve the same listening socket."""

    def __init__(
        self,
        files: BlobFiles,
        identity: PeerIdentity,
        *,
        is_named: Callable[[BlobId], bool],
        on_lost: Callable[[BlobId], None],
        admit: Admit = lambda _: None,
        ids: IdSource | None = None,
    ) -> None:
        """``is_named``: whether this node's catalog names a blob. ``on_lost``: a bad copy of ours went to quarantine.

        ``admit``: the reason to refuse a proven member (an incarnation that a committed list removed), or ``None``.
        """
        self._files = files
        self._identity = identity
        self._is_named = is_named
        self._bad_copies = BadCopies(files, on_lost)
        self._admit = admit
        self._ids = ids or SystemIds()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._strangers = 0
        self._routes: list[tuple[str, str, Handler]] = []
        self.add_route("PUT", "/blob/", self._put)
        self.add_route("GET", "/blob/", self._get)
        self.add_route("DELETE", "/blob/", self._delete)
        self.add_route("GET", "/inventory", self._inventory)
        self.add_route("POST", "/pin", self._pin)
        self.add_route("GET", "/ping", self._ping)

    def add_route(self, method: str, prefix: str, handler: Handler) -> None:
        """Serve requests of ``method`` whose path starts with ``prefix``; the first match counts."""
        self._routes.append((method, prefix, handler))

    async def start(self, listener: socket.socket) -> None:
        """Serve connections of ``listener``, which the supervisor opened and keeps."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connected, sock=listener)

    async def close(self) -> None:
        """Stop listening, end all exchanges; bodies under way are dropped."""
        if self._server is not None:
            self._server.close()
        await self._bad_copies.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _connected(self) -> Connection:
        connection = Connection()
        task = asyncio.ensure_future(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return connection

    async def _serve(self, connection: Connection) -> None:
        reason_is_sent = False
        try:
            sender = await self._handshake(connection)
            while sender is not None:
                await self._exchange(connection, sender)
        except (WireError, PeerRefused) as error:
            log.warning("blob.peer.refused", reason=str(error))
            reason_is_sent = True
        except (PeerUnreachable, FatalStop):
            pass  # the peer went away; or this process is about to
        except Exception:  # noqa: BLE001 - a worker loop: one connection's bug must not end the port
            log.error("blob.peer.bug", exc_info=True)
        finally:
            if reason_is_sent:
                connection.close()  # once it left
            else:
                connection.abort()

    async def _handshake(self, connection: Connection) -> NodeId | None:
        if self._strangers >= STRANGERS_MAX or len(self._tasks) > CONNECTIONS_MAX:
            return None
        self._strangers += 1
        try:
            async with deadline(PEER_DEAD_S):
                return await receive(connection, self._identity, self._admit, self._ids)
        finally:
            self._strangers -= 1

    async def _exchange(self, connection: Connection, sender: NodeId) -> None:
        _, content = await connection.read_sealed(Frame.REQUEST)
        head = decode_request(content)
        exchange = PeerExchange(connection, head, sender)
        handler = self._handler(exchange)
        try:
            if handler is None:
                await exchange.answer(Status.BAD_REQUEST, "no such route")
            else:
                await handler(exchange)
        except DiskFull:
            await _answer_if_open(exchange, Status.NO_SPACE, "disk full")
        except Corruption as error:
            await _answer_if_open(exchange, Status.DAMAGED, str(error))
        except PeerUnreachable:
            raise
        except Unavailable as error:
            await _answer_if_open(exchange, Status.UNAVAILABLE, str(error))
        await exchange.drain_body()
        if exchange.body_left:
            raise WireError("too much body after the answer")

    def _handler(self, exchange: PeerExchange) -> Handler | None:
        for method, prefix, handler in self._routes:
            if method == exchange.method and exchange.path.startswith(prefix):
                return handler
        return None

    # --- routes -----------------------------------------------------------------------------------
    async def _ping(self, exchange: PeerExchange) -> None:
        await exchange.answer(Status.OK)

    async def _put(self, exchange: PeerExchange) -> None:
        blob_id = _blob_id(exchange.path.removeprefix("/blob/"))
        if blob_id is None:
            await exchange.answer(Status.BAD_REQUEST, "not a blob id")
            return
        exchange.accept()
        async with self._files.create(blob_id) as sink:
            async for data, crc in exchange.body():
                await sink.write(data, crc)
            stored = await sink.commit()
        crc64 = int.from_bytes(stored.crc64, "big")
        await exchange.answer(Status.OK, size_bytes=stored.size_bytes, crc64=crc64)

    async def _get(self, exchange: PeerExchange) -> None:
        blob_id = _blob_id(exchange.path.removeprefix("/blob/"))
        if blob_id is None:
            await exchange.answer(Status.BAD_REQUEST, "not a blob id")
            return
        try:
            await self._send_blob(exchange, blob_id)
        except FileNotFoundError:
            await exchange.answer(Status.NOT_HERE)
        except Corruption:
            self._bad_copies.report(blob_id)
            raise

    async def _send_blob(self, exchange: PeerExchange, blob_id: BlobId) -> None:
        async with await self._files.open(blob_id) as file:
            start = _number(exchange.query.get("start"), 0)
            stop = _number(exchange.query.get("stop"), file.size_bytes)
            if not 0 <= start <= stop <= file.size_bytes:
                await exchange.answer(Status.BAD_REQUEST, "no such range")
                return
            first = start // BLOCK_BYTES
            last = -(-stop // BLOCK_BYTES) if stop > start else first

            async def pieces() -> AsyncGenerator[tuple[Buffer, int], None]:
                async with aclosing(file.read_blocks(first, last)) as blocks:
                    index = first
                    async for block in blocks:
                        yield block, file.block_crc(index)
                        index += 1

            crc64 = int.from_bytes(file.crc64, "big")
            async with aclosing(pieces()) as body:
                await exchange.answer_body(body, size_bytes=file.size_bytes, crc64=crc64)

    async def _delete(self, exchange: PeerExchange) -> None:
        blob_id = _blob_id(exchange.path.removeprefix("/blob/"))
        if blob_id is None:
            await exchange.answer(Status.BAD_REQUEST, "not a blob id")
        elif self._is_named(blob_id):
            await exchange.answer(Status.REFUSED, "the catalog names this blob")
        elif await self._files.drop(blob_id):
            await exchange.answer(Status.OK)
        else:
            await exchange.answer(Status.REFUSED, "a reader pins this blob")

    async def _inventory(self, exchange: PeerExchange) -> None:
        after = _blob_id(exchange.query.get("after", ""))
        limit = min(_number(exchange.query.get("limit"), INVENTORY_LIMIT_MAX), INVENTORY_LIMIT_MAX)
        if limit <= 0 or (after is None and exchange.query.get("after")):
            await exchange.answer(Status.BAD_REQUEST, "malformed inventory query")
            return
        page = b"".join(await self._files.inventory(after, limit))
        await exchange.answer_body(_one_piece(page))

    async def _pin(self, exchange: PeerExchange) -> None:
        exchange.accept()
        joined = bytearray()
        async for data, _ in exchange.body():
            joined += data
            if len(joined) > BLOCK_BYTES:
                raise WireError("too many pins in one request")
        ids = split_ids(joined)
        await exchange.answer_body(_one_piece(b"".join(await self._files.pin(ids))))


async def _answer_if_open(exchange: PeerExchange, status: Status, text: str) -> None:
    """Answer an error, unless a body went before it: that one already ended with ABORT."""
    if not exchange.is_answered:
        await exchange.answer(status, text)


async def _one_piece(data: bytes) -> AsyncIterator[tuple[Buffer, int]]:
    if data:
        yield data, crc64nvme(data)


async def receive_ids(exchange: PeerExchange, count_max: int) -> bytearray | None:
    """The body of a request that is a list of blob ids; None: it was longer, and that is answered."""
    exchange.accept()
    received = bytearray()
    async for piece, _ in exchange.body():
        received += piece
        if len(received) > count_max * BLOB_ID_BYTES:
            await exchange.answer(Status.BAD_REQUEST, "too many ids")
            return None
    return received


def split_ids(joined: bytes | bytearray) -> list[BlobId]:
    """Ids from their concatenation. Raises: WireError."""
    if len(joined) % BLOB_ID_BYTES:
        raise WireError("malformed list of blob ids")
    data = bytes(joined)
    return [BlobId(data[i : i + BLOB_ID_BYTES]) for i in range(0, len(data), BLOB_ID_BYTES)]


def _blob_id(text: str) -> BlobId | None:
    if len(text) != 2 * BLOB_ID_BYTES:
        return None
    try:
        return BlobId(bytes.fromhex(text))
    except ValueError:
        return None


def _number(text: str | None, default: int) -> int:
    """A decimal query value; -1, which no query takes, for anything else."""
    if text is None:
        return default
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 20 else -1
