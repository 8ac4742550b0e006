"""Small real disks that run full: by S3 writes down to the reserve, by a foreign file down to nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sos.errors import EXIT_DISK
from tests.faults import tmpfs
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    Reply,
    blobs_on_disk,
    check_all,
    content,
    delete_ok,
    get,
    make_bucket,
    member_row,
    put,
    put_ok,
    request,
    until,
    wait_in_sync,
)

pytestmark = tmpfs.needs_tmpfs
_DISK_BYTES = 96 * MIB
_BACK_S = 5.0  # issue 5, item 5
_SLACK_S = 5.0  # eight test runs may share two cores
_ENVIRONMENT = {
    "SOS_TEST_UNLINK_DELAY_S": "0.2",
    "SOS_TEST_SWEEP_PERIOD_S": "0.5",
}
SMALL, LARGE = content("small", 12 * KIB), content("large", 1 * MIB)
MEDIUM = content("medium", 64 * KIB)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, each on a disk of its own."""
    directory = tmp_path_factory.mktemp("full-disk")
    with ExitStack() as stack:
        running = Cluster(directory, environment=_ENVIRONMENT)
        for node in running.nodes:
            node.data.mkdir()
            stack.enter_context(tmpfs.small_disk(node.data, _DISK_BYTES))
        stack.enter_context(running)
        running.start()
        make_bucket(running.nodes[0])
        yield running


def _pids(cluster: Cluster) -> list[dict[str, int]]:
    return [node.children() for node in cluster.nodes]


def _back_within(node: TestNode, key: str, body: bytes) -> None:
    started = time.monotonic()
    put_ok(node, key, body)
    assert time.monotonic() - started < _BACK_S + _SLACK_S


def _make_room(cluster: Cluster, keys: list[str]) -> None:
    """The tests that follow begin well above the reserve, with no space still to come back."""
    for key in keys:
        delete_ok(cluster.nodes[0], key)
    for node in cluster.nodes:
        until(lambda n=node: len(blobs_on_disk(n)) == 1, f"{node.name} has its space", 20.0)  # type: ignore[misc]


def _fill(node: TestNode, body: bytes, stored: dict[str, bytes]) -> Reply:
    """Store ``body`` again and again until that is refused; the refusal."""
    while True:
        key = f"fill-{len(stored)}"
        reply = request(node, "PUT", f"/{BUCKET}/{key}", body=body)
        if reply.status != 200:
            return reply
        stored[key] = body
        assert len(stored) < 1000, "the disk never fills"


def test_writes_end_at_the_reserve_and_come_back_with_the_space(cluster: Cluster) -> None:
    """Issue 5, item 5: the S3 error on every node; reads and DELETE go on; space brings writes back, no restart."""
    processes = _pids(cluster)
    stored: dict[str, bytes] = {}
    for body in (LARGE, MEDIUM, SMALL):  # where a large one no longer fits, a small one may
        reply = _fill(cluster.nodes[0], body, stored)
        assert reply.status == 503
        assert b"<Code>SlowDown</Code>" in reply.body
        assert b"disks" in reply.body
    assert len(stored) > 20
    for node in cluster.nodes:
        until(lambda n=node: put(n, "refused", SMALL) == 503, f"{node.name} refuses", 10.0)  # type: ignore[misc]
        assert put(node, "refused", LARGE) == 503
        assert get(node, "fill-0").body == LARGE
        row = member_row(cluster, node.name)
        assert row is not None
        assert row["disk_low"]

    for number in range(20):
        delete_ok(cluster.nodes[number % 3], f"fill-{number}")
        del stored[f"fill-{number}"]
    for node in cluster.nodes:
        _back_within(node, f"back-{node.name}", LARGE)
        stored[f"back-{node.name}"] = LARGE
    assert _pids(cluster) == processes, "nothing was restarted"
    check_all(cluster, stored)
    _make_room(cluster, [key for key in stored if key != "back-n1"])


@pytest.mark.parametrize("who", ["follower", "leader", "all"])
def test_a_disk_without_a_free_byte_stops_nobody(cluster: Cluster, who: str) -> None:
    """Scenarios 37, 38: no SIGBUS, nothing acknowledged is lost, the others go on; with space all is well again."""
    processes = _pids(cluster)
    leader = cluster.leader()
    followers = [node for node in cluster.nodes if node is not leader]
    full = {"follower": followers[:1], "leader": [leader], "all": cluster.nodes}[who]
    put_ok(followers[1], f"before-{who}", SMALL)
    check_all(cluster, {f"before-{who}": SMALL})  # what is not applied yet would wait for space
    for node in full:
        tmpfs.fill(node.data)

    expected = {f"before-{who}": SMALL}
    for node in full:
        until(lambda n=node: put(n, "refused", SMALL) == 503, f"{node.name} refuses", 15.0)  # type: ignore[misc]
    if who == "all":
        for node in full:
            # What was committed while the disks filled up cannot be applied: then a read has to wait for space.
            reply = get(node, "back-n1")
            assert reply.status == 503 or reply.body == LARGE
        assert request(leader, "DELETE", f"/{BUCKET}/none").status in (204, 503)
    else:
        if who == "leader":
            until(lambda: cluster.leader() is not leader, "another one leads", 20.0)
        for number in range(30):
            put_ok(followers[1], f"{who}-{number}", SMALL)
            expected[f"{who}-{number}"] = SMALL
        put_ok(followers[1], f"{who}-large", LARGE)
        expected[f"{who}-large"] = LARGE
        delete_ok(followers[1], f"before-{who}")
        del expected[f"before-{who}"]

    for node in full:
        tmpfs.free(node.data)
    for node in full:
        _back_within(node, f"after-{who}-{node.name}", LARGE)
        expected[f"after-{who}-{node.name}"] = LARGE
    assert _pids(cluster) == processes, "nothing was restarted"
    for node in cluster.nodes:
        wait_in_sync(cluster, node)
    check_all(cluster, expected)


def test_a_full_disk_at_start_is_a_message_and_an_exit_code(cluster: Cluster) -> None:
    """Scenario 39: no traceback, no signal, nothing taken for damage; with space it starts and has everything."""
    node, other = cluster.nodes[0], cluster.nodes[1]
    put_ok(other, "kept", LARGE)
    assert cluster.stop_node(node) == 0
    tmpfs.fill(node.data)
    length = len(node.log_path.read_text())

    cluster.start_node(node)
    assert node.process is not None
    assert node.process.wait(timeout=20) == EXIT_DISK, node.log_tail()
    node.process = None
    told = node.log_path.read_text()[length:]
    assert "sos: " in told
    assert "space" in told
    assert "Traceback" not in told

    tmpfs.free(node.data)
    cluster.start_node(node)
    cluster.wait_ready()
    wait_in_sync(cluster, node)
    check_all(cluster, {"kept": LARGE})
