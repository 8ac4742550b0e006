"""S3 through three real nodes: each shows what the others acknowledged, also when bytes or nodes are lost."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sos.limits import MIB
from tests.compat.raw import Credentials, RawClient, RawResponse
from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster, TestNode

BUCKET = "cluster"
LARGE = hashlib.sha256(b"cluster").digest() * (5 * MIB // 32)


def client_of(node: TestNode) -> RawClient:
    credentials = Credentials(access_key=ROOT_ACCESS_KEY, secret_key=ROOT_SECRET_KEY)
    return RawClient("127.0.0.1", node.s3_port, credentials)


def ask(node: TestNode, method: str, path: str, **more: object) -> RawResponse:
    with client_of(node) as client:
        return client.request(method, path, **more)  # type: ignore[arg-type]


def blob_files(node: TestNode) -> list[Path]:
    """The replicas on a node's disk."""
    return [path for path in node.data.glob("blobs/??/*") if path.is_file()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start()
        assert ask(cluster.nodes[0], "PUT", f"/{BUCKET}").status == 200
        yield cluster


def test_each_node_shows_what_another_acknowledged(cluster: Cluster) -> None:
    """A write through one node is at once read, listed and deleted through the others (design 1)."""
    nodes = cluster.nodes
    clients = [client_of(node) for node in nodes]

    for number in range(60):
        writer, reader, lister = (clients[(number + offset) % 3] for offset in range(3))
        path, body = f"/{BUCKET}/k{number:02d}", b"%d" % number
        assert writer.request("PUT", path, body=body).status == 200
        assert reader.request("GET", path).body == body
        page = lister.request("GET", f"/{BUCKET}", query=[("prefix", f"k{number:02d}")])
        assert page.xml().findtext("Contents/Key") == f"k{number:02d}"
        assert reader.request("DELETE", path).status == 204
        assert writer.request("HEAD", path).status == 404
    for client in clients:
        client.close()


def test_blobs_are_read_through_every_node(cluster: Cluster) -> None:
    """A large body lies on a write quorum at least, and comes back through each node, in ranges too."""
    assert ask(cluster.nodes[0], "PUT", f"/{BUCKET}/large", body=LARGE).status == 200

    for node in cluster.nodes:
        assert ask(node, "GET", f"/{BUCKET}/large").body == LARGE
        part = ask(node, "GET", f"/{BUCKET}/large", headers={"range": "bytes=1048575-1048576"})
        assert part.body == LARGE[1048575:1048577]


def test_one_of_many_racing_creators_wins(cluster: Cluster) -> None:
    """N writers with If-None-Match through all nodes: one 200, the rest 412 (s3.md 4.3)."""
    for race in range(5):
        barrier = threading.Barrier(9)
        outcomes: list[tuple[int, int]] = []

        def create(
            number: int,
            race: int = race,
            barrier: threading.Barrier = barrier,
            outcomes: list[tuple[int, int]] = outcomes,
        ) -> None:
            with client_of(cluster.nodes[number % 3]) as client:
                client.connect()
                barrier.wait()
                answer = client.request(
                    "PUT",
                    f"/{BUCKET}/race{race}",
                    body=b"%d" % number,
                    headers={"if-none-match": "*"},
                )
                outcomes.append((answer.status, number))

        threads = [threading.Thread(target=create, args=(number,)) for number in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(status for status, _ in outcomes) == [200] + [412] * 8
        (winner,) = [number for status, number in outcomes if status == 200]
        for node in cluster.nodes:
            assert ask(node, "GET", f"/{BUCKET}/race{race}").body == b"%d" % winner


@pytest.mark.parametrize("harm", ["flipped bit", "cut short", "missing"])
def test_a_bad_local_replica_is_answered_from_another_member(cluster: Cluster, harm: str) -> None:
    """A GET never returns wrong bytes: the other members serve within the same response (issue, item 9)."""
    before = {path for node in cluster.nodes for path in blob_files(node)}
    key = harm.replace(" ", "-")
    assert ask(cluster.nodes[0], "PUT", f"/{BUCKET}/{key}", body=LARGE).status == 200
    node = cluster.nodes[1]
    (path,) = cluster.wait(
        lambda: [path for path in blob_files(node) if path not in before],
        "node 2 holds the new blob",
    )
    if harm == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[3 * MIB] ^= 1
        path.write_bytes(content if harm == "flipped bit" else content[: 2 * MIB])

    answers = [ask(node, "GET", f"/{BUCKET}/{key}") for _ in range(2)]

    assert [answer.body == LARGE for answer in answers] == [True, True]


def test_writes_go_on_when_a_node_dies_and_none_is_lost(tmp_path: Path) -> None:
    """kill -9 of the leader: the survivors take writes again, every acknowledged key is there (design 1)."""
    with Cluster(tmp_path) as cluster:
        cluster.start()
        leader = cluster.leader()
        survivors = [node for node in cluster.nodes if node is not leader]
        assert ask(survivors[0], "PUT", f"/{BUCKET}").status == 200
        acknowledged: dict[str, bytes] = {}

        def write(number: int, node: TestNode) -> bool:
            body = b"%d " % number * (1 if number % 2 else 40_000)
            try:
                answer = ask(node, "PUT", f"/{BUCKET}/k{number}", body=body)
            except (EOFError, OSError):
                return False
            if answer.status == 200:
                acknowledged[f"k{number}"] = body
            return answer.status == 200

        for number in range(20):
            assert write(number, cluster.nodes[number % 3])
        leader.kill()
        cluster.wait(
            lambda: write(len(acknowledged), survivors[0]), "the survivors take writes again"
        )
        for number in range(100, 120):
            assert write(number, survivors[number % 2])

        for node in survivors:
            for key, body in acknowledged.items():
                assert ask(node, "GET", f"/{BUCKET}/{key}").body == body
        cluster.start_node(leader)
        cluster.wait_ready([leader])
        for key, body in acknowledged.items():
            assert ask(leader, "GET", f"/{BUCKET}/{key}").body == body
