"""Members come and go by command under load: one node grows to three and shrinks to one (issue 5, point 2)."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from sos.admin.client import ask
from sos.cli.main import main
from sos.config import Address
from sos.errors import EXIT_REMOVED
from tests.integration.cluster import REPOSITORY, ROOT_SECRET_KEY, Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    ROOT,
    check_all,
    check_disk,
    content,
    make_bucket,
)
from tests.load.client import Connection, ConnectionLost

_SIZES = (100, 70 * KIB)


class _Said(NamedTuple):
    code: int
    out: str
    err: str


def _member(node: TestNode, *arguments: str) -> _Said:
    """What `sos member` says, run in this process: an interpreter's start takes a second here."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sos", *_arguments(node, *arguments)])
        patch.setenv("SOS_ROOT_SECRET_KEY", ROOT_SECRET_KEY)
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    assert isinstance(ended.value.code, int)
    return _Said(code=ended.value.code, out=out.getvalue(), err=err.getvalue())


def _arguments(node: TestNode, *arguments: str) -> list[str]:
    return ["member", *arguments, "--admin", f"127.0.0.1:{node.admin_port}"]


def member_done(node: TestNode, *arguments: str) -> str:
    """Its one line on standard output; it must succeed."""
    said = _member(node, *arguments)
    assert said.code == 0, said
    return said.out.strip()


def _refused(node: TestNode, *arguments: str) -> str:
    """The one line that says why; nothing else is printed."""
    said = _member(node, *arguments)
    assert said.code in (1, 2), said
    assert said.err.count("sos: ") == said.err.count("\n") == 1, said
    return said.err


def address_of(node: TestNode) -> str:
    return f"127.0.0.1:{node.node_port}"


class _Load:
    """Puts and gets on whatever nodes are named now; 503 and a lost connection are asked again, as a client does."""

    def __init__(self, nodes: list[TestNode]) -> None:
        self.stored: dict[str, bytes] = {}
        self.failures: list[str] = []
        self.retries = 0
        self._ports = [node.s3_port for node in nodes]
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def use(self, nodes: list[TestNode]) -> None:
        """From the next request on."""
        self._ports = [node.s3_port for node in nodes]

    def __enter__(self) -> _Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._worker(number) for number in range(3)))

    async def _worker(self, number: int) -> None:
        count = 0
        while not self._is_over:
            key = f"w{number}-{count}"
            body = content(key, _SIZES[count % 2])
            if await self._until_done("PUT", key, body) == b"":
                self.stored[key] = body
                if await self._until_done("GET", key, b"") != body:
                    self.failures.append(f"GET {key}: other bytes")
            count += 1
            await asyncio.sleep(0.02)  # a small load: the machine is shared

    async def _until_done(self, method: str, key: str, body: bytes) -> bytes | None:
        for attempt in range(200):
            port = self._ports[attempt % len(self._ports)]
            connection = Connection("127.0.0.1", port, ROOT)
            try:
                answer = await connection.request(method, f"/{BUCKET}/{key}", body=body)
            except (ConnectionLost, TimeoutError):
                answer = None
            finally:
                connection.close()
            if answer is not None and answer.status == 200:
                return answer.body
            if answer is not None and answer.status != 503:
                self.failures.append(f"{method} {key}: {answer.status} {answer.body[:300]!r}")
                return None
            self.retries += 1
            await asyncio.sleep(0.05)
        self.failures.append(f"{method} {key}: no answer in 200 attempts")
        return None


def test_one_to_three_to_one_under_load(tmp_path: Path) -> None:
    """Scenario 55 without faults; P1, P12, P16: no request fails, nothing acknowledged is lost, repeating is safe."""
    with Cluster(tmp_path, count=1) as cluster:
        cluster.start()
        (first,) = cluster.nodes
        make_bucket(first)
        assert "the last member" in _refused(first, "remove", "n1")
        assert "unknown member n9; members are n1" in _refused(first, "remove", "n9")
        _check_proof(first)
        with _Load([first]) as load:
            second = cluster.new_node("n2", join=[first])
            third = cluster.new_node("n3", join=[first, second])
            third.origin += ("--membership-admit", "manual")
            cluster.start_node(second)
            assert "n2" in member_done(first, "add", f"n2={address_of(second)}")
            assert member_done(second, "add", f"n2={address_of(second)}").startswith("already: ")
            _add_by_hand(cluster, first, third)
            cluster.wait_ready()
            load.use([second, third, first])
            leader = cluster.leader()
            followers = [node for node in cluster.nodes if node is not leader]
            load.use(followers)
            _remove(cluster, leader, asked=leader)
            # One of two goes, while its name is asked at the other.
            survivor, leaving = followers
            load.use([survivor])
            _remove(cluster, leaving, asked=survivor)
            assert member_done(survivor, "remove", leaving.name).startswith("already: ")
        assert not load.failures, load.failures
        assert len(load.stored) > 20
        listed = json.loads(member_done(survivor, "list", "--json"))
        assert [row["name"] for row in listed] == [survivor.name]
        check_all(cluster, load.stored)
        check_disk(survivor)


def _check_proof(node: TestNode) -> None:
    """Design 11: who cannot prove the root secret key changes nothing."""
    admin, wish = (
        Address(host="127.0.0.1", port=node.admin_port),
        {"action": "remove", "name": "n1"},
    )
    assert ask(admin, "POST", "/member", body=wish).status == 403
    assert ask(admin, "POST", "/member", body=wish, root_secret_key="another").status == 403
    nonsense = ask(admin, "POST", "/member", body={}, root_secret_key=ROOT_SECRET_KEY)
    assert (nonsense.status, nonsense.body) == (
        400,
        {"error": "action is add, remove, replace or move"},
    )


def _add_by_hand(cluster: Cluster, first: TestNode, third: TestNode) -> None:
    """It waits until somebody says so; a second change meanwhile is refused."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sos", *_arguments(first, "add", f"n3={address_of(third)}")],
        env={**os.environ, "SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "waiting for n3" in process.stderr.readline()
    assert f"under way: add n3={address_of(third)}" in _refused(first, "remove", "n2")
    cluster.start_node(third)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert output.startswith("done: n3")


def _remove(cluster: Cluster, node: TestNode, *, asked: TestNode) -> None:
    """It is told that it is out, and ends with a code of its own."""
    assert "no member" in member_done(asked, "remove", node.name)
    assert node.process is not None
    assert node.process.wait(timeout=20) == EXIT_REMOVED
    node.process = None
    assert "was removed from the cluster" in node.log_path.read_text()
    cluster.nodes.remove(node)
