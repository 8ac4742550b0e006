"""The journal: the library's interface, what sync promises, and what damage looks like."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pysyncobj.journal import Journal, MemoryJournal

from sos import failpoints
from sos.disk import SystemDisk
from sos.errors import EXIT_DAMAGE, EXIT_DISK, DiskFull, FatalStop, JournalDamaged, StartRefused
from sos.raft.journal import FileJournal, open_journal
from sos.raft.journal_format import Entry
from tests.faults import tmpfs
from tests.faults.simdisk import SimDisk, Write

INCARNATION = "00112233445566ff"
DIRECTORY = "/journal"


def make_disk() -> SimDisk:
    disk = SimDisk()
    disk.mkdir(DIRECTORY)
    disk.fsync_directory("/")
    return disk


def open_small(disk: SimDisk, **changes: Any) -> FileJournal:
    """A journal with tiny limits: rare branches must be common."""
    options: dict[str, Any] = {"segment_bytes": 2048, "kept_bytes_min": 0, "cache_bytes": 1000}
    return open_journal(disk, DIRECTORY, incarnation=INCARNATION, **(options | changes))


def entry(index: int, term: int = 0, size: int = 100) -> Entry:
    return (b"%d/%d:" % (index, term)).ljust(size, b"."), index, term


def fill(journal: FileJournal, first: int, last: int, term: int = 0, size: int = 100) -> None:
    for index in range(first, last + 1):
        journal.add(*entry(index, term, size))
        journal.sync()


def compact(journal: FileJournal, position: int) -> None:
    """Drop all that may go before ``position``; one call drops few segments."""
    target = journal.first_index + position
    first = -1
    while first != journal.first_index:
        first = journal.first_index
        journal.deleteEntriesTo(target - first)


def segments(disk: SimDisk) -> list[str]:
    return [name for name in disk.listing(DIRECTORY) if name.endswith(".seg")]


# --- the library's interface ----------------------------------------------------------------------
def test_behaves_as_the_librarys_own_journal() -> None:
    """Guards: PySyncObj gets from us what its own list gives, for every access it uses."""
    ours, theirs = open_small(make_disk()), MemoryJournal()
    assert len(ours) == 0
    assert (ours.getCurrentTerm(), ours.getVotedForNodeId(), ours.getRaftCommitIndex()) == (
        0,
        None,
        1,
    )
    for index in range(1, 60):
        for journal in (ours, theirs):
            journal.add(*entry(index))
        if index % 7 == 0:
            ours.sync()

    for position in (0, 1, 30, 58, -1, -2, -59):
        assert ours[position] == theirs[position]
    for part in (slice(5, None), slice(40, 50), slice(0, 200), slice(3, 3), slice(70, 80)):
        assert ours[part] == theirs[part]
    for journal in (ours, theirs):
        journal.deleteEntriesFrom(40)
        journal.deleteEntriesFrom(55)
        journal.add(*entry(41, 2))
    assert ours[:] == theirs[:]
    assert len(ours) == len(theirs)
    with pytest.raises(IndexError):
        ours[41]
    with pytest.raises(IndexError):
        ours[-42]


def test_has_all_that_the_library_may_call() -> None:
    """House style 8: the library has no types, so nothing else would notice a method that it calls and we lack."""
    wanted = {name for name in vars(Journal) if callable(getattr(Journal, name))}

    assert "setCurrentTerm" in wanted
    assert [name for name in wanted if name not in vars(FileJournal)] == []


def test_an_empty_journal_has_no_entries() -> None:
    """Guards: the library adds its first no-op only if the length is 0."""
    journal = open_small(make_disk())

    assert len(journal) == 0
    with pytest.raises(IndexError):
        journal[-1]
    with pytest.raises(IndexError):
        journal[0]
    assert journal[0:5] == []
    journal.clear()
    journal.sync()
    assert journal.read_entries(1, 10, 1000) == []


def test_reopened_it_holds_what_was_synced(tmp_path: Path) -> None:
    """Guards promise 1 on a real disk: log, term, vote and commit index survive a restart."""
    disk = SystemDisk()

    def reopen() -> FileJournal:
        return open_journal(disk, str(tmp_path), incarnation=INCARNATION, segment_bytes=8192)

    journal = reopen()
    fill(journal, 1, 300)
    journal.setCurrentTerm(7, "n2@00")
    fill(journal, 301, 320, term=7)
    journal.setRaftCommitIndex(320)
    journal.onOneSecondTimer()
    journal.add(*entry(321, 7))
    journal.close()

    again = reopen()
    assert again[:] == [entry(index) for index in range(1, 301)] + [
        entry(index, 7) for index in range(301, 321)
    ]
    assert (again.first_index, again.last_index, again.synced_index) == (1, 320, 320)
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (7, "n2@00")
    assert again.getRaftCommitIndex() == 320
    assert not again.recovered.torn_tail
    assert len(os.listdir(tmp_path)) > 4
    fill(again, 321, 330, term=7)
    again._destroy()
    assert reopen()[-1] == entry(330, 7)


def test_reads_within_limits() -> None:
    """Guards pysyncobj.md 16: reading for a peer stops at either limit and always gets on."""
    journal = open_small(make_disk())
    fill(journal, 1, 50)
    journal.add(*entry(51))

    assert journal.read_entries(3, 4, 10**6) == [entry(index) for index in range(3, 7)]
    assert journal.read_entries(3, 1000, 350) == [entry(index) for index in range(3, 6)]
    assert journal.read_entries(3, 1000, 1) == [entry(3)]
    assert journal.read_entries(49, 1000, 10**6) == [entry(49), entry(50), entry(51)]
    assert journal.read_entries(51, 1000, 1) == [entry(51)]
    assert journal.read_entries(52, 1000, 10**6) == []
    assert journal.read_entries(0, 1000, 10**6) == []


def test_entries_larger_than_a_segment() -> None:
    """Guards: an entry may be larger than a segment; it gets one of its own."""
    disk = make_disk()
    journal = open_small(disk)
    journal.add(*entry(1))
    journal.add(*entry(2, size=5000))
    journal.add(*entry(3, size=5000))
    journal.add(*entry(4))
    journal.sync()

    assert open_small(disk)[:] == [entry(1), entry(2, size=5000), entry(3, size=5000), entry(4)]


def test_wrong_order_is_a_bug_not_a_log() -> None:
    """Guards: index continuity and ascending terms, before anything is written."""
    journal = open_small(make_disk())
    journal.add(*entry(5, 3))

    with pytest.raises(AssertionError):
        journal.add(*entry(7, 3))
    with pytest.raises(AssertionError):
        journal.add(*entry(6, 2))
    with pytest.raises(AssertionError):
        journal.setCurrentTerm(-1, None)


# --- what is durable when -------------------------------------------------------------------------
def test_one_sync_for_all_that_was_added() -> None:
    """Guards speed: entries added together share one write and one fdatasync."""
    disk = make_disk()
    journal = open_small(disk, segment_bytes=65536)
    fill(journal, 1, 2)
    before = disk.calls.copy()

    for index in range(3, 40):
        journal.add(*entry(index))
    assert disk.calls == before
    journal.sync()
    journal.sync()

    spent = disk.calls - before
    assert spent == {"pwrite": 1, "fdatasync": 1} or spent == {"pwrite": 2, "fdatasync": 1}
    assert journal.synced_index == 39


def test_commit_index_means_durable() -> None:
    """Guards pysyncobj.md 4b: the leader's own copy is durable before anything is applied."""
    journal = open_small(make_disk())
    fill(journal, 1, 3)
    journal.add(*entry(4))
    journal.add(*entry(5))
    journal.setRaftCommitIndex(3)
    assert journal.synced_index == 3

    journal.setRaftCommitIndex(4)

    assert journal.synced_index == 5
    assert journal.getRaftCommitIndex() == 4


