"""Copies of the catalog between members: one per member, resumed where they broke off, nothing left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from sos.blob.handshake import PeerAddress
from sos.blob.peer_client import PeerClient
from sos.blob.peer_errors import NotHere, PeerUnreachable
from sos.blob.wire import Status
from sos.catalog.model import CreateBucket, NodeId
from sos.catalog.reader import CatalogReader
from sos.catalog.store import CatalogStore
from sos.clock import ManualClock, ManualIds
from sos.errors import Unavailable
from sos.limits import SNAPSHOT_KEPT_S
from sos.service import snapshots
from sos.service.members import MemberAddresses
from sos.service.snapshots import SnapshotFetcher, SnapshotServer, verify_in_child
from tests.unit.catalog_samples import ROOT, Log, formation, run

N2, N3 = NodeId("n2@0000000000000002"), NodeId("n3@0000000000000003")
COPY = os.urandom(3_000_000)


class FakeReader:
    """Makes "copies" of one constant."""

    def __init__(self) -> None:
        self.copies = 0
        self.refreshed = 0

    def refresh(self) -> bool:
        self.refreshed += 1
        return False

    def used_bytes(self) -> int:
        return len(COPY)

    def copy_snapshot(self, file: Path) -> None:
        with file.open("xb") as copy:
            copy.write(COPY)
        self.copies += 1


class FakeExchange:
    """One request of a member, and what it was answered."""

    def __init__(
        self, sender: NodeId, token: str, offset: int = 0, cut_after: int = 1 << 40
    ) -> None:
        self.sender = sender
        self.path = f"/snapshot/{token}"
        self.query = {"offset": str(offset)}
        self.status: Status | None = None
        self.size_bytes = 0
        self.body = b""
        self._cut_after = cut_after

    async def answer(self, status: Status, text: str = "") -> None:
        self.status = status

    async def answer_body(
        self, pieces: AsyncIterator[tuple[bytes, int]], *, size_bytes: int
    ) -> None:
        self.status, self.size_bytes = Status.OK, size_bytes
        async for piece, _ in pieces:
            if len(self.body) + len(piece) > self._cut_after:
                raise PeerUnreachable("cut")
            self.body += piece


class Served:
    """A serving gateway; ``ask`` is what its route does."""

    def __init__(self, directory: Path) -> None:
        self.clock, self.reader = ManualClock(wall_ms=10_000_000_000_000), FakeReader()
        self.server = SnapshotServer(
            directory, reader=cast(CatalogReader, self.reader), clock=self.clock
        )
        self.directory = directory / "outgoing"
        self.server.serve(cast(Any, self))

    def add_route(self, method: str, prefix: str, handler: Any) -> None:
        assert (method, prefix) == ("GET", "/snapshot/")
        self.handler = handler

    async def ask(self, exchange: FakeExchange) -> FakeExchange:
        await self.handler(exchange)
        return exchange


def _token(number: int) -> str:
    return f"{number:032x}"


def test_a_copy_is_served_and_then_its_room_is_free(tmp_path: Path) -> None:
    """Scenario 97: the generation of now is copied, and nothing stays once it was read."""

    async def run() -> None:
        served = Served(tmp_path)
        exchange = await served.ask(FakeExchange(N2, _token(1)))
        assert exchange.body == COPY
        assert exchange.size_bytes == len(COPY)
        assert served.reader.refreshed == 1
        assert list(served.directory.iterdir()) == []

    asyncio.run(run())


def test_a_copy_that_broke_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """Design 7: resumable: one copy is made, and its rest is read by offset."""

    async def run() -> None:
        served = Served(tmp_path)
        first = FakeExchange(N2, _token(1), cut_after=2_000_000)
        with pytest.raises(PeerUnreachable):
            await served.ask(first)
        rest = await served.ask(FakeExchange(N2, _token(1), offset=len(first.body)))
        assert first.body + rest.body == COPY
        assert served.reader.copies == 1

    asyncio.run(run())


def test_a_member_that_begins_anew_gives_its_last_copy_up(tmp_path: Path) -> None:
    """Scenario 57: a target that dies in each fetch does not fill the disk, nor lock itself out."""

    async def run() -> None:
        served = Served(tmp_path)
        for number in range(5):
            with pytest.raises(PeerUnreachable):
                await served.ask(FakeExchange(N2, _token(number), cut_after=0))
            assert len(list(served.directory.iterdir())) == 1
        # Another member's is not touched.
        with pytest.raises(PeerUnreachable):
            await served.ask(FakeExchange(N3, _token(9), cut_after=0))
        assert len(list(served.directory.iterdir())) == 2

    asyncio.run(run())


def test_copies_that_nobody_reads_go_after_a_while(tmp_path: Path) -> None:
    """P18: a member that never comes back holds no room."""

    async def run() -> None:
        served = Served(tmp_path)
        for number in range(2):
            stale = served.directory / f"gone{number}@0000000000000009.{_token(number)}"
            stale.write_bytes(b"old")
            os.utime(stale, (1.0, 1.0))
        exchange = await served.ask(FakeExchange(N2, _token(1)))
        assert exchange.body == COPY
        assert list(served.directory.iterdir()) == []

        with pytest.raises(PeerUnreachable):
            await served.ask(FakeExchange(N2, _token(2), cut_after=0))
        await served.server.remove_unread()
        assert len(list(served.directory.iterdir())) == 1
        served.clock.advance(SNAPSHOT_KEPT_S + 1)
        await served.server.remove_unread()
        assert list(served.directory.iterdir()) == []

    asyncio.run(run())


@pytest.mark.parametrize("token", ["", "x" * 32, "../" + "0" * 29, "0" * 31, "0" * 33])
def test_a_token_is_a_token(tmp_path: Path, token: str) -> None:
    """P20: no file is reached by its name."""

    async def run() -> None:
        exchange = await Served(tmp_path).ask(FakeExchange(N2, token))
        assert exchange.status is Status.BAD_REQUEST

    asyncio.run(run())


def test_no_copy_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Design 11: journal and catalog share the disk."""

    async def run() -> None:
        served = Served(tmp_path)
        monkeypatch.setattr(snapshots, "BLOB_RESERVE_BYTES", 1 << 60)
        with pytest.raises(Unavailable):
            await served.ask(FakeExchange(N2, _token(1)))
        assert list(served.directory.iterdir()) == []

    asyncio.run(run())


