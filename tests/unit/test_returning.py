"""When a damaged node comes back by itself, and when it stops and waits for a person (protocols.md 1.2)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sos.catalog.codec import encode_formation
from sos.catalog.model import NodeId
from sos.clock import ManualClock, SystemIds
from sos.config import Config, load
from sos.core.returning import load_or_return, note_damage, rejoin_empty, warnings
from sos.disk import SystemDisk
from sos.errors import EXIT_DAMAGE, EXIT_DISK, StartRefused
from sos.raft.boots import PeerBoots
from sos.raft.identity import DataDirectory, Empty
from sos.supervisor import Node, Supervision, _Reviver
from tests.unit.catalog_samples import formation

DISK = SystemDisk()
OTHER = NodeId(f"n2@{2:016x}")


def _config(path: Path, *, seeds: str = "n1=127.0.0.1:9300") -> Config:
    flags = {"data": str(path), "name": "n1", "seeds": seeds}
    return load(flags, environment={"SOS_CLUSTER_KEY": "k" * 32})


def _member(path: Path, *, count: int) -> DataDirectory:
    """A formed directory of a cluster that began with ``count`` members."""
    directory = DataDirectory.create(DISK, str(path), name="n1", ids=SystemIds())
    record = replace(formation(), members=formation().members[:count])
    directory.write_formed(cluster_id=record.cluster_id, record=encode_formation(record))
    return directory


def _start(config: Config, clock: ManualClock) -> DataDirectory:
    directory = load_or_return(config, disk=DISK, ids=SystemIds(), clock=clock)
    assert directory is not None
    return directory


def test_the_only_member_leaves_no_note(tmp_path: Path) -> None:
    """Issue 5, point 4: in a cluster of one it stops and says what to do; nothing is moved, nothing deleted."""
    directory, config = _member(tmp_path, count=1), _config(tmp_path)
    identity = directory.identity
    for listed in (None, frozenset({identity.node})):
        assert not note_damage(config, disk=DISK, identity=identity, listed=listed, why="x")
    with pytest.raises(StartRefused, match="only member"):
        rejoin_empty(DISK, str(tmp_path), ids=SystemIds(), clock=ManualClock())
    assert _start(config, ManualClock()).identity == identity

    with (tmp_path / "identity").open("ab") as file:
        file.write(b"x")
    with pytest.raises(StartRefused) as refused:
        _start(config, ManualClock())
    assert refused.value.exit_code == EXIT_DAMAGE


@pytest.mark.parametrize("known", ["list", "formation", "peers"])
def test_whoever_has_company_leaves_one(tmp_path: Path, known: str) -> None:
    """Protocols.md 1.2: the catalog's list decides; without it the formation, or that a peer was ever seen."""
    directory = _member(tmp_path, count=3 if known == "formation" else 1)
    identity, config = directory.identity, _config(tmp_path)
    if known == "peers":
        PeerBoots.load(DISK, str(tmp_path)).saw(OTHER, 3)
    listed = frozenset({identity.node, OTHER}) if known == "list" else None

    assert note_damage(config, disk=DISK, identity=identity, listed=listed, why="catalogs differ")
    back = _start(config, ManualClock())

    assert back.identity.node != identity.node
    assert isinstance(back.identity.formation, Empty)
    assert not (tmp_path / "damaged").exists()
    (warning,) = warnings(DISK, str(tmp_path))
    assert "catalogs differ" in warning
    assert identity.incarnation in warning


def test_a_cluster_that_shrank_to_one_is_alone(tmp_path: Path) -> None:
    """Issue 5, point 4: where its catalog can be read, who is listed now counts, not who was once."""
    directory = _member(tmp_path, count=3)
    identity = directory.identity
    listed = frozenset({identity.node})
    assert not note_damage(_config(tmp_path), disk=DISK, identity=identity, listed=listed, why="x")


def test_an_identity_that_cannot_be_read_is_found_by_the_seeds(tmp_path: Path) -> None:
    """Protocols.md 1.2: its name is that of the flags, and its cluster that of the seed list."""
    old = _member(tmp_path, count=3).identity
    (tmp_path / "identity").write_bytes(b"rot")
    config = _config(tmp_path, seeds="n1=127.0.0.1:9300,n2=127.0.0.1:9400")
    assert _start(config, ManualClock()).identity.node != old.node


def test_damage_upon_damage_does_not_spin(tmp_path: Path) -> None:
    """Issue 5, point 4: the second one within minutes is refused until they passed, over any number of restarts."""
    identity, config, clock = _member(tmp_path, count=3).identity, _config(tmp_path), ManualClock()
    note_damage(config, disk=DISK, identity=identity, listed=None, why="the first")
    back = _start(config, clock).identity
    listed = frozenset({OTHER})
    note_damage(config, disk=DISK, identity=back, listed=listed, why="the second")
    for _ in range(2):
        with pytest.raises(StartRefused, match=r"the second; and .* the first") as refused:
            _start(config, clock)
        assert refused.value.exit_code == EXIT_DAMAGE

    clock.advance(601)
    assert _start(config, clock).identity.node not in (identity.node, back.node)
    assert len(os.listdir(tmp_path / "quarantine")) == 2


def test_the_supervisor_starts_a_noted_node_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 5, point 4: only after damage, only with a note, and not again and again."""
    config = _config(tmp_path)
    node, supervision = Node(config), Supervision.__new__(Supervision)
    starts: list[None] = []
    ends: list[int] = []
    monkeypatch.setattr(node, "start", lambda: starts.append(None))
    monkeypatch.setattr(supervision, "finish", ends.append)
    reviver = _Reviver(supervision)
    node.exit_code = EXIT_DAMAGE
    reviver.on_dead(node)
    assert (len(starts), ends) == (0, [EXIT_DAMAGE])

    identity = _member(tmp_path, count=3).identity
    note_damage(config, disk=DISK, identity=identity, listed=None, why="x")
    node.exit_code = EXIT_DISK
    reviver.on_dead(node)
    assert (len(starts), ends) == (0, [EXIT_DAMAGE, EXIT_DISK])
    node.exit_code = EXIT_DAMAGE
    reviver.on_dead(node)
    reviver.on_dead(node)
    assert (len(starts), ends) == (1, [EXIT_DAMAGE, EXIT_DISK, EXIT_DAMAGE])