def test_truncation_lowers_the_synced_index_until_the_next_sync() -> None:
    """Guards: an acknowledgement never tells of an entry that was replaced and not synced again."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 30)
    journal.setCurrentTerm(1, None)

    journal.deleteEntriesFrom(9)
    assert (journal.last_index, journal.synced_index) == (9, 9)
    journal.add(*entry(10, 1))
    assert journal.synced_index == 9
    journal.sync()

    assert journal.synced_index == 10
    assert open_small(disk)[8:] == [entry(9), entry(10, 1)]


def test_vote_before_any_entry_makes_the_log_durable_first() -> None:
    """Guards: a vote without segments is how a deleted log looks, so it never arises otherwise."""
    disk = make_disk()
    journal = open_small(disk)
    journal.add(*entry(1))

    journal.setCurrentTerm(1, "n1@00")

    assert open_small(disk)[:] == [entry(1)]


def test_same_term_and_vote_are_not_written_again() -> None:
    """Guards speed: only a change costs a sync."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 1)
    journal.setCurrentTerm(1, "n1@00")
    before = disk.calls.copy()

    journal.setCurrentTerm(1, "n1@00")

    assert disk.calls == before


# --- dropping what is no longer needed ------------------------------------------------------------
def test_only_whole_segments_go_and_enough_stays() -> None:
    """Guards limits: compaction rewrites nothing, keeps ``kept_bytes_min``, and stops at the target."""
    disk = make_disk()
    journal = open_small(disk, kept_bytes_min=6000)
    fill(journal, 1, 100)
    names = segments(disk)
    before = disk.calls.copy()

    compact(journal, 50)

    assert disk.calls - before == {"unlink": len(names) - len(segments(disk))}
    assert 1 < journal.first_index <= 51
    assert journal[0] == entry(journal.first_index)
    assert open_small(disk)[:] == journal[:]
    compact(journal, len(journal))
    kept_bytes = 132 * len(journal) + 512 * len(segments(disk))
    assert 6000 <= kept_bytes < 6000 + 2048
    assert journal.first_index > 51
    assert open_small(disk)[:] == journal[:]


