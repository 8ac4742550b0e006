"""The identity of a data directory (protocols.md 1 and 2)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sos.clock import ManualIds
from sos.disk import SystemDisk
from sos.errors import EXIT_DAMAGE, EXIT_DISK, FatalStop, StartRefused
from sos.raft.identity import (
    PARTS,
    DataDirectory,
    Empty,
    Formed,
    Prepared,
    lock_directory,
)
from tests.faults.simdisk import SimDisk

CLUSTER = bytes(range(16))


def _disk() -> SimDisk:
    disk = SimDisk()
    disk.mkdir("/n1")
    disk.fsync_directory("/")
    return disk


def _create(disk: SimDisk) -> DataDirectory:
    return DataDirectory.create(disk, "/n1", name="n1", ids=ManualIds())


def _load(disk: SimDisk) -> DataDirectory:
    loaded = DataDirectory.load(disk, "/n1", name="n1")
    assert loaded is not None
    return loaded


def test_what_was_written_is_loaded() -> None:
    """Guards: name, incarnation, boot number and formation survive a restart."""
    disk = _disk()
    assert DataDirectory.load(disk, "/n1", name="n1") is None
    made = _create(disk)
    assert made.identity.node == "n1@0000000000000001"
    assert made.identity.formation == Empty()

    made.raise_boot()
    made.write_prepared(round_number=3, cluster_id=CLUSTER, record=b"\x00record")

    assert _load(disk).identity == made.identity
    assert _load(disk).identity.boot == 1
    assert _load(disk).identity.formation == Prepared(
        round_number=3, cluster_id=CLUSTER, record=b"\x00record"
    )

    made.write_formed(cluster_id=CLUSTER, record=b"\x00record")
    made.write_formed(cluster_id=CLUSTER, record=b"\x00record")

    assert _load(disk).identity.formation == Formed(cluster_id=CLUSTER, record=b"\x00record")


def test_a_promise_is_kept_within_its_round_and_formed_is_never_left() -> None:
    """Guards protocols.md 2.2 and 2.3."""
    made = _create(_disk())
    made.write_prepared(round_number=2, cluster_id=CLUSTER, record=b"a")
    with pytest.raises(AssertionError):
        made.write_prepared(round_number=2, cluster_id=CLUSTER, record=b"b")
    made.write_prepared(round_number=3, cluster_id=CLUSTER, record=b"b")
    made.write_formed(cluster_id=CLUSTER, record=b"b")

    with pytest.raises(AssertionError):
        made.write_prepared(round_number=4, cluster_id=CLUSTER, record=b"c")
    with pytest.raises(AssertionError):
        made.write_formed(cluster_id=CLUSTER, record=b"c")


def test_a_name_is_checked_and_belongs_to_its_directory() -> None:
    """Guards: one line says what to do, nothing is written."""
    disk = _disk()
    for bad in ("", "N1", "a" * 33, "n@1", "n1\n"):
        with pytest.raises(StartRefused, match="node name"):
            DataDirectory.create(disk, "/n1", name=bad, ids=ManualIds())
    assert disk.listing("/n1") == []
    _create(disk)

    with pytest.raises(StartRefused, match="belongs to node 'n1'"):
        DataDirectory.load(disk, "/n1", name="n2")


def test_a_copied_directory_does_not_start(tmp_path: Path) -> None:
    """Guards protocols.md 1.3: on a real disk, a copy with all metadata is noticed, a moved one is not."""
    disk = SystemDisk()
    original = str(tmp_path / "a")
    os.mkdir(original)
    DataDirectory.create(disk, original, name="n1", ids=ManualIds())
    shutil.copytree(original, tmp_path / "b", copy_function=shutil.copy2)

    with pytest.raises(StartRefused, match="sos rejoin"):
        DataDirectory.load(disk, str(tmp_path / "b"), name="n1")
    os.rename(original, tmp_path / "c")
    assert DataDirectory.load(disk, str(tmp_path / "c"), name="n1") is not None


def test_a_copy_put_back_in_place_does_not_start() -> None:
    """Guards protocols.md 1.3: a restored backup under the old path is a rollback."""
    disk = _disk()
    _create(disk).write_formed(cluster_id=CLUSTER, record=b"r")
    disk.copy_tree("/n1", "/backup")
    disk.lose_file("/n1/identity")
    disk.copy_tree("/backup", "/n1")

    with pytest.raises(StartRefused, match="is a copy"):
        _load(disk)


@pytest.mark.parametrize("part", PARTS)
def test_a_wiped_part_is_noticed(part: str) -> None:
    """Guards protocols.md 1.2: a part that is missing or of another incarnation means wiped."""
    disk = _disk()
    _create(disk).write_formed(cluster_id=CLUSTER, record=b"r")
    assert _load(disk).wiped_parts() == ()
    disk.lose_file(f"/n1/{part}/incarnation")

    wiped = _load(disk)
    assert wiped.wiped_parts() == (part,)
    again = DataDirectory.create(disk, "/n1", name="n1", ids=_Other())

    assert again.identity.node != wiped.identity.node
    assert again.wiped_parts() == ()
    assert _load(disk).identity == again.identity


def test_a_new_incarnation_deletes_the_old_content_and_only_after_the_new_incarnation() -> None:
    """Guards protocols.md 1.2: no crash leaves an emptied journal under the old incarnation."""
    disk = _disk()
    old = _create(disk)
    old.write_formed(cluster_id=CLUSTER, record=b"r")
    disk.create("/n1/journal/vote").fsync()
    disk.mkdir("/n1/blobs/00")
    disk.create("/n1/blobs/00/blob").fsync()
    for path in ("/n1/journal", "/n1/blobs", "/n1/blobs/00"):
        disk.fsync_directory(path)
    points: list[SimDisk] = []
    disk.on_change = lambda: points.append(disk.clone())

    DataDirectory.create(disk, "/n1", name="n1", ids=_Other())

    emptied = 0
    for point in points:
        for state in point.power_loss_states():
            loaded = _load(state)
            if loaded.identity.node == old.identity.node:
                assert state.exists("/n1/journal/vote")
                assert state.exists("/n1/blobs/00/blob")
                assert loaded.wiped_parts() == ()
            else:
                emptied += 1
                assert loaded.wiped_parts() == ()
                assert state.listing("/n1/journal") == ["incarnation"]
                assert state.listing("/n1/blobs") == ["incarnation"]
    assert emptied > 10


def test_every_write_is_durable_and_atomic() -> None:
    """Guards protocols.md 1.3 and 2: boot number and formation never go back after a power cut."""
    disk = _disk()
    made = _create(disk)
    promised = [made.identity]
    points: list[tuple[SimDisk, int]] = []
    disk.on_change = lambda: points.append((disk.clone(), len(promised)))
    made.raise_boot()
    promised.append(made.identity)
    made.write_prepared(round_number=1, cluster_id=CLUSTER, record=b"r" * 600)
    promised.append(made.identity)
    made.write_formed(cluster_id=CLUSTER, record=b"r" * 600)
    promised.append(made.identity)

    for point, done in points:
        for state in point.power_loss_states():
            assert _load(state).identity in promised[done - 1 : done + 1]


def test_first_start_cut_short_goes_on() -> None:
    """Guards: a crash at any point of the first start leaves a directory that starts."""
    disk = _disk()
    points: list[SimDisk] = []
    disk.on_change = lambda: points.append(disk.clone())
    _create(disk)

    for point in points:
        for state in point.power_loss_states():
            loaded = DataDirectory.load(state, "/n1", name="n1")
            if loaded is None:
                loaded = _create(state)
            assert loaded.wiped_parts() == ()
            assert _load(state).identity == loaded.identity


def test_damage_is_refused_with_what_to_do() -> None:
    """Guards: every bit of the identity file is checked; a lost one never starts over a journal."""
    disk = _disk()
    _create(disk).write_formed(cluster_id=CLUSTER, record=b"r")
    for bit in range(0, 8 * len(disk.content("/n1/identity")), 3):
        rotten = disk.clone()
        rotten.flip_bit("/n1/identity", bit)
        with pytest.raises(StartRefused) as refused:
            _load(rotten)
        assert refused.value.exit_code == EXIT_DAMAGE
    for size in range(len(disk.content("/n1/identity"))):
        cut = disk.clone()
        cut.cut_file("/n1/identity", size)
        with pytest.raises(StartRefused):
            _load(cut)
    disk.lose_file("/n1/identity")
    with pytest.raises(StartRefused, match="no identity file"):
        _load(disk)


def test_a_failed_sync_stops_and_a_full_disk_refuses() -> None:
    """Guards design 11."""
    disk = _disk()
    made = _create(disk)
    disk.fail("create", 1, "enospc")
    with pytest.raises(StartRefused, match="no space"):
        made.raise_boot()
    disk.fail("fsync", 1, "eio")
    with pytest.raises(FatalStop) as stop:
        made.raise_boot()
    assert stop.value.exit_code == EXIT_DISK


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """Guards: one process per data directory, told in one line."""
    disk = SystemDisk()
    lock = lock_directory(disk, str(tmp_path))

    with pytest.raises(StartRefused, match="in use by another process"):
        lock_directory(disk, str(tmp_path))
    with pytest.raises(StartRefused, match="cannot be used"):
        lock_directory(disk, str(tmp_path / "absent"))

    lock.close()


class _Other(ManualIds):
    """Ids that differ from those of ``_create``."""

    def random_bytes(self, count: int) -> bytes:
        return b"\xee" * count
