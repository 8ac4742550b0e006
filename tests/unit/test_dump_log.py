"""scripts/dump_log.py: what a journal holds, for a person, without secrets and without touching it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sos.catalog.codec import encode_entry, encode_members
from sos.catalog.commands import encode_command
from sos.catalog.model import (
    AccessKeyId,
    Command,
    CreateAccessKey,
    CreateBucket,
    Member,
    NodeId,
    Operation,
    RequestId,
)
from sos.disk import SystemDisk
from sos.raft.journal import open_journal

INCARNATION = "00000000000000a1"
SECRET = "a-secret-that-nobody-may-see"
SCRIPT = Path(__file__).parents[2] / "scripts" / "dump_log.py"


def _dump(path: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(path), *more], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert SECRET not in done.stdout
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def _operation(command: Command) -> Operation:
    return Operation(
        request_id=RequestId(bytes(16)), first_index=1, command=encode_command(command)
    )


def _journal(directory: Path) -> Path:
    """Entries 1 to 4, of which 4 was written twice: the second time in term 2."""
    root = AccessKeyId("ROOT")
    journal = open_journal(SystemDisk(), str(directory), incarnation=INCARNATION)
    bucket = CreateBucket(access_key=root, bucket="photos", created_ms=1)
    key = CreateAccessKey(access_key=AccessKeyId("NEW"), secret_key=SECRET, created_ms=1)
    member = Member(
        node=NodeId(f"n1@{INCARNATION}"),
        name="n1",
        address="127.0.0.1:1",
        blob_address="127.0.0.1:2",
        s3_address="127.0.0.1:3",
    )
    journal.add(b"", 1, 0)
    journal.add(encode_entry([_operation(bucket), _operation(key)]), 2, 1)
    journal.add(encode_members([member]), 3, 1)
    journal.add(b"\x01superseded", 4, 1)
    journal.sync()
    journal.deleteEntriesFrom(3)
    journal.setCurrentTerm(2, f"n1@{INCARNATION}")
    journal.add(b"", 4, 2)
    journal.sync()
    journal.close()
    return directory


def test_entries_are_decoded_without_secrets(tmp_path: Path) -> None:
    """House style 12, design 11: index, term, kind and commands; no secret; only entries in force; nothing written."""
    directory = _journal(tmp_path)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    code, lines = _dump(directory)

    assert code == 0
    assert [(line["index"], line["term"], line["kind"]) for line in lines[:-1]] == [
        (1, 0, "no-op"),
        (2, 1, "operations"),
        (3, 1, "members"),
        (4, 2, "no-op"),
    ]
    bucket, key = lines[1]["operations"]
    assert (bucket["command"], bucket["bucket"]) == ("CreateBucket", "photos")
    assert (key["command"], key["secret_key"]) == ("CreateAccessKey", "left out")
    assert lines[2]["members"][0]["name"] == "n1"
    assert lines[-1] == {"vote": {"term": 2, "voted_for": f"n1@{INCARNATION}"}}
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert [line["index"] for line in _dump(directory, "--first", "2", "--last", "3")[1][:-1]] == [
        2,
        3,
    ]


def test_what_does_not_parse_is_told(tmp_path: Path) -> None:
    """A damaged record ends its segment with a line that says where, and exit code 1."""
    directory = _journal(tmp_path)
    segment = sorted(directory.glob("*.seg"))[0]
    data = bytearray(segment.read_bytes())
    data[data.index(b"photos")] ^= 1
    segment.write_bytes(data)

    code, lines = _dump(directory)

    assert code == 1
    assert any("nothing parses from offset" in line.get("damage", "") for line in lines)
