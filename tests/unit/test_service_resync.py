"""The leader's comparison and the member's pulls: what is asked, what is reported, what is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sos.blob.bundle import BundleReader, WantedBlob
from sos.blob.fetch import BlobReader
from sos.blob.files import BlobFiles
from sos.blob.handshake import PeerAddress
from sos.blob.peer import split_ids
from sos.blob.peer_client import PeerClient
from sos.catalog.model import BlobId, BlobRecord, MemberCopies, NodeId, OwedBlob
from sos.clock import ManualClock, SystemClock
from sos.errors import Corruption, DiskFull, Unavailable
from sos.limits import (
    MIB,
    RESYNC_BATCH_BLOBS,
    RESYNC_BUNDLE_BLOB_BYTES,
    RESYNC_BUNDLE_BLOBS,
    RESYNC_PARALLEL,
)
from sos.service import resync as module
from sos.service.access import CatalogAccess
from sos.service.members import MemberAddresses
from sos.service.resync import Pace, Puller, Resync
from sos.telemetry import Metrics

N1, N2 = NodeId("n1@0000000000000001"), NodeId("n2@0000000000000002")
SIZE = 20_000


def blob(number: int) -> BlobId:
    return BlobId(number.to_bytes(16, "big"))


@dataclass
class FakeCatalog:
    """The catalog of the cluster: both gateways see it at once."""

    rows: dict[BlobId, BlobRecord] = field(default_factory=dict)
    owes: dict[BlobId, int] = field(default_factory=dict)
    reports: list[tuple[list[BlobId], list[BlobId]]] = field(default_factory=list)
    refuses_reports: bool = False

    def name(self, *numbers: int, holders: tuple[NodeId, ...] = (N1,), size: int = SIZE) -> None:
        for number in numbers:
            self.rows[blob(number)] = BlobRecord(
                blob=blob(number),
                size_bytes=size,
                crc64=bytes(8),
                reference_count=1,
                inline=False,
                holders=holders,
            )
            if N2 not in holders:
                self.owes[blob(number)] = size

    # the access of a gateway
    def peek(self, query: Callable[[Any], Any]) -> Any:
        return query(self)

    async def read(self, query: Callable[[Any], Any]) -> Any:
        return query(self)

    # the view
    def blob(self, name: BlobId) -> BlobRecord | None:
        return self.rows.get(name)

    def blobs(self, after: bytes, limit: int) -> list[BlobRecord]:
        return [self.rows[name] for name in sorted(self.rows) if name > after][:limit]

    def owed(self, node: NodeId, after: bytes, limit: int) -> list[OwedBlob]:
        names = [name for name in sorted(self.owes) if name > after][:limit]
        return [OwedBlob(blob=name, size_bytes=self.owes[name]) for name in names]

    def member_copies(self, node: NodeId) -> MemberCopies:
        return MemberCopies(
            node=node,
            since_index=1,
            report_sequence=0,
            blobs_owed=len(self.owes),
            bytes_owed=sum(self.owes.values()),
        )

    # the link of the member
    async def report_holders(self, gained: Sequence[BlobId], lost: Sequence[BlobId]) -> None:
        if self.refuses_reports:
            raise Unavailable("no leader")
        self.reports.append((list(gained), list(lost)))
        for name in gained:
            row = self.rows[name]
            self.rows[name] = replace(row, holders=tuple(sorted({*row.holders, N2})))
            self.owes.pop(name, None)
        for name in lost:
            row = self.rows[name]
            self.rows[name] = replace(row, holders=tuple(h for h in row.holders if h != N2))
            self.owes[name] = row.size_bytes


@dataclass
class FakeBundles:
    """What holders give together: nothing, as older ones do, unless a test says so."""

    disk: FakeDisk
    gives: frozenset[BlobId] = frozenset()
    asked: list[list[BlobId]] = field(default_factory=list)

    def source(self, _: BlobId, holders: Sequence[PeerAddress]) -> PeerAddress | None:
        return next((holder for holder in holders if holder.node != N2), None)

    async def pull(self, source: PeerAddress, wanted: Sequence[WantedBlob]) -> frozenset[BlobId]:
        assert source.node == N1
        self.asked.append([one.blob_id for one in wanted])
        copied = [b for b in self.asked[-1] if b in self.gives and b not in self.disk.here]
        self.disk.pulled += copied
        self.disk.here.update(copied)
        return frozenset(copied)


@dataclass
class FakeDisk:
    """The member's files and its reader of other holders."""

    here: set[BlobId] = field(default_factory=set)
    pulled: list[BlobId] = field(default_factory=list)
    errors: dict[BlobId, Exception] = field(default_factory=dict)
    at_once: int = 0
    at_once_max: int = 0
    on_pull: Callable[[BlobId], None] = lambda _: None

    def __post_init__(self) -> None:
        self.bundles = FakeBundles(self)

    async def pull(self, *, blob_id: BlobId, **_: object) -> bool:
        if blob_id in self.here:
            return False
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.on_pull(blob_id)
        if blob_id in self.errors:
            raise self.errors[blob_id]
        self.pulled.append(blob_id)
        self.here.add(blob_id)
        return True

    async def inventory(self, after: BlobId | None, limit: int) -> list[BlobId]:
        return [name for name in sorted(self.here) if after is None or name > after][:limit]

    async def drop(self, name: BlobId) -> bool:
        self.here.discard(name)
        return True