def test_an_io_error_of_an_unlink_stops_and_leaves_the_rest_in_step() -> None:
    """P19: what went before the error is gone for good, and the log still knows where it begins."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 60)
    old = segments(disk)
    disk.fail("unlink", 2, "eio")

    with pytest.raises(FatalStop) as stop:
        journal.deleteEntriesTo(50)

    assert stop.value.exit_code == EXIT_DISK
    assert segments(disk) == old[1:]
    first = journal.first_index
    assert first > 1
    assert len(journal) == 61 - first
    assert journal[0] == entry(first)
    assert journal.read_entries(first, 100, 1 << 20) == [entry(n) for n in range(first, 61)]
    with pytest.raises(FatalStop):
        fill(journal, 61, 61)
    disk.crash()
    assert open_small(disk).first_index == first


def test_a_held_snapshot_keeps_its_entries_up_to_the_maximum() -> None:
    """Guards: a member that pulls a snapshot finds what follows it, but not at any price."""
    journal = open_small(make_disk(), kept_bytes_max=8000)
    fill(journal, 1, 40)
    journal.hold_from(20)
    compact(journal, 40)
    assert 1 < journal.first_index <= 20

    fill(journal, 41, 200)
    compact(journal, len(journal))
    assert journal.first_index > 20

    held = journal.first_index
    journal.hold_from(held)
    compact(journal, len(journal))
    assert journal.first_index == held
    journal.hold_from(None)
    compact(journal, len(journal))
    assert journal.first_index > held


def test_reset_to_a_snapshot() -> None:
    """Guards protocols.md 6: the log is [S-1, S] and goes on from there."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 60)
    journal.setCurrentTerm(4, None)

    journal.reset_to([entry(499, 3), entry(500, 4)])

    assert len(segments(disk)) == 1
    assert (journal.first_index, journal.last_index, journal.synced_index) == (499, 500, 500)
    fill(journal, 501, 540, term=4)
    assert open_small(disk)[:3] == [entry(499, 3), entry(500, 4), entry(501, 4)]


