"""The Raft log on disk, in PySyncObj's own journal interface.

Segments are written once and never changed: what truncates the log is a new segment that says from which
index on it supersedes the ones before, so no crash can bring an overwritten entry back. ``add`` only buffers;
``sync`` writes everything buffered with one ``pwrite`` and one ``fdatasync``. All calls belong to one thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final, overload

from sos.disk import Disk, File
from sos.errors import EXIT_DISK, DiskFull, StartRefused
from sos.limits import JOURNAL_KEPT_BYTES_MAX, JOURNAL_KEPT_BYTES_MIN, JOURNAL_SEGMENT_BYTES, MIB
from sos.raft.journal_format import (
    RECORD_PAYLOAD_BYTES_MAX,
    SECTOR_BYTES,
    Entry,
    Progress,
    Vote,
    encode_progress,
    parse_progress,
)
from sos.raft.journal_load import LoadedLog, Recovered, damaged, load_log, stopped
from sos.raft.journal_store import SegmentStore
from sos.raft.vote import VoteFile

PROGRESS_NAME: Final = "progress"
CACHE_BYTES: Final = 8 * MIB  # two Raft batches: what a peer that keeps up asks for
BUFFERED_BYTES_MAX: Final = 16 * MIB  # a caller that never syncs must not fill the memory
_CACHED_OVERHEAD_BYTES: Final = 200  # of the objects around a small command


class FileJournal:
    """Log, term and vote of one member; made by ``open_journal``."""

    def __init__(
        self,
        *,
        directory: str,
        incarnation: str,
        store: SegmentStore,
        vote: VoteFile,
        progress: Progress | None,
        progress_file: File,
        recovered: Recovered,
        kept_bytes_min: int,
        kept_bytes_max: int,
        cache_bytes: int,
    ) -> None:
        self._directory = directory
        self._incarnation = incarnation
        self._store = store
        self._vote = vote
        self._commit_index = progress.commit_index if progress is not None else 1
        self._progress = progress
        self._progress_file = progress_file
        self._kept_bytes_min = kept_bytes_min
        self._kept_bytes_max = kept_bytes_max
        self._cache_bytes_max = cache_bytes
        self._hold_from: int | None = None
        self.recovered: Final = recovered

        self._stop = store.stop  # index after the last entry, durable or not
        self._pending: list[Entry] = []  # the entries [store.stop, _stop)
        self._pending_bytes = 0
        self._recent: dict[
            int, Entry
        ] = {}  # the entries [_recent_from, _stop), all pending ones too
        self._recent_from = self._stop
        self._recent_bytes = 0
        self._first_entry: Entry | None = None
        self._last_entry: Entry | None = None
        if store.stop > store.first:
            self._last_entry = store.read(store.stop - 1, store.stop)[0]

    # --- what the library calls ---------------------------------------------------------------
    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry; durable after the next ``sync``."""
        last = self._last_entry
        if last is None:
            self._store.restart(idx)
            self._stop = self._recent_from = idx
        else:
            assert idx == self._stop, f"entry {idx} added behind {self._stop - 1}"
            assert term >= last[2], f"term {term} added behind {last[2]}"
        command_bytes = len(command)
        assert command_bytes <= RECORD_PAYLOAD_BYTES_MAX
        entry = (command, idx, term)
        self._pending.append(entry)
        self._pending_bytes += command_bytes
        self._recent[idx] = entry
        self._recent_bytes += command_bytes + _CACHED_OVERHEAD_BYTES
        self._last_entry = entry
        self._stop = idx + 1
        if self._pending_bytes > BUFFERED_BYTES_MAX:
            self.sync()

    def clear(self) -> None:
        """Forget every entry. On disk the old log stays until the first entry of the new one is written."""
        self._store.restart(self._store.first)
        self._stop = self._recent_from = self._store.first
        self._pending.clear()
        self._pending_bytes = 0
        self._recent.clear()
        self._recent_bytes = 0
        self._first_entry = self._last_entry = None

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the entries from position ``entryFrom`` on. They never come back once ``sync`` returned."""
        assert entryFrom >= 0
        store = self._store
        stop = store.first + entryFrom
        if stop >= self._stop:
            return
        if entryFrom == 0:
            self.clear()
            return
        del self._pending[max(stop - store.stop, 0) :]
        self._pending_bytes = sum(len(entry[0]) for entry in self._pending)
        if stop < store.stop:
            store.cut(stop)
        for index in range(max(stop, self._recent_from), self._stop):
            self._forget_recent(index)
        self._recent_from = min(self._recent_from, stop)
        self._stop = stop
        self._last_entry = self[entryFrom - 1]

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Allow the entries before position ``entryTo`` to go. Only whole segments go, oldest first.

        A call drops few; the next one goes on. At least ``kept_bytes_min`` stays, and what ``hold_from`` asks for while all is within
        ``kept_bytes_max``.
        """
        store = self._store
        first = store.first
        try:
            store.drop_before(
                first + entryTo,
                hold_from=self._hold_from,
                kept_bytes_min=self._kept_bytes_min,
                kept_bytes_max=self._kept_bytes_max,
            )
        finally:
            if store.first > first:
                self._first_entry = None
                for index in range(self._recent_from, store.first):
                    self._forget_recent(index)
                self._recent_from = max(self._recent_from, store.first)

    @overload
    def __getitem__(self, item: int) -> Entry: ...

    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        """As of a list of ``(command, index, term)``. Raises: FatalStop if the disk gives other bytes back."""
        if isinstance(item, slice):
            start, stop, step = item.indices(len(self))
            assert step == 1
            first = self._store.first
            return self._read(first + start, first + stop) if stop > start else []
        if item == -1 and self._last_entry is not None:
            return self._last_entry
        first = self._store.first
        index = (self._stop if item < 0 else first) + item
        entry = self._recent.get(index)
        if entry is not None:
            return entry
        if not first <= index < self._stop:
            raise IndexError("no such entry in the journal")
        if index != first:
            return self._store.read(index, index + 1)[0]
        if self._first_entry is None:  # asked for all the time
            self._first_entry = self._store.read(index, index + 1)[0]
        return self._first_entry

    def __len__(self) -> int:
        return self._stop - self._store.first

    def _destroy(self) -> None:
        self.close()

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Called between "quorum reached" and "apply": the own copy is durable when this returns."""
        if raftCommitIndex >= self._store.stop:
            self.sync()
        self._commit_index = raftCommitIndex

    def getRaftCommitIndex(self) -> int:
        return self._commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        """Term and vote survive power loss when this returns. Raises: FatalStop."""
        vote = Vote(term=term, voted_for=votedForNodeId)
        if vote == self._vote.vote:
            return
        assert term >= self._vote.vote.term, "the term never goes back"
        assert self._last_entry is not None, "the library adds its first entry before it votes"
        if self._store.last_segment is None:
            self.sync()  # a vote without a log is what a lost log looks like
        self._vote.save(vote)

    def getCurrentTerm(self) -> int:
        return self._vote.vote.term

    def getVotedForNodeId(self) -> str | None:
        return self._vote.vote.voted_for

    def onOneSecondTimer(self) -> None:
        """Note how far the log is durable, so that the next start notices if that is gone: not synced, a hint.

        Also where a disk was too full for the next vote's spare it is tried again here. Raises: FatalStop.
        """
        self._vote.keep_spare()
        store = self._store
        segment = store.last_segment
        if segment is None or store.failed or store.must_cut or self._commit_index >= store.stop:
            return
        progress = Progress(
            commit_index=self._commit_index,
            segment_id=segment.segment_id,
            durable_offset=segment.used_bytes,
        )
        if progress == self._progress:
            return
        try:
            with suppress(DiskFull):  # it is only a hint
                self._progress_file.pwrite(encode_progress(progress, self._incarnation), 0)
        except OSError as error:
            raise stopped(self._directory, "write", error) from error
        self._progress = progress

    # --- what the engine calls ----------------------------------------------------------------
    @property
    def first_index(self) -> int:
        """Index of the first entry; one more than ``last_index`` if there is none."""
        return self._store.first

    @property
    def last_index(self) -> int:
        return self._stop - 1

    @property
    def synced_index(self) -> int:
        """Up to here this node's copy is durable. An acknowledgement tells no more than this."""
        return self._store.stop - 1

    def term_at(self, index: int) -> int:
        """Term of the entry at ``index``, which exists; never reads the disk."""
        if index >= self._recent_from:
            return self._recent[index][2]
        return self._store.term_at(index)

    def sync(self) -> None:
        """Make every entry added, and every truncation, durable.

        Raises: DiskFull (nothing is lost, call again when there is space), FatalStop.
        """
        if not self._pending and not self._store.must_cut:
            return
        try:
            self._store.write(self._pending)
        finally:
            self._pending_bytes = sum(len(entry[0]) for entry in self._pending)
        while self._recent_bytes > self._cache_bytes_max and self._recent_from < self._store.stop:
            self._forget_recent(self._recent_from)
            self._recent_from += 1

    def hold_from(self, index: int | None) -> None:
        """Keep the entries from ``index`` on while a snapshot of that index is being served."""
        self._hold_from = index

    def reset_to(self, entries: list[Entry]) -> None:
        """Replace the whole log by ``entries`` in one step: after a crash it is the old log or the new one."""
        self.clear()
        for command, index, term in entries:
            self.add(command, index, term)
        self.sync()

    def read_entries(self, first: int, count_max: int, bytes_max: int) -> list[Entry]:
        """Entries from index ``first`` on: one at least if there is one, then up to either limit."""
        if not self._store.first <= first < self._stop:
            return []
        stop = min(first + count_max, self._stop)
        return self._read(first, self._stop_within(first, stop, bytes_max))

    def close(self) -> None:
        """Give the files back. What was not synced is lost."""
        self.onOneSecondTimer()
        self._progress_file.close()
        self._store.close()

    # --- helpers ------------------------------------------------------------------------------
    def _read(self, first: int, stop: int) -> list[Entry]:
        entries: list[Entry] = []
        if first < self._recent_from:
            entries = self._store.read(first, min(stop, self._recent_from))
            first = self._recent_from
        recent = self._recent
        entries += [recent[index] for index in range(first, stop)]
        return entries

    def _stop_within(self, first: int, stop: int, bytes_max: int) -> int:
        """Where to stop so that the payloads stay within ``bytes_max``; the first is always in."""
        store, recent, recent_from = self._store, self._recent, self._recent_from
        for index in range(first, stop):
            if index < recent_from:
                bytes_max -= store.entry_bytes(index)
            else:
                bytes_max -= len(recent[index][0])
            if bytes_max < 0:
                return max(index, first + 1)
        return stop

    def _forget_recent(self, index: int) -> None:
        self._recent_bytes -= len(self._recent.pop(index)[0]) + _CACHED_OVERHEAD_BYTES