class Peers:
    """Carries the leader's requests to the member's puller, as the blob port does."""

    def __init__(self, disk: FakeDisk, puller: Puller) -> None:
        self._disk, self._puller = disk, puller
        self.requests: list[int] = []
        self.cut_after: int | None = None

    async def inventory(self, _: PeerAddress, after: BlobId | None, limit: int) -> list[BlobId]:
        return await self._disk.inventory(after, limit)

    @asynccontextmanager
    async def call(
        self, peer: PeerAddress, method: str, target: str, *, body: bytes
    ) -> AsyncIterator[Any]:
        assert (peer.node, method, target) == (N2, "POST", "/pull")
        blobs = split_ids(body)
        self.requests.append(len(blobs))
        outer = self

        class Answer:
            async def body(self) -> AsyncIterator[tuple[bytes, int]]:
                sent = 0
                async for piece, crc in module._as_pieces(outer._puller.pull(blobs)):
                    yield piece, crc
                    sent += 1
                    if outer.cut_after is not None and sent > outer.cut_after:
                        raise Unavailable("cut")

        yield Answer()


class Members:
    def of(self, nodes: frozenset[NodeId]) -> tuple[PeerAddress, ...]:
        return tuple(PeerAddress(node=n, address="a:1") for n in (N1, N2) if n in nodes)


class Bed:
    """A leader n1 and a returned member n2."""

    def __init__(self) -> None:
        self.catalog, self.disk, self.metrics = FakeCatalog(), FakeDisk(), Metrics()
        access, members = cast(CatalogAccess, self.catalog), cast(MemberAddresses, Members())
        self.puller = Puller(
            access=access,
            members=members,
            files=cast(BlobFiles, self.disk),
            reader=cast(BlobReader, self.disk),
            bundles=cast(BundleReader, self.disk.bundles),
            link=self.catalog,
            clock=SystemClock(),
            metrics=self.metrics,
        )
        self.peers = Peers(self.disk, self.puller)
        self.progress: list[dict[str, Any]] = []
        self.resync = Resync(
            access=access,
            members=members,
            files=cast(BlobFiles, FakeDisk()),
            peers=cast(PeerClient, self.peers),
            puller=self.puller,
            self_id=N1,
        )

    def metrics_of(self, name: str) -> float:
        (rows,) = [sample[4] for sample in self.metrics.samples() if sample[1] == name]
        return float(rows[0][1])

    def run(self, *, full: bool = True, node: NodeId = N2) -> dict[str, Any]:
        return asyncio.run(self.resync.run(node, full=full, report=self.progress.append))


def test_the_full_comparison_finds_what_the_catalog_does_not_owe() -> None:
    """Issue 4: the full comparison alone finds every missing blob."""
    bed = Bed()
    bed.catalog.name(*range(1, 20), holders=(N1, N2))  # the catalog says that all is here
    bed.disk.here = {blob(3), blob(19), blob(99)}

    values = bed.run()

    assert bed.disk.here == {blob(n) for n in range(1, 20)} | {blob(99)}
    assert values["blobs_done"] == 17
    assert values["failed"] == 0


