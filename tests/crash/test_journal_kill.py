"""SIGKILL at every failpoint of journal and vote, in a process of its own on a real disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sos.disk import SystemDisk
from sos.errors import EXIT_DISK
from sos.raft.journal import FileJournal, open_journal

INCARNATION = "00112233445566ff"
WRITER = """
import sys
from sos import failpoints
from sos.disk import SystemDisk
from sos.errors import FatalStop
from sos.raft.journal import open_journal
journal = open_journal(
    SystemDisk(), sys.argv[1], incarnation="00112233445566ff", segment_bytes=4096
)
failpoints.arm(sys.argv[2], test_mode=True)
try:
    term = 0
    while len(journal) < 600:
        if len(journal) % 12 == 6:
            term += 1
            print("voting", term, flush=True)
            journal.setCurrentTerm(term, f"n{term}@00")
            print("voted", term, flush=True)
        for _ in range(3):
            journal.add(b"%d" % (len(journal) + 1) * 100, len(journal) + 1, term)
        journal.sync()
        print("synced", journal.last_index, flush=True)
except FatalStop as stop:
    sys.exit(stop.exit_code)
"""


def run_writer(path: Path, specification: str) -> tuple[int, int, set[int]]:
    """Exit code, last index that was promised, terms that may stand in the vote file."""
    ended = subprocess.run(
        [sys.executable, "-c", WRITER, str(path), specification],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    synced, terms = 0, {0}
    for line in ended.stdout.splitlines():
        word, number = line.split()
        if word == "synced":
            synced = int(number)
        elif word == "voting":
            terms.add(int(number))
        else:
            terms = {int(number)}
    return ended.returncode, synced, terms


def reopen(path: Path) -> FileJournal:
    return open_journal(SystemDisk(), str(path), incarnation=INCARNATION, segment_bytes=4096)


POINTS = [
    "journal.append.before_sync",
    "journal.append.after_sync",
    "journal.segment.switch",
    "vote.before_save",
    "vote.after_save",
]


@pytest.mark.parametrize(("action", "count"), [("kill", 1), ("kill", 3), ("eio", 2), ("enospc", 2)])
@pytest.mark.parametrize("point", POINTS)
def test_what_was_promised_before_the_end_is_there_after_it(
    tmp_path: Path, point: str, action: str, count: int
) -> None:
    """Guards promise 1: killed or failed at any point, the restart holds entries and votes promised."""
    exit_code, synced, terms = run_writer(tmp_path, f"{point}={action}:{count}")

    journal = reopen(tmp_path)
    if action == "kill":
        assert exit_code == -signal.SIGKILL
    elif action == "eio" or point.startswith("vote"):
        assert exit_code == EXIT_DISK
    assert synced <= journal.last_index <= synced + 3
    assert [len(entry[0]) for entry in journal[:]] == [
        len(b"%d" % index) * 100 for index in range(1, journal.last_index + 1)
    ]
    assert journal.getCurrentTerm() in terms
    if journal.getCurrentTerm():
        assert journal.getVotedForNodeId() == f"n{journal.getCurrentTerm()}@00"
