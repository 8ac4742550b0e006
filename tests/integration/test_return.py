"""A node that was killed, stopped or paused returns by itself: log or snapshot first, then every blob it misses."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sos.catalog.model import BlobId, NodeId
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    ROOT,
    blob_file,
    blob_of,
    blobs_on_disk,
    catalog_view,
    check_all,
    check_disk,
    content,
    delete_ok,
    get,
    get_settled,
    make_bucket,
    member_row,
    named_blobs,
    put_ok,
    temporary_files,
    until,
    wait_in_sync,
)
from tests.load.client import signed_head

SIZES = (
    100,
    20 * KIB,
    3 * MIB,
    16 * KIB,
    16 * KIB + 1,
)  # inline, one block, many blocks, the limit
SMALL_JOURNAL = {
    "SOS_TEST_JOURNAL_KEPT_BYTES": str(64 * KIB),
    "SOS_TEST_JOURNAL_SEGMENT_BYTES": str(128 * KIB),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster; every test leaves it whole."""
    with Cluster(tmp_path_factory.mktemp("return")) as running:
        running.start()
        make_bucket(running.nodes[0])
        yield running


def _write(node: TestNode, name: str, count: int = 10) -> dict[str, bytes]:
    """Acknowledged objects of all size classes."""
    written = {}
    for number in range(count):
        key = f"{name}-{number}"
        written[key] = content(key, SIZES[number % len(SIZES)])
        put_ok(node, key, written[key])
    return written


