"""The boot numbers of peers (protocols.md 1.3)."""

from __future__ import annotations

import json

import pytest

from sos.errors import EXIT_DISK, FatalStop
from sos.raft.boots import BOOTS_NAME, PeerBoots, decode_boots, encode_boots
from tests.faults.simdisk import SimDisk

PEER, OTHER = "n2@0000000000000002", "n3@0000000000000003"
PATH = f"/{BOOTS_NAME}"


def test_the_highest_number_survives_every_power_cut() -> None:
    """protocols.md 1.3: durable when ``saw`` returns, whatever the cache loses; lower ones change nothing."""
    disk = SimDisk()
    boots = PeerBoots.load(disk, "/")
    boots.saw(PEER, 3)
    boots.saw(PEER, 7)
    boots.saw(OTHER, 1)
    writes = disk.calls["pwrite"]

    boots.saw(PEER, 6)
    boots.saw(PEER, 7)

    assert disk.calls["pwrite"] == writes
    for state in disk.power_loss_states():
        assert PeerBoots.load(state, "/").highest == {PEER: 7, OTHER: 1}


def test_a_cut_at_any_step_keeps_the_old_or_the_new() -> None:
    """A torn file would forget every peer."""
    disk = SimDisk()
    boots = PeerBoots.load(disk, "/")
    boots.saw(PEER, 3)
    found: list[dict[str, int]] = []

    def look() -> None:
        found.extend(dict(PeerBoots.load(s, "/").highest) for s in disk.power_loss_states())

    disk.on_change = look
    boots.saw(PEER, 4)

    assert {json.dumps(state) for state in found} == {json.dumps({PEER: n}) for n in (3, 4)}


def test_damage_is_forgotten_and_the_node_starts() -> None:
    """It only helps to notice another node's fault: no reason to stay down."""
    disk = SimDisk()
    PeerBoots.load(disk, "/").saw(PEER, 3)
    disk.open(PATH, writable=True).pwrite(b"?", 5)

    boots = PeerBoots.load(disk, "/")

    assert boots.highest == {}
    boots.saw(PEER, 2)
    assert PeerBoots.load(disk, "/").highest == {PEER: 2}


def test_without_space_the_number_is_known_while_the_process_lives() -> None:
    """A full disk must not shut out peers; the next rise writes all."""
    disk = SimDisk()
    boots = PeerBoots.load(disk, "/")
    disk.fail("pwrite", 1, "enospc")

    boots.saw(PEER, 3)

    assert boots.highest == {PEER: 3}
    boots.saw(OTHER, 1)
    assert PeerBoots.load(disk, "/").highest == {PEER: 3, OTHER: 1}


@pytest.mark.parametrize("operation", ["create", "pwrite", "fsync", "rename", "fsync_directory"])
def test_an_io_error_stops(operation: str) -> None:
    """P19: and the number does not count as seen."""
    disk = SimDisk()
    boots = PeerBoots.load(disk, "/")
    disk.fail(operation, 1, "eio")

    with pytest.raises(FatalStop) as stop:
        boots.saw(PEER, 3)

    assert stop.value.exit_code == EXIT_DISK
    assert boots.highest == {}


def test_golden_bytes() -> None:
    """On-disk format 1 never changes."""
    data = b'{"boots":{"n2@0000000000000002":7},"version":1}\n' + b"5fc7a844\n"

    assert encode_boots({PEER: 7}) == data
    assert decode_boots(data) == {PEER: 7}
    assert decode_boots(data.replace(b"7", b"8")) is None
    assert decode_boots(b"") is None
