"""`sos scrub --now` finds rot that nobody reads, and the cluster makes it good again by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sos.admin.client import ask
from sos.settings import Address
from tests.integration.cluster import (
    REPOSITORY,
    ROOT_SECRET_KEY,
    Cluster,
    TestNode,
    is_alive,
)
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    blob_file,
    blob_of,
    check_all,
    check_sound,
    content,
    get,
    make_bucket,
    put_ok,
    wait_in_sync,
)


def _post_unproved(node: TestNode) -> int:
    """POST /scrub with a signature of another key; the status."""
    address = Address(host="127.0.0.1", port=node.admin_port)
    return ask(address, "POST", "/scrub", body={}, root_secret_key="x" * 20).status


POINTS = ("scrub.found", "scrub.put_away")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster; every test leaves it whole."""
    directory = tmp_path_factory.mktemp("scrub")
    with Cluster(directory) as running:
        armed = ";".join(f"{point}=kill@{directory / point}" for point in POINTS)
        running.nodes[1].environment["SOS_FAILPOINTS"] = armed
        running.start()
        make_bucket(running.nodes[0])
        yield running


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _swap(first: Path, second: Path) -> None:
    aside = first.with_suffix(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def _scrub(node: TestNode, *flags: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the real command."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sos", "scrub", "--json"),
            *("--admin", f"127.0.0.1:{node.admin_port}", *flags),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_every_kind_of_damage_is_found_and_repaired(cluster: Cluster) -> None:
    """Scenarios 47, 48; issue 5, point 4: flipped, cut short, gone and swapped, on different nodes, nobody reads them."""
    n1, n2, n3 = cluster.nodes
    sizes = {"flip": 3 * MIB + 5, "cut": 9 * MIB, "gone": 20 * KIB, "swap-1": MIB, "swap-2": MIB}
    bodies = {key: content(key, size) for key, size in sizes.items()}
    for key, body in bodies.items():
        put_ok(n1, key, body)
    for node in cluster.nodes:
        wait_in_sync(cluster, node)

    def file(node: TestNode, key: str) -> Path:
        return blob_file(node, blob_of(node, key))

    _flip(file(n1, "flip"))
    os.truncate(file(n2, "cut"), 5 * MIB)
    file(n3, "gone").unlink()
    _swap(file(n2, "swap-1"), file(n2, "swap-2"))

    assert (
        _post_unproved(n3) == 403
    )  # a whole cluster's disks are not for anybody who reaches the port
    code, answer = _scrub(n3, "--now")

    rows = {row["name"]: row for row in answer["nodes"]}
    assert (code, answer["problems"]) == (0, [])
    assert {name: row["found"] for name, row in rows.items()} == {"n1": 1, "n2": 3, "n3": 1}
    assert all(row["repaired"] == row["found"] for row in rows.values())
    for node in cluster.nodes:
        for key in bodies:
            check_sound(node, blob_of(node, key))
    assert len(list((n2.data / "blobs" / "quarantine").iterdir())) == 3
    check_all(cluster, bodies)
    code, answer = _scrub(n1)
    assert code == 0
    assert all(row["last_pass_ms"] for row in answer["nodes"])


def test_damage_on_all_members_is_listed_and_never_bytes(cluster: Cluster) -> None:
    """Scenario 49: an integrity error for readers, named by every node; overwritten, it is no more."""
    key, body = "everywhere", content("everywhere", 2 * MIB)
    put_ok(cluster.nodes[0], key, body)
    for node in cluster.nodes:
        wait_in_sync(cluster, node)
    blob = blob_of(cluster.nodes[0], key)
    for node in cluster.nodes:
        _flip(blob_file(node, blob))

    code, answer = _scrub(cluster.nodes[1], "--now")

    assert code == 1
    assert any("damaged on all members" in problem for problem in answer["problems"])
    assert any(f"{BUCKET}/{key}" in problem for problem in answer["problems"])
    assert all(row["damaged"] == [blob.hex()] for row in answer["nodes"])
    for node in cluster.nodes:
        status = node.status()
        assert status is not None
        assert status["damaged_blobs"] == 1
        reply = get(node, key)
        assert reply.status == 500
        assert body[:100] not in reply.body

    put_ok(cluster.nodes[2], key, body)
    check_all(cluster, {key: body})

    def is_forgotten(node: TestNode) -> Callable[[], bool]:
        return lambda: (node.status() or {}).get("damaged_blobs") == 0

    for node in cluster.nodes:
        cluster.wait(is_forgotten(node), "the overwritten blob is off the list")


@pytest.mark.parametrize("point", POINTS)
def test_a_gateway_killed_in_the_middle_of_a_repair(cluster: Cluster, point: str) -> None:
    """Issue 5: kill -9 before and after a bad copy is put away; the command says so, and nothing stays lost."""
    node, gate = cluster.nodes[1], cluster.directory / point
    body = content(point, 2 * MIB)
    put_ok(cluster.nodes[0], point, body)
    wait_in_sync(cluster, node)
    path = blob_file(node, blob_of(node, point))
    _flip(path)
    gateway = node.children()["gateway-0"]
    gate.touch()

    code, answer = _scrub(cluster.nodes[0], "--now")

    assert not is_alive(gateway)
    gate.unlink()
    assert code == 1
    assert any("n2: not scrubbed to the end" in problem for problem in answer["problems"])
    code, answer = _scrub(cluster.nodes[0], "--now")
    assert (code, answer["problems"]) == (0, [])
    wait_in_sync(cluster, node)
    check_sound(node, blob_of(node, point))
    check_all(cluster, {point: body})