def test_the_cache_is_bounded_and_never_wrong() -> None:
    """Guards memory: only recent entries stay in memory, and all others come back from disk."""
    journal = open_small(make_disk(), cache_bytes=3000)
    fill(journal, 1, 400)

    assert len(journal._recent) <= 10
    assert journal[:] == [entry(index) for index in range(1, 401)]
    assert journal[123] == entry(124)


# --- faults ---------------------------------------------------------------------------------------
def test_a_full_disk_loses_nothing_and_may_be_tried_again() -> None:
    """Guards: DiskFull leaves the journal usable; what was added goes with the next sync."""
    for kind in ("enospc", "short"):
        for operation in ("create", "fallocate", "pwrite", "rename"):
            if kind == "short" and operation != "pwrite":
                continue
            disk = make_disk()
            journal = open_small(disk)
            fill(journal, 1, 12)
            fault = disk.fail(operation, 2 if operation == "pwrite" else 1, kind)
            index = 12
            while not fault.hits:
                index += 1
                journal.add(*entry(index))
                try:
                    journal.sync()
                except DiskFull:
                    assert journal.synced_index < index
            journal.deleteEntriesFrom(index - 1)
            journal.add(*entry(index, 0, 30))
            journal.sync()

            expected = [entry(at) for at in range(1, index)] + [entry(index, 0, 30)]
            assert journal[:] == expected
            for state in disk.power_loss_states():
                assert open_small(state)[:] == expected


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync", "fsync", "fsync_directory", "create"])
def test_an_io_error_stops_for_good(operation: str) -> None:
    """Guards design 11: after a failed write or sync nothing is acknowledged any more."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 3)
    disk.fail(operation, 1, "eio")
    durable = 3
    with pytest.raises(FatalStop) as stop:  # noqa: PT012 - it fails at some entry
        for index in range(4, 100):
            journal.add(*entry(index))
            journal.sync()
            durable = index
    assert stop.value.exit_code == EXIT_DISK

    with pytest.raises(FatalStop):
        journal.sync()
    assert journal.synced_index == durable
    journal.close()
    disk.crash()
    for state in disk.power_loss_states():
        assert open_small(state)[:durable] == [entry(index) for index in range(1, durable + 1)]


def test_an_io_error_of_the_vote_stops_for_good() -> None:
    """Guards: a vote whose sync failed is never told to anybody."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 1)
    disk.fail("fsync", 1, "eio", part="vote")

    with pytest.raises(FatalStop):
        journal.setCurrentTerm(1, "n1@00")

    assert journal.getCurrentTerm() == 0
    with pytest.raises(FatalStop):
        journal.setCurrentTerm(2, "n1@00")


@tmpfs.needs_tmpfs
def test_a_vote_needs_no_free_space(tmp_path: Path) -> None:
    """A disk may run full between asking for room and the vote: that must not end the node. Nor the next vote."""
    with tmpfs.small_disk(tmp_path, 1 << 20):
        directory = str(tmp_path / "journal")
        os.mkdir(directory)
        options: dict[str, Any] = {"incarnation": INCARNATION, "segment_bytes": 64 * 1024}
        journal = open_journal(SystemDisk(), directory, **options)
        journal.add(*entry(1))
        journal.sync()
        tmpfs.fill(tmp_path)

        for term in range(1, 20):
            journal.setCurrentTerm(term, None)
            journal.setCurrentTerm(term, "n1@00")
            journal.onOneSecondTimer()
        journal.close()

        again = open_journal(SystemDisk(), directory, **options)
        assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (19, "n1@00")
        again.close()


def test_a_spare_for_the_next_vote_comes_with_the_space() -> None:
    """The spare that found no room is made within a second of there being some, and then a vote needs none."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 1)
    disk.fail("pwrite", 2, "enospc", part="vote")
    journal.setCurrentTerm(1, "n1@00")
    assert disk.listing(DIRECTORY).count("vote.spare") == 0

    journal.onOneSecondTimer()
    disk.fail("create", 1, "enospc", part="vote")
    journal.setCurrentTerm(2, "n1@00")

    assert journal.getCurrentTerm() == 2
    for state in disk.power_loss_states():
        assert open_small(state).getCurrentTerm() == 2


def test_pages_of_a_failed_sync_are_not_trusted_after_a_restart() -> None:
    """Guards: a killed process' unsynced records count only after they were written and synced again."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 3)
    journal.add(*entry(4))
    point: list[SimDisk] = []
    disk.on_change = lambda: point.append(disk.clone())
    journal.sync()

    written = [state for state in point if state._file(f"{DIRECTORY}/{segments(disk)[0]}").unsynced]
    assert written
    for state in written:
        state.crash()
        again = open_small(state)
        for after in state.power_loss_states():
            assert open_small(after)[:] == again[:]