# --- the fetching side ----------------------------------------------------------------------------
class FakePeers:
    """A peer that serves ``COPY``; each entry of ``cuts`` breaks one answer off after so many bytes."""

    def __init__(self, *cuts: int) -> None:
        self.cuts = list(cuts)
        self.offsets: list[int] = []
        self.has_copy = True

    @asynccontextmanager
    async def call(
        self, peer: PeerAddress, method: str, target: str, *, answer_s_max: float
    ) -> AsyncIterator[Any]:
        if not self.has_copy:
            raise NotHere("gone")
        offset = int(target.partition("offset=")[2])
        self.offsets.append(offset)
        cut = self.cuts.pop(0) if self.cuts else 1 << 40

        class Head:
            size_bytes = len(COPY)

        class Answer:
            head = Head()

            async def body(self) -> AsyncIterator[tuple[memoryview, int]]:
                for at in range(offset, len(COPY), 500_000):
                    if at >= cut:
                        raise PeerUnreachable("cut")
                    yield memoryview(COPY)[at : at + 500_000], 0
                if cut == len(COPY):  # all arrived but the end
                    raise PeerUnreachable("cut")

        yield Answer()


class OneMember:
    def of(self, nodes: frozenset[NodeId]) -> tuple[PeerAddress, ...]:
        return tuple(PeerAddress(node=n, address="a:1") for n in nodes if n == N2)


async def _sound(_: Path) -> None:
    return


async def _damaged(_: Path) -> None:
    raise Unavailable("damaged")


def _fetcher(
    directory: Path, peers: FakePeers, verify: Callable[[Path], Awaitable[None]] = _sound
) -> SnapshotFetcher:
    return SnapshotFetcher(
        directory,
        members=cast(MemberAddresses, OneMember()),
        peers=cast(PeerClient, peers),
        ids=ManualIds(),
        verify=verify,
    )


@pytest.mark.parametrize(
    ("cuts", "offsets"),
    [
        ((), [0]),
        ((1_000_000, 0, 2_500_000), [0, 1_000_000, 1_000_000, 2_500_000]),
        ((len(COPY),), [0]),
    ],
    ids=["whole", "three cuts", "only the end lost"],
)
def test_a_fetch_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: tuple[int, ...], offsets: list[int]
) -> None:
    """Design 7: what arrived is not asked for again."""
    monkeypatch.setattr(snapshots, "_PAUSE_S", 0.0)
    peers = FakePeers(*cuts)
    values = asyncio.run(_fetcher(tmp_path, peers).fetch(N2))

    assert Path(values["path"]).read_bytes() == COPY
    assert peers.offsets == offsets


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P14: no half copy stays; a leftover of a dead process goes with the next fetch."""
    monkeypatch.setattr(snapshots, "_PAUSE_S", 0.0)
    directory = tmp_path / "incoming"
    directory.mkdir()
    (directory / "leftover").write_bytes(b"x")
    gone = FakePeers()
    gone.has_copy = False
    for peers in (FakePeers(*[0] * 8), gone):
        with pytest.raises(Unavailable):
            asyncio.run(_fetcher(tmp_path, peers).fetch(N2))
        assert list(directory.iterdir()) == []
    with pytest.raises(Unavailable):
        asyncio.run(_fetcher(tmp_path, FakePeers()).fetch(N3))
    with pytest.raises(Unavailable):
        asyncio.run(_fetcher(tmp_path, FakePeers(), _damaged).fetch(N2))
    assert list(directory.iterdir()) == []


def test_a_copy_is_read_in_full_before_the_core_gets_it(tmp_path: Path) -> None:
    """Issue 4, item 6: one rotten record of the peer does not spread by copy; a truncated file kills only a child."""
    store = CatalogStore.create(tmp_path / "catalog", formation())
    run(store, Log(), CreateBucket(access_key=ROOT, bucket="precious", created_ms=1))
    store.copy_snapshot(tmp_path / "copy")
    store.close()
    asyncio.run(verify_in_child(tmp_path / "copy"))
    data = (tmp_path / "copy").read_bytes()
    at = data.rfind(b"precious")
    for damaged in (
        data[:at] + b"P" + data[at + 1 :],
        data[: len(data) // 2],
        b"",
        bytes(len(data)),
    ):
        (tmp_path / "copy").write_bytes(damaged)
        with pytest.raises(Unavailable, match="damaged"):
            asyncio.run(verify_in_child(tmp_path / "copy"))
