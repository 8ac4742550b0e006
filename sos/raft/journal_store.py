"""The segments of a journal: appending, superseding, reading back and dropping them.

Everything here is on disk; what is only buffered, and the interface of the library, is in ``journal``.
"""

from __future__ import annotations

import bisect
from typing import Final

from sos import failpoints
from sos.disk import Disk, File
from sos.errors import EXIT_DAMAGE, EXIT_DISK, DiskFull, FatalStop
from sos.raft.journal_format import (
    HEADER_BYTES,
    RECORD_BYTES,
    Entry,
    SegmentHeader,
    encode_header,
    encode_records,
    parse_record,
    segment_seed,
)
from sos.raft.journal_load import TEMPORARY_SUFFIX, LoadedLog, Segment, segment_path, stopped

_DROPPED_MAX: Final = (
    2  # segments a call: unlinking 64 MiB takes about 10 ms, and this is asked often
)
_READ_BYTES: Final = 1024 * 1024  # of one read of old entries
# Overwriting zeros that are written takes 0.2 ms a sync here, first writes into reserved space 0.33 ms:
# those change the file's extents, and that goes through the file system's own journal.
_ZERO_AHEAD_BYTES: Final = 256 * 1024
_ZEROS: Final = bytes(_ZERO_AHEAD_BYTES)


