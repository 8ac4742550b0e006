"""A process of the real command line is killed at each failpoint on the path of a PUT, and restarted.

One cluster serves all cases: every point is armed from the start behind a gate, a file that the case makes. The
gate's directory is the node's own, so a case says whose process dies.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sos.errors import EXIT_DISK
from sos.failpoints import NAMES
from tests.integration.cluster import Cluster, TestNode, is_alive
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    blobs_on_disk,
    check_all,
    check_disk,
    content,
    get_settled,
    make_bucket,
    named_blobs,
    put,
    put_ok,
    request,
    temporary_files,
    until,
    wait_in_sync,
)

INLINE, ONE_BLOCK, BLOCKS = 3000, 20 * KIB, 3 * MIB // 2
ORPHAN_AGE_S = 8.0  # longer than any upload here takes, and short enough to see the sweep
SETTINGS = {
    "SOS_TEST_ORPHAN_AGE_S": str(ORPHAN_AGE_S),
    "SOS_TEST_SWEEP_PERIOD_S": "0.5",
    "SOS_TEST_UNLINK_DELAY_S": "0.5",
    "SOS_TEST_JOURNAL_SEGMENT_BYTES": str(64 * KIB),  # a segment ends every few PUTs
}
PUT_PATH = ("put.", "raft.propose.", "journal.", "apply.", "ack.")


@dataclass(frozen=True)
class Case:
    """Who dies at which point of a PUT of ``size`` bytes; ``after``: what the key must show then, if it is certain."""

    point: str
    who: str  # coordinator, replica: a gateway; leader, follower: a core
    size: int
    after: str = ""  # "old", "new"; "": by the answer

    def __str__(self) -> str:
        kind = {INLINE: "inline", ONE_BLOCK: "block", BLOCKS: "blocks"}[self.size]
        return f"{self.point}-{self.who}-{kind}"


CASES = (
    *(
        Case(point, "coordinator", size, "old")
        for point, size in (
            ("put.spool.created", ONE_BLOCK),
            ("put.spool.written", BLOCKS),
            ("put.spool.synced", ONE_BLOCK),
            ("put.blob.renamed", BLOCKS),
            ("put.blob.dirsynced", ONE_BLOCK),
            ("put.replicate.sent", BLOCKS),
            ("put.replicate.one_ack", ONE_BLOCK),
            ("put.replicate.quorum", ONE_BLOCK),
            ("put.replicate.quorum", BLOCKS),
        )
    ),
    *(
        Case(point, "replica", size)
        for point, size in (
            ("put.spool.created", BLOCKS),
            ("put.spool.written", ONE_BLOCK),
            ("put.spool.synced", BLOCKS),
            ("put.blob.renamed", ONE_BLOCK),
            ("put.blob.dirsynced", BLOCKS),
        )
    ),
    Case("ack.before_send", "coordinator", INLINE, "new"),
    Case("ack.before_send", "coordinator", BLOCKS, "new"),
    Case("raft.propose.before", "leader", INLINE),
    Case("raft.propose.after", "leader", ONE_BLOCK),
    Case("journal.append.before_sync", "leader", INLINE),
    Case("journal.append.before_sync", "follower", INLINE),
    Case("journal.append.after_sync", "leader", ONE_BLOCK),
    Case("journal.append.after_sync", "follower", INLINE),
    Case("journal.segment.switch", "leader", INLINE),
    Case("journal.segment.switch", "follower", INLINE),
    Case("apply.before_txn", "leader", INLINE),
    Case("apply.before_txn", "follower", ONE_BLOCK),
    Case("apply.in_txn", "leader", ONE_BLOCK),
    Case("apply.in_txn", "follower", INLINE),
    Case("apply.after_commit", "leader", INLINE),
    Case("apply.after_commit", "follower", INLINE),
)


def _points_of_a_put() -> list[str]:
    return sorted(name for name in NAMES if name.startswith(PUT_PATH))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with every point of a PUT armed behind its gate."""
    with Cluster(tmp_path_factory.mktemp("put"), environment=SETTINGS) as running:
        for node in running.nodes:
            node.data.parent.mkdir(parents=True, exist_ok=True)
            _gates(node).mkdir()
            node.environment["SOS_FAILPOINTS"] = ";".join(
                f"{point}=kill@{_gates(node) / point}" for point in _points_of_a_put()
            )
        running.start()
        make_bucket(running.nodes[0])
        yield running


def _gates(node: TestNode) -> Path:
    return node.data.with_suffix(".gates")


@dataclass
class Acknowledged:
    """What every later read must show; kept over all cases of the file."""

    bodies: dict[str, bytes]


@pytest.fixture(scope="module")
def acknowledged() -> Acknowledged:
    return Acknowledged({})


