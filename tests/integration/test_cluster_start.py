"""Nodes from the real command line: start, stop, refusals, dead parents, dead children."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import (
    ROOT_SECRET_KEY,
    Cluster,
    TestNode,
    child_pids,
    command_line,
    is_alive,
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster for the tests that leave it whole."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.start()
        yield running


def _refusal(cluster: Cluster, node: TestNode, *, deadline_s: float = 30.0) -> str:
    """Start a node that must refuse; its one line."""
    told_before = node.log_path.stat().st_size if node.log_path.exists() else 0
    cluster.start_node(node)
    assert node.process is not None
    code = node.process.wait(timeout=deadline_s)
    node.process = None
    assert code != 0
    log = node.log_path.read_bytes()[told_before:].decode()
    assert "Traceback" not in log
    told = [line for line in log.splitlines() if line.startswith("sos: ")]
    assert len(told) == 1, log
    return told[0]


def test_every_node_is_ready_and_shows_the_same_cluster(cluster: Cluster) -> None:
    """Design 4: /healthz, /readyz, /status; `sos status` on any node shows the same."""
    statuses = [node.status() for node in cluster.nodes]

    assert all(node.admin("/healthz") == (200, "ok\n") for node in cluster.nodes)
    assert all(status is not None and status["ready"] for status in statuses)
    assert len({s["cluster_id"] for s in statuses if s}) == 1
    assert len({s["leader"] for s in statuses if s}) == 1
    for status in statuses:
        assert status is not None
        assert [m["name"] for m in status["members"]] == ["n1", "n2", "n3"]
        assert all(m["reachable"] and m["voter"] for m in status["members"])
        for field in (
            *("term", "commit_index", "applied_index"),
            *("blobs_at_risk", "unreachable_blobs", "quorum_impossible"),
        ):
            assert field in status


def test_metrics_show_every_process(cluster: Cluster) -> None:
    """Design 4: /metrics in Prometheus' format, gateways included."""
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(cluster.nodes[0].endpoint)  # unsigned: 403, and counted
    code, text = cluster.nodes[0].admin("/metrics")
    assert code == 200
    assert 'sos_raft_term{process="core"}' in text
    assert 'process="gateway-0"' in text


def test_unknown_routes_and_methods_are_refused(cluster: Cluster) -> None:
    """The admin listener takes nothing that it does not know."""
    node = cluster.nodes[0]
    assert node.admin("/nothing")[0] == 404
    assert node.admin("/keys")[0] == 403


def test_no_secret_is_visible_from_outside(cluster: Cluster) -> None:
    """Faults 89: files 0600/0700; no secret in arguments, in a child's environment, or in a log."""
    node = cluster.nodes[0]
    assert node.process is not None
    secrets = [ROOT_SECRET_KEY.encode(), b"test-cluster-key"]
    for pid in child_pids(node.process.pid):
        for name in ("cmdline", "environ"):
            text = Path(f"/proc/{pid}/{name}").read_bytes()
            assert not any(secret in text for secret in secrets)
    assert node.log_path.exists()
    assert not any(secret in node.log_path.read_bytes() for secret in secrets)
    for path in node.data.rglob("*"):
        mode = path.lstat().st_mode & 0o777
        if not path.is_symlink():
            assert mode & 0o077 == 0, f"{path} has mode {mode:o}"


def test_a_dead_gateway_is_replaced_while_its_port_stays(cluster: Cluster) -> None:
    """Faults 90: back within a second; the port is never given away; the core lives on."""
    node = cluster.nodes[1]
    before = node.children()
    os.kill(before["gateway-0"], signal.SIGKILL)

    def replaced() -> bool:
        now = node.children()
        return now.get("gateway-0") not in (None, before["gateway-0"])

    cluster.wait(replaced, "a new gateway runs", deadline_s=5)
    assert node.children()["core"] == before["core"]
    with pytest.raises(OSError, match="Address already in use"):
        _bind(node.s3_port)


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_a_second_process_over_one_directory_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """Issue 4: two nodes with one data directory: a one-line message; the first one lives on."""
    first = cluster.nodes[0]
    with Cluster(tmp_path, count=1) as other:
        twin = other.nodes[0]
        twin.data = first.data
        moved = TestNode(
            name="n1",
            data=first.data,
            node_port=twin.node_port,
            s3_port=twin.s3_port,
            admin_port=twin.admin_port,
        )
        log_before = first.log_path.read_bytes()
        other.start_node(moved)
        assert moved.process is not None
        assert moved.process.wait(timeout=30) != 0
        told = first.log_path.read_bytes()[len(log_before) :].decode()
        assert "is in use by another process" in told
    assert first.is_ready()


