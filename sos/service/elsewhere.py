"""A key's record and small body from another member, when this node's own rows are damaged.

The other member answers after a barrier of its own, which began after the request did: its answer is as current
as this node's would have been. It speaks for one request; the node that found the damage reports it, and stops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from sos.blob.peer_errors import Damaged, NotHere
from sos.blob.wire import Status
from sos.catalog.model import AccessKeyId, NodeId, Rejection
from sos.catalog.records import decode_object, encode_object, seal
from sos.checksum import crc64nvme
from sos.errors import Corruption, Unavailable
from sos.limits import KIB
from sos.packing import PackingError, pack, unpack
from sos.service.access import SERVED_INDEX
from sos.service.requests import Found, Target
from sos.telemetry import log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sos.blob.exchange import PeerExchange
    from sos.blob.peer import PeerServer
    from sos.blob.peer_client import PeerClient
    from sos.service.members import MemberAddresses

ROUTE: Final = "/object"
_ROW_KEY: Final = b"object"  # what the record is sealed under on its way
_QUESTION_BYTES_MAX: Final = 16 * KIB
_ANSWER_S_MAX: Final = 4.0  # it contains a barrier


class Finder(Protocol):
    """What answers other members: ``ObjectService``, of its own rows only."""

    async def find_here(self, target: Target, *, with_body: bool) -> Found | Rejection: ...


class Elsewhere:
    """Asks the other members, and answers them."""

    def __init__(self, *, members: MemberAddresses, peers: PeerClient, self_id: NodeId) -> None:
        self._members = members
        self._peers = peers
        self._self_id = self_id

    def serve(self, server: PeerServer, finder: Finder) -> None:
        """Take questions of other gateways on the blob port."""

        async def answer(exchange: PeerExchange) -> None:
            await _answer(exchange, finder)

        server.add_route("POST", ROUTE, answer)

    async def find(self, target: Target, *, with_body: bool) -> Found | Rejection:
        """What the first member says that can. Raises: Unavailable."""
        question = pack([target.access_key, target.bucket, target.key, with_body])
        others = [member for member in self._members.all() if member.node != self._self_id]
        others.sort(key=lambda member: self._peers.is_suspect(member.node))
        for member in others:
            try:
                async with self._peers.call(
                    member, "POST", ROUTE, body=question, answer_s_max=_ANSWER_S_MAX
                ) as answer:
                    data = b"".join([bytes(piece) async for piece, _ in answer.body()])
                found = self._decode(data)
            except (Unavailable, NotHere, Damaged, Corruption, PackingError, ValueError) as error:
                log.warning("service.elsewhere.failed", peer=member.node, why=str(error))
                continue
            log.warning("service.elsewhere.answered", peer=member.node)
            return found
        raise Unavailable("the catalog of this node is damaged, and no other member answered")

    def _decode(self, data: bytes) -> Found | Rejection:
        """Raises: PackingError, ValueError, Corruption."""
        fields = unpack(data)
        if type(fields) is not list or len(fields) != 6:
            raise PackingError("not an answer about an object")
        index, rejection, record, body, crc64, holders = fields
        SERVED_INDEX.set(index)
        if rejection is not None:
            return Rejection(rejection)
        return Found(
            record=decode_object(_ROW_KEY, record),
            data=body,
            crc64=crc64,
            holders=self._members.of(frozenset(map(NodeId, holders))),
        )


async def _answer(exchange: PeerExchange, finder: Finder) -> None:
    exchange.accept()
    received = bytearray()
    async for piece, _ in exchange.body():
        received += piece
        if len(received) > _QUESTION_BYTES_MAX:
            await exchange.answer(Status.BAD_REQUEST, "too long a question")
            return
    try:
        access_key, bucket, key, with_body = unpack(bytes(received))
    except (PackingError, ValueError, TypeError):
        await exchange.answer(Status.BAD_REQUEST, "not a question about an object")
        return
    target = Target(access_key=AccessKeyId(access_key), bucket=bucket, key=key)
    found = await finder.find_here(target, with_body=with_body)
    fields: list[Any] = [SERVED_INDEX.get(), None, None, None, b"", []]
    if isinstance(found, Rejection):
        fields[1] = found.value
    else:
        fields[2] = seal(_ROW_KEY, encode_object(found.record))
        fields[3:] = [found.data, found.crc64, [holder.node for holder in found.holders]]
    await exchange.answer_body(_one_piece(pack(fields)))


async def _one_piece(data: bytes) -> AsyncIterator[tuple[bytes, int]]:
    yield data, crc64nvme(data)
