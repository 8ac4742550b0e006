"""What a real cluster answers when it cannot take a request: in time, truthfully, and only as long as it must."""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from sos.limits import COMMIT_S_MAX, READ_BARRIER_S_MAX
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    Reply,
    blob_of,
    check_all,
    content,
    get,
    make_bucket,
    member_row,
    put,
    put_ok,
    request,
    until,
    wait_in_sync,
)

SMALL, LARGE = content("small", 2 * KIB), content("large", 2 * MIB)
SLACK_S = 5.0  # eight test runs may share two cores


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster with two objects; every test leaves it whole."""
    with Cluster(tmp_path_factory.mktemp("refusals")) as running:
        running.start()
        make_bucket(running.nodes[0])
        put_ok(running.nodes[0], "small", SMALL)
        put_ok(running.nodes[0], "large", LARGE)
        yield running


def _refused(node: TestNode, method: str, path: str, body: bytes, within_s: float) -> Reply:
    """A request that gets a definite or an unknown answer in time."""
    started = time.monotonic()
    reply = request(node, method, path, body=body, timeout_s=within_s + SLACK_S)
    took_s = time.monotonic() - started
    assert took_s < within_s + SLACK_S, (method, path, took_s)
    assert reply.status in (500, 503), (method, path, reply.status)
    if reply.status == 503:
        assert reply.headers["retry-after"] == "1"
    if method != "HEAD":
        assert b"<Code>SlowDown" in reply.body or b"<Code>InternalError" in reply.body
    return reply


@pytest.mark.parametrize("survivor", ["leader", "follower"])
def test_without_a_majority_every_request_is_answered_in_time(
    cluster: Cluster, survivor: str
) -> None:
    """Issue 4, item 3: two of three nodes stand still: 503, or 500 where the outcome is unknown; never a hang."""
    leader = cluster.leader()
    node = leader if survivor == "leader" else next(n for n in cluster.nodes if n is not leader)
    with ExitStack() as stack:
        for other in cluster.nodes:
            if other is not node:
                stack.enter_context(cluster.paused(other))
        reads = (
            ("GET", f"/{BUCKET}/small"),
            ("GET", f"/{BUCKET}/large"),
            ("HEAD", f"/{BUCKET}/small"),
            ("GET", f"/{BUCKET}"),
            ("GET", "/"),
            ("GET", f"/{BUCKET}/no-such-key"),
        )
        writes = (
            ("PUT", f"/{BUCKET}/unknown-0", SMALL, 2 * COMMIT_S_MAX),
            ("PUT", f"/{BUCKET}/unknown-1", LARGE, 2 * COMMIT_S_MAX),
            ("DELETE", f"/{BUCKET}/no-such-key", b"", COMMIT_S_MAX),
        )
        with ThreadPoolExecutor() as pool:
            answers = [
                pool.submit(_refused, node, method, path, b"", READ_BARRIER_S_MAX)
                for method, path in reads
            ]
            unknown = [pool.submit(_refused, node, *write) for write in writes]
        for (method, path), answer in zip(reads, answers, strict=True):
            assert answer.result().status == 503, (method, path)
            if method != "HEAD":
                assert b"No majority" in answer.result().body
        for answer in unknown:
            answer.result()
        # A write that was refused for certain before it began leaves nothing to be unknown.
        assert _refused(node, "PUT", "/no-such-bucket/k", SMALL, READ_BARRIER_S_MAX).status == 503

    cluster.wait_ready()
    put_ok(node, "after", SMALL)
    check_all(cluster, {"small": SMALL, "large": LARGE, "after": SMALL})


def _restart_with_reserve(cluster: Cluster, node: TestNode, reserve_bytes: int | None) -> None:
    assert cluster.stop_node(node) == 0
    if reserve_bytes is None:
        node.environment.pop("SOS_TEST_DISK_RESERVE_BYTES")
    else:
        node.environment["SOS_TEST_DISK_RESERVE_BYTES"] = str(reserve_bytes)
    cluster.start_node(node)
    cluster.wait_ready([node])


def _check_refuses_writes_only(node: TestNode) -> None:
    for body in (SMALL, LARGE):
        reply = request(node, "PUT", f"/{BUCKET}/refused", body=body)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
        assert b"disks" in reply.body
    copy = (("x-amz-copy-source", f"/{BUCKET}/small"),)
    assert request(node, "PUT", f"/{BUCKET}/refused", headers=copy).status == 503
    assert get(node, "small").body == SMALL
    assert get(node, "large").body == LARGE
    assert request(node, "DELETE", f"/{BUCKET}/refused").status == 204


def test_a_nearly_full_disk_refuses_writes_and_nothing_else(cluster: Cluster) -> None:
    """Design 11: one low disk refuses at its own node; a majority of them at every node; then all is well again."""
    low, other = cluster.nodes[0], cluster.nodes[1]
    whole = cluster.nodes[2]
    _restart_with_reserve(cluster, low, 1 << 60)

    _check_refuses_writes_only(low)
    put_ok(whole, "on-two-disks", LARGE)  # a write quorum has room
    put_ok(whole, "inline", SMALL)
    # the leader hears of it with the node's next report
    until(lambda: (member_row(cluster, low.name) or {}).get("disk_low"), "status shows it", 20)

    _restart_with_reserve(cluster, other, 1 << 60)
    for node in cluster.nodes:
        until(lambda n=node: put(n, "refused", SMALL) == 503, f"{node.name} refuses", 20)  # type: ignore[misc]
        _check_refuses_writes_only(node)

    for node in (low, other):
        _restart_with_reserve(cluster, node, None)
    expected = {"small": SMALL, "large": LARGE, "on-two-disks": LARGE, "inline": SMALL}
    for node in cluster.nodes:
        put_ok(node, f"from-{node.name}", LARGE)
        expected[f"from-{node.name}"] = LARGE
    for node in cluster.nodes:
        wait_in_sync(cluster, node)  # what had no room is made up for
    check_all(cluster, expected)


def _newcomers(node: TestNode, count: int, stack: ExitStack) -> list[bytes]:
    """Open ``count`` connections that stay; what each was told within a moment (b"": nothing, it was let in)."""
    sockets = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", node.s3_port), timeout=5.0)
        stack.callback(connection.close)
        sockets.append(connection)
    told: list[bytes] = []
    for connection in sockets:
        ready, _, _ = select.select([connection], [], [], 0.0 if told else 1.0)
        try:
            told.append(connection.recv(4096) or b"closed" if ready else b"")
        except ConnectionError:
            told.append(b"closed")
    return told


def test_without_descriptors_newcomers_are_refused_and_the_node_goes_on(cluster: Cluster) -> None:
    """Scenario 44: 503 for newcomers; links to nodes and requests under way go on; over by itself, no restart."""
    node, other = cluster.nodes[0], cluster.nodes[1]
    gateway = node.children()["gateway-0"]
    before = resource.prlimit(gateway, resource.RLIMIT_NOFILE)
    try:
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, (200, before[1]))
        with ExitStack() as stack:
            told = _newcomers(node, 200, stack)
            assert told.count(b"") <= 100
            refused = [text for text in told if text.startswith(b"HTTP/1.1 503 ")]
            assert refused
            assert all(b"<Code>SlowDown</Code>" in text for text in refused)
            put_ok(other, "while-crowded", LARGE)
            until(lambda: blob_of(node, "while-crowded"), "its catalog goes on", 10.0)
        put_ok(node, "after-crowd", LARGE)

        used = len(os.listdir(f"/proc/{gateway}/fd"))
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, (used + 2, before[1]))
        with ExitStack() as stack:
            _newcomers(node, 40, stack)  # accept itself fails
            put_ok(other, "while-exhausted", LARGE)
    finally:
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, before)
    put_ok(node, "after-exhaustion", LARGE)
    assert node.children()["gateway-0"] == gateway
    for each in cluster.nodes:
        wait_in_sync(cluster, each)
    keys = ("while-crowded", "after-crowd", "while-exhausted", "after-exhaustion")
    check_all(cluster, dict.fromkeys(keys, LARGE))
