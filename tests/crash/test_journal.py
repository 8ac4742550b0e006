"""Every crash state of journal and vote (faults.md 3.4), on the simulated disk.

A script runs once; at each change of the disk a copy is kept, with what was promised until then. Then the
power is cut at each copy in every way that the disk knows, and the journal is opened again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sos.raft.journal import FileJournal, open_journal
from sos.raft.journal_format import Entry
from tests.faults.simdisk import SimDisk

INCARNATION = "00112233445566ff"
DIRECTORY = "/journal"
Vote = tuple[int, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place to crash at: the disk, and what recovery may find."""

    disk: SimDisk
    promised: list[Entry]  # as of the last sync that returned
    meant: list[Entry]  # what the journal in memory says
    votes: tuple[Vote, ...]  # the last one saved, and the one that is being saved
    floor: int  # entries before this index may be dropped, or be back
    resetting: bool


class Recorder:
    """Runs operations on a journal and keeps every point to crash at."""

    def __init__(self, *, segment_bytes: int = 1536) -> None:
        self.disk = SimDisk()
        self.disk.mkdir(DIRECTORY)
        self.disk.fsync_directory("/")
        self.points: list[Point] = []
        self.segment_bytes = segment_bytes
        self.promised: list[Entry] = []
        self.meant: list[Entry] = []
        self.votes: tuple[Vote, ...] = ((0, None),)
        self.floor = 1
        self.resetting = False
        self.disk.on_change = self._keep
        self.journal = open_small(self.disk, segment_bytes)

    def _keep(self) -> None:
        self.points.append(
            Point(
                disk=self.disk.clone(),
                promised=list(self.promised),
                meant=list(self.meant),
                votes=self.votes,
                floor=self.floor,
                resetting=self.resetting,
            )
        )

    def add(self, count: int, *, term: int, size: int = 60) -> None:
        for _ in range(count):
            index = self.meant[-1][1] + 1 if self.meant else 1
            entry = (b"%d/%d:" % (index, term)).ljust(size, b"."), index, term
            self.meant.append(entry)
            self.journal.add(*entry)

    def sync(self) -> None:
        self.journal.sync()
        self.promised = list(self.meant)
        self._keep()

    def cut(self, index: int) -> None:
        """Delete from ``index`` on."""
        del self.meant[index - self.meant[0][1] :]
        self.journal.deleteEntriesFrom(index - self.journal.first_index)

    def reset(self, index: int, *, term: int, size: int = 60) -> None:
        new = [(b"%d" % at * size, at, term) for at in (index - 1, index)]
        self.meant = list(new)
        self.resetting = True
        self.journal.reset_to(new)
        self.resetting = False
        self.promised = list(new)
        self.floor = index - 1
        self._keep()

    def drop(self, index: int) -> None:
        self.floor = index
        self.journal.deleteEntriesTo(index - self.journal.first_index)
        assert self.journal.first_index <= index

    def vote(self, term: int, name: str | None) -> None:
        self.votes = (self.votes[-1], (term, name))
        self.journal.setCurrentTerm(term, name)
        self.votes = ((term, name),)
        self._keep()

    def progress(self) -> None:
        self.journal.setRaftCommitIndex(self.promised[-1][1])
        self.journal.onOneSecondTimer()


def open_small(disk: SimDisk, segment_bytes: int = 1536) -> FileJournal:
    return open_journal(
        disk,
        DIRECTORY,
        incarnation=INCARNATION,
        segment_bytes=segment_bytes,
        kept_bytes_min=0,
        cache_bytes=500,
    )


def may_be(found: list[Entry], point: Point) -> bool:
    """Whether recovery may find this: the promised log, or a step on the way to the one that is meant."""
    found, promised, meant = (
        [entry for entry in log if entry[1] >= point.floor]
        for log in (found, point.promised, point.meant)
    )
    if point.resetting or found == promised:
        return found in (promised, meant)
    common = 0
    for old, new in zip(promised, meant, strict=False):
        if old != new:
            break
        common += 1
    return len(found) >= common and found == meant[: len(found)]


def check(point: Point, state: SimDisk) -> FileJournal:
    """The oracle: it starts, what was synced is there, the vote is not older than any answer."""
    journal = open_small(state)
    found = journal[:]
    assert not found or found[0][1] <= point.floor or point.resetting
    assert may_be(found, point), (found, point.promised, point.meant)
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) in point.votes
    assert journal.synced_index == journal.last_index
    return journal


def contents(disk: SimDisk) -> dict[str, bytes]:
    names = disk.listing(DIRECTORY)
    return {name: disk.content(f"{DIRECTORY}/{name}") for name in names}


def script_append(run: Recorder) -> None:
    """First start, groups of entries, several segments."""
    run.add(1, term=0)
    run.vote(1, "n1@00")
    run.sync()
    for count in (1, 3, 8, 1, 14, 2):
        run.add(count, term=1)
        run.sync()
    run.progress()
    run.add(2, term=1, size=3000)
    run.sync()
    run.add(3, term=1)
    run.progress()
    run.sync()


