"""A node whose directory is damaged comes back as an empty member by itself, and keeps its blobs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sos.disk import SystemDisk
from sos.raft.identity import DataDirectory, read_identity
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    KIB,
    blobs_on_disk,
    content,
    get,
    make_bucket,
    put,
    put_ok,
    wait_in_sync,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster with objects inline and in files."""
    environment = {"SOS_TEST_WIPED_AWAY_S": "1"}
    with Cluster(tmp_path_factory.mktemp("returning"), environment=environment) as running:
        first = running.nodes[0]
        running.start_node(first)  # the first of two starts, which it is put back to later
        running.wait(lambda: first.answers_admin(timeout_s=5.0), "n1 has started once")
        assert running.stop_node(first) == 0
        running.start()
        make_bucket(running.nodes[0])
        for key, body in _OBJECTS.items():
            put_ok(running.nodes[0], key, body)
        yield running


_OBJECTS = {f"k{n}": content(f"k{n}", size) for n, size in enumerate((100, 20 * KIB) * 3)}


def _incarnation(node: TestNode) -> str:
    document = json.loads((node.data / "identity").read_bytes().splitlines()[0])
    return str(document["incarnation"])


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def _damage_journal(node: TestNode) -> None:
    _flip(sorted((node.data / "journal").glob("*.seg"))[0], 600)


def _damage_catalog(node: TestNode) -> None:
    current = (node.data / "catalog" / "current").read_text().strip()
    os.truncate(node.data / "catalog" / current / "data.mdb", 8192)


def _put_back(node: TestNode) -> None:
    """As a block-level snapshot would: the same file, of an earlier start."""
    disk = SystemDisk()
    found = read_identity(disk, str(node.data))
    assert found is not None
    DataDirectory(disk, str(node.data), found.identity)._write(replace(found.identity, boot=0))


def _wait_three_voters(cluster: Cluster) -> None:
    """Every node counts three members again: between the removal of a lost incarnation and the admission of the new one
    there are two, and a second loss then is one of a majority (protocols.md 3.3)."""

    def is_whole(node: TestNode) -> bool:
        members = (node.status() or {}).get("members", [])
        return len(members) == 3 and all(m["voter"] and m["in_sync"] for m in members)

    cluster.wait(lambda: all(map(is_whole, cluster.nodes)), "three voters", deadline_s=60)


@pytest.mark.parametrize(
    ("number", "damage", "word"),
    [
        (1, _damage_journal, "journal"),
        (2, _damage_catalog, "catalog"),
        (0, _put_back, "older state"),
    ],
    ids=["journal", "catalog", "put back"],
)
def test_a_damaged_part_is_put_aside_and_healed(
    cluster: Cluster, number: int, damage: Callable[[TestNode], None], word: str
) -> None:
    """Scenarios 50 to 53, 61; P16: a new incarnation, the damage in quarantine and told, blobs kept, all objects back."""
    node = cluster.nodes[number]
    _wait_three_voters(cluster)
    old, blobs = _incarnation(node), blobs_on_disk(node)
    assert blobs
    assert cluster.stop_node(node) == 0
    damage(node)

    cluster.start_node(node)

    cluster.wait(
        lambda: (s := node.status()) is not None and not s["node"].endswith(old),
        "it is somebody else",
        deadline_s=60,  # two starts
    )
    assert blobs <= blobs_on_disk(node)
    asides = list((node.data / "quarantine").iterdir())
    assert len(asides) == 1
    assert asides[0].name.endswith(old)
    assert sorted(path.name for path in asides[0].iterdir()) == ["catalog", "journal", "why"]
    assert word in (asides[0] / "why").read_text()
    status = node.status()
    assert status is not None
    assert any(word in line and str(asides[0]) in line for line in status["warnings"])
    wait_in_sync(cluster, node)
    for key, body in _OBJECTS.items():
        assert get(node, key).body == body


def _sees_others(node: TestNode) -> bool:
    """Whether its present incarnation had a connection to each of the two others."""
    own = f'"{node.name}@{_incarnation(node)}"'
    lines = node.log_path.read_text().splitlines()
    mine = [line for line in lines if '"transport.connected"' in line and own in line]
    return all(any(f'"peer": "{name}@' in line for line in mine) for name in ("n2", "n3"))


def test_members_that_are_all_damaged_make_no_new_cluster(cluster: Cluster) -> None:
    """P1, protocols.md 2.5: all came back empty, see each other and wait for a person; what they had is put aside.

    The last test: it leaves no cluster behind.
    """
    _wait_three_voters(cluster)
    for node in cluster.nodes:
        assert cluster.stop_node(node) == 0
        # As if the damage before it were long ago: a second one within minutes is that of the disk.
        shutil.rmtree(node.data / "quarantine")
        _damage_journal(node)
    for node in cluster.nodes:
        cluster.start_node(node)

    def is_waiting(node: TestNode) -> bool:
        return "still has its directory" in str((node.status() or {}).get("waiting"))

    for node in cluster.nodes:
        cluster.wait(lambda node=node: is_waiting(node), "it waits", deadline_s=60)  # type: ignore[misc]
    first = cluster.nodes[0]
    cluster.wait(lambda: _sees_others(first), "n1, which would propose, sees both others")
    for node in cluster.nodes:
        status = node.status()
        assert status is not None
        assert status["cluster_id"] is None
        assert put(node, "k0", b"x") == 503
        assert len(list((node.data / "quarantine").iterdir())) == 1