def test_what_a_torn_batch_left_never_comes_back() -> None:
    """Guards write once: an entry appended after a torn tail has none of the torn ones behind it."""
    disk = make_disk()
    journal = open_small(disk, segment_bytes=8192)
    fill(journal, 1, 2, size=480)
    for index in (3, 4, 5):
        journal.add(*entry(index, size=480))
    point: list[SimDisk] = []
    disk.on_change = lambda: point.append(disk.clone())
    journal.sync()
    torn = next(state for state in point if state.calls["fdatasync"] == disk.calls["fdatasync"] - 1)
    inode = torn._file(f"{DIRECTORY}/{segments(torn)[0]}")
    batch = inode.unsynced[-1]
    assert isinstance(batch, Write)
    inode.settle(list(batch.sectors())[1:])

    again = open_small(torn, segment_bytes=8192)
    assert again[:] == [entry(1, size=480), entry(2, size=480)]
    assert again.recovered.torn_tail
    again.setCurrentTerm(1, None)
    again.add(*entry(3, 1, size=480))
    torn.on_change = lambda: point.append(torn.clone())
    point.clear()
    again.sync()

    assert open_small(torn)[2:] == [entry(3, 1, size=480)]
    for state in (state for at in point for state in at.power_loss_states()):
        assert open_small(state)[2:] in ([], [entry(3, 1, size=480)])


def test_what_a_short_write_left_never_comes_back() -> None:
    """Guards write once: after DiskFull other entries may follow, and those half written are no danger."""
    disk = make_disk()
    journal = open_small(disk, segment_bytes=8192)
    fill(journal, 1, 2, size=480)
    for index in range(3, 9):
        journal.add(*entry(index, size=480))
    disk.fail("pwrite", 1, "short")
    journal._store._zeroed_to = 8192
    with pytest.raises(DiskFull):
        journal.sync()

    journal.deleteEntriesFrom(2)
    journal.setCurrentTerm(1, None)
    journal.add(*entry(3, 1, size=480))
    journal.sync()

    assert open_small(disk)[2:] == [entry(3, 1, size=480)]


def test_rot_in_the_first_batch_of_a_segment_is_damage() -> None:
    """Guards: what was durable before the segment had its name is never taken for a torn tail."""
    disk = make_disk()
    fill(open_small(disk), 1, 1)

    disk.flip_bit(f"{DIRECTORY}/{segments(disk)[0]}", 8 * 600)

    with pytest.raises(JournalDamaged):
        open_small(disk)


def test_what_a_failed_sync_left_in_the_page_cache_is_written_again() -> None:
    """Guards: ext4 shows the pages of a failed sync as clean; a restart may see entries that are not there."""
    disk = make_disk()
    disk.stale_cache = True
    journal = open_small(disk)
    fill(journal, 1, 3)
    journal.add(*entry(4))
    disk.fail("fdatasync", 1, "eio")
    with pytest.raises(FatalStop):
        journal.sync()
    disk.crash()

    again = open_small(disk)

    assert again.synced_index == again.last_index
    for state in disk.power_loss_states():
        assert open_small(state)[:] == again[:]


def test_no_space_or_io_error_at_start() -> None:
    """Guards: a start that fails says why in one line, with the right exit code."""
    disk = make_disk()
    disk.fail("create", 1, "enospc")
    with pytest.raises(StartRefused, match="no space"):
        open_small(disk)
    disk = make_disk()
    fill(open_small(disk), 1, 3)
    disk.fail("pread", 1, "eio")
    with pytest.raises(FatalStop) as stop:
        open_small(disk)
    assert stop.value.exit_code == EXIT_DISK


