"""The journal against a plain list, with crashes in between; and rot of every file, bit by bit."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sos.errors import JournalDamaged
from sos.raft.journal import FileJournal, open_journal
from sos.raft.journal_format import (
    HEADER_BYTES,
    RECORD_BYTES,
    Entry,
    encode_records,
    find_records,
    parse_header,
    parse_progress,
    parse_record,
    parse_vote,
    segment_seed,
)
from tests.faults.simdisk import SimDisk

INCARNATION = "00112233445566ff"
DIRECTORY = "/journal"


def open_small(disk: SimDisk, *, cache_bytes: int = 700) -> FileJournal:
    return open_journal(
        disk,
        DIRECTORY,
        incarnation=INCARNATION,
        segment_bytes=2048,
        kept_bytes_min=0,
        cache_bytes=cache_bytes,
    )


class JournalMachine(RuleBasedStateMachine):
    """``model``: the log; ``durable``: how it was when the last sync returned."""

    @initialize(cache_bytes=st.sampled_from([0, 700, 100_000]))
    def start(self, cache_bytes: int) -> None:
        self.disk = SimDisk()
        self.disk.mkdir(DIRECTORY)
        self.disk.fsync_directory("/")
        self.cache_bytes = cache_bytes
        self.journal = open_small(self.disk, cache_bytes=cache_bytes)
        self.model: list[Entry] = [(b"\x01", 1, 0)]
        self.durable: list[Entry] = []
        self.term = 0
        self.committed = 1
        self.journal.add(*self.model[0])
        self.sync()

    @rule(sizes=st.lists(st.integers(0, 1500), min_size=1, max_size=8), fill=st.binary(max_size=40))
    def add(self, sizes: list[int], fill: bytes) -> None:
        for size in sizes:
            entry = ((fill * (size // max(len(fill), 1)))[:size], self.model[-1][1] + 1, self.term)
            self.model.append(entry)
            self.journal.add(*entry)

    @rule()
    def sync(self) -> None:
        self.journal.sync()
        self.durable = list(self.model)

    @rule(back=st.integers(0, 30))
    def cut(self, back: int) -> None:
        index = max(self.committed + 1, self.model[-1][1] + 1 - back, self.model[0][1] + 1)
        del self.model[index - self.model[0][1] :]
        self.journal.deleteEntriesFrom(index - self.journal.first_index)
        self.new_term(1)

    @rule(step=st.integers(1, 3))
    def new_term(self, step: int) -> None:
        self.term += step
        self.journal.setCurrentTerm(self.term, f"n{step}@00" if step > 1 else None)

    @rule()
    def commit(self) -> None:
        self.committed = max(self.committed, self.model[-1][1] - 3)
        is_synced = self.committed <= self.journal.synced_index
        self.journal.setRaftCommitIndex(self.committed)
        assert self.journal.synced_index >= self.committed
        if not is_synced:
            self.durable = list(self.model)
        self.journal.onOneSecondTimer()

    @rule(keep=st.integers(1, 40))
    def drop(self, keep: int) -> None:
        target = min(self.committed, self.model[-1][1] - keep)
        if target > self.journal.first_index:
            self.journal.deleteEntriesTo(target - self.journal.first_index)
            first = self.journal.first_index
            assert first <= target
            self.model = [entry for entry in self.model if entry[1] >= first]
            self.durable = [entry for entry in self.durable if entry[1] >= first]

    @rule(jump=st.integers(2, 1000))
    def reset(self, jump: int) -> None:
        index = self.model[-1][1] + jump
        self.model = [(b"before", index - 1, self.term), (b"snapshot", index, self.term)]
        self.journal.reset_to(self.model)
        self.durable = list(self.model)
        self.committed = index

    @rule(seed=st.integers(0, 2**32), power=st.booleans())
    def crash(self, seed: int, power: bool) -> None:
        if power:
            self.disk.power_loss(random.Random(seed))
        else:
            self.disk.crash()
        self.journal = open_small(self.disk, cache_bytes=self.cache_bytes)
        found = self.journal[:]
        first = self.model[0][1]
        kept = [entry for entry in found if entry[1] >= first]
        assert found[0][1] <= first
        common = 0
        for old, new in zip(self.durable, self.model, strict=False):
            if old != new:
                break
            common += 1
        grown = len(kept) >= common and kept == self.model[: len(kept)]
        assert kept == self.durable or grown
        assert self.journal.getCurrentTerm() == self.term
        assert self.journal.getRaftCommitIndex() <= self.committed
        self.model, self.durable = found, list(found)

    @precondition(lambda self: hasattr(self, "journal"))
    @invariant()
    def same_as_the_model(self) -> None:
        journal, model = self.journal, self.model
        assert len(journal) == len(model)
        assert journal[-1] == model[-1]
        assert journal[0] == model[0]
        assert (journal.first_index, journal.last_index) == (model[0][1], model[-1][1])
        assert journal.synced_index <= journal.last_index
        middle = len(model) // 2
        assert journal[middle:] == model[middle:]
        assert journal.read_entries(model[0][1], 5, 2000) == model[:5][: _within(model[:5], 2000)]


def _within(entries: list[Entry], bytes_max: int) -> int:
    total = 0
    for at, entry in enumerate(entries):
        total += len(entry[0])
        if total > bytes_max:
            return max(at, 1)
    return len(entries)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


# --- rot ------------------------------------------------------------------------------------------
def _written() -> tuple[SimDisk, list[Entry]]:
    """Three segments, one of them superseded in part, and a last batch of three entries."""
    disk = SimDisk()
    disk.mkdir(DIRECTORY)
    disk.fsync_directory("/")
    journal = open_small(disk)
    for index in range(1, 25):
        journal.add(b"%d" % index * 30, index, 0)
        journal.sync()
    journal.setCurrentTerm(2, "n1@00")
    journal.deleteEntriesFrom(20)
    for index in (21, 22, 23):
        journal.add(b"new %d" % index * 20, index, 2)
        journal.sync()
    for index in (24, 25, 26):
        journal.add(b"new %d" % index * 20, index, 2)
    journal.sync()
    return disk, journal[:]


def _files(disk: SimDisk) -> list[str]:
    return [f"{DIRECTORY}/{name}" for name in disk.listing(DIRECTORY)]


def test_every_flipped_bit_is_found_or_harms_nothing() -> None:
    """Guards faults.md 3.2: rot never changes the log; unnoticed it may only shorten the last batch."""
    disk, entries = _written()
    noticed = 0
    for path in _files(disk):
        for byte in range(len(disk.content(path))):
            rotten = disk.clone()
            rotten.flip_bit(path, 8 * byte + byte % 8)
            try:
                found = open_small(rotten)
            except JournalDamaged:
                noticed += 1
                continue
            assert found[:] == entries or (
                len(found) >= len(entries) - 3 and found[:] == entries[: len(found)]
            )
            assert (found.getCurrentTerm(), found.getVotedForNodeId()) == (2, "n1@00")
    assert noticed > 3000


def test_with_the_progress_noted_no_flipped_bit_takes_an_entry() -> None:
    """Guards: a second after the last batch, rot in it is told from a torn tail as well."""
    disk, entries = _written()
    journal = open_small(disk)
    journal.setRaftCommitIndex(25)
    journal.onOneSecondTimer()
    for path in _files(disk):
        for byte in range(len(disk.content(path))):
            rotten = disk.clone()
            rotten.flip_bit(path, 8 * byte + byte % 8)
            try:
                found = open_small(rotten)
            except JournalDamaged:
                continue
            assert found[:] == entries or path.endswith("/progress")


def test_every_truncation_is_found_or_harms_nothing() -> None:
    """Guards faults.md 3.2: a file that ends early is never taken for a shorter log."""
    disk, entries = _written()
    for path in _files(disk):
        for size in range(len(disk.content(path))):
            cut = disk.clone()
            cut.cut_file(path, size)
            try:
                found = open_small(cut)
            except JournalDamaged:
                continue
            assert found[:] == entries
            assert found.getCurrentTerm() == 2


def test_stale_bytes_in_reserved_space_are_never_entries() -> None:
    """Guards faults.md 3.4 (stale): records of other segments behind the tail do not come back."""
    disk, entries = _written()
    *others, last = [path for path in _files(disk) if path.endswith(".seg")]
    end = HEADER_BYTES + sum(RECORD_BYTES + len(entry[0]) for entry in entries[20:])
    assert disk.content(last)[end:].strip(b"\0") == b""
    for other in others:
        for shift in (0, 1, RECORD_BYTES):
            stale = disk.clone()
            records = disk.content(other)[HEADER_BYTES:]
            stale.open(last, writable=True).pwrite(records[: 2048 - end - shift], end + shift)

            found = open_small(stale)

            assert found[:] == entries
            assert found.recovered.torn_tail
            found.add(b"next", 27, 2)
            found.sync()
            assert open_small(stale)[:] == [*entries, (b"next", 27, 2)]


@given(st.binary(max_size=700), st.integers(0, 20))
def test_parsers_take_any_bytes(data: bytes, offset: int) -> None:
    """Guards faults.md 3.2: arbitrary bytes give "no", never an exception."""
    parse_header(data)
    parse_header(data.ljust(512, b"\0")[:512])
    parse_vote(data, INCARNATION)
    parse_progress(data, INCARNATION)
    parse_record(memoryview(data), offset, 0)
    list(find_records(data + b"\xc5SJ\xa9" + data, 0))


@given(
    st.lists(st.tuples(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.integers(0, 99))),
    st.integers(1, 2**40),
)
def test_records_round_trip_in_their_segment_only(entries: list[Entry], segment_id: int) -> None:
    """Guards: what is written parses as written, and in no other segment."""
    seed = segment_seed(INCARNATION, segment_id)
    data = encode_records(entries, seed=seed, durable_offset=512)
    at = 0
    for command, index, term in entries:
        head = parse_record(memoryview(data), at, seed)
        assert head == (len(command), 512, index, term)
        assert data[at + RECORD_BYTES :][: len(command)] == command
        other = segment_seed(INCARNATION, segment_id + 1)
        assert parse_record(memoryview(data), at, other) is None
        at += RECORD_BYTES + len(command)
    assert at == len(data)
