"""What a core knows of its disk and does about it: free space, sync times, hand-over."""

from __future__ import annotations

from pathlib import Path

import pytest

from sos.catalog.model import NodeId
from sos.clock import ManualClock
from sos.core.disk_watch import DiskWatch
from sos.core.handover import DiskReport, HandOver, Successor
from sos.core.messages import AppKind, AppRefused, check_disk, decode_app, encode_disk
from sos.core.sync_times import SyncTimes, TimedDisk
from sos.disk_sizes import sizes_for
from sos.limits import ENTRY_BYTES_MAX, GIB, JOURNAL_KEPT_BYTES_MIN, JOURNAL_SEGMENT_BYTES, MIB
from sos.settings import TestConfig

N2, N3 = NodeId("n2@0000000000000002"), NodeId("n3@0000000000000003")
SLOW = DiskReport(sync_s=0.2, is_full=False)
FAST = DiskReport(sync_s=0.002, is_full=False)
FULL = DiskReport(sync_s=None, is_full=True)


def _choices(
    hand_over: HandOver, clock: ManualClock, own: DiskReport, *others: Successor, seconds: float
) -> list[NodeId]:
    """What is chosen when asked twice a second."""
    chosen = []
    for _ in range(round(seconds * 2)):
        heir = hand_over.choose(own, others)
        if heir is not None:
            chosen.append(heir)
        clock.advance(0.5)
    return chosen


def test_a_leader_that_is_slow_for_long_hands_over_to_the_fastest() -> None:
    """Scenario 35: not for one hiccup, within seconds otherwise."""
    clock = ManualClock()
    hand_over = HandOver(clock)
    others = (
        Successor(node=N2, disk=DiskReport(sync_s=0.01, is_full=False)),
        Successor(node=N3, disk=FAST),
    )
    assert not _choices(hand_over, clock, SLOW, *others, seconds=1.0)
    assert not _choices(hand_over, clock, FAST, *others, seconds=1.0), "it was a hiccup"
    assert _choices(hand_over, clock, SLOW, *others, seconds=3.0) == [N3]


@pytest.mark.parametrize(
    "disk",
    [
        SLOW,
        DiskReport(sync_s=0.051, is_full=False),  # better, not clearly
        DiskReport(sync_s=None, is_full=False),  # nobody knows
        FULL,
    ],
)
def test_nobody_is_handed_to_who_is_not_clearly_better(disk: DiskReport) -> None:
    """Where all disks are slow, leadership stays: moving it helps nobody."""
    clock = ManualClock()
    assert not _choices(HandOver(clock), clock, SLOW, Successor(node=N2, disk=disk), seconds=30.0)


def test_it_is_tried_again_when_it_failed_and_rests_when_it_worked() -> None:
    """It never ping-pongs: at most once a minute."""
    clock = ManualClock()
    hand_over, other = HandOver(clock), Successor(node=N2, disk=FAST)
    assert len(_choices(hand_over, clock, SLOW, other, seconds=12.0)) == 3, "each 5 s"
    hand_over.stepped_down()
    assert not _choices(hand_over, clock, SLOW, other, seconds=55.0)
    assert _choices(hand_over, clock, SLOW, other, seconds=6.0)


def test_a_full_leader_hands_over_at_once_to_whom_has_room() -> None:
    """Scenario 38: also to one whose syncs nobody knows."""
    clock = ManualClock()
    others = (
        Successor(node=N2, disk=FULL),
        Successor(node=N3, disk=DiskReport(sync_s=None, is_full=False)),
    )
    assert HandOver(clock).choose(FULL, others) == N3
    assert HandOver(clock).choose(FULL, others[:1]) is None


def test_sync_times_tell_the_median_of_the_last_moments() -> None:
    """One hiccup is not a slow disk, and an idle journal says nothing."""
    clock = ManualClock()
    times = SyncTimes(clock)
    seen: list[float] = []
    times.observe = seen.append
    assert times.typical_s() is None
    for seconds in (0.001, 5.0, 0.002):
        times.note(seconds)
    assert (times.typical_s(), times.last_s) == (0.002, 0.002)
    assert seen == [0.001, 5.0, 0.002]
    for _ in range(8):
        times.note(0.2)
    assert times.typical_s() == 0.2
    clock.advance(11.0)
    assert times.typical_s() is None


def test_a_timed_disk_notes_every_sync_of_its_files(tmp_path: Path) -> None:
    """Issue 5, item 8: the operator sees how long syncs take."""
    times = SyncTimes(ManualClock())
    disk = TimedDisk(times)
    seen: list[float] = []
    times.observe = seen.append
    file = disk.create(str(tmp_path / "file"))
    file.pwrite(b"x", 0)
    file.fsync()
    file.fdatasync()
    file.close()
    disk.open(str(tmp_path / "file")).close()
    assert len(seen) == 2


def test_a_disk_is_low_below_its_reserve_and_full_below_its_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Design 11: low ends only clearly above the reserve; what asks for room gets an answer of this moment."""
    watch = DiskWatch(str(tmp_path), sizes=sizes_for(100 * GIB, TestConfig()))
    free = 600 * MIB

    class Space:
        f_frsize = 1
        f_blocks = 1000 * MIB

        @property
        def f_bavail(self) -> int:
            return free

    monkeypatch.setattr("os.statvfs", lambda _: Space())
    assert not watch.look()
    free = 500 * MIB
    assert watch.look()
    assert (watch.is_low, watch.is_full) == (True, False)
    free = 520 * MIB
    assert not watch.look(), "it would flap"
    free = 700 * MIB
    assert watch.look()
    assert not watch.is_low
    assert watch.room_bytes() == 700 * MIB
    free = 79 * MIB
    assert watch.room_bytes() == 79 * MIB
    assert watch.is_full


def test_sizes_follow_a_small_disk_and_what_a_test_set_stays() -> None:
    """A disk of 256 MiB takes objects too, and below its reserve a delete still finds room for a journal segment."""
    large = sizes_for(100 * GIB, TestConfig())
    assert (large.reserve, large.floor) == (512 * MIB, 80 * MIB)
    assert (large.segment, large.journal_kept_min) == (
        JOURNAL_SEGMENT_BYTES,
        JOURNAL_KEPT_BYTES_MIN,
    )
    for total in (64 * MIB, 256 * MIB, 1 * GIB, 4 * GIB, 100 * GIB):
        sizes = sizes_for(total, TestConfig())
        assert sizes.segment < sizes.floor < sizes.reserve <= total // 8
        assert sizes.journal_kept_min + sizes.reserve <= total // 4
    assert sizes_for(256 * MIB, TestConfig()).floor > ENTRY_BYTES_MAX
    forced = sizes_for(256 * MIB, TestConfig(disk_reserve_bytes=1 << 60, journal_segment_bytes=1))
    assert (forced.reserve, forced.segment) == (1 << 60, 1)


@pytest.mark.parametrize("disk", [SLOW, FULL])
def test_the_word_on_a_disk_comes_back(disk: DiskReport) -> None:
    kind, fields = decode_app(encode_disk(disk))
    assert kind is AppKind.DISK
    assert check_disk(fields) == disk


@pytest.mark.parametrize("fields", [[], [1], [True, True], [1, 1], ["1", False]])
def test_another_word_on_a_disk_is_refused(fields: list[object]) -> None:
    with pytest.raises(AppRefused):
        check_disk(fields)