def test_every_point_of_a_put_has_a_case() -> None:
    """faults.md 3.7: a point that no scenario reaches fails."""
    assert {case.point for case in CASES} == set(_points_of_a_put())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_at(cluster: Cluster, acknowledged: Acknowledged, case: Case) -> None:
    """Scenarios 1 to 9; P1, P3, P5: acknowledged is readable everywhere, anything else is whole or absent, and equal."""
    leader = cluster.leader()
    coordinator, other = (node for node in cluster.nodes if node is not leader)
    victim = {"coordinator": coordinator, "replica": other, "leader": leader, "follower": other}[
        case.who
    ]
    process = "core" if case.who in ("leader", "follower") else "gateway-0"
    key = str(case)
    old = None if case.size == ONE_BLOCK else content(f"{key}-old", case.size)  # a new key
    if old is not None:
        put_ok(leader, key, old)
    pid = victim.children()[process]
    gate = _gates(victim) / case.point
    gate.touch()

    possible: list[bytes | None] = [old]
    try:
        # Only every few PUTs ends a segment; all other points are met by the first.
        for attempt in range(40):
            new = content(f"{key}-{attempt}", case.size)
            status = put(coordinator, key, new)
            if status == 200:
                possible = [new]
            elif status is None or status == 500:
                possible.append(new)
            if not is_alive(pid) or not case.point.startswith("journal.segment"):
                break
        until(lambda: not is_alive(pid), "the process dies at its failpoint", 20)
    finally:
        gate.unlink()
    _restart(cluster, victim, process, pid)

    shown = [get_settled(node, key) for node in cluster.nodes]
    assert all(reply.status in (200, 404) for reply in shown)
    bodies = {reply.body if reply.status == 200 else None for reply in shown}
    assert len(bodies) == 1, "the nodes differ"
    body = bodies.pop()
    assert body in possible
    if case.after:
        assert body == {"old": old, "new": new}[case.after]
    if body is not None:
        acknowledged.bodies[key] = body
    for node in cluster.nodes:
        cluster.wait(lambda node=node: not temporary_files(node), "no temporary file is left")  # type: ignore[misc]


def _restart(cluster: Cluster, victim: TestNode, process: str, pid: int) -> None:
    """A supervisor starts a gateway again by itself; with its core the node ends, and is started by us."""
    if process == "core":
        assert victim.process is not None
        assert victim.process.wait(timeout=20) == 128 + signal.SIGKILL
        victim.process = None
        cluster.start_node(victim)
    cluster.wait(
        lambda: victim.children().get(process, pid) != pid, f"{victim.name} has a new {process}"
    )
    cluster.wait_ready()


def test_a_retry_after_the_answer_was_lost(cluster: Cluster, acknowledged: Acknowledged) -> None:
    """Scenario 5: committed, the answer lost: a plain retry is stored again, one that wants a new key gets 412."""
    leader = cluster.leader()
    coordinator = next(node for node in cluster.nodes if node is not leader)
    gate = _gates(coordinator) / "ack.before_send"
    pid = coordinator.children()["gateway-0"]
    gate.touch()
    assert put(coordinator, "lost-answer", b"once") is None
    gate.unlink()
    _restart(cluster, coordinator, "gateway-0", pid)

    conditional = request(
        coordinator,
        "PUT",
        f"/{BUCKET}/lost-answer",
        body=b"twice",
        headers=(("if-none-match", "*"),),
    )

    assert conditional.status == 412
    assert get_settled(leader, "lost-answer").body == b"once"
    assert put(coordinator, "lost-answer", b"again") == 200
    acknowledged.bodies["lost-answer"] = b"again"


@pytest.mark.parametrize("who", ["coordinator", "replica"])
def test_an_io_error_of_a_blob_sync_ends_the_node(
    cluster: Cluster, acknowledged: Acknowledged, who: str
) -> None:
    """Scenario 40; P19: the process stops with its own exit code and acknowledges nothing after the error."""
    victim, other = cluster.nodes[2], cluster.nodes[0]
    assert cluster.stop_node(victim) == 0
    gate = _gates(victim) / "eio"
    armed = victim.environment["SOS_FAILPOINTS"]
    victim.environment["SOS_FAILPOINTS"] = f"put.spool.written=eio@{gate}"
    cluster.start_node(victim)
    cluster.wait_ready()
    process = victim.process
    assert process is not None
    key, body = f"eio-{who}", content(f"eio-{who}", BLOCKS)
    gate.touch()

    status = put(victim if who == "coordinator" else other, key, body)

    if who == "coordinator":
        assert status is None
    else:
        assert status == 200  # a quorum without it
        acknowledged.bodies[key] = body
    assert process.wait(timeout=20) == EXIT_DISK
    victim.process = None
    assert put(victim, "after-eio", b"x") is None
    gate.unlink()
    victim.environment["SOS_FAILPOINTS"] = armed
    cluster.start_node(victim)
    cluster.wait_ready()


def test_afterwards_all_is_kept_and_only_garbage_is_swept(
    cluster: Cluster, acknowledged: Acknowledged
) -> None:
    """P1, P13, P14; scenarios 2, 3, 14: what the cases left behind goes, what is named stays, on every node."""
    for node in cluster.nodes:
        wait_in_sync(cluster, node)

    def is_clean() -> bool:
        return all(
            blobs_on_disk(node) == {record.blob for record in named_blobs(node)}
            for node in cluster.nodes
        )

    cluster.wait(is_clean, "orphans are swept", deadline_s=90)
    for node in cluster.nodes:
        assert check_disk(node) >= 10
    check_all(cluster, acknowledged.bodies)
