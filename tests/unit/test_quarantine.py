"""A damaged directory comes back as an empty member: order, quarantine, the note, `sos rejoin` (protocols.md 1.2, 1.3)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sos.clock import ManualIds
from sos.disk import SystemDisk
from sos.errors import EXIT_DAMAGE, StartRefused
from sos.raft import quarantine
from sos.raft.identity import DataDirectory, Empty, Formed, read_identity
from sos.raft.quarantine import Note
from tests.faults.simdisk import SimDisk

CLUSTER = bytes(range(16))
WALL_MS = 1_790_000_000_000


class _Other(ManualIds):
    """Ids that differ from those of the first incarnation, and from one another."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self._first = first

    def random_bytes(self, count: int) -> bytes:
        self._first += 1
        return bytes([self._first]) * count


def _member() -> tuple[SimDisk, DataDirectory]:
    """A formed member with something in each part."""
    disk = SimDisk()
    disk.mkdir("/n1")
    disk.fsync_directory("/")
    directory = DataDirectory.create(disk, "/n1", name="n1", ids=ManualIds())
    directory.write_formed(cluster_id=CLUSTER, record=b"r")
    for path in ("/n1/journal/vote", "/n1/catalog/current", "/n1/blobs/blob"):
        disk.create(path).fsync()
        disk.fsync_directory(os.path.dirname(path))
    return disk, directory


def _renew(disk: SimDisk, *, first: int = 0xE0, wall_ms: int = WALL_MS) -> DataDirectory:
    return DataDirectory.renew(
        disk, "/n1", name="n1", ids=_Other(first), wall_ms=wall_ms, why="journal is damaged"
    )


def _load(disk: SimDisk) -> DataDirectory:
    directory = DataDirectory.load(disk, "/n1", name="n1")
    assert directory is not None
    return directory


def test_a_renewed_member_is_empty_but_for_its_blobs() -> None:
    """P16: another incarnation, which may join its cluster and not make one; what it had is put aside with the reason."""
    disk, old = _member()

    new = _renew(disk)

    assert new.identity.node != old.identity.node
    formation = new.identity.formation
    assert isinstance(formation, Empty)
    assert formation.returned is not None
    assert formation.returned.was_formed
    assert new.wiped_parts() == ()
    assert disk.listing("/n1/journal") == disk.listing("/n1/catalog") == ["incarnation"]
    assert disk.listing("/n1/blobs") == ["blob", "incarnation"]
    (aside,) = quarantine.list_aside(disk, "/n1")
    assert aside.path.endswith(old.identity.incarnation)
    assert aside.why == "journal is damaged"
    assert disk.exists(f"{aside.path}/journal/vote")
    assert disk.exists(f"{aside.path}/catalog/current")
    assert _load(disk).identity == new.identity


def test_no_crash_leaves_the_old_incarnation_without_what_it_promised() -> None:
    """P16, protocols.md 1.2: at every point, and in every state a power cut may leave, it is whole, or it is new."""
    disk, old = _member()
    points: list[SimDisk] = []
    disk.on_change = lambda: points.append(disk.clone())
    _renew(disk)

    renewed = 0
    for point in points:
        for state in point.power_loss_states():
            loaded = _load(state)
            assert state.exists("/n1/blobs/blob")
            assert loaded.wiped_parts() == ()
            if loaded.identity.node == old.identity.node:
                assert state.exists("/n1/journal/vote")
                assert state.exists("/n1/catalog/current")
            else:
                renewed += 1
                assert not state.exists("/n1/journal/vote")
                assert not state.exists("/n1/catalog/current")
                (aside,) = quarantine.list_aside(state, "/n1")
                assert state.exists(f"{aside.path}/journal/vote")
                assert state.exists(f"{aside.path}/catalog/current")
    assert renewed > 20