def open_journal(
    disk: Disk,
    directory: str,
    *,
    incarnation: str,
    segment_bytes: int = JOURNAL_SEGMENT_BYTES,
    kept_bytes_min: int = JOURNAL_KEPT_BYTES_MIN,
    kept_bytes_max: int = JOURNAL_KEPT_BYTES_MAX,
    cache_bytes: int = CACHE_BYTES,
) -> FileJournal:
    """The journal in ``directory``, which exists; made if there is none, repaired after a crash.

    When this returns, everything in it is durable. Raises: JournalDamaged (this node must not vote),
    StartRefused (no space), FatalStop (I/O error).
    """
    try:
        vote = VoteFile.load(disk, directory, incarnation=incarnation)
        progress, progress_file = _open_progress(disk, directory, incarnation)
        log = load_log(disk, directory, incarnation=incarnation, progress=progress)
        if vote is None and not log.chain.segments:
            vote = VoteFile.create(disk, directory, incarnation=incarnation)
        disk.fsync_directory(directory)  # a name that a crash left unsynced counts from now on
    except DiskFull as error:
        raise StartRefused(
            f"no space for the journal in {directory}", exit_code=EXIT_DISK
        ) from error
    except OSError as error:
        raise stopped(directory, "start", error) from error
    vote = _checked(directory, vote, log, progress)
    store = SegmentStore(
        disk, directory, incarnation=incarnation, log=log, segment_bytes=segment_bytes
    )
    return FileJournal(
        directory=directory,
        incarnation=incarnation,
        store=store,
        vote=vote,
        progress=progress,
        progress_file=progress_file,
        recovered=log.recovered,
        kept_bytes_min=kept_bytes_min,
        kept_bytes_max=kept_bytes_max,
        cache_bytes=cache_bytes,
    )


def _open_progress(disk: Disk, directory: str, incarnation: str) -> tuple[Progress | None, File]:
    path = os.path.join(directory, PROGRESS_NAME)
    if not disk.exists(path):
        return None, disk.create(path)
    file = disk.open(path, writable=True)
    return parse_progress(file.pread(SECTOR_BYTES, 0), incarnation), file


def _checked(
    directory: str, vote: VoteFile | None, log: LoadedLog, progress: Progress | None
) -> VoteFile:
    """Vote, log and progress fit together; where they do not, one of them lost something."""
    segments, terms = log.chain.segments, log.positions.terms
    if vote is None:
        raise damaged(directory, "vote file is missing")
    if terms and terms[-1] > vote.vote.term:
        raise damaged(directory, "vote file is older than the log")
    if not segments and vote.vote.term > 0:
        raise damaged(directory, "segments are missing")
    if progress is not None:
        last_index = log.positions.first_index + len(terms) - 1
        last_id = segments[-1].segment_id if segments else 0
        if progress.commit_index > last_index or progress.segment_id > last_id:
            raise damaged(directory, f"entries up to {progress.commit_index} were committed")
    return vote
