"""Rot on a disk: no client ever gets a wrong byte, and what is damaged is found, put away and made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from sos.blob.format import FOOTER_BYTES
from sos.catalog import keys
from sos.errors import Corruption
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
    until,
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
def _damage_rows(node: TestNode, *names: str) -> None:
    """Flip a bit in the rows of objects (``record``) or bodies (``body``), as rot in ``data.mdb`` would; the node is stopped."""
    row_keys = []
    with catalog_view(node) as view:
        bucket = view.bucket(BUCKET)
        assert bucket is not None
        for name in names:
            kind, _, key = name.partition("/")
            record = view.object(bucket.bucket_id, key)
            assert record is not None
            assert record.blob is not None
            row_key = keys.object_key(bucket.bucket_id, key.encode())
            row_keys.append(row_key if kind == "record" else keys.inline_key(record.blob))
        generation = view.generation
    environment = lmdb.open(str(node.data / "catalog" / str(generation)), map_size=1 << 40)
    with environment.begin(write=True) as transaction:
        for row_key in row_keys:
            value = bytearray(transaction.get(row_key) or b"")
            value[len(value) // 2] ^= 1
            transaction.put(row_key, bytes(value))
    environment.close()


def test_damaged_rows_are_answered_from_another_member_and_that_node_alone_stops(
    cluster: Cluster,
) -> None:
    """Issue 5, point 4: right bytes in this very response, an error in the log, the core stops; others are not touched."""
    node, other = cluster.nodes[2], cluster.nodes[0]
    bodies = {"record": b"in the catalog", "body": content("body", 16 * KIB)}
    for key, body in bodies.items():
        put_ok(other, key, body)
    wait_in_sync(cluster, node)
    assert cluster.stop_node(node) == 0
    _damage_rows(node, "record/record", "body/body")
    cluster.start_node(node)
    cluster.wait_ready([node])

    for key, body in bodies.items():  # both before the first report of the damage ends the core
        reply = get(node, key)
        assert (reply.status, reply.body) == (200, body)

    def has_stopped() -> bool:
        return '"exit_code": 76' in node.log_path.read_text()

    until(has_stopped, "the core stops", 20)
    for key, body in bodies.items():
        assert get(other, key).body == body
        assert get(cluster.nodes[1], key).body == body
