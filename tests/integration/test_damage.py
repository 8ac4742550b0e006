"""Rot on a disk: no client ever gets a wrong byte, and what is damaged is found, put away and made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from sos.blob.format import FOOTER_BYTES
from sos.catalog import keys
from sos.errors import EXIT_DAMAGE, Corruption
from tests.integration.cluster import Cluster, TestNode
from tests.integration.stores import (
    BUCKET,
    KIB,
    MIB,
    blob_file,
    blob_of,
    catalog_view,
    check_all,
    check_sound,
    content,
    get,
    make_bucket,
    put_ok,
    wait_in_sync,
)

SIZE = 3 * MIB + 5 * KIB  # four blocks, the last one short


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One running cluster; every test leaves it whole."""
    with Cluster(tmp_path_factory.mktemp("damage")) as running:
        running.start()
        make_bucket(running.nodes[0])
        yield running


def _flip(path: Path, offset: int) -> None:
    """Flip one bit in place, as a disk would."""
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def _replace(path: Path, data: bytes) -> None:
    """Other bytes under the same name."""
    path.unlink()
    path.write_bytes(data)


Damage = Callable[[Path], None]
DAMAGES: dict[str, Damage] = {
    "first block": lambda path: _flip(path, 17),
    "middle block": lambda path: _flip(path, MIB + 500_000),
    "last block": lambda path: _flip(path, SIZE - 1),
    "block table": lambda path: _flip(path, SIZE + 3),
    "footer": lambda path: _flip(path, -FOOTER_BYTES + 20),
    "seal": lambda path: _flip(path, -1),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - MIB),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "extended": lambda path: os.truncate(path, path.stat().st_size + 4096),
    "empty": lambda path: os.truncate(path, 0),
    "deleted": lambda path: path.unlink(),
    "zeroed": lambda path: _replace(path, bytes(path.stat().st_size)),
}


def _check_answers(node: TestNode, key: str, body: bytes) -> None:
    """P7: the whole and every kind of range, in this very response."""
    for byte_range in (None, "0-99", f"{MIB - 10}-{2 * MIB + 10}", "-4000", f"{SIZE - 1}-"):
        reply = get(node, key, byte_range=byte_range)
        expected = body if byte_range is None else _cut(body, byte_range)
        assert reply.status == (200 if byte_range is None else 206), (byte_range, reply.status)
        assert not reply.cut, byte_range
        assert reply.body == expected, byte_range


def _cut(body: bytes, byte_range: str) -> bytes:
    first, _, last = byte_range.partition("-")
    if not first:
        return body[-int(last) :]
    return body[int(first) : int(last) + 1 if last else None]


def _is_sound(node: TestNode, key: str) -> bool:
    blob = blob_of(node, key)
    try:
        check_sound(node, blob)
    except (FileNotFoundError, Corruption):
        return False
    return True


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_replica_is_answered_from_another_and_made_again(
    cluster: Cluster, name: str
) -> None:
    """Scenarios 47, 48; issue 4, item 9: right bytes in the same response; quarantined, owed, back."""
    node, key = cluster.nodes[1], f"damaged-{name.replace(' ', '-')}"
    body = content(key, SIZE)
    put_ok(cluster.nodes[0], key, body)
    wait_in_sync(cluster, node)
    path = blob_file(node, blob_of(node, key))
    inode = path.stat().st_ino
    DAMAGES[name](path)

    _check_answers(node, key, body)

    def is_new() -> bool:
        return path.exists() and path.stat().st_ino != inode and _is_sound(node, key)

    cluster.wait(is_new, "the replica is made again")
    quarantined = list((node.data / "blobs" / "quarantine").glob(f"*.{path.name}"))
    assert len(quarantined) == (0 if name == "deleted" else 1)
    wait_in_sync(cluster, node)
    _check_answers(node, key, body)


def test_two_replicas_swapped_with_each_other(cluster: Cluster) -> None:
    """Scenario 48: a sound file under another blob's name is not that blob."""
    node = cluster.nodes[2]
    bodies = {f"swapped-{n}": content(f"swapped-{n}", SIZE) for n in range(2)}
    for key, body in bodies.items():
        put_ok(cluster.nodes[0], key, body)
    wait_in_sync(cluster, node)
    first, second = (blob_file(node, blob_of(node, key)) for key in bodies)
    data = first.read_bytes()
    _replace(first, second.read_bytes())
    _replace(second, data)

    for key, body in bodies.items():
        _check_answers(node, key, body)

    cluster.wait(
        lambda: (
            all(path.exists() for path in (first, second))
            and all(_is_sound(node, key) for key in bodies)
        ),
        "both replicas are made again",
    )


