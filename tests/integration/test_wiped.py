"""A node that lost its disk, or runs on a copy of one, counts for nothing until a person or a leader lets it in."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sos.errors import EXIT_REMOVED, EXIT_USAGE
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    check_all,
    check_disk,
    content,
    get,
    make_bucket,
    put_ok,
    request,
)


def _refusal(cluster: Cluster, node: TestNode) -> tuple[int, str]:
    """Start a node that must refuse: its exit code and its one line."""
    told_before = node.log_path.stat().st_size
    cluster.start_node(node)
    assert node.process is not None
    code = node.process.wait(timeout=30)
    node.process = None
    log = node.log_path.read_bytes()[told_before:].decode()
    assert "Traceback" not in log
    told = [line for line in log.splitlines() if line.startswith("sos: ")]
    assert len(told) == 1, log
    return code, told[0]


def _rows(node: TestNode) -> list[dict[str, Any]]:
    """The members' table as ``node`` shows it."""
    status = node.status()
    rows: list[dict[str, Any]] = [] if status is None else status["members"]
    return rows


def _healed(node: TestNode, *, count: int = 3) -> bool:
    """Whether every member votes and is in sync, no newcomer waits, and none is a stranger to ``node``."""
    rows = _rows(node)
    is_well = all(row["voter"] and row["in_sync"] and row["blobs_owed"] == 0 for row in rows)
    return len(rows) == count and is_well


def _lists(cluster: Cluster) -> list[list[str]]:
    """The member lists that leaders committed, in order of their log index: names with incarnations."""
    found = {}
    for node in cluster.nodes:
        for line in node.log_path.read_text(errors="replace").splitlines():
            if '"core.members.committed"' in line:
                event = json.loads(line)
                found[event["index"]] = event["members"]
    return [found[index] for index in sorted(found)]


def test_a_wiped_node_heals_itself(tmp_path: Path) -> None:
    """Scenarios 54, 55, 58; P8, P12, P16: by two list entries it comes back whole; its old self is turned away.

    Then the case that kills others: committed on A and B, B wiped, A away. B and C elect nobody and serve nothing,
    and when A is back nothing is lost.
    """
    environment = {"SOS_TEST_WIPED_AWAY_S": "3"}
    with Cluster(tmp_path, environment=environment) as cluster:
        cluster.start()
        first, _, third = cluster.nodes
        make_bucket(first)
        written = {f"k{n}": content(f"k{n}", size) for n, size in enumerate((100, 20 * KIB) * 3)}
        for key, body in written.items():
            put_ok(first, key, body)
        cluster.wait(lambda: _healed(first), "all are in sync")
        old = {row["name"]: row["node"] for row in _rows(first)}
        third.kill()
        kept = tmp_path / "kept"
        third.data.rename(kept)

        cluster.start_node(third)
        # It serves as soon as a leader feeds it, through the others' copies, and takes writes that they hold.
        for number, size in enumerate((100, 20 * KIB)):
            put_ok(third, f"through-{number}", content(f"through-{number}", size), deadline_s=40)
            written[f"through-{number}"] = content(f"through-{number}", size)
        cluster.wait(lambda: _healed(first), "the wiped node is a voter and in sync", deadline_s=40)
        new = {row["name"]: row["node"] for row in _rows(first)}
        assert (new["n1"], new["n2"]) == (old["n1"], old["n2"])
        assert new["n3"] != old["n3"]
        others = [old["n1"], old["n2"]]
        assert _lists(cluster) == [others, sorted([*others, new["n3"]])]
        check_all(cluster, written)
        assert check_disk(third) == 4

        _come_back_as_before(cluster, third, kept, old["n3"])
        assert [row["node"] for row in _rows(first)] == sorted([*others, new["n3"]])
        _lose_one_that_knows(cluster, written)


