"""Disks that fail or stall under a running cluster: real processes, their system calls spoiled by strace."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sos.errors import EXIT_DISK
from tests.faults.strace import injected, needs_strace
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    KIB,
    MIB,
    check_all,
    content,
    make_bucket,
    put,
    put_ok,
    until,
    wait_in_sync,
)

pytestmark = needs_strace
SMALL, LARGE = content("small", 2 * KIB), content("large", 1 * MIB)
_FAILED_ONCE = "error=EIO:when=1"
_DISK_EVENTS = ("core.fatal", "gateway.disk.failed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster; every test leaves it whole."""
    with Cluster(tmp_path_factory.mktemp("disk-faults")) as running:
        running.start()
        make_bucket(running.nodes[0])
        for node in running.nodes:
            put_ok(node, "kept", SMALL)
        yield running


def _followers(cluster: Cluster) -> list[TestNode]:
    leader = cluster.leader()
    return [node for node in cluster.nodes if node is not leader]


@contextmanager
def _load(node: TestNode) -> Iterator[list[str]]:
    """Small writes through ``node`` meanwhile, one after the other; the acknowledged keys."""
    done = threading.Event()
    acknowledged: list[str] = []

    def run() -> None:
        number = 0
        while not done.is_set():
            number += 1
            if put(node, f"load-{number}", SMALL) == 200:
                acknowledged.append(f"load-{number}")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield acknowledged
    finally:
        done.set()
        thread.join()


def _why(node: TestNode) -> str:
    """The reason in the last line of a disk failure in the node's log."""
    for text in reversed(node.log_path.read_text(errors="replace").splitlines()):
        line = json.loads(text) if text.startswith("{") else {}
        if line.get("event") in _DISK_EVENTS:
            return str(line.get("why", line.get("reason")))
    return ""


def _newest_segment(node: TestNode) -> Path:
    return max((node.data / "journal").glob("*.seg"))


def _catalog_file(node: TestNode) -> Path:
    generation = (node.data / "catalog" / "current").read_text().strip()
    return node.data / "catalog" / generation / "data.mdb"


def _fail(node: TestNode, cluster: Cluster, place: str) -> None:
    """Let the next sync of ``place`` fail at ``node``, and bring one about."""
    processes = node.children()
    core, gateway = processes["core"], processes["gateway-0"]
    match place:
        case "journal":
            with injected(core, f"fdatasync:{_FAILED_ONCE}", path=_newest_segment(node)):
                assert put(node, "failed", SMALL) != 200
                _wait_ended(node)
        case "vote":
            vote = node.data / "journal" / "vote.spare"
            with (
                injected(core, f"fsync:{_FAILED_ONCE}", path=vote),
                cluster.paused(cluster.leader()),
            ):
                _wait_ended(node)  # a follower campaigns, or votes for one that does
        case "catalog":
            # what is acknowledged before, a majority holds in its journals
            with injected(core, f"fdatasync:{_FAILED_ONCE}", path=_catalog_file(node)):
                put(node, "unknown", SMALL)
                _wait_ended(node)
        case "blob file":
            with injected(gateway, f"fsync:{_FAILED_ONCE}"):
                assert put(node, "failed", LARGE) != 200
                _wait_ended(node)
        case _:
            with injected(gateway, "fsync:error=EIO:when=2"):
                assert put(node, "failed", LARGE) != 200
                _wait_ended(node)


def _wait_ended(node: TestNode) -> None:
    assert node.process is not None
    node.process.wait(timeout=15)


@pytest.mark.parametrize("place", ["journal", "vote", "catalog", "blob file", "blob directory"])
def test_a_failed_sync_ends_the_node_with_its_own_exit_code(cluster: Cluster, place: str) -> None:
    """P19, scenario 40: it acknowledges nothing after it, the others go on, and its restart is a checked start."""
    node, other = _followers(cluster)
    put_ok(other, f"before {place}".replace(" ", "-"), LARGE)

    _fail(node, cluster, place)

    assert node.process is not None
    assert node.process.returncode == EXIT_DISK, (place, node.log_tail())
    node.process = None
    marks = {
        "journal": ".seg",
        "vote": "vote",
        "catalog": "catalog",
        "blob file": "/blobs/tmp/",
        "blob directory": "/blobs/",
    }
    assert marks[place] in _why(node), _why(node)
    put_ok(other, "meanwhile", LARGE)
    cluster.start_node(node)
    cluster.wait_ready()
    wait_in_sync(cluster, node)
    check_all(cluster, {"kept": SMALL, "meanwhile": LARGE})


def test_a_leader_with_a_slow_disk_hands_over(cluster: Cluster) -> None:
    """Scenario 35: 200 ms a sync; within seconds another one leads, and no write that waits for it fails."""
    leader = cluster.leader()
    other = _followers(cluster)[0]
    with ExitStack() as stack:
        for pid in leader.children().values():
            stack.enter_context(injected(pid, "fdatasync,fsync:delay_enter=200000"))
        with _load(other) as acknowledged:
            until(lambda: cluster.leader() is not leader, "another one leads", 15.0)
    assert "core.leader.hands_over" in leader.log_path.read_text()
    assert acknowledged
    check_all(cluster, dict.fromkeys(acknowledged[:3] + acknowledged[-3:], SMALL))


def test_a_leader_whose_sync_hangs_is_replaced_and_steps_down(cluster: Cluster) -> None:
    """Scenario 35, P8, P15: its heartbeats stop with it; the others elect, and when it wakes it follows."""
    leader = cluster.leader()
    other = _followers(cluster)[0]
    with injected(leader.children()["core"], "fdatasync:delay_enter=4000000:when=1"):
        started = time.monotonic()
        until(lambda: put(other, "hangs", SMALL) == 200, "a write", 20.0)
        until(lambda: cluster.leader() is not leader, "another one leads", 20.0)
        assert time.monotonic() - started < 4.0 + 5.0
        new = cluster.leader()
        put_ok(other, "went-on", SMALL)

        def has_stepped_down() -> bool:
            status = leader.status()
            told = new.status()
            return status is not None and told is not None and status["leader"] == told["node"]

        until(has_stepped_down, "the old leader follows", 20.0)
    check_all(cluster, {"hangs": SMALL, "went-on": SMALL})
