"""`sos verify DIR` names every kind of damage in a stopped node's directory, and changes nothing in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import pytest

from sos.blob.layout import blob_path
from sos.catalog import keys
from sos.catalog.model import BlobId
from sos.verify.directory import verify_directory
from tests.integration.cluster import REPOSITORY, Cluster
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    blob_of,
    catalog_view,
    content,
    delete_ok,
    make_bucket,
    put_ok,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A node's directory after a clean stop, and what lies in it."""

    data: Path
    blobs: tuple[BlobId, BlobId]
    inline_row: bytes
    running: str  # what the command said of it while the node ran
    running_code: int


def _run(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sos", "verify", str(path), *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stopped]:
    """A cluster of one that stored objects of every kind, and ended."""
    environment = {"SOS_TEST_JOURNAL_SEGMENT_BYTES": str(2 * MIB)}
    directory = tmp_path_factory.mktemp("verify")
    with Cluster(directory, count=1, environment=environment) as cluster:
        cluster.start()
        (node,) = cluster.nodes
        make_bucket(node)
        put_ok(node, "small", b"inline")
        put_ok(node, "d" * 900, b"a long key")
        put_ok(node, "one", content("one", 3 * MIB))
        put_ok(node, "two", content("two", 3 * MIB))
        put_ok(node, "three", content("three", 20 * KIB))
        for number in range(40):
            put_ok(node, f"many-{number}", content("many", 8 * KIB))
        delete_ok(node, "many-7")
        with catalog_view(node) as view:
            bucket = view.bucket(BUCKET)
            assert bucket is not None
            record = view.object(bucket.bucket_id, "small")
            assert record is not None
            assert record.blob is not None
            inline_row = keys.inline_key(record.blob)
        blobs = blob_of(node, "one"), blob_of(node, "two")
        told = _run(node.data)
        assert cluster.stop_node(node) == 0
        yield Stopped(
            data=node.data,
            blobs=blobs,
            inline_row=inline_row,
            running=told.stderr + told.stdout,
            running_code=told.returncode,
        )


def _picture(path: Path) -> dict[str, Any]:
    """Every file and directory with what a write would change."""
    found: dict[str, Any] = {}
    for entry in sorted([path, *path.rglob("*")]):
        stat = entry.stat()
        digest = hashlib.sha256(entry.read_bytes()).hexdigest() if entry.is_file() else ""
        found[str(entry.relative_to(path))] = (
            *(stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_mode, stat.st_ino),
            digest,
        )
    return found


def test_a_sound_directory_is_clean_and_stays_as_it_is(stopped: Stopped) -> None:
    """Issue 5, point 4: read-only, exit 0; a running node is told apart, in one line."""
    before = _picture(stopped.data)

    done = _run(stopped.data, "--json")

    assert done.returncode == 0, done.stdout
    document = json.loads(done.stdout)
    assert document["clean"]
    assert document["findings"] == []
    assert document["checked"]["replicas"] == 3
    assert document["checked"]["applied_index"] == document["checked"]["journal_last"]
    assert _picture(stopped.data) == before
    assert stopped.running_code == 1
    assert "in use by a running node" in stopped.running
    assert len(stopped.running.splitlines()) == 1


# --- damage ---------------------------------------------------------------------------------------
def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def _blob(data: Path, stopped: Stopped, number: int = 0) -> Path:
    return Path(blob_path(str(data / "blobs"), stopped.blobs[number]))


def _swap(data: Path, stopped: Stopped) -> None:
    first, second = _blob(data, stopped, 0), _blob(data, stopped, 1)
    content_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content_of_first)


def _segments(data: Path) -> list[Path]:
    return sorted((data / "journal").glob("*.seg"))


def _database(data: Path) -> Path:
    return next((data / "catalog").glob("*/data.mdb"))


def _rot_row(data: Path, row_key: bytes) -> None:
    """Flip a bit of a row where it lies, as a disk would."""
    environment = lmdb.open(str(_database(data).parent), map_size=1 << 40)
    with environment.begin(write=True) as transaction:
        value = bytearray(transaction.get(row_key) or b"")
        value[-1] ^= 1
        transaction.put(row_key, bytes(value))
    environment.close()


def _drop_row(data: Path, row_key: bytes) -> None:
    environment = lmdb.open(str(_database(data).parent), map_size=1 << 40)
    with environment.begin(write=True) as transaction:
        assert transaction.delete(row_key)
    environment.close()