def test_a_small_blob_too(cluster: Cluster) -> None:
    """Scenario 47: a blob of one block is verified as a whole, also for a range that leaves the bad byte out."""
    node, body = cluster.nodes[1], content("small", 20 * KIB)
    put_ok(cluster.nodes[0], "small", body)
    wait_in_sync(cluster, node)
    _flip(blob_file(node, blob_of(node, "small")), 15 * KIB)

    assert get(node, "small", byte_range="0-9").body == body[:10]
    assert get(node, "small").body == body
    cluster.wait(lambda: _is_sound(node, "small"), "the replica is made again")


def test_a_holder_with_a_bad_copy_serves_no_other_node_wrong_bytes(cluster: Cluster) -> None:
    """P7: the bytes of a peer are checked as those of the own disk; another one goes on in mid-stream."""
    reader, source = cluster.nodes[1], cluster.nodes[0]  # the first that is asked
    body = content("peer", SIZE)
    put_ok(cluster.nodes[2], "peer", body)
    wait_in_sync(cluster, reader)
    wait_in_sync(cluster, source)
    _flip(blob_file(source, blob_of(source, "peer")), 2 * MIB + 1)
    blob_file(reader, blob_of(reader, "peer")).unlink()

    _check_answers(reader, "peer", body)

    cluster.wait(
        lambda: _is_sound(source, "peer") and _is_sound(reader, "peer"), "both are made again"
    )


def test_damage_on_all_nodes_is_an_error_and_never_bytes(cluster: Cluster) -> None:
    """Scenario 49: an error before the first byte, or a connection cut after right bytes; the rest goes on."""
    for name, offset in (("first", 100), ("third", 2 * MIB + 100)):
        key = f"everywhere-{name}"
        body = content(key, SIZE)
        put_ok(cluster.nodes[0], key, body)
        for node in cluster.nodes:
            wait_in_sync(cluster, node)
        for node in cluster.nodes:
            _flip(blob_file(node, blob_of(node, key)), offset)

        for node in cluster.nodes:
            reply = get(node, key)
            if offset < MIB:
                assert reply.status in (500, 503)
                assert b"<Code>" in reply.body
                assert len(reply.body) < 2000
            else:  # the first blocks may have been on their way
                assert reply.cut or reply.status in (500, 503)
                if reply.cut:
                    assert body.startswith(reply.body)
                    assert len(reply.body) < len(body)
        assert get(cluster.nodes[1], key).status in (500, 503)  # and it stays one
        put_ok(cluster.nodes[2], key, body)  # the key is none the worse for it
        check_all(cluster, {key: body})


# --- the catalog of one node ----------------------------------------------------------------------
def _damage_record(node: TestNode, key: str) -> None:
    """Flip a bit in the row of an object, as rot in ``data.mdb`` would; the node is stopped."""
    with catalog_view(node) as view:
        bucket = view.bucket(BUCKET)
        assert bucket is not None
        row_key, generation = keys.object_key(bucket.bucket_id, key.encode()), view.generation
    path = node.data / "catalog" / str(generation)
    environment = lmdb.open(str(path), map_size=1 << 40)
    with environment.begin(write=True) as transaction:
        value = bytearray(transaction.get(row_key) or b"")
        value[len(value) // 2] ^= 1
        transaction.put(row_key, bytes(value))
    environment.close()


def test_a_damaged_catalog_record_stops_that_node_alone(cluster: Cluster) -> None:
    """Issue 4, item 6: 503 on that node, an error in its log, its core stops; the others are not touched."""
    node, other = cluster.nodes[2], cluster.nodes[0]
    put_ok(other, "record", b"in the catalog")
    wait_in_sync(cluster, node)
    assert cluster.stop_node(node) == 0
    _damage_record(node, "record")
    cluster.start_node(node)
    cluster.wait_ready([node])
    process = node.process
    assert process is not None

    status = None
    try:
        status = get(node, "record").status
    except OSError:
        status = 0  # the node ended before the answer left

    assert status in (0, 503)
    assert process.wait(timeout=20) == EXIT_DAMAGE
    node.process = None
    assert '"level": "error"' in node.log_tail(10)
    assert get(other, "record").body == b"in the catalog"
    assert get(cluster.nodes[1], "record").body == b"in the catalog"
