"""Late and lost copies reach the catalog through the member that has them (protocols.md 4.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from sos.blob.peer_errors import PeerUnreachable
from sos.blob.wire import Status
from sos.catalog.model import BlobId, NodeId
from sos.errors import Unavailable
from sos.link.protocol import MemberState, NodeState
from sos.service.holders import ROUTE, HolderNotices
from sos.service.members import MemberAddresses

SELF, OTHER, GONE = NodeId("n1@0"), NodeId("n2@0"), NodeId("n3@0")


def blob(number: int) -> BlobId:
    return BlobId(number.to_bytes(16, "big"))


def member(node: NodeId) -> MemberState:
    name = node.partition("@")[0]
    return MemberState(
        node=node,
        name=name,
        address=f"{name}:1",
        blob_address=f"{name}:2",
        s3_address=f"{name}:3",
        is_reachable=True,
        is_voter=True,
    )


@dataclass
class Link:
    """Keeps what is reported."""

    state: NodeState = field(
        default_factory=lambda: NodeState(members=(member(SELF), member(OTHER)))
    )
    reports: list[tuple[list[BlobId], list[BlobId]]] = field(default_factory=list)
    failures: int = 0  # of the next reports
    on_failure: Callable[[], None] = lambda: None

    async def report_holders(self, gained: Sequence[BlobId], lost: Sequence[BlobId]) -> None:
        if self.failures:
            self.failures -= 1
            self.on_failure()
            raise Unavailable("no leader")
        self.reports.append((list(gained), list(lost)))


@dataclass
class Peers:
    """Keeps what is sent to whom."""

    sent: list[tuple[NodeId, str, str, bytes]] = field(default_factory=list)
    is_down: bool = False

    @asynccontextmanager
    async def call(
        self, peer: Any, method: str, target: str, *, body: bytes
    ) -> AsyncIterator[None]:
        if self.is_down:
            raise PeerUnreachable("down")
        self.sent.append((peer.node, method, target, body))
        yield


@dataclass
class Files:
    """Says which blobs are here."""

    present: set[BlobId] = field(default_factory=set)

    async def exists(self, blob_id: BlobId) -> bool:
        return blob_id in self.present


class Exchange:
    """A request of another member with ``body``."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.status: Status | None = None

    def accept(self) -> None:
        return

    async def body(self) -> AsyncIterator[tuple[memoryview, int]]:
        yield memoryview(self._body), 0

    async def answer(self, status: Status, text: str = "") -> None:
        self.status = status


@dataclass
class Server:
    """Keeps the route."""

    handler: Any = None

    def add_route(self, method: str, prefix: str, handler: Any) -> None:
        assert (method, prefix) == ("POST", ROUTE)
        self.handler = handler


def notices(link: Link, peers: Peers, files: Files | None = None) -> HolderNotices:
    return HolderNotices(
        link,
        self_id=SELF,
        members=MemberAddresses(cast("Any", link)),
        peers=cast("Any", peers),
        files=cast("Any", files or Files()),
    )


async def settled(work: HolderNotices) -> None:
    """Wait until everything gathered so far was sent."""
    task = work.sending
    if task is not None:
        await task


def test_own_late_and_lost_copies_are_reported_together() -> None:
    """This node reports its own copies, in one report for a moment."""
    link, peers = Link(), Peers()

    async def run() -> None:
        work = notices(link, peers)
        work.late(blob(1), SELF)
        work.lost(blob(2))
        work.late(blob(3), SELF)
        await settled(work)

    asyncio.run(run())

    assert link.reports == [([blob(1), blob(3)], [blob(2)])]
    assert peers.sent == []


def test_a_lost_copy_is_told_until_the_catalog_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 4, item 9: quarantined and owed, also while there is no leader; the disk has the last word."""
    monkeypatch.setattr("sos.service.holders._RETRY_S", 0.0)
    link, files = Link(failures=2), Files()

    async def run() -> None:
        work = notices(link, Peers(), files)

        def meanwhile() -> None:
            files.present.add(blob(2))  # made again
            work.lost(blob(4))

        link.on_failure = meanwhile
        work.lost(blob(1))
        work.lost(blob(2))
        work.late(blob(3), SELF)
        await settled(work)

    asyncio.run(run())

    assert [(set(gained), set(lost)) for gained, lost in link.reports] == [
        ({blob(2), blob(3)}, {blob(1), blob(4)})
    ]


def test_another_members_late_copies_are_told_to_it() -> None:
    """Only a member itself reports its copies; who left the list is not asked."""
    link, peers = Link(), Peers()

    async def run() -> None:
        work = notices(link, peers)
        work.late(blob(1), OTHER)
        work.late(blob(2), OTHER)
        work.late(blob(3), GONE)
        await settled(work)

    asyncio.run(run())

    assert peers.sent == [(OTHER, "POST", ROUTE, blob(1) + blob(2))]
    assert link.reports == []


def test_a_notice_that_cannot_be_delivered_is_dropped() -> None:
    """The member owes the blob until it reports it: a lost notice costs time only."""
    link, peers = Link(), Peers(is_down=True)

    async def run() -> None:
        work = notices(link, peers)
        work.late(blob(1), OTHER)
        await settled(work)

    asyncio.run(run())

    assert link.reports == []


def test_a_member_that_is_told_reports_only_what_it_holds() -> None:
    """A notice is a hint, the disk is the truth."""
    link, peers, server = Link(), Peers(), Server()
    told = Exchange(blob(1) + blob(2))

    async def run() -> None:
        work = notices(link, peers, Files(present={blob(2)}))
        work.serve(cast("Any", server))
        await server.handler(told)
        await settled(work)

    asyncio.run(run())

    assert told.status is Status.OK
    assert link.reports == [([blob(2)], [])]


def test_nonsense_is_refused() -> None:
    """A body that is no list of ids changes nothing."""
    link, server = Link(), Server()
    told = Exchange(b"x" * 17)

    async def run() -> None:
        work = notices(link, Peers())
        work.serve(cast("Any", server))
        await server.handler(told)

    asyncio.run(run())

    assert told.status is Status.BAD_REQUEST
    assert link.reports == []


def test_addresses_follow_the_list_and_its_overrides() -> None:
    """Every change of the list is seen; tests may redirect one member's link."""
    link = Link()
    members = MemberAddresses(cast("Any", link), {"n2": "proxy:9"})

    before = [address.address for address in members.all()]
    link.state = NodeState(members=(member(SELF), member(GONE)))
    after = [address.node for address in members.all()]

    assert before == ["n1:2", "proxy:9"]
    assert after == [SELF, GONE]
    assert members.of(frozenset({OTHER})) == ()
    link.state = NodeState(members=(member(SELF), replace(member(GONE), is_voter=False)))
    assert [address.node for address in members.staying()] == [SELF]
