"""The bytes of journal and vote, pinned: a later version must go on reading files of this one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from sos.raft.journal_format import (
    HEADER_BYTES,
    RECORD_BYTES,
    SECTOR_BYTES,
    Progress,
    RecordHead,
    SegmentHeader,
    Vote,
    encode_header,
    encode_progress,
    encode_records,
    encode_vote,
    parse_header,
    parse_progress,
    parse_record,
    parse_vote,
    segment_seed,
)

GOLDEN: Final[dict[str, str]] = json.loads(
    (Path(__file__).parent / "golden" / "journal.json").read_text()
)
INCARNATION: Final = "00112233445566ff"
HEADERS: Final = {
    "header": SegmentHeader(
        segment_id=4,
        first_index=18,
        allocated_bytes=2048,
        filled_bytes=512,
        base=False,
        incarnation=INCARNATION,
    ),
    "header_base": SegmentHeader(
        segment_id=3,
        first_index=17,
        allocated_bytes=64 * 1024 * 1024,
        filled_bytes=640,
        base=True,
        incarnation=INCARNATION,
    ),
}
VOTES: Final = {
    "vote": Vote(term=5, voted_for="n2@0000000000000002"),
    "vote_nobody": Vote(term=5, voted_for=None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_the_bytes_of_a_segment_header(name: str) -> None:
    """On-disk format 1: house style 7."""
    data = bytes.fromhex(GOLDEN[name])

    assert encode_header(HEADERS[name]) == data
    assert parse_header(data) == HEADERS[name]
    assert len(data) == HEADER_BYTES


def test_the_bytes_of_records() -> None:
    """On-disk format 1: head, payload, and the seed that ties a record to its segment and node."""
    data, seed = bytes.fromhex(GOLDEN["records"]), segment_seed(INCARNATION, 3)
    entries = [(b"\x01", 17, 4), (b"\x00\x01\x90", 18, 5)]

    assert encode_records(entries, seed=seed, durable_offset=512) == data
    view = memoryview(data)
    assert parse_record(view, 0, seed) == RecordHead(1, 512, 17, 4)
    assert parse_record(view, RECORD_BYTES + 1, seed) == RecordHead(3, 512, 18, 5)
    assert parse_record(view, 0, segment_seed(INCARNATION, 4)) is None
    assert parse_record(view, 0, segment_seed("0" * 16, 3)) is None


@pytest.mark.parametrize("name", VOTES)
def test_the_bytes_of_a_vote(name: str) -> None:
    """On-disk format 1: a vote that is not read back is a vote that may be given twice."""
    data = bytes.fromhex(GOLDEN[name])

    assert encode_vote(VOTES[name], INCARNATION) == data
    assert parse_vote(data, INCARNATION) == VOTES[name]
    assert parse_vote(data, "0" * 16) is None


def test_the_bytes_of_the_progress_sector() -> None:
    """On-disk format 1: one sector, written in place."""
    data = bytes.fromhex(GOLDEN["progress"])
    progress = Progress(commit_index=18, segment_id=3, durable_offset=640)

    assert encode_progress(progress, INCARNATION) == data
    assert parse_progress(data, INCARNATION) == progress
    assert len(data) == SECTOR_BYTES


@pytest.mark.parametrize("name", GOLDEN)
def test_every_bit_is_under_a_checksum(name: str) -> None:
    """Fault 48: no single flipped bit passes."""
    data, seed = bytearray.fromhex(GOLDEN[name]), segment_seed(INCARNATION, 3)
    parsers: dict[str, Callable[[], object]] = {
        "header": lambda: parse_header(bytes(data)),
        "vote": lambda: parse_vote(bytes(data), INCARNATION),
        "progress": lambda: parse_progress(bytes(data), INCARNATION),
        "records": lambda: parse_record(memoryview(data), 0, seed),
    }
    parse = parsers[name.partition("_")[0]]
    end = RECORD_BYTES + 1 if name == "records" else len(data)
    for bit in range(8 * end):
        data[bit // 8] ^= 1 << bit % 8
        assert parse() is None, f"bit {bit}"
        data[bit // 8] ^= 1 << bit % 8
    assert parse() is not None
