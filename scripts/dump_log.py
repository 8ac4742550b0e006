"""Prints the entries of a node's journal as JSON lines: index, term, kind, decoded commands.

Read-only, also next to a running node; nothing is repaired. Secrets and bodies are left out. Entries that later ones
superseded are not shown. The last line tells the vote. The exit code is 1 if something behind the last entry, or
within an entry, does not parse (behind it: also what was being written right now).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from sos.catalog.codec import decode_entry, decode_members
from sos.catalog.commands import decode_command
from sos.packing import PackingError
from sos.raft.journal_format import (
    HEADER_BYTES,
    RECORD_BYTES,
    SegmentHeader,
    parse_header,
    parse_record,
    parse_vote,
    segment_seed,
)
from sos.raft.journal_load import NO_INDEX, SEGMENT_SUFFIX
from sos.raft.vote import VOTE_NAME

SECRET_FIELDS = ("secret_key",)
BODY_FIELDS = ("data",)
BYTES_SHOWN = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    path: Path
    header: SegmentHeader


def plain(value: object, name: str = "") -> object:
    """``value`` as JSON can hold it, without what must not be shown."""
    if name in SECRET_FIELDS:
        return "left out"
    if isinstance(value, bytes):
        is_shown = name not in BODY_FIELDS and len(value) <= BYTES_SHOWN
        return value.hex() if is_shown else f"{len(value)} bytes"
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    return value


def content(payload: bytes) -> dict[str, object]:
    """Kind and content of an entry. Raises: PackingError."""
    if not payload:
        return {"kind": "no-op"}
    if payload[:1] == b"\x02":
        return {"kind": "members", "members": plain(decode_members(payload))}
    operations = []
    for operation in decode_entry(payload):
        command = decode_command(operation.command)
        fields = plain(command)
        assert isinstance(fields, dict)
        operations.append(
            {
                "command": type(command).__name__,
                "request": operation.request_id.hex(),
                "first_index": operation.first_index,
                **fields,
            }
        )
    return {"kind": "operations", "operations": operations}


def segments(directory: Path) -> list[Segment]:
    """Those in force, in order. Raises: ValueError."""
    found = []
    for path in sorted(directory.glob(f"*{SEGMENT_SUFFIX}")):
        with path.open("rb") as file:
            header = parse_header(file.read(HEADER_BYTES))
        if header is None:
            raise ValueError(f"{path.name}: the header does not parse")
        found.append(Segment(path=path, header=header))
    base = max((at for at, one in enumerate(found) if one.header.base), default=0)
    return found[base:]


def entries(segment: Segment, stop: int) -> Iterator[tuple[int, int, bytes]]:
    """Index, term and payload of the records before ``stop``. Raises: ValueError behind the last one."""
    header, data = segment.header, memoryview(segment.path.read_bytes())
    seed, offset, index = (
        segment_seed(header.incarnation, header.segment_id),
        HEADER_BYTES,
        header.first_index,
    )
    while index < stop:
        head = parse_record(data, offset, seed)
        if head is None or head.log_index != index:
            if any(data[offset:]):
                raise ValueError(f"{segment.path.name}: nothing parses from offset {offset} on")
            return
        start = offset + RECORD_BYTES
        offset = start + head.payload_bytes
        yield index, head.term, bytes(data[start:offset])
        index += 1


def dump(directory: Path, first: int, last: int) -> int:
    """Print what lies between; how many problems there were."""
    found = segments(directory)
    problems = 0
    for at, segment in enumerate(found):
        stop = min((later.header.first_index for later in found[at + 1 :]), default=NO_INDEX)
        try:
            for index, term, payload in entries(segment, stop):
                if first <= index <= last:
                    line: dict[str, object] = {
                        "index": index,
                        "term": term,
                        "bytes": len(payload),
                    }
                    try:
                        line |= content(payload)
                    except PackingError as error:
                        line["damage"] = str(error)
                        problems += 1
                    print(json.dumps(line, ensure_ascii=False))
        except ValueError as error:
            print(json.dumps({"damage": str(error)}))
            problems += 1
    if found:
        vote = parse_vote((directory / VOTE_NAME).read_bytes(), found[0].header.incarnation)
        print(json.dumps({"vote": "does not parse" if vote is None else plain(vote)}))
        problems += vote is None
    return problems


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="data directory or journal directory")
    parser.add_argument("--first", type=int, default=0, metavar="INDEX", help="from this index on")
    parser.add_argument(
        "--last", type=int, default=NO_INDEX, metavar="INDEX", help="up to this index"
    )
    arguments = parser.parse_args()
    path: Path = arguments.path
    directory = path / "journal" if (path / "journal").is_dir() else path
    try:
        return 1 if dump(directory, arguments.first, arguments.last) else 0
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