def test_rot_found_while_running_stops() -> None:
    """Guards: an old entry that no longer reads as written is never sent to anybody."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 40)
    disk.flip_bit(f"{DIRECTORY}/{segments(disk)[0]}", 8 * 600)

    with pytest.raises(FatalStop) as stop:
        journal[0:5]
    assert stop.value.exit_code == EXIT_DAMAGE


def _damage(kind: str, disk: SimDisk, names: list[str]) -> None:
    first, middle, last = (f"{DIRECTORY}/{names[at]}" for at in (0, 1, -1))
    match kind:
        case "a record before the tail":
            disk.flip_bit(last, 8 * 600)
        case "an older segment":
            disk.flip_bit(middle, 8 * 700)
        case "a header":
            disk.flip_bit(first, 8 * 20)
        case "the last header":
            disk.flip_bit(last, 8 * 20)
        case "a short segment":
            disk.cut_file(middle, 1000)
        case "a short last segment":
            disk.cut_file(last, 2000)
        case "a lost segment":
            disk.lose_file(middle)
        case "a lost last segment":
            disk.lose_file(last)
        case "all segments lost":
            for name in names:
                disk.lose_file(f"{DIRECTORY}/{name}")
        case "a lost vote":
            disk.lose_file(f"{DIRECTORY}/vote")
        case "a rotten vote":
            disk.flip_bit(f"{DIRECTORY}/vote", 200)
        case "an empty vote":
            disk.cut_file(f"{DIRECTORY}/vote", 0)


DAMAGES = [
    "a record before the tail",
    "an older segment",
    "a header",
    "the last header",
    "a short segment",
    "a short last segment",
    "a lost segment",
    "a lost last segment",
    "all segments lost",
    "a lost vote",
    "a rotten vote",
    "an empty vote",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_refused(kind: str) -> None:
    """Guards pysyncobj.md 3: damage before the tail means that the node must not vote."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 30)
    journal.setCurrentTerm(1, "n1@00")
    fill(journal, 31, 40, term=1)
    journal.setRaftCommitIndex(40)
    journal.onOneSecondTimer()

    _damage(kind, disk, segments(disk))

    with pytest.raises(JournalDamaged) as refused:
        open_small(disk)
    assert refused.value.exit_code == EXIT_DAMAGE
    assert "\n" not in str(refused.value)
    assert "sos rejoin" in str(refused.value)


def test_an_old_vote_file_put_back_is_refused() -> None:
    """Guards: a vote that is older than the log was rolled back: the node could vote twice."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 1)
    journal.setCurrentTerm(1, "n1@00")
    old = disk.names[f"{DIRECTORY}/vote"]
    journal.setCurrentTerm(5, "n2@00")
    fill(journal, 2, 3, term=5)
    disk.names[f"{DIRECTORY}/vote"] = disk.durable_names[f"{DIRECTORY}/vote"] = old

    with pytest.raises(JournalDamaged, match="older than the log"):
        open_small(disk)


def test_a_journal_of_another_incarnation_is_refused() -> None:
    """Guards protocols.md 1: files of another incarnation promise nothing for this one."""
    disk = make_disk()
    journal = open_small(disk)
    fill(journal, 1, 3)

    with pytest.raises(JournalDamaged):
        open_journal(disk, DIRECTORY, incarnation="ffffffffffffffff")


def test_failpoints_of_journal_and_vote_are_reached() -> None:
    """Guards faults.md 3.7: every failpoint of these files is passed."""
    failpoints.arm("put.spool.created=eio", test_mode=True)
    try:
        journal = open_small(make_disk())
        fill(journal, 1, 30)
        journal.setCurrentTerm(1, None)
        passed = failpoints.reached()
    finally:
        failpoints.arm(None, test_mode=False)

    assert passed == {
        "journal.append.before_sync",
        "journal.append.after_sync",
        "journal.segment.switch",
        "vote.before_save",
        "vote.after_save",
    }