@settings(max_examples=40, deadline=None)
@given(named=st.sets(st.integers(1, 40)), here=st.sets(st.integers(1, 40)))
def test_the_full_comparison_is_set_difference(named: set[int], here: set[int]) -> None:
    """Whatever the pages of either side hold: exactly what is named and not here is copied."""
    bed = Bed()
    bed.catalog.name(*named)
    bed.disk.here = {blob(n) for n in here}

    with patch.object(module, "_PAGE", 3):
        bed.run()

    assert sorted(bed.disk.pulled) == [blob(n) for n in sorted(named - here)]
    assert bed.catalog.owes == {}


def test_an_inventory_that_does_not_ascend_fails_the_comparison() -> None:
    """A member with a bug must not keep the leader in a merge without end."""
    bed = Bed()
    bed.catalog.name(*range(1, 4))

    async def inventory(*_: object) -> list[BlobId]:
        return [blob(2), blob(1)]

    bed.peers.inventory = inventory  # type: ignore[method-assign,assignment]
    with pytest.raises(Unavailable, match="ascend"):
        bed.run()


def test_a_copy_that_nobody_counted_is_reported_and_not_copied() -> None:
    """Scenario 7: resync counts its copy, copies no byte twice."""
    bed = Bed()
    bed.catalog.name(1, 2)
    bed.disk.here = {blob(1)}

    bed.run()

    assert bed.disk.pulled == [blob(2)]
    assert bed.catalog.owes == {}


def test_the_owed_list_is_enough_between_comparisons() -> None:
    """Design 10: the owed list only saves time: nothing else is asked for."""
    bed = Bed()
    bed.catalog.name(1, 2, holders=(N1, N2))
    bed.catalog.name(3)

    bed.run(full=False)

    assert bed.disk.pulled == [blob(3)]


def test_progress_counts_blobs_and_bytes() -> None:
    """Design 10: with progress and ETA."""
    bed = Bed()
    bed.catalog.name(*range(1, 11))

    values = bed.run()

    expected = {"blobs_done": 10, "bytes_done": 10 * SIZE, "blobs_total": 10}
    assert {key: values[key] for key in expected} == expected
    assert bed.progress[-1] == values
    assert all(step["bytes_total"] == 10 * SIZE for step in bed.progress)


def test_what_no_holder_can_give_is_told_and_owed_and_ends_the_comparison() -> None:
    """Design 10: one lost blob must not keep a member in comparisons for ever."""
    bed = Bed()
    bed.catalog.name(1, 2, 3, 4, holders=(N1, N2))
    bed.disk.errors = {
        blob(1): Unavailable("n1 is away"),
        blob(2): Corruption("gone"),
        blob(3): DiskFull("full"),
    }

    values = bed.run()

    assert values["failed"] == 3
    assert bed.disk.pulled == [blob(4)]
    assert set(bed.catalog.owes) == {blob(1), blob(2), blob(3)}
    assert N2 not in bed.catalog.rows[blob(1)].holders


def test_a_report_that_was_not_committed_fails_the_job() -> None:
    """protocols.md 4.1: a copy counts only once the catalog has it; the next comparison counts it."""
    bed = Bed()
    bed.catalog.name(1, 2)
    bed.catalog.refuses_reports = True
    with pytest.raises(Unavailable):
        bed.run()
    pulled = list(bed.disk.pulled)
    bed.catalog.refuses_reports = False

    bed.run()

    assert bed.catalog.owes == {}
    assert sorted(bed.disk.pulled) == [blob(1), blob(2)]
    assert len(pulled) == len(set(pulled))


def test_a_cut_answer_fails_the_job_and_repeats_nothing() -> None:
    """Scenario 57: what was pulled is not pulled again."""
    bed = Bed()
    bed.catalog.name(*range(1, 101))
    bed.peers.cut_after = 3
    with pytest.raises(Unavailable):
        bed.run()
    assert bed.disk.pulled
    bed.peers.cut_after = None

    bed.run()

    assert sorted(bed.disk.pulled) == [blob(n) for n in range(1, 101)]
    assert bed.catalog.owes == {}