class SegmentStore:
    """The durable entries ``[first, stop)``. A failure other than ``DiskFull`` ends its use."""

    def __init__(
        self, disk: Disk, directory: str, *, incarnation: str, log: LoadedLog, segment_bytes: int
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._incarnation = incarnation
        self._segment_bytes = segment_bytes
        self._chain = log.chain
        self._positions = log.positions
        self._tail = None if log.recovered.torn_tail else self.last_segment
        self._zeroed_to = 0
        self._failed = False
        self.first = log.positions.first_index
        self.stop = self.first + len(log.positions.offsets)
        self.must_cut = False  # the disk still holds entries from ``stop`` on

    @property
    def last_segment(self) -> Segment | None:
        return self._chain.segments[-1] if self._chain.segments else None

    @property
    def failed(self) -> bool:
        return self._failed

    # --- writing ------------------------------------------------------------------------------
    def write(self, pending: list[Entry]) -> None:
        """Make ``pending``, and a cut, durable; what is durable is taken out of the list.

        Raises: DiskFull (the rest stays in the list, call again), FatalStop.
        """
        if self._failed:
            raise FatalStop(f"journal {self._directory} failed before", exit_code=EXIT_DISK)
        self._failed = True
        done = 0
        try:
            failpoints.hit("journal.append.before_sync")
            while done < len(pending) or self.must_cut:
                tail = self._tail
                count = 0
                if tail is not None:
                    count = _fitting(pending, done, tail.allocated_bytes - tail.used_bytes)
                if tail is not None and count:
                    self._append(tail, pending[done : done + count] if done else pending[:count])
                else:
                    count = self._start_segment(pending, done)
                done += count
            failpoints.hit("journal.append.after_sync")
        except DiskFull:
            self._tail = None  # a part may be written, and nothing is ever written over it
            self._failed = False
            raise
        except OSError as error:
            raise stopped(self._directory, "write", error) from error
        finally:
            del pending[:done]
        self._failed = False

    def cut(self, stop: int) -> None:
        """Entries from ``stop`` on are gone; on disk with the next ``write``."""
        assert self.first < stop < self.stop
        self._positions.drop_from(stop - self.first)
        self.stop = stop
        self.must_cut = True
        self._tail = None

    def restart(self, first: int) -> None:
        """Forget every entry; the log begins with ``first``. The old one is on disk until ``write``."""
        self._positions.drop_from(0)
        self._positions.first_index = self.first = self.stop = first
        self.must_cut = False
        self._tail = None

    def _append(self, segment: Segment, entries: list[Entry]) -> None:
        offset = segment.used_bytes
        data = encode_records(entries, seed=segment.seed, durable_offset=offset)
        end = offset + len(data)
        if end > self._zeroed_to:
            self._zeroed_to = end
            if len(data) < _ZERO_AHEAD_BYTES:
                count = min(_ZERO_AHEAD_BYTES, segment.allocated_bytes - end)
                segment.file.pwrite(_ZEROS[:count], end)
                self._zeroed_to = end + count
        segment.file.pwrite(data, offset)
        segment.file.fdatasync()
        self._count_written(segment, entries)

    def _start_segment(self, pending: list[Entry], done: int) -> int:
        """Start a segment with the next entries in it, all durable; gives how many those are."""
        last = self.last_segment
        if last is not None:
            failpoints.hit("journal.segment.switch")
        is_base = self.first == self.stop
        whole = (
            pending[done:] if is_base else pending[done : done + 1]
        )  # a new log comes as one piece
        needed = sum(RECORD_BYTES + len(command) for command, _, _ in whole)
        allocated = max(self._segment_bytes, HEADER_BYTES + needed)
        count = _fitting(pending, done, allocated - HEADER_BYTES)
        entries = pending[done : done + count]
        segment_id = last.segment_id + 1 if last is not None else 1
        seed = segment_seed(self._incarnation, segment_id)
        records = encode_records(entries, seed=seed, durable_offset=HEADER_BYTES)
        header = SegmentHeader(
            segment_id=segment_id,
            first_index=self.stop,
            allocated_bytes=allocated,
            filled_bytes=HEADER_BYTES + len(records),
            base=is_base,
            incarnation=self._incarnation,
        )
        path = segment_path(self._directory, segment_id)
        file = self._create_durable(path, encode_header(header) + records, allocated)
        segment = Segment(
            segment_id=segment_id,
            first_index=header.first_index,
            allocated_bytes=allocated,
            seed=seed,
            path=path,
            used_bytes=HEADER_BYTES,
            file=file,
        )
        self._supersede(segment, is_base=is_base)
        self.must_cut = False
        self._tail = segment
        self._zeroed_to = header.filled_bytes
        self._count_written(segment, entries)
        return count

    def _create_durable(self, path: str, data: bytes, allocated: int) -> File:
        """A file that has its name only after content and reserved space are durable."""
        temporary = path + TEMPORARY_SUFFIX
        file = self._disk.create(temporary)
        try:
            file.fallocate(0, allocated)
            file.pwrite(data, 0)
            file.fsync()
            self._disk.rename(temporary, path)
        except DiskFull:
            file.close()
            self._disk.unlink(temporary)
            raise
        self._disk.fsync_directory(self._directory)
        return file

    def _supersede(self, segment: Segment, *, is_base: bool) -> None:
        """Put ``segment`` at the end of the chain and give back the space of what it supersedes."""
        chain = self._chain
        if is_base:
            for old in chain.segments:
                failpoints.hit("install.journal_half")
                old.file.close()
                self._disk.unlink(old.path)
            chain.clear()
        for dead in chain.append(segment):
            self._shrink(dead, HEADER_BYTES)
        if len(chain.live) > 1:
            self._shrink(chain.live[-2], self._end_of(segment.first_index - 1))

    def _shrink(self, segment: Segment, used_bytes: int) -> None:
        """Cut off what the chain makes unreachable. Lost in a crash, it is only space."""
        segment.used_bytes = used_bytes
        writable = self._disk.open(segment.path, writable=True)
        try:
            writable.truncate(used_bytes)
        finally:
            writable.close()

    def _end_of(self, index: int) -> int:
        """Offset behind the record of ``index``."""
        position = index - self.first
        return self._positions.offsets[position] + RECORD_BYTES + self._positions.lengths[position]

    def _count_written(self, segment: Segment, entries: list[Entry]) -> None:
        offset = segment.used_bytes
        append = self._positions.append
        for command, _, term in entries:
            append(offset, len(command), term)
            offset += RECORD_BYTES + len(command)
        segment.used_bytes = offset
        self.stop += len(entries)

    # --- dropping -----------------------------------------------------------------------------
    def drop_before(
        self, index: int, *, hold_from: int | None, kept_bytes_min: int, kept_bytes_max: int
    ) -> None:
        """Drop whole segments that end before ``index``, while enough stays.

        Oldest first: a file system loses unlinks only from some point on, so a crash leaves no gap.
        Raises: FatalStop, with ``first`` and the segments in step.
        """
        chain = self._chain
        target = min(index, self.stop - 1)
        total = sum(segment.used_bytes for segment in chain.segments)
        for _ in range(min(_DROPPED_MAX, len(chain.segments) - 1)):
            limit = target
            if hold_from is not None and total <= kept_bytes_max:
                limit = min(limit, hold_from)
            oldest = chain.segments[0]
            if chain.start_after(oldest) > limit or total - oldest.used_bytes < kept_bytes_min:
                break
            try:
                failpoints.hit("compact.before_unlink")
                self._disk.unlink(oldest.path)
                failpoints.hit("compact.after_unlink")
            except OSError as error:
                self._failed = True
                raise stopped(self._directory, "unlink", error) from error
            total -= oldest.used_bytes
            chain.drop_first()
            oldest.file.close()
            if chain.starts and chain.starts[0] > self.first:
                self._positions.drop_to(chain.starts[0] - self.first)
                self.first = chain.starts[0]

    def close(self) -> None:
        self._failed = True
        for segment in self._chain.segments:
            segment.file.close()

    # --- reading ------------------------------------------------------------------------------
    def term_at(self, index: int) -> int:
        return self._positions.terms[index - self.first]

    def entry_bytes(self, index: int) -> int:
        return self._positions.lengths[index - self.first]

    def read(self, first: int, stop: int) -> list[Entry]:
        """The entries ``[first, stop)``. Raises: FatalStop if the disk gives other bytes back."""
        entries: list[Entry] = []
        while first < stop:
            run = self._read_run(first, stop)
            entries += run
            first += len(run)
        return entries

    def _read_run(self, first: int, stop: int) -> list[Entry]:
        """Entries of one segment, with one read."""
        segment = self._chain.holding(first)
        stop = min(stop, self._chain.start_after(segment))
        low, high = first - self.first, stop - self.first
        offsets = self._positions.offsets
        start = offsets[low]
        high = max(low + 1, bisect.bisect_right(offsets, start + _READ_BYTES, low, high))
        end = self._end_of(self.first + high - 1)
        try:
            data = segment.file.pread(end - start, start)
        except OSError as error:
            raise stopped(self._directory, "read", error) from error
        return _parse_run(data, segment, first, high - low)


def _parse_run(data: bytes, segment: Segment, first: int, count: int) -> list[Entry]:
    view = memoryview(data)
    entries: list[Entry] = []
    at = 0
    for index in range(first, first + count):
        head = parse_record(view, at, segment.seed)
        if head is None or head.log_index != index:
            raise FatalStop(
                f"entry {index} in {segment.path} was good and no longer is", exit_code=EXIT_DAMAGE
            )
        start = at + RECORD_BYTES
        at = start + head.payload_bytes
        entries.append((data[start:at], index, head.term))
    return entries


def _fitting(entries: list[Entry], start: int, space_bytes: int) -> int:
    """How many entries from ``start`` on fit into ``space_bytes``."""
    for at in range(start, len(entries)):
        space_bytes -= RECORD_BYTES + len(entries[at][0])
        if space_bytes < 0:
            return at - start
    return len(entries) - start
