"""A node that lost its disk, or runs on a copy of one, counts for nothing until a person or a leader lets it in."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from sos.errors import EXIT_USAGE
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    KIB,
    check_all,
    content,
    get,
    make_bucket,
    member_row,
    named_blobs,
    put,
    put_ok,
    request,
    wait_in_sync,
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


def test_a_wiped_node_counts_for_nothing(tmp_path: Path) -> None:
    """Scenario 54; P16: no vote, no acknowledgement, no holder, not ready; with one more gone nothing is served."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        first, second, wiped = cluster.nodes
        make_bucket(first)
        written = {f"k{n}": content(f"k{n}", size) for n, size in enumerate((100, 20 * KIB) * 3)}
        for key, body in written.items():
            put_ok(first, key, body)
        wait_in_sync(cluster, wiped)
        before = wiped.status()
        assert before is not None
        assert cluster.stop_node(wiped) == 0
        shutil.rmtree(wiped.data)

        cluster.start_node(wiped)

        # It has another identity, says that it waits and for what, and serves nothing.
        def is_waiting() -> bool:
            status = wiped.status()
            return status is not None and bool(status.get("waiting"))

        cluster.wait(is_waiting, "the wiped node says what it waits for")
        status = wiped.status()
        assert status is not None
        assert status["node"].startswith("n3@")
        assert status["node"] != before["node"]
        assert not wiped.is_ready()
        assert request(wiped, "GET", "/").status == 503
        assert put(wiped, "through-wiped", b"x") == 503
        # The other two go on, with blobs too; the old incarnation is still who the third member is.
        cluster.wait_ready([first, second])
        for number, size in enumerate((100, 20 * KIB, 70 * KIB)):
            key = f"after-{number}"
            written[key] = content(key, size)
            put_ok(second, key, written[key])
        row = member_row(cluster, "n3")
        assert row is not None
        assert (row["reachable"], row["in_sync"], row["blobs_owed"]) == (False, False, None)
        assert all(status["node"] not in record.holders for record in named_blobs(first))
        for node in (first, second):
            for key, body in written.items():
                assert get(node, key).body == body
        # One of the two away: a majority would need the wiped one, which must not be counted.
        second.signal_children(signal.SIGSTOP)
        cluster.wait(lambda: not first.is_ready(), "nothing is served without a majority")
        assert put(first, "minority", b"x") in (None, 500, 503)
        assert put(wiped, "minority", b"x") == 503
        assert get(first, "k0").status == 503
        assert get(wiped, "k0").status == 503
        assert not wiped.is_ready()
        second.signal_children(signal.SIGCONT)
        cluster.wait_ready([first, second])
        for node in (first, second):
            for key, body in written.items():
                assert get(node, key).body == body


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
