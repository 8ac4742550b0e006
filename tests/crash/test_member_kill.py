"""The leader is killed at each failpoint of a member change; whoever leads next carries it through."""

from __future__ import annotations

from pathlib import Path

from sos.errors import EXIT_REMOVED
from sos.failpoints import NAMES
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import KIB, check_all, content, make_bucket, put_ok
from tests.integration.test_members import address_of, member_done

POINTS = ("member.entry.before", "member.entry.after")


def _gate(node: TestNode, point: str) -> Path:
    return node.data.with_suffix(f".{point}")


def test_the_list_of_points_is_whole() -> None:
    """Issue 5: a test enumerates the failpoints and fails for one that nothing reaches."""
    assert set(POINTS) == {name for name in NAMES if name.startswith("member.")}


def test_a_change_goes_on_whoever_dies(tmp_path: Path) -> None:
    """P1, P12, P16: the command ends with done although its leader died in the middle; nothing is lost."""
    with Cluster(tmp_path) as cluster:
        for node in cluster.nodes:
            node.environment["SOS_FAILPOINTS"] = ";".join(
                f"{point}=kill@{_gate(node, point)}" for point in POINTS
            )
        cluster.start()
        make_bucket(cluster.nodes[0])
        stored = {f"k{size}": content(f"k{size}", size) for size in (100, 70 * KIB)}
        for key, body in stored.items():
            put_ok(cluster.nodes[0], key, body)
        cluster.wait_in_sync()
        new = cluster.new_node("n4", join=cluster.nodes)
        cluster.start_node(new)
        _killed_at(cluster, "member.entry.before", "add", f"n4={address_of(new)}")
        cluster.wait_in_sync()
        _killed_at(cluster, "member.entry.after", "remove", "n4")
        assert new.process is not None
        assert new.process.wait(timeout=30) == EXIT_REMOVED
        new.process = None
        cluster.nodes.remove(new)
        cluster.wait_in_sync()
        check_all(cluster, stored)


def _killed_at(cluster: Cluster, point: str, *arguments: str) -> None:
    """Run a change whose leader dies at ``point``; then that node comes back."""
    leader = cluster.leader()
    asked = next(node for node in cluster.nodes if node is not leader)
    gate = _gate(leader, point)
    gate.touch()
    assert member_done(asked, *arguments).startswith("done: ")
    assert leader.process is not None
    assert leader.process.wait(timeout=10) != 0
    gate.unlink()
    leader.process = None
    cluster.start_node(leader)
