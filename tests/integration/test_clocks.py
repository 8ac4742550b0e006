"""One node's wall clock jumps: order, elections and barriers do not look at it (faults.md: clocks)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from sos.errors import EXIT_USAGE
from tests.compat.raw import Credentials, RawClient, RawResponse
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, TestNode

HOUR_S = 3600.0
BUCKET = "clocks"


@dataclass(kw_only=True)
class ClockedNode:
    """A node whose wall clock this test sets."""

    node: TestNode
    file: Path
    offset_s: float = 0.0

    def shift(self, offset_s: float) -> None:
        """At once, for every process of the node."""
        temporary = self.file.with_suffix(".new")
        temporary.write_text(str(offset_s))
        os.rename(temporary, self.file)
        self.offset_s = offset_s

    def request(
        self, method: str, key: str = "", body: bytes = b"", *, at_own_time: bool = True
    ) -> RawResponse:
        """A request whose client has the clock of this node, or (not ``at_own_time``) the true one."""
        credentials = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
        with RawClient(host="127.0.0.1", port=self.node.s3_port, credentials=credentials) as client:
            if at_own_time:
                client.signer.now = time.time() + self.offset_s
            path = f"/{BUCKET}/{key}" if key else f"/{BUCKET}"
            return client.request(method, path, body=body)


def _clocked(cluster: Cluster, directory: Path) -> list[ClockedNode]:
    clocked = []
    for node in cluster.nodes:
        file = directory / f"{node.name}.clock"
        node.environment["SOS_TEST_CLOCK_FILE"] = str(file)
        clocked.append(ClockedNode(node=node, file=file))
    return clocked


def _index(response: RawResponse) -> int:
    text = response.header("x-sos-index")
    assert text is not None
    return int(text)


def _elections(cluster: Cluster) -> list[tuple[str, int]]:
    statuses = [node.status() for node in cluster.nodes]
    return [(status["leader"], status["term"]) for status in statuses if status]


def test_a_jump_of_one_wall_clock_changes_nothing_but_its_window_of_signatures(
    tmp_path: Path,
) -> None:
    """+1 h, -1 h, +30 d, on the leader and on a follower: every write and read through every node is in order."""
    with Cluster(tmp_path) as cluster:
        clocked = _clocked(cluster, tmp_path)
        cluster.start()
        cluster.wait_in_sync()
        leader = cluster.leader()
        assert clocked[0].request("PUT").status == 200
        before = _elections(cluster)
        leading = next(one for one in clocked if one.node is leader)
        following = next(one for one in clocked if one.node is not leader)
        index = 0
        for jumped in (leading, following):
            for offset_s in (HOUR_S, -HOUR_S, 30 * 24 * HOUR_S, 0.0):
                jumped.shift(offset_s)
                index = _write_and_read_everywhere(clocked, jumped, index)

        assert _elections(cluster) == before, "a clock caused an election"


def _write_and_read_everywhere(clocked: list[ClockedNode], jumped: ClockedNode, index: int) -> int:
    """Each node writes over one key in turn; each node then reads exactly that. The last log index."""
    for turn, writer in enumerate(clocked):
        body = f"{jumped.node.name} {jumped.offset_s} {turn}".encode()
        written = writer.request("PUT", "key", body)
        assert written.status == 200, (writer.node.name, written.code)
        for reader in clocked:
            read = reader.request("GET", "key")
            assert (read.status, read.body) == (200, body), reader.node.name
            assert _index(read) > index
        index = _index(written)
    refused = jumped.request("GET", "key", at_own_time=False)
    expected = (200, "") if jumped.offset_s == 0 else (403, "RequestTimeTooSkewed")
    assert (refused.status, refused.code) == expected
    return index


def test_a_node_that_is_not_formed_ends_when_its_clock_is_off(tmp_path: Path) -> None:
    """Issue 4: more than 15 minutes off: one line that says what to do, exit code not 0, nothing written."""
    with Cluster(tmp_path) as cluster:
        *others, late = _clocked(cluster, tmp_path)
        late.shift(16 * 60.0)
        for one in others:
            cluster.start_node(one.node)
        cluster.start_node(late.node)
        process = late.node.process
        assert process is not None
        assert process.wait(timeout=40) == EXIT_USAGE
        late.node.process = None

        told = [line for line in late.node.log_path.read_text().splitlines() if "sos: " in line]

        assert len(told) == 1
        assert "the clock of this node is more than 15 minutes away" in told[0]
        assert "set it" in told[0]
        assert not late.node.data.exists()
        late.shift(0.0)
        cluster.start_node(late.node)
        cluster.wait_ready()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_formed_node_warns_and_lives_on(tmp_path: Path, restarts: bool) -> None:
    """Issue 4: a formed node whose clock is off says so in its status, at once and after a restart, and serves."""
    with Cluster(tmp_path) as cluster:
        *_, off = _clocked(cluster, tmp_path)
        cluster.start()
        if restarts:
            assert cluster.stop_node(off.node) == 0
        off.shift(30 * 24 * HOUR_S)
        if restarts:
            cluster.start_node(off.node)
        cluster.wait_ready()

        def warns() -> bool:
            status = off.node.status()
            return status is not None and sum("clock" in w for w in status["warnings"]) == 2

        cluster.wait(warns, "it warns of both others")
        if restarts:
            others = [node.status() for node in cluster.nodes if node is not off.node]
            assert all(
                any("n3" in warning and "clock" in warning for warning in status["warnings"])
                for status in others
                if status is not None
            )
        assert off.request("PUT").status in (200, 409)
        assert off.request("PUT", "key", b"body").status == 200
