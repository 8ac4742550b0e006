"""Failpoints: inert in production, exact in tests."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sos import failpoints
from sos.errors import DiskFull, StartRefused

POINT = "journal.append.before_sync"
# Which test reaches each failpoint: it arms it by name, on real nodes wherever more than one file is concerned.
REACHED_BY = {
    "crash/test_put_failpoints.py": {
        "ack.before_send",
        "apply.after_commit",
        "apply.before_txn",
        "apply.in_txn",
        "journal.append.after_sync",
        "journal.append.before_sync",
        "journal.segment.switch",
        "put.blob.dirsynced",
        "put.blob.renamed",
        "put.replicate.one_ack",
        "put.replicate.quorum",
        "put.replicate.sent",
        "put.spool.created",
        "put.spool.synced",
        "put.spool.written",
        "raft.propose.after",
        "raft.propose.before",
    },
    "crash/test_cluster_failpoints.py": {
        "compact.after_unlink",
        "compact.before_unlink",
        "install.journal_half",
        "join.after_formed",
        "join.before_formed",
        "resync.before_report",
        "resync.bundle.renamed",
        "resync.bundle.synced",
    },
    "crash/test_member_kill.py": {
        "member.entry.after",
        "member.entry.before",
    },
    "integration/test_scrub.py": {
        "scrub.found",
        "scrub.put_away",
    },
    "integration/test_return.py": {
        "install.after_swap",
        "install.before_swap",
        "resync.blob.partial",
        "resync.catalog.half",
        "snapshot.after_rename",
        "snapshot.before_rename",
    },
    "crash/test_returning_kill.py": {
        "wipe.after_identity",
        "wipe.after_part",
        "wipe.before_identity",
        "wipe.before_note_removed",
    },
    "crash/test_journal_kill.py": {
        "vote.after_save",
        "vote.before_save",
    },
    "crash/test_blob_write.py": {
        "gc.before_unlink",
    },
    "unit/test_service_objects.py": {
        "delete.after_commit",
    },
}


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None, test_mode=False)


def test_inert_without_the_test_flag() -> None:
    """Guards faults.md 3.7: the variable alone does nothing."""
    failpoints.arm(f"{POINT}=eio", test_mode=False)

    failpoints.hit(POINT)

    assert failpoints.reached() == frozenset()


def test_every_point_stands_in_the_code() -> None:
    """Guards faults.md 3.7: a name that nothing hits is a test that never fires."""
    source = Path(failpoints.__file__).parent
    code = "".join(path.read_text() for path in source.rglob("*.py"))

    assert [name for name in failpoints.NAMES if f'hit("{name}")' not in code] == []


def test_every_point_is_reached_by_a_test() -> None:
    """Issue 5: a failpoint that no test arms fails here; so does a table that the tests no longer follow."""
    tests = Path(__file__).parents[1]
    armed = {file: _armed_in(tests / file) for file in REACHED_BY}

    assert sorted(failpoints.NAMES) == sorted(n for names in REACHED_BY.values() for n in names)
    assert {
        file: names - armed[file] for file, names in REACHED_BY.items() if names - armed[file]
    } == {}


def _armed_in(file: Path) -> set[str]:
    """The failpoints that stand in string constants of a test, as NAME, NAME=ACTION or a list of these."""
    constants = (
        node.value
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    words = {part.partition("=")[0].strip() for text in constants for part in text.split(";")}
    return words & failpoints.NAMES


def test_hits_count_only_while_the_gate_is_there(tmp_path: Path) -> None:
    """Guards faults.md 3.7: a running node is armed by making a file, and disarmed by removing it."""
    gate = tmp_path / "gate"
    failpoints.arm(f"{POINT}=eio:2@{gate}", test_mode=True)
    failpoints.hit(POINT)
    failpoints.hit(POINT)
    gate.touch()
    failpoints.hit(POINT)
    gate.unlink()
    failpoints.hit(POINT)
    gate.touch()

    with pytest.raises(OSError, match="failpoint"):
        failpoints.hit(POINT)


def test_inert_without_the_variable() -> None:
    """Guards faults.md 3.7: the test flag alone does nothing, not even a look at the name."""
    failpoints.arm(None, test_mode=True)

    failpoints.hit("no such point")


@pytest.mark.parametrize(
    "specification",
    [
        "journal.append=kill",
        f"{POINT}",
        f"{POINT}=explode",
        f"{POINT}=kill:0",
        f"{POINT}=kill:x",
        f"{POINT}=kill:1:2",
        f"{POINT}=pause",
        f"{POINT}=pause::2",
    ],
)
@pytest.mark.parametrize("test_mode", [True, False])
def test_unknown_names_and_actions_are_a_start_error(specification: str, test_mode: bool) -> None:
    """Guards: a misspelt failpoint never makes a crash test pass for nothing."""
    with pytest.raises(StartRefused, match="SOS_FAILPOINTS"):
        failpoints.arm(specification, test_mode=test_mode)


def test_count_is_the_hit_that_acts() -> None:
    """Guards: ``:COUNT`` acts once, on that hit; other points pass and are counted as reached."""
    failpoints.arm(f"{POINT}=eio:2; vote.before_save=enospc", test_mode=True)

    failpoints.hit(POINT)
    with pytest.raises(OSError, match="failpoint"):
        failpoints.hit(POINT)
    failpoints.hit(POINT)
    with pytest.raises(DiskFull):
        failpoints.hit("vote.before_save")
    failpoints.hit("vote.after_save")

    assert failpoints.reached() == {POINT, "vote.before_save", "vote.after_save"}


def test_kill_ends_the_process_at_once() -> None:
    """Guards: a crash test dies by SIGKILL, without any cleaning up."""
    program = (
        "from sos import failpoints\n"
        f"failpoints.arm('{POINT}=kill', test_mode=True)\n"
        f"try: failpoints.hit('{POINT}')\nfinally: print('cleaned up')"
    )

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)

    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b""


def test_pause_waits_until_its_file_is_removed(tmp_path: Path) -> None:
    """Guards: a test can hold a node between two effects."""
    told = tmp_path / "told"
    failpoints.arm(f"{POINT}=pause:{told}", test_mode=True)
    thread = threading.Thread(target=failpoints.hit, args=(POINT,))

    thread.start()
    while not told.exists():
        assert thread.is_alive()
    told.unlink()
    thread.join(10)

    assert not thread.is_alive()