def test_no_process_outlives_its_parent(tmp_path: Path) -> None:
    """Design 3: kill -9 of the supervisor ends core and gateways, also a stopped one."""
    with Cluster(tmp_path, count=1) as cluster:
        cluster.start()
        node = cluster.nodes[0]
        assert node.process is not None
        children = node.children()
        assert set(children) == {"core", "gateway-0"}
        os.kill(children["gateway-0"], signal.SIGSTOP)
        node.kill()  # asserts that they are gone


def test_a_dead_core_ends_its_node_with_its_code(tmp_path: Path) -> None:
    """Design 3: the supervisor never restarts a core; a restart finds everything."""
    with Cluster(tmp_path, count=1) as cluster:
        cluster.start()
        node = cluster.nodes[0]
        process = node.process
        assert process is not None
        children = node.children()
        os.kill(children["core"], signal.SIGKILL)
        assert process.wait(timeout=10) == 128 + signal.SIGKILL
        assert not any(is_alive(pid) for pid in children.values())
        node.process = None
        cluster.start()


def test_sigterm_ends_all_within_ten_seconds(tmp_path: Path) -> None:
    """Issue 4: SIGTERM drains within 10 s, exit code 0; all nodes at once and again."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        started = time.monotonic()
        for node in cluster.nodes:
            assert node.process is not None
            node.process.terminate()
        for node in cluster.nodes:
            assert node.process is not None
            assert node.process.wait(timeout=15) == 0
            node.process = None
        assert time.monotonic() - started < 10
        cluster.start()


def test_nothing_forms_until_all_agree(tmp_path: Path) -> None:
    """Issue 4: formation waits, tells for whom, and ends when the last node comes."""
    with Cluster(tmp_path) as cluster:
        for node in cluster.nodes[:2]:
            cluster.start_node(node)

        def waits() -> bool:
            status = cluster.nodes[0].status()
            return bool(status and any("n3" in reason for reason in status.get("waiting", [])))

        cluster.wait(waits, "n1 says that it waits for n3")
        assert not cluster.nodes[0].is_ready()
        cluster.start_node(cluster.nodes[2])
        cluster.wait_ready()


def test_a_wrong_cluster_key_is_refused_on_both_sides(tmp_path: Path) -> None:
    """Issue 4: a node that is not formed, with a wrong cluster key: one line; the others say so too."""
    with Cluster(tmp_path) as cluster:
        stranger = cluster.nodes[2]
        stranger.environment["SOS_CLUSTER_KEY"] = "another-cluster-key-0123456789"
        for node in cluster.nodes[:2]:
            cluster.start_node(node)
        assert "key" in _refusal(cluster, stranger)
        assert not stranger.data.exists(), "nothing written"

        def told() -> bool:
            status = cluster.nodes[0].status()
            return bool(
                status and any("n3" in line and "key" in line for line in status["waiting"])
            )

        cluster.wait(told, "n1 says that n3 has another key")


def test_damaged_and_foreign_directories_are_refused(tmp_path: Path) -> None:
    """Protocols 1.2, 1.3: another name, a lost part, a copied directory: one line, nothing deleted."""
    with Cluster(tmp_path, count=1) as cluster:
        cluster.start()
        node = cluster.nodes[0]
        assert cluster.stop_node(node) == 0

        copy = tmp_path / "copy"
        shutil.copytree(node.data, copy, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
        original, node.data = node.data, copy
        assert "rejoin" in _refusal(cluster, node)
        node.data = original

        catalog = node.data / "catalog"
        catalog.rename(tmp_path / "kept")
        line = _refusal(cluster, node)
        assert "catalog" in line
        assert "rejoin" in line
        (tmp_path / "kept").rename(catalog)

        current = catalog / "current"
        pointer = current.read_bytes()
        (database,) = catalog.glob("*/data.mdb")
        whole = database.read_bytes()
        os.truncate(database, 8192)  # within its pages: behind them are blocks for later ones
        assert "damaged" in _refusal(cluster, node)
        database.write_bytes(whole)
        assert current.read_bytes() == pointer

        node.environment["SOS_ROOT_ACCESS_KEY"] = "ANOTHERROOTKEY"
        assert "differs from the cluster's" in _refusal(cluster, node)
        del node.environment["SOS_ROOT_ACCESS_KEY"]
        cluster.start()


def test_the_command_line_of_a_child_shows_a_descriptor_only(cluster: Cluster) -> None:
    """Configuration reaches children by descriptor."""
    node = cluster.nodes[0]
    for pid in node.children().values():
        assert command_line(pid)[-2].isdigit()


def test_a_child_module_run_by_hand_says_so() -> None:
    """`python -m sos.core` without a supervisor: one line."""
    done = subprocess.run(
        [sys.executable, "-m", "sos.core"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "this module is started by `sos serve`\n"