def _zero_pages(data: Path) -> None:
    with _database(data).open("r+b") as file:
        file.seek(8 * 4096)
        file.write(bytes(24 * 4096))


Damage = Callable[[Path, Stopped], object]
# What is done, in which part it shows, and a word of the line.
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "blob flipped": (lambda d, s: _flip(_blob(d, s), MIB + 7), "blobs", "block 1 fails"),
    "blob cut": (lambda d, s: os.truncate(_blob(d, s), MIB), "blobs", "no footer"),
    "blob gone": (lambda d, s: _blob(d, s).unlink(), "blobs", "missing"),
    "blobs swapped": (_swap, "blobs", "the file holds blob"),
    "journal flipped": (lambda d, _: _flip(_segments(d)[0], 3000), "journal", "damaged"),
    "journal cut": (lambda d, _: os.truncate(_segments(d)[-1], 5000), "journal", "short"),
    "segment gone": (lambda d, _: _segments(d)[-1].unlink(), "journal", ""),
    "vote flipped": (lambda d, _: _flip(d / "journal" / "vote", 20), "journal", "vote"),
    "vote gone": (lambda d, _: (d / "journal" / "vote").unlink(), "journal", "vote"),
    "record flipped": (lambda d, s: _rot_row(d, s.inline_row), "catalog", "inline_bodies"),
    "record gone": (lambda d, s: _drop_row(d, s.inline_row), "catalog", "has no row"),
    "catalog cut": (lambda d, _: os.truncate(_database(d), 3 * 4096), "catalog", ""),
    "pages zeroed": (lambda d, _: _zero_pages(d), "catalog", ""),
    "catalog gone": (lambda d, _: (d / "catalog" / "current").unlink(), "catalog", "missing"),
    "identity flipped": (lambda d, _: _flip(d / "identity", 30), "identity", "damaged"),
    "mark gone": (lambda d, _: (d / "blobs" / "incarnation").unlink(), "identity", "incarnation"),
}


# A run costs half a second, and parts do not know each other: several kinds of damage share one.
GROUPS = (
    ("blob flipped", "journal flipped", "mark gone"),
    ("blob cut", "journal cut"),
    ("blob gone", "segment gone"),
    ("blobs swapped", "vote flipped"),
    ("record flipped", "vote gone"),
    ("record gone",),
    ("catalog cut",),
    ("pages zeroed",),
    ("catalog gone",),
    ("identity flipped",),
)
assert sorted(name for group in GROUPS for name in group) == sorted(DAMAGES)


@pytest.mark.parametrize("group", GROUPS, ids=", ".join)
def test_damage_is_named(stopped: Stopped, tmp_path: Path, group: tuple[str, ...]) -> None:
    """Scenarios 47 to 53: one line for each that names the part; the directory stays as it was."""
    data = tmp_path / "copy"
    shutil.copytree(stopped.data, data, ignore=shutil.ignore_patterns("*.sock"))
    for name in group:
        DAMAGES[name][0](data, stopped)
    before = _picture(data)

    report = verify_directory(data)

    assert not report.is_clean
    damaged = [finding for finding in report.findings if finding.is_damage]
    for name in group:
        _, part, word = DAMAGES[name]
        assert any(f.part == part and word in f.line() for f in damaged), (name, report.findings)
    assert all("\n" not in finding.line() for finding in damaged)
    assert _picture(data) == before


def test_what_is_no_damage_is_a_note(stopped: Stopped, tmp_path: Path) -> None:
    """A copy, an upload that never ended, half written files: named, and the directory is clean."""
    data = tmp_path / "copy"
    shutil.copytree(stopped.data, data, ignore=shutil.ignore_patterns("*.sock"))
    source = _blob(data, stopped)
    shutil.copy(source, source.with_name("f" * 30 + source.name[-2:]))
    (data / "blobs" / "00" / "notes.txt").write_text("of a person")

    report = verify_directory(data)

    assert report.is_clean, report.findings
    notes = " ".join(finding.line() for finding in report.findings)
    for word in ("is a copy", "not counted here", "no name of a blob"):
        assert word in notes


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_what_is_no_directory_of_a_node(tmp_path: Path, make: str) -> None:
    """Bad input: one line, exit code 1, nothing written."""
    path = tmp_path / "other"
    if make == "file":
        path.write_text("x")
    elif make == "empty":
        path.mkdir()

    done = _run(path)

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("sos: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == ([] if make == "missing" else [path])