def _write_blobs(node: TestNode, name: str, count: int) -> dict[str, bytes]:
    written = {
        f"{name}-{number}": content(f"{name}-{number}", 3 * MIB // 2) for number in range(count)
    }
    for key, body in written.items():
        put_ok(node, key, body)
    return written


def _check_returned(cluster: Cluster, node: TestNode, written: dict[str, bytes]) -> None:
    """In sync, every blob here and sound, nothing half done left, every key through every node."""
    wait_in_sync(cluster, node)
    check_disk(node)
    assert temporary_files(node) == []
    check_all(cluster, written)


def _wait_unreachable(cluster: Cluster, node: TestNode) -> None:
    """Until its connections are given up: what they hold in their buffers would still reach it."""

    def is_gone() -> bool:
        row = member_row(cluster, node.name)
        return row is not None and not row["reachable"]

    cluster.wait(is_gone, f"{node.name} is unreachable")


def _gateway(node: TestNode) -> int | None:
    return node.children().get("gateway-0")


# --- away, and back by the log --------------------------------------------------------------------
def test_a_killed_node_gets_all_that_it_missed(cluster: Cluster) -> None:
    """Issue 4, item 8; P17: log first, then every blob; `blobs_owed` is null, never 0, until compared."""
    away, other = cluster.nodes[2], cluster.nodes[0]
    before = _write(other, "before")
    away.kill()
    written = {**before, **_write(other, "away")}
    delete_ok(other, "before-2")
    del written["before-2"]
    blob_of(other, "away-9")  # a follower's own catalog is a moment behind the answer
    missing = {record.blob for record in named_blobs(other)} - blobs_on_disk(away)
    assert len(missing) >= 6

    cluster.start_node(away)
    seen: list[tuple[object, object]] = []

    def is_in_sync() -> bool:
        row = member_row(cluster, away.name)
        if row is None:
            return False
        seen.append((row["in_sync"], row["blobs_owed"]))
        return bool(row["in_sync"])

    cluster.wait(is_in_sync, "the node is in sync", deadline_s=60)

    assert seen[0] == (False, None)
    assert all(owed is not None for in_sync, owed in seen if in_sync)
    _check_returned(cluster, away, written)


def test_the_comparison_alone_finds_missing_blobs(cluster: Cluster) -> None:
    """Issue 4, "Shown by": nothing is owed by the catalog, and all that is missing comes back."""
    away, other = cluster.nodes[1], cluster.nodes[0]
    written = _write(other, "compare")
    wait_in_sync(cluster, away)
    status = away.status()
    assert status is not None
    node = NodeId(status["node"])
    assert cluster.stop_node(away) == 0
    removed = [record.blob for record in named_blobs(other)]
    for blob in removed:
        blob_file(away, blob).unlink()
    with catalog_view(other) as view:
        copies = view.member_copies(node)
    assert copies is not None
    assert copies.blobs_owed == 0  # the catalog knows nothing of it
    assert len(removed) >= 6

    cluster.start_node(away)

    _check_returned(cluster, away, written)


def test_copies_that_nobody_reported_are_counted_and_not_copied(cluster: Cluster) -> None:
    """Scenario 7; protocols.md 4.1: a copy that is here, and not in the catalog, is found and counted."""
    away, other = cluster.nodes[2], cluster.nodes[0]
    away.kill()
    written = _write_blobs(other, "unreported", 3)
    put_back: dict[BlobId, int] = {}
    for key in written:
        blob = blob_of(other, key)
        target = blob_file(away, blob)
        target.write_bytes(blob_file(other, blob).read_bytes())
        put_back[blob] = target.stat().st_ino

    cluster.start_node(away)

    _check_returned(cluster, away, written)
    assert {blob: blob_file(away, blob).stat().st_ino for blob in put_back} == put_back


def test_a_paused_node_catches_up(cluster: Cluster) -> None:
    """Scenario 31: SIGSTOP while others write; awake it is behind, and comes back in sync by itself."""
    paused, other = cluster.nodes[2], cluster.nodes[0]
    with cluster.paused(paused):
        _wait_unreachable(cluster, paused)
        written = _write(other, "paused")

    _check_returned(cluster, paused, written)


def test_a_node_back_serves_while_it_lacks_blobs(cluster: Cluster) -> None:
    """Design 10: it serves all the while, through other holders."""
    away, other = cluster.nodes[2], cluster.nodes[0]
    away.kill()
    written = _write_blobs(other, "served", 6)

    cluster.start_node(away)

    for key, body in written.items():
        reply = get_settled(away, key)
        assert (reply.status, reply.body == body) == (200, True)
    _check_returned(cluster, away, written)


# --- deaths during a resync -----------------------------------------------------------------------
def test_a_resync_goes_on_after_the_target_died(cluster: Cluster, tmp_path: Path) -> None:
    """Scenario 57: the target's gateway dies in the middle of a blob; what it had is not copied again."""
    away, other = cluster.nodes[2], cluster.nodes[0]
    away.kill()
    written = _write_blobs(other, "target", 12)
    gate = tmp_path / "gate"
    gate.touch()
    away.environment["SOS_FAILPOINTS"] = f"resync.blob.partial=kill:9@{gate}"
    before = blobs_on_disk(away)

    cluster.start_node(away)
    gateway = cluster.wait(lambda: _gateway(away), "the gateway runs")
    cluster.wait(lambda: _gateway(away) != gateway, "the gateway died in its resync", deadline_s=40)
    gate.unlink()
    had = {b: blob_file(away, b).stat().st_ino for b in blobs_on_disk(away) - before}

    _check_returned(cluster, away, written)
    assert had
    assert {blob: blob_file(away, blob).stat().st_ino for blob in had} == had
    missed = len(blobs_on_disk(away) - before)
    assert _pulled(away) <= missed - len(had)  # since its start
    away.environment.pop("SOS_FAILPOINTS")


@pytest.mark.parametrize("victim_leads", [True, False], ids=["leader", "source"])
def test_a_resync_goes_on_after_another_died(
    cluster: Cluster, tmp_path: Path, victim_leads: bool
) -> None:
    """Scenario 57: the leader, or another source, dies in the middle of a resync."""
    leader = cluster.leader()
    away = next(node for node in cluster.nodes if node is not leader)
    source = next(node for node in cluster.nodes if node not in (leader, away))
    victim = leader if victim_leads else source
    away.kill()
    before = blobs_on_disk(away)
    written = _write_blobs(leader, f"died-{victim.name}", 12)
    wait_in_sync(cluster, source)
    gate, reached = tmp_path / "gate", tmp_path / "reached"
    gate.touch()
    away.environment["SOS_FAILPOINTS"] = f"resync.blob.partial=pause:{reached}:5@{gate}"

    cluster.start_node(away)
    cluster.wait(reached.exists, "the resync is under way", deadline_s=40)
    victim.kill()
    gate.unlink()
    reached.unlink()
    cluster.wait_ready([node for node in cluster.nodes if node is not victim])
    wait_in_sync(cluster, away)
    check_disk(away)
    assert _pulled(away) <= len(blobs_on_disk(away) - before) + 1
    cluster.start_node(victim)

    _check_returned(cluster, victim, written)
    _check_returned(cluster, away, written)
    away.environment.pop("SOS_FAILPOINTS")


def _pulled(node: TestNode) -> int:
    """Blobs that were copied whole since the node's gateway started."""
    _, text = node.admin("/metrics")
    lines = [line for line in text.splitlines() if line.startswith("sos_resync_pulled_blobs_total")]
    return sum(round(float(line.rpartition(" ")[2])) for line in lines)


# --- a blob that nobody has -----------------------------------------------------------------------
def test_a_blob_that_is_gone_everywhere_does_not_keep_all_others_waiting(
    cluster: Cluster,
) -> None:
    """Design 10: the comparison ends; what no holder can give stays owed and is told, the rest comes back."""
    away, others = cluster.nodes[2], cluster.nodes[:2]
    away.kill()
    written = _write_blobs(others[0], "gone", 4)
    gone = blob_of(others[0], "gone-1")
    kept = {node.name: blob_file(node, gone).read_bytes() for node in others}
    for node in others:
        blob_file(node, gone).unlink()

    cluster.start_node(away)

    def is_compared() -> bool:
        row = member_row(cluster, away.name)
        return row is not None and row["blobs_owed"] == 1

    cluster.wait(is_compared, "one blob is owed, and told", deadline_s=60)
    for key in written.keys() - {"gone-1"}:
        assert blob_of(away, key) in blobs_on_disk(away)
    for node in others:
        blob_file(node, gone).write_bytes(kept[node.name])
    others[1].kill()
    cluster.start_node(others[1])  # members that come back are asked again at once

    _check_returned(cluster, away, written)


# --- longer away than the journal keeps -----------------------------------------------------------
def _installs(node: TestNode) -> int:
    return node.log_path.read_text().count('"core.snapshot.installed"')


def _fill_journal(node: TestNode, name: str) -> dict[str, bytes]:
    """More than the journal keeps, of inline objects, and some blobs; back once what was there before is gone."""
    before = _segments(node)
    written = {f"{name}-{n}": content(f"{name}-{n}", 15 * KIB) for n in range(40)}
    for key, body in written.items():
        put_ok(node, key, body)
    written |= _write(node, f"{name}-all")
    until(lambda: not before & _segments(node), "the journal reaches back no more", 20.0)
    return written


def _segments(node: TestNode) -> set[str]:
    return {path.name for path in (node.data / "journal").glob("*.seg")}


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose journals keep next to nothing."""
    directory = tmp_path_factory.mktemp("forgetful")
    with Cluster(directory, environment=SMALL_JOURNAL) as running:
        running.start()
        make_bucket(running.nodes[0])
        yield running


def test_a_node_that_was_away_too_long_gets_a_copy_of_the_catalog(forgetful: Cluster) -> None:
    """Issue 4, item 8: the log no longer reaches back; a snapshot, then the blobs."""
    leader = forgetful.leader()
    away = next(node for node in forgetful.nodes if node is not leader)
    away.kill()
    written = _fill_journal(leader, "long")

    forgetful.start_node(away)

    _check_returned(forgetful, away, written)
    assert _installs(away) == 1, away.log_tail()


def test_gateways_serve_while_a_copy_is_installed(forgetful: Cluster) -> None:
    """Scenario 97: a stream begun before goes on; answers meanwhile are right or 503; no process dies."""
    leader = forgetful.leader()
    paused = next(node for node in forgetful.nodes if node is not leader)
    written = _write_blobs(leader, "stream", 1)
    large = content("large", 24 * MIB)
    put_ok(leader, "large", large)
    wait_in_sync(forgetful, paused)
    processes = paused.children()
    installs = _installs(paused)
    head = signed_head(
        ROOT, method="GET", host=f"127.0.0.1:{paused.s3_port}", path=f"/{BUCKET}/large"
    )
    with socket.create_connection(("127.0.0.1", paused.s3_port), timeout=60) as stream:
        stream.sendall(head)
        received = stream.recv(64 * KIB)  # the rest waits in the node
        paused.signal_children(signal.SIGSTOP)
        _wait_unreachable(forgetful, paused)
        written |= _fill_journal(leader, "meanwhile")
        paused.signal_children(signal.SIGCONT)
        stop = threading.Event()
        wrong: list[object] = []
        reader = threading.Thread(target=_read_all_the_time, args=(paused, written, stop, wrong))
        reader.start()
        try:
            wait_in_sync(forgetful, paused)
        finally:
            stop.set()
            reader.join()
        while len(received.partition(b"\r\n\r\n")[2]) < len(large):
            piece = stream.recv(MIB)
            assert piece, "the stream broke off"
            received += piece

    assert received.partition(b"\r\n\r\n")[2] == large
    assert wrong == []
    assert _installs(paused) == installs + 1
    assert paused.children() == processes
    _check_returned(forgetful, paused, written)


def _read_all_the_time(
    node: TestNode, written: dict[str, bytes], stop: threading.Event, wrong: list[object]
) -> None:
    while not stop.is_set():
        for key, body in written.items():
            if stop.is_set():
                return
            try:
                reply = get(node, key)
            except OSError as error:
                wrong.append((key, repr(error)))
                continue
            if reply.status != 503 and (reply.status != 200 or reply.body != body):
                wrong.append((key, reply.status, len(reply.body)))


@pytest.mark.parametrize(
    "point", ["resync.catalog.half", "install.before_swap", "install.after_swap"]
)
def test_a_death_while_a_copy_is_fetched_or_installed(
    forgetful: Cluster, tmp_path: Path, point: str
) -> None:
    """Scenario 11: catalog and journal are old or new after it, never short; the node returns."""
    leader = forgetful.leader()
    away = next(node for node in forgetful.nodes if node is not leader)
    away.kill()
    written = _fill_journal(leader, point)
    gate = tmp_path / "gate"
    gate.touch()
    away.environment["SOS_FAILPOINTS"] = f"{point}=kill@{gate}"

    forgetful.start_node(away)
    process = away.process
    assert process is not None
    if point == "resync.catalog.half":  # the gateway's; the supervisor starts another one
        gateway = forgetful.wait(lambda: _gateway(away), "the gateway runs")
        forgetful.wait(lambda: _gateway(away) != gateway, "it died", deadline_s=40)
        gate.unlink()
    else:
        assert process.wait(timeout=60) != 0
        away.process = None
        gate.unlink()
        forgetful.start_node(away)

    _check_returned(forgetful, away, written)
    away.environment.pop("SOS_FAILPOINTS")
    assert not list(Path(away.data / "catalog").glob("*.part"))
    assert os.listdir(away.data / "catalog" / "incoming") == []


@pytest.mark.parametrize("point", ["snapshot.before_rename", "snapshot.after_rename"])
def test_a_death_of_the_serving_gateway(forgetful: Cluster, tmp_path: Path, point: str) -> None:
    """Scenario 57: the source of a copy dies while it makes it; the next one is made, nothing is left."""
    nodes = forgetful.nodes
    gate = tmp_path / "gate"
    for node in nodes:  # whoever leads by then
        if node.process is not None:
            forgetful.stop_node(node)
        node.environment["SOS_FAILPOINTS"] = f"{point}=kill@{gate}"
        forgetful.start_node(node)
    forgetful.wait_ready()
    leader = forgetful.leader()
    away = next(node for node in nodes if node is not leader)
    away.kill()
    written = _fill_journal(leader, point)
    gateway = _gateway(leader)
    gate.touch()

    forgetful.start_node(away)
    forgetful.wait(lambda: _gateway(leader) != gateway, "the source died", deadline_s=40)
    gate.unlink()

    _check_returned(forgetful, away, written)
    forgetful.wait(lambda: not os.listdir(leader.data / "catalog" / "outgoing"), "no copy is left")
    for node in nodes:
        node.environment.pop("SOS_FAILPOINTS")


def test_a_copy_comes_from_the_next_leader(forgetful: Cluster, tmp_path: Path) -> None:
    """Scenario 57: the leader stands still in the middle of its copy; nobody waits for it."""
    nodes = forgetful.nodes
    gate, reached = tmp_path / "gate", tmp_path / "reached"
    for node in nodes:
        forgetful.stop_node(node)
        node.environment["SOS_FAILPOINTS"] = f"snapshot.before_rename=pause:{reached}@{gate}"
        forgetful.start_node(node)
    forgetful.wait_ready()
    paused = forgetful.leader()
    away, other = (node for node in nodes if node is not paused)
    away.kill()
    written = _fill_journal(paused, "next")
    gate.touch()

    forgetful.start_node(away)
    forgetful.wait(reached.exists, "the copy is under way", deadline_s=40)
    gate.unlink()
    with forgetful.paused(paused):
        forgetful.wait(lambda: member_row(forgetful, away.name), "another one leads")
        wait_in_sync(forgetful, away)
        check_disk(away)
        assert get_settled(other, "next-0").body == written["next-0"]
    reached.unlink()
    wait_in_sync(forgetful, paused)
    for copy in (paused.data / "catalog" / "outgoing").iterdir():
        copy.unlink()  # nobody fetches it any more: in ten minutes it would go by itself

    _check_returned(forgetful, paused, written)
    _check_returned(forgetful, away, written)
    for node in nodes:
        node.environment.pop("SOS_FAILPOINTS")


def test_several_gateways_of_a_node_share_the_work(tmp_path: Path) -> None:
    """Design 3: whichever gateway takes a request of a resync or for a copy, it knows what it needs."""
    with Cluster(tmp_path, environment=SMALL_JOURNAL, flags=("--gateways", "2")) as cluster:
        cluster.start()
        leader = cluster.leader()
        away = next(node for node in cluster.nodes if node is not leader)
        make_bucket(leader)
        away.kill()
        written = _fill_journal(leader, "several")
        written |= _write_blobs(leader, "several-large", 12)

        cluster.start_node(away)

        _check_returned(cluster, away, written)
        assert _installs(away) == 1
