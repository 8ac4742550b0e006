"""Copies gained late or lost: told to the catalog by the member that has, or had, them (protocols.md 4.1).

A member that finished a blob after the write had its quorum is told so by the gateway that carried the
write, and reports its own copy; a notice that gets lost costs time only, for that member owes the blob until it
reports it. A lost copy is told until the catalog knows: as long as it is counted, nobody makes it again. What a
gateway takes with it when it dies is found by the comparison that follows its end (``core/catchup``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from sos.blob.format import BLOB_ID_BYTES
from sos.blob.peer import receive_ids
from sos.blob.peer_errors import Damaged, NotHere
from sos.blob.wire import Status
from sos.catalog.model import BlobId
from sos.errors import Unavailable
from sos.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sos.blob.exchange import PeerExchange
    from sos.blob.files import BlobFiles
    from sos.blob.handshake import PeerAddress
    from sos.blob.peer import PeerServer
    from sos.blob.peer_client import PeerClient
    from sos.catalog.model import NodeId
    from sos.service.members import MemberAddresses

ROUTE: Final = "/stored"
# The report counts only once the command that names the blob is committed: it follows the late answer.
_PAUSE_S: Final = 0.25
_IDS_MAX: Final = 4096  # a message of 64 KiB
_RETRY_S: Final = 1.0  # an attempt takes seconds by itself while there is no leader
_KEPT_MAX: Final = 200_000  # about 25 MB; beyond that the hourly comparison finds them


class ReportingLink(Protocol):
    """What is needed of ``sos.link.CoreLink``."""

    async def report_holders(self, gained: Sequence[BlobId], lost: Sequence[BlobId]) -> None: ...


class HolderNotices:
    """Gathers late and lost copies of a moment, and sends them on together."""

    def __init__(
        self,
        link: ReportingLink,
        *,
        self_id: NodeId,
        members: MemberAddresses,
        peers: PeerClient,
        files: BlobFiles,
    ) -> None:
        self._link = link
        self._self_id = self_id
        self._members = members
        self._peers = peers
        self._files = files
        self._late: dict[NodeId, list[BlobId]] = {}  # of other members
        self._own: dict[BlobId, bool] = {}  # blob -> whether it is here; the newest word counts
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None

    def late(self, blob: BlobId, node: NodeId) -> None:
        """``node`` made ``blob`` durable after the write had its quorum."""
        if node == self._self_id:
            self._keep(blob, True)
        else:
            self._late.setdefault(node, []).append(blob)
        self._schedule()

    def lost(self, blob: BlobId) -> None:
        """This node has no good copy of ``blob`` any more."""
        self._keep(blob, False)
        self._schedule()

    def _keep(self, blob: BlobId, is_here: bool) -> None:
        if len(self._own) >= _KEPT_MAX and blob not in self._own:
            log.error("service.holders.overflow", blob=blob.hex(), here=is_here)
            return
        self._own[blob] = is_here

    def serve(self, server: PeerServer) -> None:
        """Take the notices of other members on the blob port."""
        server.add_route("POST", ROUTE, self._stored)

    @property
    def sending(self) -> asyncio.Task[None] | None:
        """Under way with what was gathered, or None."""
        return self._task

    async def close(self) -> None:
        """Forget what was not sent yet: the end of a gateway makes the leader compare this member in full."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _schedule(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._late or self._own:
                await asyncio.sleep(_RETRY_S if self._is_failing else _PAUSE_S)
                late, self._late = self._late, {}
                own, self._own = self._own, {}
                await self._report(own)
                for address in self._members.of(frozenset(late)):
                    await self._tell(address, late[address.node])
        finally:
            self._task = None

    async def _report(self, own: dict[BlobId, bool]) -> None:
        """Tell the catalog; what was not committed waits for the next round, unless there is newer word by then."""
        gained = [blob for blob, is_here in own.items() if is_here]
        lost: list[BlobId] = []
        for blob, is_here in own.items():
            if not is_here:  # perhaps made again since
                (gained if await self._files.exists(blob) else lost).append(blob)
        for start in range(0, max(len(gained), len(lost)), _IDS_MAX):
            now_gained, now_lost = gained[start:][:_IDS_MAX], lost[start:][:_IDS_MAX]
            try:
                await self._link.report_holders(now_gained, now_lost)
            except Unavailable as error:
                if not self._is_failing:
                    log.warning("service.holders.unreported", blobs=len(own), reason=str(error))
                self._is_failing = True
                for blob in gained[start:]:
                    self._own.setdefault(blob, True)
                for blob in lost[start:]:
                    self._own.setdefault(blob, False)
                return
            self._is_failing = False

    async def _tell(self, address: PeerAddress, blobs: list[BlobId]) -> None:
        for start in range(0, len(blobs), _IDS_MAX):
            body = b"".join(blobs[start : start + _IDS_MAX])
            try:
                async with self._peers.call(address, "POST", ROUTE, body=body):
                    pass
            except (Unavailable, NotHere, Damaged) as error:
                log.info("service.holders.untold", peer=address.node, reason=str(error))

    async def _stored(self, exchange: PeerExchange) -> None:
        """Another member saw this node finish these blobs: report those that are here."""
        received = await receive_ids(exchange, _IDS_MAX)
        if received is None:
            return
        if len(received) % BLOB_ID_BYTES:
            await exchange.answer(Status.BAD_REQUEST, "not a list of ids")
            return
        await exchange.answer(Status.OK)
        for start in range(0, len(received), BLOB_ID_BYTES):
            blob = BlobId(bytes(received[start : start + BLOB_ID_BYTES]))
            if await self._files.exists(blob):
                self.late(blob, self._self_id)
