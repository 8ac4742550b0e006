"""SIGKILL at every failpoint between damage and an empty member, in a process of its own on a real disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sos.clock import ManualIds
from sos.disk import SystemDisk
from sos.failpoints import NAMES
from sos.raft import quarantine
from sos.raft.identity import DataDirectory, Empty
from sos.raft.quarantine import Note

# What a core does first, up to a directory that it may use.
STARTER = """
import sys
from sos import failpoints
from sos.clock import SystemClock, SystemIds
from sos.config import load
from sos.core.returning import load_or_return
from sos.disk import SystemDisk
flags = {"data": sys.argv[1], "name": "n1", "seeds": "n1=127.0.0.1:9300,n2=127.0.0.1:9400"}
config = load(flags, environment={"SOS_CLUSTER_KEY": "k" * 32})
failpoints.arm(sys.argv[2], test_mode=True)
load_or_return(config, disk=SystemDisk(), ids=SystemIds(), clock=SystemClock())
"""
POINTS = [
    "wipe.before_identity=kill",
    "wipe.after_identity=kill",
    *(f"wipe.after_part=kill:{count}" for count in (1, 2, 3)),
    "wipe.before_note_removed=kill",
]


def _start(path: Path, specification: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", STARTER, str(path), specification],
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.returncode


def test_the_list_of_points_is_whole() -> None:
    """Issue 5: a test enumerates the failpoints and fails for one that nothing reaches."""
    reached = {point.partition("=")[0] for point in POINTS}
    assert reached == {name for name in NAMES if name.startswith("wipe.")}


@pytest.mark.parametrize("point", POINTS)
def test_it_comes_back_once_whatever_was_killed(tmp_path: Path, point: str) -> None:
    """P16, protocols.md 1.2: after the restart it is new and empty, the damage in quarantine, blobs kept, note gone."""
    disk, path = SystemDisk(), tmp_path / "n1"
    path.mkdir()
    old = DataDirectory.create(disk, str(path), name="n1", ids=ManualIds())
    old.write_formed(cluster_id=b"c" * 16, record=b"r")
    for part in ("journal/vote", "catalog/current", "blobs/blob"):
        (path / part).write_bytes(b"old")
    note = Note(incarnation=old.identity.incarnation, why="catalogs differ")
    quarantine.leave_note(disk, str(path), note)

    assert _start(path, point) == -signal.SIGKILL
    first = DataDirectory.load(disk, str(path), name="n1")
    assert first is not None
    assert _start(path, "") == 0

    back = DataDirectory.load(disk, str(path), name="n1")
    assert back is not None
    assert back.identity.node != old.identity.node
    if first.identity.node != old.identity.node:
        assert back.identity.node == first.identity.node
    assert isinstance(back.identity.formation, Empty)
    assert back.wiped_parts() == ()
    assert os.listdir(path / "journal") == os.listdir(path / "catalog") == ["incarnation"]
    assert (path / "blobs" / "blob").read_bytes() == b"old"
    (aside,) = quarantine.list_aside(disk, str(path))
    assert (Path(aside.path) / "journal" / "vote").read_bytes() == b"old"
    assert (Path(aside.path) / "catalog" / "current").read_bytes() == b"old"
    assert not (path / "damaged").exists()