def test_a_blob_forgotten_meanwhile_is_no_failure_and_leaves_no_file() -> None:
    """P14: unlinked by whoever comes second: the pull itself, if the file came after the others were unlinked."""
    bed = Bed()
    bed.catalog.name(1, 2, 3)

    def forget(name: BlobId) -> None:
        bed.catalog.rows.pop(blob(2), None)  # while 1 is on its way
        bed.catalog.owes.pop(blob(2), None)

    bed.disk.on_pull = forget

    values = bed.run()

    assert values["failed"] == 0
    assert bed.disk.here == {blob(1), blob(3)}
    assert all(blob(2) not in gained for gained, _ in bed.catalog.reports)


def test_messages_and_parallel_pulls_are_bounded() -> None:
    """P18: many blobs go in several messages, a few at a time."""
    bed = Bed()
    bed.catalog.name(*range(1, 3001))

    bed.run()

    assert sum(bed.peers.requests) == 3000
    assert max(bed.peers.requests) == RESYNC_BATCH_BLOBS
    assert 1 < bed.disk.at_once_max <= RESYNC_PARALLEL


def test_small_blobs_are_asked_for_together_and_what_did_not_come_alone() -> None:
    """Issue 5: bundles are bounded, copied once, counted; large blobs, and what a holder leaves out, come alone."""
    bed = Bed()
    bed.catalog.name(*range(1, 101))
    bed.catalog.name(200, size=RESYNC_BUNDLE_BLOB_BYTES + 1)
    bed.disk.bundles.gives = frozenset(blob(n) for n in range(1, 90))
    bed.disk.here = {blob(5)}

    values = bed.run()

    asked = bed.disk.bundles.asked
    assert sorted(name for names in asked for name in names) == [blob(n) for n in range(1, 101)]
    assert max(map(len, asked)) == RESYNC_BUNDLE_BLOBS
    assert sorted(bed.disk.pulled) == sorted(set(bed.catalog.rows) - {blob(5)})
    assert values["blobs_done"] == 101
    assert bed.catalog.owes == {}
    assert bed.metrics_of("sos_resync_pulled_blobs") == 100


def test_large_blobs_go_in_messages_of_their_own() -> None:
    """A kill repeats at most what was under way."""
    bed = Bed()
    bed.catalog.name(*range(1, 6), size=70 * MIB)
    bed.puller._pace = Pace(ManualClock(), 1 << 60)

    bed.run()

    assert bed.peers.requests == [1] * 5


def test_the_leader_compares_itself_too() -> None:
    """A leader may be the one that returned: it asks itself without a connection."""
    bed = Bed()
    bed.catalog.name(1, holders=(N1, N2))
    own = Resync(
        access=cast(CatalogAccess, bed.catalog),
        members=cast(MemberAddresses, Members()),
        files=cast(BlobFiles, bed.disk),
        peers=cast(PeerClient, None),
        puller=bed.puller,
        self_id=N2,
    )

    values = asyncio.run(own.run(N2, full=True, report=bed.progress.append))

    assert values["blobs_done"] == 1
    assert bed.disk.pulled == [blob(1)]


def test_who_left_the_list_is_not_resynced() -> None:
    """protocols.md 3: only members count."""
    with pytest.raises(Unavailable):
        Bed().run(node=NodeId("n9@0000000000000009"))


def test_pace_lets_a_second_through_at_once_and_then_its_rate() -> None:
    """Design 10: rate-limited, without hurting the foreground."""
    clock = ManualClock()
    pace = Pace(clock, 100)

    assert pace.reserve(100) == 0
    assert pace.reserve(50) == 0
    assert pace.reserve(50) == pytest.approx(0.5)
    assert pace.reserve(10) == pytest.approx(1.0)
    clock.advance(60)  # rest is not saved up
    assert pace.reserve(100) == 0
    assert pace.reserve(100) == 0
    assert pace.reserve(1) == pytest.approx(1.0)
