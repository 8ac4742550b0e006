"""The leader's care for members that return: when one is compared, and what follows a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from sos.catalog.model import NodeId
from sos.catalog.store import CatalogStore
from sos.clock import ManualClock
from sos.core.catchup import CatchUp, MemberView
from sos.core.log_holds import LogHolds
from sos.raft.node import RaftNode

N1, N2 = NodeId("n1@0000000000000001"), NodeId("n2@0000000000000002")
BACK = MemberView(
    node=N2,
    is_connected=True,
    has_gateway=True,
    is_caught_up=True,
    is_up_to_date=True,
    doubt=0,
    blobs_owed=0,
    bytes_owed=0,
)


@dataclass
class Bed:
    """A leader and the jobs that it starts."""

    clock: ManualClock = field(default_factory=ManualClock)
    started: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    ends: list[Callable[[bool, dict[str, Any]], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.care = CatchUp(
            clock=self.clock, start_job=self._start, cancel_job=self.cancelled.append
        )

    def _start(
        self,
        kind: str,
        arguments: dict[str, Any],
        ended: Callable[[bool, dict[str, Any]], None],
    ) -> int:
        assert kind == "resync"
        self.started.append(arguments)
        self.ends.append(ended)
        return len(self.started)

    def update(self, *members: MemberView, after_s: float = 0.5) -> None:
        self.clock.advance(after_s)
        self.care.update(members)


def test_each_connection_is_compared_in_full_once() -> None:
    """Design 10: the full comparison is the truth; a new connection begins it again."""
    bed = Bed()
    bed.update(BACK)
    assert bed.started == [{"node": N2, "full": True}]
    assert not bed.care.is_in_sync(BACK)
    bed.ends[0](True, {"failed": 0})
    assert bed.care.is_in_sync(BACK)
    bed.update(BACK)
    bed.update(BACK, after_s=100)
    assert len(bed.started) == 1

    bed.update(replace(BACK, is_connected=False))
    assert not bed.care.is_compared(BACK)
    bed.update(BACK)

    assert len(bed.started) == 2


def test_nothing_begins_before_the_member_caught_up_and_has_a_gateway() -> None:
    """Design 10: first the log, then the blobs."""
    bed = Bed()
    bed.update(replace(BACK, is_caught_up=False))
    bed.update(replace(BACK, has_gateway=False))
    assert bed.started == []


def test_a_member_whose_gateway_died_is_compared_again() -> None:
    """protocols.md 4.7: what a gateway had not reported, a lost copy too, is lost with it."""
    bed = Bed()
    bed.update(BACK)
    bed.ends[0](True, {"failed": 0})
    bed.update(replace(BACK, has_gateway=False))
    assert not bed.care.is_in_sync(BACK)

    bed.update(BACK)

    assert bed.started[1:] == [{"node": N2, "full": True}]


def test_a_comparison_counts_only_as_long_as_nothing_is_in_doubt() -> None:
    """Issue 4, item 9: a gateway that came back within one report may have known of a lost copy."""
    bed = Bed()
    doubted = replace(BACK, doubt=1)
    bed.update(BACK)
    bed.update(doubted)  # while the first comparison runs
    bed.ends[0](True, {"failed": 0})
    assert not bed.care.is_compared(doubted)
    assert not bed.care.is_in_sync(doubted)
    bed.update(doubted)
    assert bed.started[1:] == [{"node": N2, "full": True}]

    bed.ends[1](True, {"failed": 0})
    bed.update(doubted)

    assert bed.care.is_in_sync(doubted)
    assert len(bed.started) == 2


def test_in_sync_needs_a_member_that_keeps_up() -> None:
    """protocols.md 4.7: near enough to begin a resync is not applied up to date."""
    bed = Bed()
    behind = replace(BACK, is_up_to_date=False)
    bed.update(behind)
    assert len(bed.started) == 1
    bed.ends[0](True, {"failed": 0})
    assert bed.care.is_compared(behind)
    assert not bed.care.is_in_sync(behind)


def test_every_hour_a_member_is_compared_again_and_stays_in_sync_meanwhile() -> None:
    """Files that went while nobody read them are found without an event."""
    bed = Bed()
    bed.update(BACK)
    bed.ends[0](True, {"failed": 0})
    bed.update(BACK, after_s=3500)
    assert len(bed.started) == 1

    bed.update(BACK, after_s=200)

    assert bed.started[1] == {"node": N2, "full": True}
    assert bed.care.is_in_sync(BACK)
    bed.ends[1](True, {"failed": 0})
    bed.update(BACK, after_s=3500)
    assert len(bed.started) == 2


def test_a_job_ends_with_the_connection_it_was_for() -> None:
    """Scenario 57: two jobs for one member would copy everything twice."""
    bed = Bed()
    bed.update(BACK)
    bed.update(replace(BACK, is_connected=False))
    assert bed.cancelled == [1]
    bed.update(BACK)
    bed.care.reset()  # another node leads
    assert bed.cancelled == [1, 2]


def test_status_tells_how_far_a_resync_is_and_how_fast() -> None:
    """Issue 5: progress, rate and ETA; nothing is told while none runs."""
    bed = Bed()
    assert bed.care.resync(N2) is None
    bed.update(BACK)
    assert bed.care.resync(N2) is None
    told = {"blobs_done": 1, "blobs_total": 4, "bytes_done": 100, "bytes_total": 400}
    bed.care.progress(1, {**told, "failed": 0})
    bed.clock.advance(2)

    assert bed.care.resync(N2) == {**told, "bytes_s": 50}
    assert bed.care.eta_s(N2) == 6.0
    bed.ends[0](True, {"failed": 0})
    assert bed.care.resync(N2) is None


def test_blobs_that_nobody_has_make_no_loop_of_comparisons() -> None:
    """Design 10: they stay owed and are asked for ever more seldom; members that come back are asked at once."""
    bed = Bed()
    bed.update(BACK)
    bed.ends.pop()(True, {"failed": 2})
    owing = replace(BACK, blobs_owed=2)
    assert bed.care.is_compared(BACK)
    for _ in range(200):
        bed.update(owing)
        if bed.ends:
            bed.ends.pop()(True, {"failed": 2})
    assert not bed.care.is_in_sync(owing)
    assert all(job == {"node": N2, "full": False} for job in bed.started[1:])
    assert 4 <= len(bed.started) <= 8  # 100 s, with pauses of 1, 2, 4, ... 30 s

    count = len(bed.started)
    other = replace(BACK, node=N1)
    for _ in range(4):
        bed.update(owing, other)

    assert {"node": N2, "full": False} in bed.started[count:]


def test_a_failed_comparison_is_repeated_in_full() -> None:
    """Nothing is known of what was not told."""
    bed = Bed()
    bed.update(BACK)
    bed.ends[0](False, {"error": "connection lost"})
    assert not bed.care.is_compared(BACK)
    bed.update(BACK, after_s=0.1)
    assert len(bed.started) == 1

    bed.update(BACK, after_s=1.0)

    assert bed.started[1] == {"node": N2, "full": True}


# --- the log behind copies of the catalog ---------------------------------------------------------
class FakeRaft:
    def __init__(self) -> None:
        self.applied_index = 1000
        self.held: int | None = None

    def hold_log_from(self, index: int | None) -> None:
        self.held = index


class FakeStore:
    durable_index = 990


class HoldBed:
    def __init__(self) -> None:
        self.raft, self.clock = FakeRaft(), ManualClock()
        self.holds = LogHolds(
            raft=cast(RaftNode, self.raft),
            store=cast(CatalogStore, FakeStore()),
            clock=self.clock,
        )
        self.applied: dict[NodeId, int] = {}

    def update(self, after_s: float = 1.0) -> int | None:
        self.clock.advance(after_s)
        self.holds.update(self.applied.get)
        return self.raft.held


def test_the_log_is_held_while_a_copy_is_fetched() -> None:
    """Design 12: nothing after the index of a snapshot being served is dropped."""
    bed = HoldBed()
    bed.applied[N2] = 5
    bed.holds.asked(N2, fetch=1)
    assert bed.raft.held == 989
    bed.raft.applied_index = 50_000
    for _ in range(100):
        bed.holds.asked(N2, fetch=1)
        assert bed.update() == 989

    bed.applied[N2] = 1_000  # installed: it is fed from here
    assert bed.update() == 1_000
    bed.applied[N2] = 49_990

    assert bed.update() is None


def test_a_hold_ends_with_a_fetch_that_failed_or_fell_silent() -> None:
    """P18: a member that is gone keeps no log."""
    bed = HoldBed()
    bed.holds.asked(N2, fetch=1)
    bed.holds.asked(N2, fetch=0)
    assert bed.raft.held is None
    bed.holds.asked(N2, fetch=2)
    bed.raft.applied_index = 9000
    assert bed.update() == 989

    assert bed.update(after_s=31) is None


def test_the_oldest_of_several_holds_counts() -> None:
    """Two members may fetch at once."""
    bed = HoldBed()
    bed.holds.asked(N1, fetch=1)
    FakeStore.durable_index = 2000
    bed.raft.applied_index = 2000
    bed.holds.asked(N2, fetch=1)
    FakeStore.durable_index = 990
    assert bed.raft.held == 989

    bed.holds.asked(N1, fetch=0)

    assert bed.raft.held == 1999
