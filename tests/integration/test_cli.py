"""`sos status`, `sos key` and `sos demo` against real nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.cluster import (
    REPOSITORY,
    ROOT_ACCESS_KEY,
    ROOT_SECRET_KEY,
    Cluster,
    child_pids,
    command_line,
    free_ports,
    is_alive,
)
from tests.integration.stores import until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.start()
        yield running


def _environment(**more: str) -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith("SOS_")}, **more}


def _sos(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sos", *arguments],
        env=_environment(**environment),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_status_as_json_is_one_object(cluster: Cluster) -> None:
    """Design 4: the JSON of `sos status --json` is that of /status."""
    admin = f"127.0.0.1:{cluster.nodes[2].admin_port}"
    done = _sos(["status", "--admin", admin, "--json"])
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert [member["name"] for member in document["members"]] == ["n1", "n2", "n3"]
    assert {*document["members"][0]} >= {
        *("name", "address", "s3", "reachable", "voter"),
        *("applied_index", "in_sync", "blobs_owed", "bytes_owed", "eta_s"),
    }


def test_status_for_people_names_leader_and_members(cluster: Cluster) -> None:
    """`sos status` without a terminal: every member on a line."""
    done = _sos(["status", "--admin", f"127.0.0.1:{cluster.nodes[0].admin_port}"])
    assert done.returncode == 0
    assert "leader n" in done.stdout
    for node in cluster.nodes:
        assert f"127.0.0.1:{node.s3_port}" in done.stdout


def test_access_keys_live_through_the_log(cluster: Cluster) -> None:
    """Faults 82: created on one node, listed on another, revoked on a third; proved by the root secret."""
    admin = [["--admin", f"127.0.0.1:{node.admin_port}"] for node in cluster.nodes]
    root = {"SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY}

    created = _sos(["key", "create", *admin[0], "--json"], **root)
    access = json.loads(created.stdout)["access_key"]
    listed = _sos(["key", "list", *admin[1], "--data", str(cluster.nodes[0].data), "--json"])
    revoked = _sos(["key", "revoke", *admin[2], access], **root)
    again = _sos(["key", "list", *admin[0], "--json"], **root)

    rows = {row["access_key"]: row for row in json.loads(listed.stdout)}
    assert rows[access] == {
        "access_key": access,
        "root": False,
        "enabled": True,
        "name": "",
        "read_only": False,
        "buckets": [],
        "prefixes": [],
    }
    assert rows[ROOT_ACCESS_KEY]["root"]
    assert revoked.returncode == 0
    assert not {row["access_key"]: row for row in json.loads(again.stdout)}[access]["enabled"]


@pytest.mark.parametrize(
    ("arguments", "secret", "expected"),
    [
        (["key", "list"], "not-the-root-secret", "not signed with the root secret key"),
        (["key", "revoke", "NOSUCHKEY"], ROOT_SECRET_KEY, "no such access key"),
    ],
)
def test_key_refusals_are_one_line(
    cluster: Cluster, arguments: list[str], secret: str, expected: str
) -> None:
    """Every error is one line; the admin listener trusts nobody without the root secret."""
    admin = ["--admin", f"127.0.0.1:{cluster.nodes[0].admin_port}"]
    done = _sos([*arguments[:2], *admin, *arguments[2:]], SOS_ROOT_SECRET_KEY=secret)
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert expected in done.stderr


class _Demo:
    """A running `sos demo`; its output is read as it comes."""

    def __init__(self, *arguments: str) -> None:
        ports = [free_ports(1)[0] for _ in range(2)]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sos", "demo"),
                *("--s3-port", str(ports[0]), "--admin-port", str(ports[1]), *arguments),
            ],
            env=_environment(),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self.output = ""

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return
        raise AssertionError(f"ended without {text!r}:\n{self.output}")

    def finish(self) -> int:
        assert self.process.stdout is not None
        self.output += self.process.stdout.read()
        self.process.stdout.close()
        return self.process.wait(timeout=30)


def test_demo_prints_what_works_and_cleans_up() -> None:
    """Design 4: endpoints, keys, ready lines; a dead node is started again; Ctrl-C stops all, nothing is left."""
    before = set(Path(tempfile.gettempdir()).glob("sos-demo-*"))
    demo = _Demo("--nodes", "3")
    try:
        demo.read_until("Ctrl-C stops all")
        assert "aws s3 mb" in demo.output
        assert "boto3.client" in demo.output
        urls = re.findall(r"curl (.*?)'(http[^']+)'", demo.output)
        assert len(urls) == 3
        _curl("PUT", urls[0][1], b"")
        _curl("PUT", urls[1][1], b"hello, world")
        assert _curl("GET", urls[2][1], None) == b"hello, world"

        core = next(pid for pid in child_pids(demo.process.pid) if "sos.core" in command_line(pid))
        os.kill(core, signal.SIGKILL)
        demo.read_until("starting it again")
        children = child_pids(demo.process.pid)
        demo.process.send_signal(signal.SIGINT)
        assert demo.finish() == 0
        until(lambda: not any(is_alive(pid) for pid in children), "all have ended", 15.0)
        assert set(Path(tempfile.gettempdir()).glob("sos-demo-*")) <= before
    finally:
        demo.process.kill()
        demo.process.wait()


def _curl(method: str, url: str, body: bytes | None) -> bytes:
    request = urllib.request.Request(url, data=body, method=method)
    with urllib.request.urlopen(request, timeout=20) as response:
        data: bytes = response.read()
        return data


def test_demo_with_data_comes_back_with_it(tmp_path: Path) -> None:
    """Design 4: with --data the cluster is the same one at the next start."""
    data = str(tmp_path / "demo")
    keys = []
    for _ in range(2):
        demo = _Demo("--nodes", "1", "--data", data)
        try:
            demo.read_until("Ctrl-C stops all")
            found = re.search(r"secret key (\S+)", demo.output)
            assert found is not None
            keys.append(found[1])
            demo.process.terminate()
            assert demo.finish() == 0
        finally:
            demo.process.kill()
            demo.process.wait()
    assert keys[0] == keys[1]
    wrong = _sos(["demo", "--nodes", "3", "--data", data])
    assert wrong.returncode != 0
    assert "holds a demo of 1 nodes" in wrong.stderr
