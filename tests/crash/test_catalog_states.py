"""Every state that a crash may leave of the catalog's database is readable, and none is a torn one.

The database file is recorded after each commit. LMDB writes a transaction as: data pages, fdatasync, one meta
page; with ``metasync=False`` that meta page reaches the disk with the next fdatasync. So a power cut during commit
k leaves: all of commit k-1 but perhaps its meta page, any part of the data pages of k, torn at sectors, and the
meta page of k only if all of those are there.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sos.catalog.model import Command
from sos.catalog.store import CatalogStore
from tests.unit.catalog_samples import (
    NODES,
    Entry,
    Log,
    blob_body,
    copy,
    create_bucket,
    delete,
    formation,
    inline_body,
    put,
)

PAGE = 4096
SECTOR = 512
META_PAGES = (0, 1)
COMMITS = 25
TORN_STATES_PER_COMMIT = 12

CHECK = """
import json, sys
from pathlib import Path
from sos.catalog.store import verify_snapshot
from sos.errors import Corruption
for line in sys.stdin:
    path = line.strip()
    try:
        answer = verify_snapshot(path).index
    except Corruption as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The file after each commit, and the applied index it then holds."""

    files: list[bytes]
    indexes: list[int]

    def pages_changed(self, commit: int) -> dict[int, bytes]:
        before, after = self.files[commit - 1], self.files[commit]
        return {
            page: after[page * PAGE : (page + 1) * PAGE]
            for page in range(len(after) // PAGE)
            if before[page * PAGE : (page + 1) * PAGE] != after[page * PAGE : (page + 1) * PAGE]
        }


def workload(log: Log, generator: random.Random) -> Iterator[Command]:
    """Puts of both kinds, overwrites, copies and deletes, so that pages are freed and used again."""
    for _ in range(generator.randrange(1, 5)):
        number = generator.randrange(10_000_000)
        key = f"key-{generator.randrange(12)}"
        choices: list[Command] = [
            put(key, inline_body(number, generator.randbytes(generator.randrange(9000)))),
            put(key * 80, blob_body(number, NODES[:2])),
            copy(f"key-{generator.randrange(12)}", key),
            delete(key),
            delete(key * 80),
        ]
        yield generator.choice(choices)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("recording") / "catalog"
    generator, log = random.Random(7), Log()
    store = CatalogStore.create(path, formation())
    data = path / "1" / "data.mdb"
    files, indexes = [data.read_bytes()], [store.applied()[0]]
    store.apply([log.entry(create_bucket())])
    for _ in range(COMMITS):
        files.append(data.read_bytes())
        indexes.append(store.applied()[0])
        store.apply(
            [log.entry(*workload(log, generator)) for _ in range(generator.randrange(1, 4))]
        )
    store.close()
    return Recording(files=files, indexes=indexes)


def write_pages(base: bytes, pages: dict[int, bytes]) -> bytes:
    """The file with these pages written; what lies between its end and them is zero."""
    content = bytearray(base)
    for page, data in pages.items():
        end = (page + 1) * PAGE
        content.extend(bytes(max(0, end - len(content))))
        content[page * PAGE : end] = data
    return bytes(content)


def torn(pages: dict[int, bytes], base: bytes, generator: random.Random) -> dict[int, bytes]:
    """A random part of unsynced page writes: each page there, absent, or some of its sectors."""
    result = {}
    for page, data in pages.items():
        fate = generator.randrange(3)
        if fate == 0:
            continue
        if fate == 1:
            result[page] = data
            continue
        old = base[page * PAGE : (page + 1) * PAGE].ljust(PAGE, b"\0")
        sectors = [
            (data if generator.random() < 0.5 else old)[start : start + SECTOR]
            for start in range(0, PAGE, SECTOR)
        ]
        result[page] = b"".join(sectors)
    return result


def states_of(recording: Recording, commit: int, *, synced: bool) -> Iterator[bytes]:
    """Files that a power cut during ``commit`` may leave; ``synced=False``: as if LMDB never called fdatasync."""
    generator = random.Random(commit)
    changed = recording.pages_changed(commit)
    data = {page: content for page, content in changed.items() if page not in META_PAGES}
    meta = {page: content for page, content in changed.items() if page in META_PAGES}
    base = recording.files[commit - 1]
    before = {
        page: recording.files[commit - 2][page * PAGE : (page + 1) * PAGE]
        for page in META_PAGES
        if commit >= 2
    }
    without_last_meta = write_pages(base, before)
    for start in (base, without_last_meta):
        yield start
        yield write_pages(start, data)
        for page in list(data)[:4]:
            yield write_pages(start, {page: data[page]})
        for _ in range(TORN_STATES_PER_COMMIT):
            part = torn(data, start, generator)
            yield write_pages(start, part if synced else {**part, **meta})
    yield write_pages(write_pages(base, data), meta)


def check_states(tmp_path: Path, states: Iterator[tuple[int, bytes]]) -> list[tuple[int, object]]:
    """(commit, applied index or what is wrong) of each state; a child that dies of a signal is its answer too."""
    answers: list[tuple[int, object]] = []
    child = _start()
    path = tmp_path / "state"
    for commit, content in states:
        path.write_bytes(content)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"{path}\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if line:
            answers.append((commit, json.loads(line)))
        else:
            answers.append((commit, f"died: {child.wait(10)}"))
            _stop(child)
            child = _start()
    _stop(child)
    return answers


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHECK]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _stop(child: subprocess.Popen[str]) -> None:
    with child:
        assert child.stdin is not None
        child.stdin.close()


def test_every_crash_state_is_readable_and_whole(tmp_path: Path, recording: Recording) -> None:
    """P22, P12: ``metasync=False`` takes back at most the commit before; no state is unreadable (design 8)."""
    commits = range(2, len(recording.files))

    answers = check_states(
        tmp_path,
        (
            (commit, state)
            for commit in commits
            for state in states_of(recording, commit, synced=True)
        ),
    )

    assert len(answers) > 500
    for commit, answer in answers:
        assert answer in recording.indexes[commit - 2 : commit + 1], (commit, answer)
    assert {recording.indexes.index(int(str(answer))) - commit for commit, answer in answers} == {
        -2,
        -1,
        0,
    }


def test_without_fdatasync_the_same_check_finds_torn_states(
    tmp_path: Path, recording: Recording
) -> None:
    """A check that never failed is none: were data pages not synced before the meta page, states would be torn."""
    commits = range(2, 8)

    answers = check_states(
        tmp_path,
        (
            (commit, state)
            for commit in commits
            for state in states_of(recording, commit, synced=False)
        ),
    )

    assert any(not isinstance(answer, int) for _, answer in answers)


APPLY = """
import sys
from sos import failpoints
from sos.catalog.store import CatalogStore
from tests.unit.catalog_samples import Log, create_bucket, inline_body, put
failpoints.arm(sys.argv[2], test_mode=True)
store, log = CatalogStore.open(sys.argv[1]), Log()
store.apply([log.entry(create_bucket())])
for number in range(6):
    store.apply([log.entry(put(f"key-{number}", inline_body(number)))])
    print(store.applied()[0], flush=True)
"""


def entries() -> list[Entry]:
    log = Log()
    made = [log.entry(create_bucket())]
    made += [log.entry(put(f"key-{number}", inline_body(number))) for number in range(6)]
    return made


@pytest.mark.parametrize("point", ["apply.before_txn", "apply.in_txn", "apply.after_commit"])
def test_a_core_killed_in_apply_continues_where_its_catalog_stands(
    tmp_path: Path, point: str
) -> None:
    """P22: effects and applied index are one transaction; replaying the rest gives the same digests."""
    path = tmp_path / "catalog"
    CatalogStore.create(path, formation()).close()
    whole = CatalogStore.create(tmp_path / "whole", formation())
    whole.apply(entries())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    killed = subprocess.run(
        [sys.executable, "-c", APPLY, str(path), f"{point}=kill:4"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    store = CatalogStore.open(path)
    index, _ = store.applied()
    store.apply([entry for entry in entries() if entry.index > index])

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert index >= max(map(int, killed.stdout.split()))
    assert index == (5 if point == "apply.after_commit" else 4)
    with store.view() as view, whole.view() as expected:
        assert view.digests() == expected.digests()
        assert view.scan_digest() == view.digests().record_sum