def _come_back_as_before(cluster: Cluster, node: TestNode, kept: Path, old: str) -> None:
    """Scenario 60: an incarnation that a list removed is told so, stops with a code of its own, disturbs nobody."""
    assert cluster.stop_node(node) == 0
    healed = kept.with_name("healed")
    node.data.rename(healed)
    kept.rename(node.data)
    term = status_of(cluster.nodes[0])["term"]
    cluster.start_node(node)
    assert node.process is not None
    assert node.process.wait(timeout=30) == EXIT_REMOVED
    node.process = None
    told = [line for line in node.log_path.read_text().splitlines() if '"core.removed"' in line]
    assert len(told) == 1
    assert f"this node ({old}) was removed from the cluster" in told[0]
    cluster.wait_ready(cluster.nodes[:2])
    assert status_of(cluster.nodes[0])["term"] == term
    shutil.rmtree(node.data)
    healed.rename(node.data)


def _lose_one_that_knows(cluster: Cluster, written: dict[str, bytes]) -> None:
    """n3 is down while n1 and n2 commit; n2 is wiped, n1 goes; then n2 and n3 are together, and n1 comes back."""
    first, second, third = cluster.nodes
    for number, size in enumerate((100, 20 * KIB)):
        key = f"known-to-two-{number}"
        written[key] = content(key, size)
        put_ok(first, key, written[key])
    second.kill()
    shutil.rmtree(second.data)
    first.kill()
    cluster.start_node(second)
    cluster.start_node(third)

    cluster.wait(
        lambda: (second.status() or {}).get("cluster_id") is not None,
        "the wiped one has met the one that was down",
        deadline_s=40,
    )
    with (
        ThreadPoolExecutor() as pool
    ):  # each takes as long as an answer may take: several election timeouts
        answers = [
            *(pool.submit(request, node, "GET", f"/{BUCKET}/k0") for node in (second, third)),
            *(
                pool.submit(request, node, "PUT", f"/{BUCKET}/x", body=b"x")
                for node in (second, third)
            ),
        ]
        assert [answer.result().status for answer in answers] == [503] * 4
    for node in (second, third):
        assert not node.is_ready()
        assert status_of(node)["leader"] is None
    cluster.start_node(first)
    cluster.wait_ready()
    cluster.wait(lambda: _healed(first), "all are members and in sync", deadline_s=40)
    check_all(cluster, written)
    for node in cluster.nodes:
        assert check_disk(node) == 5
        assert get(node, "x").status == 404


def status_of(node: TestNode) -> dict[str, Any]:
    status = node.status()
    assert status is not None
    return status


def test_a_node_that_lost_a_part_refuses_to_start(tmp_path: Path) -> None:
    """protocols.md 1.2: journal, catalog and blobs belong to an incarnation; without one of them it is no more."""
    with Cluster(tmp_path, count=1) as cluster:
        cluster.start()
        node = cluster.nodes[0]
        make_bucket(node)
        assert cluster.stop_node(node) == 0
        for part in ("journal", "catalog", "blobs"):
            aside = tmp_path / part
            (node.data / part).rename(aside)

            code, line = _refusal(cluster, node)

            assert code not in (0, EXIT_USAGE)
            assert part in line
            assert "sos rejoin" in line
            aside.rename(node.data / part)


def test_copies_of_directories_are_refused(tmp_path: Path) -> None:
    """protocols.md 1.3; scenario 61: a restored backup, or another node's directory, may have forgotten promises."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        first, _, third = cluster.nodes
        make_bucket(first)
        put_ok(first, "k", b"before the backup")
        assert cluster.stop_node(third) == 0
        backup, no_sockets = tmp_path / "backup", shutil.ignore_patterns("*.sock")
        shutil.copytree(third.data, backup, ignore=no_sockets)
        cluster.start_node(third)
        cluster.wait_ready([third])
        put_ok(third, "k", b"after the backup")
        assert cluster.stop_node(third) == 0
        kept = tmp_path / "kept"
        third.data.rename(kept)

        shutil.copytree(backup, third.data)
        restored = _refusal(cluster, third)
        shutil.rmtree(third.data)
        shutil.copytree(first.data, third.data, ignore=no_sockets)
        foreign = _refusal(cluster, third)

        for code, line in (restored, foreign):
            assert code != 0
            assert "sos rejoin" in line
        shutil.rmtree(third.data)
        kept.rename(third.data)  # moved, not copied: it is still the same directory
        cluster.start_node(third)
        cluster.wait_ready([third])
        check_all(cluster, {"k": b"after the backup"})
