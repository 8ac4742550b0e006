"""kill -9 of a real node at each failpoint of a resync, a joining, a journal's compaction and its reset by a copy.

What dies at the other failpoints of a running cluster: ``test_member_kill`` (member entries), ``test_return`` (copies of
the catalog, large blobs), ``test_scrub`` (repairs), ``test_returning_kill`` (wiped directories), ``test_put_failpoints``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sos.catalog.model import BlobId
from sos.failpoints import NAMES
from tests.integration.cluster import REPOSITORY, ROOT_SECRET_KEY, Cluster, TestNode
from tests.integration.stores import (
    KIB,
    blob_file,
    blobs_on_disk,
    check_all,
    check_disk,
    content,
    get_settled,
    make_bucket,
    put_ok,
    temporary_files,
    until,
    wait_in_sync,
)
from tests.integration.test_members import address_of

RESYNC = ("resync.bundle.synced", "resync.bundle.renamed", "resync.before_report")
COMPACTION = ("compact.before_unlink", "compact.after_unlink")
JOINING = ("join.before_formed", "join.after_formed")
RESET = "install.journal_half"
POINTS = (*RESYNC, *COMPACTION, RESET)
SMALL_JOURNAL = {
    "SOS_TEST_JOURNAL_KEPT_BYTES": str(64 * KIB),
    "SOS_TEST_JOURNAL_SEGMENT_BYTES": str(128 * KIB),
}
STORED: dict[str, bytes] = {}  # every acknowledged write of this module to its cluster


def test_the_list_of_points_is_whole() -> None:
    """Issue 5: a test enumerates the failpoints and fails for one that nothing reaches."""
    prefixes = ("resync.bundle.", "resync.before_report", "compact.", "join.", RESET)
    assert {*POINTS, *JOINING} == {name for name in NAMES if name.startswith(prefixes)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with the points armed behind gates; every test leaves it whole."""
    with Cluster(tmp_path_factory.mktemp("points"), environment=SMALL_JOURNAL) as running:
        for node in running.nodes:
            node.environment["SOS_FAILPOINTS"] = ";".join(
                f"{point}=kill@{_gate(node, point)}" for point in POINTS
            )
        running.start()
        make_bucket(running.nodes[0])
        yield running


def _gate(node: TestNode, point: str) -> Path:
    return node.data.with_suffix(f".{point}")


def _follower(cluster: Cluster) -> tuple[TestNode, TestNode]:
    """One that does not lead, and the leader."""
    leader = cluster.leader()
    return next(node for node in cluster.nodes if node is not leader), leader


def _write(node: TestNode, name: str, *, count: int, size: int) -> dict[str, bytes]:
    written = {f"{name}-{n}": content(f"{name}-{n}", size) for n in range(count)}
    for key, body in written.items():
        put_ok(node, key, body)
    STORED.update(written)
    return written


def _segments(node: TestNode) -> set[str]:
    return {path.name for path in (node.data / "journal").glob("*.seg")}


def _dies(cluster: Cluster, node: TestNode, point: str) -> None:
    """The node's core dies at ``point`` and the node with it; then it starts again."""
    assert node.process is not None
    assert node.process.wait(timeout=60) != 0
    node.process = None
    _gate(node, point).unlink()
    cluster.start_node(node)


def _check_whole(
    cluster: Cluster, node: TestNode, written: dict[str, bytes], *, members: int = 3
) -> None:
    """All in sync, every acknowledged object right, nothing half done, and the members that were wanted."""
    cluster.wait_in_sync()
    check_disk(node)
    check_all(cluster, written)
    until(lambda: temporary_files(node) == [], "nothing is half written", 10.0)
    status = cluster.leader().status()
    assert status is not None
    assert {row["name"] for row in status["members"]} == {f"n{n + 1}" for n in range(members)}


@pytest.mark.parametrize("point", RESYNC)
def test_a_resync_goes_on_after_its_target_died_with_a_bundle(cluster: Cluster, point: str) -> None:
    """P12, P14: kill -9 around the syncs of many small blobs: none is counted too early, none is copied twice."""
    away, leader = _follower(cluster)
    away.kill()
    written = _write(leader, point, count=24, size=20 * KIB)
    before = blobs_on_disk(away)
    _gate(away, point).touch()

    cluster.start_node(away)
    gateway = cluster.wait(lambda: away.children().get("gateway-0"), "the gateway runs")
    cluster.wait(
        lambda: away.children().get("gateway-0") not in (None, gateway), "it died", deadline_s=40
    )
    had = {blob: _inode(away, blob) for blob in blobs_on_disk(away) - before}
    assert bool(had) == (point != "resync.bundle.synced")
    _gate(away, point).unlink()

    _check_whole(cluster, away, written)
    assert {blob: _inode(away, blob) for blob in had} == had


def _inode(node: TestNode, blob: BlobId) -> int:
    return blob_file(node, blob).stat().st_ino


@pytest.mark.parametrize("point", COMPACTION)
def test_a_node_goes_on_after_it_died_in_a_compaction(cluster: Cluster, point: str) -> None:
    """P1: a journal without its oldest part, or with it once more, still holds all that the catalog needs."""
    victim, leader = _follower(cluster)
    wait_in_sync(cluster, victim)
    _gate(victim, point).touch()
    written: dict[str, bytes] = {}
    for round_number in range(20):
        written |= _write(leader, f"{point}-{round_number}", count=10, size=15 * KIB)
        assert victim.process is not None
        if victim.process.poll() is not None:
            break

    _dies(cluster, victim, point)

    _check_whole(cluster, victim, written)


def test_a_node_goes_on_after_it_died_with_its_journal_half_reset(cluster: Cluster) -> None:
    """Scenario 11: the copy of the catalog is in force, the old journal not quite gone."""
    away, leader = _follower(cluster)
    away.kill()
    old = _segments(leader)
    written = _write(leader, "reset", count=40, size=15 * KIB)
    until(lambda: not old & _segments(leader), "the log reaches back no more", 20.0)
    _gate(away, RESET).touch()

    cluster.start_node(away)
    _dies(cluster, away, RESET)

    _check_whole(cluster, away, written)


def test_a_new_node_joins_although_it_died_twice(cluster: Cluster) -> None:
    """P16: kill -9 before and after it knows where it belongs: the next start joins the same cluster, as one member."""
    new = cluster.new_node("n4", join=cluster.nodes[:3])
    with _adding(cluster.nodes[0], new) as command:
        for point in JOINING:
            new.environment["SOS_FAILPOINTS"] = f"{point}=kill@{_gate(new, point)}"
            _gate(new, point).touch()
            cluster.start_node(new)
            assert new.process is not None
            assert new.process.wait(timeout=60) != 0
            new.process = None
            _gate(new, point).unlink()
        cluster.start_node(new)
        assert command.wait(timeout=60) == 0
    _check_whole(cluster, new, {}, members=4)
    for key, body in STORED.items():
        assert get_settled(new, key).body == body


@contextmanager
def _adding(asked: TestNode, new: TestNode) -> Iterator[subprocess.Popen[bytes]]:
    """`sos member add`, which goes on until the new one is a member."""
    command = subprocess.Popen(
        [
            *(sys.executable, "-m", "sos", "member", "add", f"{new.name}={address_of(new)}"),
            *("--admin", f"127.0.0.1:{asked.admin_port}"),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield command
    finally:
        command.kill()
        command.wait()
