"""The journal's bytes: segment headers, records, the vote and the progress sector. Pure.

A segment is a header of one sector and records behind it, each byte written once. A record's CRC starts
from a seed that no other segment of this node has, so bytes of another segment never parse here. Each
record also says up to which offset its segment was durable when it was written: that tells a torn tail
(nothing behind the gap knows of a sync past it) from damage (something does).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple
from zlib import crc32

from sos.levels import check_version

Entry = tuple[bytes, int, int]  # command, index, term: the shape PySyncObj reads by position

HEADER_BYTES: Final = 512  # one sector: a torn write leaves it whole or absent
SECTOR_BYTES: Final = 512
RECORD_BYTES: Final = 32  # in front of each payload
FORMAT_VERSION: Final = 1
RECORD_PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024  # bounds what a damaged length can ask for

_SEGMENT_MAGIC: Final = b"SOSJRNL\x00"
_VOTE_MAGIC: Final = b"SOSVOTE\x00"
_PROGRESS_MAGIC: Final = b"SOSPROG\x00"
RECORD_MAGIC: Final = b"\xc5SJ\xa9"

_HEADER: Final = struct.Struct("<8sII16sQQQQ")
_RECORD_HEAD: Final = struct.Struct("<4sI")  # magic, CRC of all that follows
_RECORD_TAIL: Final = struct.Struct("<IIQQ")  # payload bytes, durable offset, index, term
_RECORD: Final = struct.Struct("<4sIIIQQ")
_VOTE: Final = struct.Struct("<8sI16sQi")
_PROGRESS: Final = struct.Struct("<8sI16sQQQ")
_CRC: Final = struct.Struct("<I")
_BASE: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """The first sector of a segment; durable before the segment has its name.

    The segment supersedes every record of earlier segments from ``first_index`` on. ``base``: the log
    begins here, whatever earlier segments hold. ``filled_bytes``: durable before the name was.
    """

    segment_id: int
    first_index: int
    allocated_bytes: int
    filled_bytes: int
    base: bool
    incarnation: str


class RecordHead(NamedTuple):
    """What stands in front of a payload; a tuple, for a scan makes one per entry."""

    payload_bytes: int
    durable_offset: int
    log_index: int
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """The highest term this node has seen and whom it voted for in it."""

    term: int
    voted_for: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A hint that is written now and then, after what it tells of was durable."""

    commit_index: int
    segment_id: int
    durable_offset: int


def segment_seed(incarnation: str, segment_id: int) -> int:
    """Where the CRCs of this segment's records start; differs between any two of 2^32 segments."""
    return crc32(incarnation.encode()) ^ (segment_id & 0xFFFFFFFF)


def encode_header(header: SegmentHeader) -> bytes:
    head = _HEADER.pack(
        _SEGMENT_MAGIC,
        FORMAT_VERSION,
        _BASE if header.base else 0,
        header.incarnation.encode(),
        header.segment_id,
        header.first_index,
        header.allocated_bytes,
        header.filled_bytes,
    )
    return _padded(head)


def parse_header(data: bytes) -> SegmentHeader | None:
    """The header in the first sector, or None if its checks fail. Raises: MadeByNewer."""
    head = _checked_sector(data, _SEGMENT_MAGIC)
    if head is None:
        return None
    _, _, flags, incarnation, segment_id, first_index, allocated, filled = _HEADER.unpack_from(head)
    return SegmentHeader(
        segment_id=segment_id,
        first_index=first_index,
        allocated_bytes=allocated,
        filled_bytes=filled,
        base=bool(flags & _BASE),
        incarnation=incarnation.decode("ascii", "replace"),
    )


def encode_records(entries: Iterable[Entry], *, seed: int, durable_offset: int) -> bytes:
    """The records of ``entries``, to be written one behind the other."""
    parts: list[bytes] = []
    for command, index, term in entries:
        tail = _RECORD_TAIL.pack(len(command), durable_offset, index, term)
        parts.append(_RECORD_HEAD.pack(RECORD_MAGIC, crc32(command, crc32(tail, seed))))
        parts.append(tail)
        parts.append(command)
    return b"".join(parts)