def script_truncate(run: Recorder) -> None:
    """Conflicting tails are replaced: by equal sizes, by fewer, over segment borders, twice."""
    run.add(1, term=0)
    run.sync()
    run.add(12, term=0)
    run.sync()
    run.vote(2, None)
    run.add(1, term=2)
    run.sync()
    run.vote(3, None)
    run.add(6, term=3)
    run.sync()
    run.cut(15)  # the new leader's entry has a lower term than the one it replaces
    run.vote(4, None)
    run.add(1, term=2)
    run.sync()
    run.add(1, term=4)
    run.sync()
    run.cut(5)
    run.cut(4)
    run.sync()
    run.add(2, term=4)
    run.sync()
    run.add(2, term=4)
    run.cut(6)
    run.add(1, term=4, size=200)
    run.sync()


def script_reset(run: Recorder) -> None:
    """Snapshots are installed over a log, with entries that fill more than a segment."""
    for count in (1, 20, 20):
        run.add(count, term=0)
        run.sync()
    run.vote(5, None)
    run.progress()
    run.reset(100, term=5)
    run.add(2, term=5)
    run.sync()
    run.progress()
    run.reset(300, term=5, size=500)
    run.add(12, term=5)
    run.sync()


def script_drop(run: Recorder) -> None:
    """Old segments go while new ones come; a truncation in between."""
    run.add(1, term=0)
    run.sync()
    run.vote(2, "n3@11")
    for _ in range(4):
        run.add(10, term=2)
        run.sync()
        run.progress()
        run.drop(run.meant[-1][1] - 4)
    run.vote(3, None)
    run.add(3, term=2)
    run.sync()
    run.cut(run.meant[-1][1] - 1)
    run.add(1, term=3)
    run.sync()
    run.add(12, term=3)
    run.sync()
    run.drop(run.meant[-1][1])


def script_vote(run: Recorder) -> None:
    """Terms and votes, with an empty log at first."""
    run.add(1, term=0)
    for term in (1, 2, 7):
        run.vote(term, None)
        run.vote(term, f"n{term}@00")
        run.add(1, term=term)
        run.sync()


SCRIPTS = [script_append, script_truncate, script_reset, script_drop, script_vote]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_crash_state_recovers(script: Callable[[Recorder], None]) -> None:
    """Guards promise 1: after a power cut at any point, the log starts and holds all that was synced.

    Also: a second recovery changes nothing, and after one the journal takes entries that survive.
    """
    run = Recorder()
    script(run)
    states = 0
    for at, point in enumerate(run.points):
        for number, state in enumerate(point.disk.power_loss_states()):
            states += 1
            first = check(point, state)
            after_first = contents(state)
            second = open_small(state)
            assert second[:] == first[:]
            assert contents(state) == after_first
            if (at + number) % 5 == 0:
                _goes_on(second, state)
    assert states > 300, states


def _goes_on(journal: FileJournal, disk: SimDisk) -> None:
    """What is appended after a recovery survives, and nothing comes back behind it."""
    index = max(journal.last_index, 0) + 1
    term = journal.getCurrentTerm() + 1
    journal.add(b"after".ljust(60, b"."), index, term - 1)
    journal.sync()
    journal.setCurrentTerm(term, None)
    expected = journal[:]
    journal.add(b"not synced".ljust(60, b"."), index + 1, term)
    for state in disk.power_loss_states():
        assert open_small(state)[:] == expected
    journal.sync()
    for state in disk.power_loss_states():
        assert open_small(state)[-1][1] == index + 1


@pytest.mark.parametrize("script", SCRIPTS)
def test_crashes_of_the_recovery_recover(script: Callable[[Recorder], None]) -> None:
    """Guards faults.md 3.4 (twice): a crash while recovering is recovered from as well."""
    run = Recorder()
    script(run)
    rng = random.Random(1)
    recoveries = 0
    for point in run.points:
        for state in point.disk.power_loss_states():
            if rng.random() > 0.03:
                continue
            inner: list[SimDisk] = []
            state.on_change = lambda state=state, inner=inner: inner.append(state.clone())
            check(point, state)
            for cut in inner:
                recoveries += 1
                for again in cut.power_loss_states():
                    check(point, again)
    assert recoveries > 5


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_killed_process_loses_nothing_it_wrote_and_torn_tails_are_cut(
    script: Callable[[Recorder], None],
) -> None:
    """Guards faults.md 3.1.3: kill -9 keeps the page cache; random power cuts after it lose no promise."""
    run = Recorder()
    script(run)
    rng = random.Random(7)
    torn = 0
    for point in run.points:
        killed = point.disk.clone()
        killed.crash()
        journal = check(point, killed)
        for _ in range(6):
            cut = killed.clone()
            cut.power_loss(rng)
            assert open_small(cut)[:] == journal[:]
            cut = point.disk.clone()
            cut.power_loss(rng)
            torn += check(point, cut).recovered.torn_tail
    if script in (script_append, script_drop):
        assert torn > 0


def test_without_syncs_the_oracle_complains() -> None:
    """Guards the test itself: with syncs that do nothing, promised entries are missing."""
    run = Recorder()
    run.disk.ignore_syncs = True
    script_append(run)

    lost = 0
    for state in run.points[-1].disk.power_loss_states():
        try:
            check(run.points[-1], state)
        except Exception:  # noqa: BLE001 - any complaint will do
            lost += 1
    assert lost > 0
