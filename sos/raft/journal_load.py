"""Reads a journal directory at start: what survived, what was torn off, and whether anything is damaged.

A crash may leave: temporary files, a tail of the last segment that was never synced, and segments that
were already superseded. All of that is put right here. Anything else that does not parse is damage, and a
node with a damaged journal may have forgotten what it acknowledged: it must not vote.
"""

from __future__ import annotations

import bisect
import os
from array import array
from dataclasses import dataclass, field
from typing import Final

from sos.disk import Disk, File
from sos.errors import EXIT_DISK, REJOIN_ADVICE, FatalStop, JournalDamaged
from sos.raft.journal_format import (
    HEADER_BYTES,
    RECORD_BYTES,
    Progress,
    SegmentHeader,
    claimed_record_bytes,
    find_records,
    parse_header,
    parse_record,
    segment_seed,
)

SEGMENT_SUFFIX: Final = ".seg"
TEMPORARY_SUFFIX: Final = ".tmp"
NO_INDEX: Final = 1 << 63  # above every index
_SCAN_BYTES: Final = 4 * 1024 * 1024
_ZEROS: Final = bytes(256 * 1024)


@dataclass(slots=True, kw_only=True)
class Segment:
    """A segment file. ``used_bytes``: header and records, without space that is only reserved."""

    segment_id: int
    first_index: int
    allocated_bytes: int
    seed: int
    path: str
    used_bytes: int
    file: File


@dataclass(slots=True, kw_only=True)
class Positions:
    """Where each entry on disk lies: arrays of machine words, for the log may hold millions."""

    first_index: int = 1
    offsets: array[int] = field(default_factory=lambda: array("I"))
    lengths: array[int] = field(default_factory=lambda: array("I"))
    terms: array[int] = field(default_factory=lambda: array("Q"))

    def append(self, offset: int, length: int, term: int) -> None:
        self.offsets.append(offset)
        self.lengths.append(length)
        self.terms.append(term)

    def drop_from(self, position: int) -> None:
        del self.offsets[position:], self.lengths[position:], self.terms[position:]

    def drop_to(self, position: int) -> None:
        del self.offsets[:position], self.lengths[:position], self.terms[:position]
        self.first_index += position