def parse_record(data: memoryview, offset: int, seed: int) -> RecordHead | None:
    """The record at ``offset``, or None if its checks fail or ``data`` ends within it."""
    start = offset + RECORD_BYTES
    if start > len(data):
        return None
    magic, crc, payload_bytes, durable_offset, index, term = _RECORD.unpack_from(data, offset)
    if magic != RECORD_MAGIC or start + payload_bytes > len(data):
        return None
    if crc32(data[offset + _RECORD_HEAD.size : start + payload_bytes], seed) != crc:
        return None
    return RecordHead(payload_bytes, durable_offset, index, term)


def claimed_record_bytes(data: memoryview, offset: int) -> int:
    """How long the record at ``offset`` says it is, unchecked; 0 if it cannot be one."""
    if offset + RECORD_BYTES > len(data):
        return 0
    magic, _, payload_bytes, _, _, _ = _RECORD.unpack_from(data, offset)
    if magic != RECORD_MAGIC or payload_bytes > RECORD_PAYLOAD_BYTES_MAX:
        return 0
    return RECORD_BYTES + int(payload_bytes)


def find_records(data: bytes, seed: int) -> Iterator[RecordHead]:
    """Every record that parses anywhere in ``data``: what lies behind a gap."""
    view = memoryview(data)
    at = data.find(RECORD_MAGIC)
    while at >= 0:
        head = parse_record(view, at, seed)
        if head is not None:
            yield head
        at = data.find(RECORD_MAGIC, at + 1)


def encode_vote(vote: Vote, incarnation: str) -> bytes:
    name = b"" if vote.voted_for is None else vote.voted_for.encode()
    name_bytes = -1 if vote.voted_for is None else len(name)
    body = (
        _VOTE.pack(_VOTE_MAGIC, FORMAT_VERSION, incarnation.encode(), vote.term, name_bytes) + name
    )
    return body + _CRC.pack(crc32(body))


def parse_vote(data: bytes, incarnation: str) -> Vote | None:
    """The vote, or None if the bytes fail their checks or are of another incarnation. Raises: MadeByNewer."""
    if len(data) < _VOTE.size + _CRC.size:
        return None
    body = data[: -_CRC.size]
    if _CRC.unpack_from(data, len(body))[0] != crc32(body):
        return None
    magic, version, owner, term, name_bytes = _VOTE.unpack_from(body)
    if magic != _VOTE_MAGIC:
        return None
    check_version("the vote file", version, FORMAT_VERSION)
    if version != FORMAT_VERSION or owner != incarnation.encode():
        return None
    name = body[_VOTE.size :]
    if len(name) != max(name_bytes, 0):
        return None
    return Vote(term=term, voted_for=None if name_bytes < 0 else name.decode())


def encode_progress(progress: Progress, incarnation: str) -> bytes:
    """One sector, written in place: it is whole, old, or does not count."""
    body = _PROGRESS.pack(
        _PROGRESS_MAGIC,
        FORMAT_VERSION,
        incarnation.encode(),
        progress.commit_index,
        progress.segment_id,
        progress.durable_offset,
    )
    return _padded(body)


def parse_progress(data: bytes, incarnation: str) -> Progress | None:
    """The hint, or None if there is none to trust. Raises: MadeByNewer."""
    body = _checked_sector(data, _PROGRESS_MAGIC)
    if body is None:
        return None
    _, _, owner, commit_index, segment_id, durable_offset = _PROGRESS.unpack_from(body)
    if owner != incarnation.encode():
        return None
    return Progress(commit_index=commit_index, segment_id=segment_id, durable_offset=durable_offset)


def _padded(body: bytes) -> bytes:
    """``body`` and zeros, with a CRC over both at the end of the sector."""
    filled = body.ljust(SECTOR_BYTES - _CRC.size, b"\x00")
    return filled + _CRC.pack(crc32(filled))


def _checked_sector(data: bytes, magic: bytes) -> bytes | None:
    if len(data) != SECTOR_BYTES or not data.startswith(magic):
        return None
    body = data[: -_CRC.size]
    if _CRC.unpack_from(data, len(body))[0] != crc32(body):
        return None
    version = int.from_bytes(data[8:12], "little")
    check_version("the journal", version, FORMAT_VERSION)
    return body if version == FORMAT_VERSION else None
