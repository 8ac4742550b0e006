"""A copy that went to quarantine is owed and made again, whatever dies before the catalog heard of it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sos.errors import Corruption
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    blob_file,
    blob_of,
    check_disk,
    check_sound,
    content,
    get,
    make_bucket,
    put_ok,
    until,
    wait_in_sync,
)
from tests.load.client import Credentials, signed_head


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster; every test leaves it whole."""
    with Cluster(tmp_path_factory.mktemp("lost")) as running:
        running.start()
        make_bucket(running.nodes[0])
        yield running


def _follower(cluster: Cluster) -> TestNode:
    leader = cluster.leader()
    return next(node for node in cluster.nodes if node is not leader)


def _flip_last_byte(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(size - 1)
        byte = file.read(1)[0]
        file.seek(size - 1)
        file.write(bytes([byte ^ 1]))


def _is_put_away(node: TestNode, path: Path) -> bool:
    return any((node.data / "blobs" / "quarantine").glob(f"*.{path.name}"))


def _is_made_again(node: TestNode, key: str, inode: int) -> bool:
    path = blob_file(node, blob_of(node, key))
    try:
        check_sound(node, blob_of(node, key))
    except (FileNotFoundError, Corruption):
        return False
    return path.stat().st_ino != inode


def test_a_gateway_killed_right_after_a_quarantine(cluster: Cluster) -> None:
    """Issue 4, items 7, 9: nobody was told of the lost copy; it is found and made again, and status waits for that."""
    node, key, size = _follower(cluster), "killed", 3 * MIB
    body = content(key, size)
    put_ok(node, key, body)
    assert get(node, key).body == body  # applied here, too
    wait_in_sync(cluster, node)
    path = blob_file(node, blob_of(node, key))
    inode = path.stat().st_ino
    _flip_last_byte(path, size)
    gateway = node.children()["gateway-0"]

    assert get(node, key).body == body
    until(lambda: _is_put_away(node, path), "the bad copy is put away", 10)
    os.kill(gateway, signal.SIGKILL)

    cluster.wait(lambda: _is_made_again(node, key, inode), "the replica is made again")
    wait_in_sync(cluster, node)
    check_disk(node)


def test_a_quarantine_without_a_leader(cluster: Cluster) -> None:
    """Issue 4, item 9: the report of the lost copy waits for a leader."""
    node, key, size = _follower(cluster), "leaderless", 16 * MIB
    body = content(key, size)
    put_ok(node, key, body)
    assert get(node, key).body == body  # applied here, too
    wait_in_sync(cluster, node)
    path = blob_file(node, blob_of(node, key))
    inode = path.stat().st_ino
    _flip_last_byte(path, size)
    head = signed_head(
        Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY),
        method="GET",
        host=f"127.0.0.1:{node.s3_port}",
        path=f"/{BUCKET}/{key}",
    )

    with ExitStack() as stack:
        reader = stack.enter_context(socket.create_connection(("127.0.0.1", node.s3_port), 20))
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        reader.sendall(head)
        assert reader.recv(12) == b"HTTP/1.1 200"  # the barrier is behind it
        for other in cluster.nodes:
            if other is not node:
                stack.enter_context(cluster.paused(other))
        while reader.recv(MIB):
            pass
        until(lambda: _is_put_away(node, path), "the bad copy is put away", 10)
        until(lambda: "service.holders.unreported" in node.log_tail(200), "a report failed", 20)

    cluster.wait(lambda: _is_made_again(node, key, inode), "the replica is made again")
    wait_in_sync(cluster, node)
    check_disk(node)