@dataclass(slots=True, kw_only=True)
class Chain:
    """The segments in order. ``live`` are those that hold entries in force, or may yet."""

    segments: list[Segment] = field(default_factory=list)
    live: list[Segment] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # first index of each live segment, ascending

    def append(self, segment: Segment) -> list[Segment]:
        """Add ``segment``, which supersedes from its first index on; gives the ones now without use."""
        keep = bisect.bisect_left(self.starts, segment.first_index)
        dead = self.live[keep:]
        del self.live[keep:], self.starts[keep:]
        self.segments.append(segment)
        self.live.append(segment)
        self.starts.append(segment.first_index)
        return dead

    def holding(self, index: int) -> Segment:
        return self.live[bisect.bisect_right(self.starts, index) - 1]

    def start_after(self, segment: Segment) -> int:
        """The first index in force behind ``segment``: of the next live one, ``NO_INDEX`` if none is."""
        if self.live[0].segment_id > segment.segment_id:
            return self.starts[0]
        after = bisect.bisect_right(self.starts, segment.first_index)
        return self.starts[after] if after < len(self.starts) else NO_INDEX

    def drop_first(self) -> None:
        segment = self.segments.pop(0)
        if self.live[0] is segment:
            del self.live[0], self.starts[0]

    def clear(self) -> None:
        self.segments.clear()
        self.live.clear()
        self.starts.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a start found; for the log line and for counters of tests."""

    entries: int
    torn_tail: bool
    segments_dropped: int


@dataclass(slots=True, kw_only=True)
class LoadedLog:
    chain: Chain
    positions: Positions
    recovered: Recovered


def segment_path(directory: str, segment_id: int) -> str:
    return os.path.join(directory, f"{segment_id:016x}{SEGMENT_SUFFIX}")


def damaged(directory: str, what: str) -> JournalDamaged:
    return JournalDamaged(
        f"journal {directory} is damaged ({what}), so this node must not vote: " + REJOIN_ADVICE
    )


def stopped(directory: str, what: str, error: OSError) -> FatalStop:
    """The stop that follows an I/O error of the journal."""
    return FatalStop(f"journal {directory}: {what} failed: {error}", exit_code=EXIT_DISK)


def load_log(
    disk: Disk, directory: str, *, incarnation: str, progress: Progress | None
) -> LoadedLog:
    """The log as it must be after a crash; everything in it is durable when this returns.

    Raises: JournalDamaged, OSError, FatalStop.
    """
    headers = _read_headers(disk, directory, incarnation)
    base_at = max((at for at, header in enumerate(headers) if header.base), default=0)
    for header in headers[:base_at]:
        disk.unlink(segment_path(directory, header.segment_id))
    for at, header in enumerate(headers[base_at:]):
        if header.segment_id != headers[base_at].segment_id + at:
            raise damaged(directory, f"the segment before {header.segment_id} is missing")
    log = LoadedLog(
        chain=Chain(),
        positions=Positions(),
        recovered=Recovered(entries=0, torn_tail=False, segments_dropped=base_at),
    )
    try:
        _load_segments(disk, directory, headers[base_at:], log, progress)
    except BaseException:
        for segment in log.chain.segments:
            segment.file.close()
        raise
    return log


def _read_headers(disk: Disk, directory: str, incarnation: str) -> list[SegmentHeader]:
    """The headers in order of id. Leftovers of an unfinished segment are removed."""
    headers: list[SegmentHeader] = []
    for name in disk.listing(directory):
        path = os.path.join(directory, name)
        if name.endswith(TEMPORARY_SUFFIX):
            disk.unlink(path)
        if not name.endswith(SEGMENT_SUFFIX):
            continue
        file = disk.open(path)
        try:
            header = parse_header(file.pread(HEADER_BYTES, 0))
        finally:
            file.close()
        if header is None or segment_path(directory, header.segment_id) != path:
            raise damaged(directory, f"header of {name}")
        if header.incarnation != incarnation:
            raise damaged(directory, f"{name} belongs to incarnation {header.incarnation}")
        headers.append(header)
    return headers


def _load_segments(
    disk: Disk,
    directory: str,
    headers: list[SegmentHeader],
    log: LoadedLog,
    progress: Progress | None,
) -> None:
    stops = _stops(headers)
    positions = log.positions
    for header, stop in zip(headers, stops, strict=True):
        is_last = header is headers[-1]
        path = segment_path(directory, header.segment_id)
        segment = Segment(
            segment_id=header.segment_id,
            first_index=header.first_index,
            allocated_bytes=header.allocated_bytes,
            seed=segment_seed(header.incarnation, header.segment_id),
            path=path,
            used_bytes=HEADER_BYTES,
            file=disk.open(path, writable=is_last),
        )
        log.chain.segments.append(segment)
        if header.first_index >= stop:
            continue  # wholly superseded
        if not log.chain.live:
            positions.first_index = header.first_index
        expected = positions.first_index + len(positions.offsets)
        if header.first_index != expected:
            raise damaged(directory, f"entry {expected}")
        log.chain.live.append(segment)
        log.chain.starts.append(header.first_index)
        durable = _scan(segment, stop, positions)
        if is_last:
            log.recovered = _finish_tail(directory, header, segment, durable, log, progress)


def _stops(headers: list[SegmentHeader]) -> list[int]:
    """For each segment the first index that a later one supersedes."""
    stops: list[int] = []
    stop = NO_INDEX
    for header in reversed(headers):
        stops.append(stop)
        stop = min(stop, header.first_index)
    stops.reverse()
    return stops


def _scan(segment: Segment, stop: int, positions: Positions) -> int:
    """Append the records before index ``stop``; gives the durable offset that the last one tells."""
    file, seed = segment.file, segment.seed
    offset = base = HEADER_BYTES
    view = memoryview(file.pread(_SCAN_BYTES, base))
    expected = segment.first_index
    durable = HEADER_BYTES
    while expected < stop:
        head = parse_record(view, offset - base, seed)
        if head is None:
            wanted = claimed_record_bytes(view, offset - base) or RECORD_BYTES
            if offset - base + wanted <= len(view):
                break  # all of it is here, and it is none
            base = offset
            view = memoryview(file.pread(max(_SCAN_BYTES, wanted), base))
            if len(view) < wanted:
                break
            continue
        if head.log_index != expected:
            break
        positions.append(offset, head.payload_bytes, head.term)
        offset += RECORD_BYTES + head.payload_bytes
        durable = head.durable_offset
        expected += 1
    segment.used_bytes = offset
    return durable


def _finish_tail(
    directory: str,
    header: SegmentHeader,
    segment: Segment,
    durable: int,
    log: LoadedLog,
    progress: Progress | None,
) -> Recovered:
    """Judge what lies behind the last record, and make sure that the records before it are durable."""
    end = segment.used_bytes
    name = os.path.basename(segment.path)
    size = segment.file.size()
    if size < header.allocated_bytes:
        raise damaged(directory, f"{name} is short")
    known = header.filled_bytes
    if progress is not None and progress.segment_id == segment.segment_id:
        known = max(known, progress.durable_offset)
    tail = _tail(segment.file, end, size)
    if tail:
        known = max([known, *(head.durable_offset for head in find_records(tail, segment.seed))])
    if end < known:
        raise damaged(directory, f"{name} at offset {end}")
    # Records behind the last sync may stand in the page cache only, and after a failed sync Linux calls
    # such pages clean: written again, they are dirty again, and the sync below covers them.
    start = max(durable, header.filled_bytes)
    if start < end:
        segment.file.pwrite(segment.file.pread(end - start, start), start)
    segment.file.fdatasync()
    return Recovered(
        entries=len(log.positions.offsets),
        torn_tail=bool(tail),
        segments_dropped=log.recovered.segments_dropped,
    )


def _tail(file: File, start: int, size: int) -> bytes:
    """What lies from ``start`` to ``size``, empty if all of it is zeros."""
    for at in range(start, size, len(_ZEROS)):
        block = file.pread(min(len(_ZEROS), size - at), at)
        if block != (_ZEROS if len(block) == len(_ZEROS) else bytes(len(block))):
            return file.pread(size - at, at)
    return b""
