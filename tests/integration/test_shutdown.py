"""SIGTERM and Ctrl-C while requests are under way."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.compat.raw import Credentials, Mode, RawClient
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, TestNode, is_alive
from tests.integration.stores import MIB, content, get_settled

BUCKET = "return"  # of tests.integration.stores
LARGE = content("large", 32 * MIB)
BODY = content("body", 4 * MIB)
DRAIN_S = 10.0


def _client(node: TestNode) -> RawClient:
    credentials = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
    return RawClient(host="127.0.0.1", port=node.s3_port, credentials=credentials)


def _begin_upload(node: TestNode, key: str) -> tuple[RawClient, bytes]:
    """Half of a body is sent, and taken; the rest."""
    client = _client(node)
    head, body = client.build("PUT", f"/{BUCKET}/{key}", body=BODY, mode=Mode.UNSIGNED)
    client.send(head + body[: 2 * MIB])
    return client, body[2 * MIB :]


def _begin_download(node: TestNode) -> RawClient:
    """The answer has begun, and stands still because nobody reads: more than any buffer holds."""
    client = _client(node)
    client.connect().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    head, _ = client.build("GET", f"/{BUCKET}/large")
    client.send(head)
    assert client.connect().recv(1, socket.MSG_PEEK) == b"H"
    return client


def _has_temporary_files(node: TestNode) -> list[Path]:
    """Beside the locks of processes that live."""
    tmp = node.data / "blobs" / "tmp"
    return [path for path in tmp.rglob("*") if path.is_file() and path.suffix != ".lock"]


def _is_refused(node: TestNode) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", node.s3_port)) != 0


def _started(cluster: Cluster) -> TestNode:
    cluster.start()
    node = cluster.nodes[0]
    with _client(node) as client:
        assert client.request("PUT", f"/{BUCKET}").status == 200
        assert client.request("PUT", f"/{BUCKET}/large", body=LARGE).status == 200
    return node


def test_sigterm_lets_requests_end_and_cuts_off_the_endless(tmp_path: Path) -> None:
    """Issue 4: SIGTERM drains within 10 s, exit code 0: what ends in time is answered, the rest leaves nothing."""
    with Cluster(tmp_path, count=1) as cluster:
        node = _started(cluster)
        assert node.process is not None
        good, rest = _begin_upload(node, "good")
        endless, _ = _begin_upload(node, "endless")
        reading, standing = _begin_download(node), _begin_download(node)
        cluster.wait(lambda: len(_has_temporary_files(node)) == 2, "both uploads are under way")

        node.process.terminate()
        started = time.monotonic()
        cluster.wait(lambda: _is_refused(node), "no new connection is taken", deadline_s=5)
        good.send(rest)
        stored = good.receive("PUT")
        read = reading.receive("GET")
        code = node.process.wait(timeout=DRAIN_S + 5)
        took_s = time.monotonic() - started
        node.process = None

        assert code == 0
        assert took_s < DRAIN_S
        assert (stored.status, stored.closes) == (200, True)
        assert read.body == LARGE
        with pytest.raises((EOFError, ConnectionResetError)):
            endless.receive("PUT")
        with pytest.raises((EOFError, ConnectionResetError)):
            standing.receive("GET")
        assert _has_temporary_files(node) == []
        assert "Traceback" not in node.log_path.read_text()
        for client in (good, endless, reading, standing):
            client.close()
        cluster.start()
        assert get_settled(node, "good").body == BODY
        assert get_settled(node, "endless").status == 404


def test_ctrl_c_twice_ends_the_drain(tmp_path: Path) -> None:
    """A person who presses Ctrl-C again does not wait for a client: exit code 0, no traceback, nothing is lost."""
    with Cluster(tmp_path, count=1) as cluster:
        node = _started(cluster)
        assert node.process is not None
        children = node.children()
        endless, _ = _begin_upload(node, "endless")
        cluster.wait(lambda: _has_temporary_files(node), "the upload is under way")

        os.kill(node.process.pid, signal.SIGINT)
        started = time.monotonic()
        cluster.wait(lambda: _is_refused(node), "it drains", deadline_s=5)
        os.kill(node.process.pid, signal.SIGINT)
        code = node.process.wait(timeout=DRAIN_S + 5)
        took_s = time.monotonic() - started
        node.process = None

        assert code == 0
        assert took_s < 4  # the gateway's share of the drain alone is 5 s
        assert not any(is_alive(pid) for pid in children.values())
        assert "Traceback" not in node.log_path.read_text()
        endless.close()
        cluster.start()
        assert _has_temporary_files(node) == []
        assert get_settled(node, "large").body == LARGE
        assert get_settled(node, "endless").status == 404