def test_only_blobs_of_this_incarnation_are_kept() -> None:
    """P16: a part that is missing is made; blobs that belong to somebody else are put aside too."""
    disk, _ = _member()
    disk.lose_file("/n1/blobs/incarnation")
    _renew(disk)
    (aside,) = quarantine.list_aside(disk, "/n1")
    assert disk.exists(f"{aside.path}/blobs/blob")
    assert disk.listing("/n1/blobs") == ["incarnation"]


@pytest.mark.parametrize("damage", ["flip", "lose"])
def test_an_unreadable_identity_is_renewed_too(damage: str) -> None:
    """Protocols.md 1.2: nobody can tell what it promised, so it is another one, which must not make a cluster."""
    disk, old = _member()
    if damage == "flip":
        disk.flip_bit("/n1/identity", 80)
    else:
        disk.lose_file("/n1/identity")
    with pytest.raises(StartRefused) as refused:
        _load(disk)
    assert refused.value.exit_code == EXIT_DAMAGE

    new = _renew(disk)

    assert isinstance(new.identity.formation, Empty)
    assert new.identity.formation.returned is not None
    assert new.identity.formation.returned.was_formed
    assert new.identity.formation.returned.incarnation == old.identity.incarnation
    assert disk.exists("/n1/blobs/blob")


def test_two_are_kept_in_quarantine() -> None:
    """Quarantine is bounded, and the newest stays whatever the clock says."""
    disk, _ = _member()
    names = []
    for at, wall_ms in enumerate((WALL_MS, WALL_MS + 5000, WALL_MS - 10_000, WALL_MS + 20_000)):
        directory = _renew(disk, first=0xA0 + at, wall_ms=wall_ms)
        formation = directory.identity.formation
        assert isinstance(formation, Empty)
        assert formation.returned is not None
        names.append(formation.returned.quarantine)
        kept = [os.path.basename(aside.path) for aside in quarantine.list_aside(disk, "/n1")]
        assert len(kept) <= quarantine.KEPT
        assert names[-1] in kept


def test_a_note_is_durable_and_speaks_of_one_incarnation() -> None:
    """P11: differing catalogs both pass their checks; the note is what makes the next start come back wiped."""
    disk, directory = _member()
    note = Note(incarnation=directory.identity.incarnation, why="catalogs differ at 1024")
    quarantine.leave_note(disk, "/n1", note)
    for state in disk.power_loss_states():
        assert quarantine.read_note(state, "/n1") == note
    disk.flip_bit("/n1/damaged", 40)
    assert quarantine.read_note(disk, "/n1") is None
    quarantine.remove_note(disk, "/n1")
    for state in disk.power_loss_states():
        assert not state.exists("/n1/damaged")


def test_a_moved_directory_is_the_original_again(tmp_path: Path) -> None:
    """Protocols.md 1.3: a person states that nothing newer ever ran; the incarnation and all it promised stay."""
    disk = SystemDisk()
    original, copy = str(tmp_path / "a"), str(tmp_path / "b")
    os.mkdir(original)
    made = DataDirectory.create(disk, original, name="n1", ids=ManualIds())
    made.write_formed(cluster_id=CLUSTER, record=b"r")
    shutil.copytree(original, copy, copy_function=shutil.copy2)
    found = read_identity(disk, copy)
    assert found is not None
    assert found.is_copy

    DataDirectory(disk, copy, found.identity).write_moved()

    loaded = DataDirectory.load(disk, copy, name="n1")
    assert loaded is not None
    assert loaded.identity == made.identity
    assert loaded.wiped_parts() == ()


def test_a_recovered_epoch_is_kept_with_its_list() -> None:
    """Protocols.md 3.7: it survives restarts, and a release that does not know of it refuses the directory."""
    disk, directory = _member()
    directory.write_recovered(epoch=5 << 32, members=b"\x02list")

    loaded = _load(disk)

    assert (loaded.identity.epoch, loaded.identity.recovered) == (5 << 32, b"\x02list")
    assert isinstance(loaded.identity.formation, Formed)
    assert b'"version":2' in disk.content("/n1/identity")
    loaded.raise_boot()
    assert _load(disk).identity.recovered == b"\x02list"
