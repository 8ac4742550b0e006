"""Blobs between nodes over real sockets (design 5, 6, 7; protocols 4; faults 28, 47-49, 56, 57, 63, 85-87)."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from sos import failpoints
from sos.blob.bundle import BundleReader, BundleServer, WantedBlob
from sos.blob.connection import Connection
from sos.blob.exchange import PeerExchange
from sos.blob.handshake import PeerAddress, greet
from sos.blob.layout import PINS
from sos.blob.peer_client import PeerClient
from sos.blob.peer_errors import (
    Damaged,
    NotHere,
    PeerFull,
    PeerRefused,
    PeerUnreachable,
)
from sos.blob.replicas import PIECE_BYTES, _pieces
from sos.blob.wire import Frame, Hello, RequestHead, Status, encode_hello, encode_request
from sos.catalog.model import BlobId, NodeId
from sos.checksum import crc64nvme
from sos.clock import ManualClock, SystemIds
from sos.errors import Corruption, DiskFull, FatalStop, StorageFull, Unavailable
from sos.limits import BLOCK_BYTES, MIB, RESYNC_BUNDLE_BLOB_BYTES
from tests.integration.blob_bed import CLUSTER, Node, listener, nodes


def blob(number: int) -> BlobId:
    return BlobId(number.to_bytes(8, "big") + number.to_bytes(8, "little"))


def body(size: int) -> bytes:
    unit = b"".join(i.to_bytes(8, "big") for i in range(4099))
    return (unit * (size // len(unit) + 1))[:size]


def run(path: Path, count: int, test: Callable[[list[Node]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), nodes(path, count) as made:
            await test(made)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Wait on a condition that another task makes true."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition has no event
            await asyncio.sleep(0.005)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


# --- the protocol ---------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 100_000, MIB, 3 * MIB + 7])
def test_put_and_get(tmp_path: Path, size: int) -> None:
    """P7: a blob put to a peer is durable there, with the length and checksum that were sent, and comes back the same."""

    async def test(made: list[Node]) -> None:
        one, two = made
        data = body(size)
        async with one.peers.put(two.address, blob(1)) as stream:
            for start in range(0, size, 300_000):
                await stream.write(data[start : start + 300_000])
            stored = await stream.commit()
        assert (stored.size_bytes, stored.crc64) == (size, crc64nvme(data).to_bytes(8, "big"))
        async with one.peers.get(two.address, blob(1), 0, size) as answer:
            assert b"".join([bytes(view) async for view, _ in answer.body()]) == data

    run(tmp_path, 2, test)


def test_not_here_is_told_apart_from_damage(tmp_path: Path) -> None:
    """Fault 48: "not here" and "damaged" are different answers; the damaged copy is put away and reported by its holder."""

    async def test(made: list[Node]) -> None:
        one, two = made
        await two.put(blob(1), body(3 * MIB))
        flip(two.file(blob(1)), 3 * MIB + 30)
        with pytest.raises(NotHere):
            async with one.peers.get(two.address, blob(2), 0, 1):
                pass
        with pytest.raises(Damaged):
            async with one.peers.get(two.address, blob(1), 0, 1):
                pass
        await until(lambda: two.lost == [blob(1)])
        with pytest.raises(NotHere):
            async with one.peers.get(two.address, blob(1), 0, 1):
                pass

    run(tmp_path, 2, test)


def test_drop_asks_the_catalog(tmp_path: Path) -> None:
    """Protocols 4.5: a node that is asked to drop a blob that its catalog names, or that a reader pins, refuses."""

    async def test(made: list[Node]) -> None:
        one, two = made
        for number in (1, 2, 3):
            await two.put(blob(number), b"bytes")
        two.named.add(blob(1))
        assert await one.peers.pin(two.address, [blob(2), blob(9)]) == [blob(2)]
        with pytest.raises(PeerRefused, match="names"):
            await one.peers.drop(two.address, blob(1))
        with pytest.raises(PeerRefused, match="pins"):
            await one.peers.drop(two.address, blob(2))
        await one.peers.drop(two.address, blob(3))
        assert two.stored() == [blob(1).hex(), blob(2).hex()]

    run(tmp_path, 2, test)


def test_a_long_read_pins_its_blob_at_every_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocols 4.6: a reader that is slow can still go on from another holder after the blob was forgotten."""
    monkeypatch.setattr("sos.blob.pinning.PIN_AFTER_S", 0.0)

    async def test(made: list[Node]) -> None:
        reader, one, two = made
        written = await one.write(blob(1), body(3 * BLOCK_BYTES), [one, two])
        stream = await reader.reader.open(
            blob_id=written.blob_id,
            size_bytes=written.size_bytes,
            crc64=written.crc64,
            holders=[one.address, two.address],
        )
        async with stream:
            await until(lambda: all(_is_pinned(node, blob(1)) for node in (one, two)))
            assert not await two.files.drop(blob(1))
            with pytest.raises(PeerRefused, match="pins"):
                await reader.peers.drop(one.address, blob(1))
            await one.stop_serving()
            assert b"".join([bytes(view) async for view in stream]) == body(3 * BLOCK_BYTES)

    run(tmp_path, 3, test)


def test_a_stream_lets_go_of_its_block_and_goes_on_anywhere(tmp_path: Path) -> None:
    """P7, P18: a reader that waits for its client holds no block; what follows is read and verified again."""

    async def test(made: list[Node]) -> None:
        reader, one, two = made
        data = body(3 * BLOCK_BYTES)
        written = await one.write(blob(1), data, [one, two])
        stream = await reader.reader.open(
            blob_id=written.blob_id,
            size_bytes=written.size_bytes,
            crc64=written.crc64,
            holders=[one.address, two.address],
            start=100,
            stop=len(data) - 7,
        )
        wanted = data[100:-7]
        async with stream:
            assert bytes(await anext(stream)) == wanted[: BLOCK_BYTES - 100]
            await stream.restart(5)
            assert bytes(await anext(stream)) == wanted[5 : BLOCK_BYTES - 100]
            await one.stop_serving()
            await stream.restart(BLOCK_BYTES + 1)
            assert b"".join([bytes(view) async for view in stream]) == wanted[BLOCK_BYTES + 1 :]
            await stream.restart(len(wanted))
            assert [view async for view in stream] == []

    run(tmp_path, 3, test)


def _is_pinned(node: Node, blob_id: BlobId) -> bool:
    return (node.path / PINS / blob_id.hex()).exists()


def test_inventory_pages(tmp_path: Path) -> None:
    """Design 10: the leader pages through a member's blobs in order."""

    async def test(made: list[Node]) -> None:
        one, two = made
        ids = [blob(number) for number in (1, 2, 256, 300, 70000)]
        for blob_id in ids:
            await two.put(blob_id, b"x")
        assert await one.peers.inventory(two.address, None, 3) == ids[:3]
        assert await one.peers.inventory(two.address, ids[2], 3) == ids[3:]
        assert await one.peers.inventory(two.address, ids[4], 3) == []

    run(tmp_path, 2, test)


def test_registered_routes(tmp_path: Path) -> None:
    """Other parts serve their own routes (snapshots): a body of any length goes out in bounded pieces."""

    async def test(made: list[Node]) -> None:
        one, two = made
        data = body(3 * MIB)

        async def serve(exchange: PeerExchange) -> None:
            offset = int(exchange.query["offset"])

            async def pieces() -> AsyncIterator[tuple[bytes, int]]:
                for start in range(offset, len(data), MIB):
                    piece = data[start : start + MIB]
                    yield piece, crc64nvme(piece)

            await exchange.answer_body(pieces(), size_bytes=len(data))

        two.server.add_route("GET", "/snapshot/", serve)
        async with one.peers.call(two.address, "GET", "/snapshot/7?offset=1000000") as answer:
            assert answer.head.size_bytes == len(data)
            got = b"".join([bytes(view) async for view, _ in answer.body()])
        assert got == data[1_000_000:]
        with pytest.raises(PeerRefused, match="route"):
            async with one.peers.call(two.address, "GET", "/elsewhere"):
                pass
        await one.peers.ping(two.address)

    run(tmp_path, 2, test)


def test_connections_are_reused_and_survive_a_restart(tmp_path: Path) -> None:
    """A peer that restarted is called again at once: a pooled connection that died meanwhile is no failure."""

    async def test(made: list[Node]) -> None:
        one, two = made
        for _ in range(5):
            await one.peers.ping(two.address)
        assert len(two.server._tasks) == 1
        for task in tuple(two.server._tasks):
            task.cancel()
        await one.peers.ping(two.address)
        assert not one.peers.is_suspect(two.id)

    run(tmp_path, 2, test)


# --- who may speak --------------------------------------------------------------------------------
def _stranger(tmp_path: Path, **options: bytes) -> Node:
    return Node(7, tmp_path / "n7", **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"key": b"another key"}, "another cluster key"),
        ({"cluster": b"another cluster!"}, "another cluster"),
    ],
)
def test_foreign_key_and_cluster(tmp_path: Path, options: dict[str, bytes], reason: str) -> None:
    """Fault 56, 85: another key or cluster is refused, with the reason, before a body byte is read."""

    async def test(made: list[Node]) -> None:
        stranger = _stranger(tmp_path, **options)
        with pytest.raises(PeerRefused, match=reason):
            async with stranger.peers.put(made[0].address, blob(1)):
                pass
        assert made[0].stored() == []
        await stranger.close()

    run(tmp_path, 1, test)


def test_wrong_key_is_refused_by_the_server_too(tmp_path: Path) -> None:
    """P20: a caller that does not care about the server's proof still cannot get past its own."""

    async def test(made: list[Node]) -> None:
        host, port = made[0].address.address.split(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, host, int(port))
        hello = Hello(
            nonce=b"n" * 16, cluster_id=CLUSTER, sender=NodeId("n9@9"), receiver=made[0].id
        )
        connection.write_frame(Frame.HELLO, encode_hello(hello))
        kind, _ = await connection.read_frame()
        assert kind is Frame.CHALLENGE
        connection.write_frame(Frame.PROOF, bytes(32))
        kind, reason = await connection.read_frame()
        assert (kind, bytes(reason)) == (Frame.REFUSED, b"wrong cluster key")
        with pytest.raises(PeerUnreachable):
            await connection.read_frame()

    run(tmp_path, 1, test)


def test_wrong_incarnation(tmp_path: Path) -> None:
    """Protocols 1.4: a call meant for another incarnation is refused, and so is a caller that a committed list removed."""

    async def test(made: list[Node]) -> None:
        one, two = made
        elder = PeerAddress(node=NodeId("n2@00000000000000ff"), address=two.address.address)
        with pytest.raises(PeerRefused, match="this is n2@"):
            await one.peers.ping(elder)
        two.refused[one.id] = "n1@... was removed"
        with pytest.raises(PeerRefused, match="removed"):
            await one.peers.ping(two.address)

    run(tmp_path, 2, test)


def test_replayed_connection(tmp_path: Path) -> None:
    """Fault 28: recorded bytes of a whole good connection do nothing when sent again."""

    async def test(made: list[Node]) -> None:
        one, two = made
        await two.put(blob(1), b"bytes")
        recorded = bytearray()
        host, port = two.address.address.split(":")
        there = int(port)

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(host, there)

            async def back() -> None:
                while data := await far_reader.read(65536):
                    writer.write(data)

            task = asyncio.ensure_future(back())
            while data := await reader.read(65536):
                recorded.extend(data)
                far_writer.write(data)
            task.cancel()
            far_writer.close()
            writer.close()

        proxy = await asyncio.start_server(forward, sock=listener())
        port_of_proxy = proxy.sockets[0].getsockname()[1]
        await one.peers.drop(
            PeerAddress(node=two.id, address=f"127.0.0.1:{port_of_proxy}"), blob(1)
        )
        assert two.stored() == []
        await two.put(blob(1), b"bytes")
        assert recorded

        _, writer = await asyncio.open_connection(host, there)
        writer.write(recorded)
        await until(lambda: len(two.server._tasks) <= 1)
        writer.close()
        assert two.stored() == [blob(1).hex()]
        proxy.close()

    run(tmp_path, 2, test)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x80\x04\x95" + bytes(100),
        struct.pack(">BI", Frame.HELLO, 2**31),
        struct.pack(">BI", Frame.DATA, 2**20),
        struct.pack(">BI", Frame.REQUEST, 10) + bytes(10),
        struct.pack(">BI", Frame.HELLO, 8) + b"\xdd\xff\xff\xff\xff\xff\xff\xff",
        struct.pack(">BI", 200, 1),
    ],
)
def test_garbage_from_strangers(tmp_path: Path, garbage: bytes) -> None:
    """Fault 85, 86: garbage, pickles, bombs and huge frames are closed at once; others are served meanwhile."""

    async def test(made: list[Node]) -> None:
        one, two = made
        host, port = one.address.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        await two.peers.ping(one.address)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()

    run(tmp_path, 2, test)


async def _reaches(node: Node, other: Node) -> bool:
    try:
        await node.peers.ping(other.address)
    except (PeerUnreachable, PeerRefused):
        return False
    return True


def test_silent_strangers(tmp_path: Path) -> None:
    """Fault 86: 200 connections that say nothing are closed after the handshake's time, members connect all the while."""

    async def test(made: list[Node]) -> None:
        one, two = made
        host, port = one.address.address.split(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
        async with asyncio.timeout(5):  # else strangers keep members out
            while not await _reaches(two, one):
                continue
        async with asyncio.timeout(10):
            for reader, writer in opened:
                assert await reader.read() == b""
                writer.close()

    run(tmp_path, 2, test)


def test_corrupt_piece_is_refused(tmp_path: Path) -> None:
    """Fault 87: a body whose checksum is wrong is not stored, whoever sends it."""

    async def test(made: list[Node]) -> None:
        one, two = made
        with pytest.raises(PeerUnreachable):  # noqa: PT012 - which call learns of it is not promised
            async with one.peers.put(two.address, blob(1)) as stream:
                await stream.write(b"bytes", crc64nvme(b"other"))
                await stream.commit()
        await until(lambda: two.stored() == [])

    run(tmp_path, 2, test)


def test_request_out_of_place(tmp_path: Path) -> None:
    """Fault 28: a request with a MAC of another place closes the connection and does nothing."""

    async def test(made: list[Node]) -> None:
        one, two = made
        await two.put(blob(1), b"bytes")
        host, port = two.address.address.split(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, host, int(port))
        await greet(connection, one.identity, two.id, SystemIds())
        assert connection.seal_out is not None
        head = RequestHead(method="DELETE", target=f"/blob/{blob(1).hex()}", has_body=False)
        connection.seal_out.wrap(Frame.REQUEST, b"one that is dropped on the way")
        connection.write_sealed(Frame.REQUEST, encode_request(head))
        with pytest.raises(PeerUnreachable):
            await connection.read_frame()
        assert two.stored() == [blob(1).hex()]

    run(tmp_path, 2, test)


# --- writes to a quorum ---------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 20_000, MIB, 5 * MIB + 3])
def test_write_reaches_all(tmp_path: Path, size: int) -> None:
    """Design 5: with all members well, all hold the blob when the write returns."""

    async def test(made: list[Node]) -> None:
        data = body(size)
        written = await made[0].write(blob(1), data, made)
        assert set(written.holders) == {node.id for node in made}
        assert (written.size_bytes, written.crc64) == (size, crc64nvme(data).to_bytes(8, "big"))
        for node in made:
            assert await node.read(written, made) == data

    run(tmp_path, 3, test)


def test_write_without_one_member(tmp_path: Path) -> None:
    """P12: a dead member costs its copy, not the write; it counts as no holder, and is not called again until it answers."""

    async def test(made: list[Node]) -> None:
        await made[2].stop_serving()
        written = await made[0].write(blob(1), body(3 * MIB), made)
        assert set(written.holders) == {made[0].id, made[1].id}
        assert made[0].peers.is_down(made[2].id)

    run(tmp_path, 3, test)


def test_no_quorum_keeps_nothing(tmp_path: Path) -> None:
    """P3: without a write quorum the write was certainly not applied, and leaves nothing on the disks."""

    async def test(made: list[Node]) -> None:
        await made[1].stop_serving()
        await made[2].stop_serving()
        with pytest.raises(Unavailable, match="quorum"):
            await made[0].write(blob(1), body(3 * MIB), made)
        await until(lambda: made[0].stored() == [])

    run(tmp_path, 3, test)


def test_member_dies_in_mid_body(tmp_path: Path) -> None:
    """Fault 6: a member that dies while the body streams drops out of this write; the others make the quorum."""

    async def test(made: list[Node]) -> None:
        data = body(12 * MIB)

        async def source() -> AsyncIterator[bytes]:
            for start in range(0, len(data), MIB):
                if start == 6 * MIB:
                    await until(lambda: bool(made[2].temporary()))
                    await made[2].stop_serving()
                yield data[start : start + MIB]

        written = await made[0].writer.write(
            source(), blob_id=blob(1), members=[n.address for n in made], quorum=2
        )
        assert set(written.holders) == {made[0].id, made[1].id}
        assert await made[1].read(written, made[:2]) == data
        await until(lambda: made[2].stored() == [])

    run(tmp_path, 3, test)


@pytest.mark.parametrize("after", [0, 1, 5 * MIB])
def test_failing_source_keeps_nothing_anywhere(tmp_path: Path, after: int) -> None:
    """Fault 63, 64: a client that leaves, or a body with the wrong digest, leaves nothing on any member."""

    async def test(made: list[Node]) -> None:
        async def source() -> AsyncIterator[bytes]:
            yield bytes(after)
            raise ConnectionResetError("the client is gone")

        with pytest.raises(ConnectionResetError):
            await made[0].writer.write(
                source(), blob_id=blob(1), members=[n.address for n in made], quorum=2
            )
        await until(lambda: all(node.stored() == [] for node in made))

    run(tmp_path, 3, test)


def test_cancelled_write_keeps_nothing_anywhere(tmp_path: Path) -> None:
    """Fault 63: so does a request that is cancelled."""

    async def test(made: list[Node]) -> None:
        async def source() -> AsyncIterator[bytes]:
            for _ in range(6):
                yield bytes(MIB)
            await asyncio.Event().wait()

        task = asyncio.ensure_future(
            made[0].writer.write(
                source(), blob_id=blob(1), members=[n.address for n in made], quorum=2
            )
        )
        await until(lambda: all(node.temporary() for node in made))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: all(node.stored() == [] for node in made))

    run(tmp_path, 3, test)


def test_full_disks(tmp_path: Path) -> None:
    """Fault 37, 38: a full peer costs its copy; a full quorum is told as such, and nothing stays."""

    async def test(made: list[Node]) -> None:
        def full() -> None:
            raise DiskFull("full")

        def fill(node: Node) -> None:
            object.__setattr__(node.files._spool, "check_space", full)

        fill(made[2])
        written = await made[0].write(blob(1), body(3 * MIB), made)
        assert set(written.holders) == {made[0].id, made[1].id}
        with pytest.raises(PeerFull):  # noqa: PT012 - as above
            async with made[0].peers.put(made[2].address, blob(2)) as stream:
                await stream.write(bytes(MIB))
                await stream.commit()
        fill(made[1])
        with pytest.raises(StorageFull):
            await made[0].write(blob(3), body(3 * MIB), made)
        await until(lambda: made[0].stored() == [blob(1).hex()])

    run(tmp_path, 3, test)


def test_the_own_copy_of_a_named_blob_is_not_dropped_either(tmp_path: Path) -> None:
    """Protocols 4.5: what holds for a request of another member holds for this node's own writer."""

    async def test(made: list[Node]) -> None:
        await made[0].write(blob(1), body(100_000), made)
        made[0].named.add(blob(1))
        await made[0].writer.drop(blob(1), [node.address for node in made])
        assert [node.stored() for node in made] == [[blob(1).hex()], [], []]

    run(tmp_path, 3, test)


def test_drop_after_a_refusal(tmp_path: Path) -> None:
    """Design 5.6: after a definite refusal the holders drop the blob; one that names it keeps it, a dead one is no error."""

    async def test(made: list[Node]) -> None:
        await made[0].write(blob(1), body(100_000), made)
        made[1].named.add(blob(1))
        await made[2].stop_serving()
        await made[0].writer.drop(blob(1), [node.address for node in made])
        assert made[0].stored() == []
        assert made[1].stored() == [blob(1).hex()]

    run(tmp_path, 3, test)


@pytest.mark.parametrize("point", ["sent", "one_ack", "quorum"])
@pytest.mark.parametrize("action", ["eio", "enospc"])
def test_failure_between_the_steps_of_a_write(tmp_path: Path, point: str, action: str) -> None:
    """Fault 1-3: whatever fails between sending and the answer, nothing stays on any member."""

    async def test(made: list[Node]) -> None:
        failpoints.arm(f"put.replicate.{point}={action}", test_mode=True)
        try:
            with pytest.raises(OSError, match="failpoint"):
                await made[0].write(blob(1), body(100_000), made)
        finally:
            failpoints.arm(None, test_mode=True)
        await made[0].writer.close()
        await until(lambda: all(node.stored() == [] for node in made))

    run(tmp_path, 3, test)


def test_fatal_local_disk_acknowledges_nothing(tmp_path: Path) -> None:
    """P19: with an I/O error on its own disk the coordinator does not return a quorum of others: the process ends."""

    async def test(made: list[Node]) -> None:
        def broken() -> None:
            raise OSError(5, "Input/output error")

        object.__setattr__(made[0].files._spool, "check_space", broken)
        with pytest.raises(FatalStop):
            await made[0].write(blob(1), body(100_000), made)
        assert len(made[0].fatal) == 1
        await until(lambda: made[1].stored() == made[2].stored() == [])

    run(tmp_path, 3, test)


def test_slow_client_keeps_its_members(tmp_path: Path) -> None:
    """A body that trickles in is passed on in short pieces, so that no member takes the coordinator for dead."""

    async def test(made: list[Node]) -> None:
        clock = ManualClock()
        sizes: list[int] = []

        async def source() -> AsyncIterator[bytes]:
            for number in range(40):
                clock.advance(1)
                yield bytes([number]) * 20_000

        async for piece in _pieces(source(), clock):
            sizes.append(len(piece.data))
        assert sum(sizes) == 800_000
        assert max(sizes) < 150_000
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        assert PIECE_BYTES in ends

    run(tmp_path, 0, test)


class _DeafPeer:
    """A member that takes a connection and a PUT, and then reads nothing: a paused process."""

    def __init__(self, real: Node) -> None:
        self._real = real
        self._writers: list[asyncio.StreamWriter] = []
        self.address = real.address

    async def start(self) -> None:
        host, port = self._real.address.address.split(":")

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            self._writers.append(far_writer)
            for _ in range(3):  # hello and challenge, proof and ready, request and go-ahead
                far_writer.write(await reader.read(65536))
                writer.write(await far_reader.read(65536))

        self._proxy = await asyncio.start_server(forward, sock=listener(), limit=1024)
        port_of_proxy = self._proxy.sockets[0].getsockname()[1]
        self.address = PeerAddress(node=self._real.id, address=f"127.0.0.1:{port_of_proxy}")

    async def stop(self) -> None:
        self._proxy.close()
        for writer in self._writers:
            writer.close()


def test_slow_member_is_dropped_in_bounded_memory(tmp_path: Path) -> None:
    """Design 5.2: a member that stands still neither slows the client to its speed nor makes the coordinator hold the body."""

    async def test(made: list[Node]) -> None:
        deaf = _DeafPeer(made[2])
        await deaf.start()
        piece = os.urandom(MIB)
        tracemalloc.start()

        async def source() -> AsyncIterator[bytes]:
            for _ in range(96):
                yield piece

        members = [made[0].address, made[1].address, deaf.address]
        written = await made[0].writer.write(source(), blob_id=blob(1), members=members, quorum=2)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await deaf.stop()

        assert set(written.holders) == {made[0].id, made[1].id}
        assert written.size_bytes == 96 * MIB
        assert peak_bytes < 48 * MIB
        await until(lambda: made[2].stored() == [])

    run(tmp_path, 3, test)


def test_late_holder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Design 5.5: a member that finishes after the write returned is reported, so that it is not owed what it has."""

    async def test(made: list[Node]) -> None:
        release = asyncio.Event()
        real = made[2].files.create

        def slow_create(blob_id: BlobId) -> object:
            sink = real(blob_id)
            commit = sink.commit

            async def slow_commit() -> object:
                await release.wait()
                return await commit()

            monkeypatch.setattr(sink, "commit", slow_commit)
            return sink

        monkeypatch.setattr(made[2].files, "create", slow_create)
        written = await made[0].write(blob(1), body(100_000), made)
        assert set(written.holders) == {made[0].id, made[1].id}
        assert made[0].late == []
        release.set()
        await until(lambda: made[0].late == [(blob(1), made[2].id)])

    run(tmp_path, 3, test)


def test_suspect_member_is_used_again_once_it_answers(tmp_path: Path) -> None:
    """Design 5.4: a member is waited for again after it answered a probe, without anybody's help."""

    async def test(made: list[Node]) -> None:
        port = made[2].address.address.rsplit(":", 1)[1]
        await made[2].stop_serving()
        await made[0].write(blob(1), body(100_000), made)
        assert made[0].peers.is_down(made[2].id)

        again = socket.socket()
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", int(port)))
        again.listen()
        await made[2].server.start(again)
        await until(lambda: not made[0].peers.is_suspect(made[2].id))
        written = await made[0].write(blob(2), body(100_000), made)
        assert set(written.holders) == {node.id for node in made}

    run(tmp_path, 3, test)


# --- reads from whoever has it --------------------------------------------------------------------
SIZE = 4 * BLOCK_BYTES + 99


@pytest.mark.parametrize("block", [0, 1, 4])
def test_bad_local_block_is_replaced_in_mid_stream(tmp_path: Path, block: int) -> None:
    """Issue 4, item 9: a bad local block is answered from another member within the same response; the copy is put away."""

    async def test(made: list[Node]) -> None:
        data = body(SIZE)
        written = await made[0].write(blob(1), data, made)
        flip(made[0].file(blob(1)), block * BLOCK_BYTES + 50)

        assert await made[0].read(written, made) == data

        await until(lambda: made[0].lost == [blob(1)])
        assert not made[0].file(blob(1)).exists()
        assert made[1].lost == []

    run(tmp_path, 3, test)


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "swapped", "footer"])
def test_bad_local_file_is_replaced(tmp_path: Path, damage: str) -> None:
    """Fault 48: truncated, empty, gone, swapped: right bytes from elsewhere, and the holder says that its copy is lost."""

    async def test(made: list[Node]) -> None:
        data = body(SIZE)
        written = await made[0].write(blob(1), data, made)
        path = made[0].file(blob(1))
        whole = path.read_bytes()
        match damage:
            case "gone":
                path.unlink()
            case "empty":
                path.write_bytes(b"")
            case "short":
                path.write_bytes(whole[:-1])
            case "swapped":
                await made[0].put(blob(2), data)
                path.write_bytes(made[0].file(blob(2)).read_bytes())
            case "footer":
                flip(path, len(whole) - 5)

        assert await made[0].read(written, made) == data
        await until(lambda: made[0].lost == [blob(1)])

    run(tmp_path, 3, test)


def test_bad_blocks_on_two_members(tmp_path: Path) -> None:
    """Each block comes from whoever has it good, even if nobody has all of them good."""

    async def test(made: list[Node]) -> None:
        data = body(SIZE)
        written = await made[0].write(blob(1), data, made)
        flip(made[0].file(blob(1)), 1 * BLOCK_BYTES)
        flip(made[1].file(blob(1)), 2 * BLOCK_BYTES)
        flip(made[2].file(blob(1)), 3 * BLOCK_BYTES)
        # Keep the bad copies in place: they are put away while the answer streams.
        for node in made:
            node.files.quarantine = _never  # type: ignore[method-assign]

        assert await made[0].read(written, made) == data

    run(tmp_path, 3, test)


async def _never(blob_id: BlobId, **_: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (BLOCK_BYTES - 1, BLOCK_BYTES + 1), (3 * BLOCK_BYTES, SIZE), (7, 7)]
)
def test_ranges_from_a_peer(tmp_path: Path, start: int, stop: int) -> None:
    """P7: a range from another member is exactly its bytes."""

    async def test(made: list[Node]) -> None:
        data = body(SIZE)
        written = await made[0].write(blob(1), data, made[1:])
        assert made[0].stored() == []
        assert await made[0].read(written, made[1:], start, stop) == data[start:stop]
        assert made[0].lost == []

    run(tmp_path, 3, test)


def test_damage_only_when_all_holders_say_so(tmp_path: Path) -> None:
    """Protocols 4.7, fault 49: damaged everywhere is an integrity error and never bytes; one holder unreachable is a 503."""

    async def test(made: list[Node]) -> None:
        written = await made[0].write(blob(1), body(SIZE), made)
        for node in made:
            flip(node.file(blob(1)), 10)
        with pytest.raises(Corruption):
            await made[0].read(written, made)

        written = await made[0].write(blob(2), body(SIZE), made)
        flip(made[0].file(blob(2)), 10)
        made[1].file(blob(2)).unlink()
        await made[2].stop_serving()
        with pytest.raises(Unavailable):
            await made[0].read(written, made)

    run(tmp_path, 3, test)


def test_source_dies_in_mid_stream(tmp_path: Path) -> None:
    """Fault 57: the answer goes on from another holder at the block where the first one died."""

    async def test(made: list[Node]) -> None:
        data = body(24 * MIB)
        written = await made[0].write(blob(1), data, made[1:])
        stream = await made[0].reader.open(
            blob_id=blob(1),
            size_bytes=written.size_bytes,
            crc64=written.crc64,
            holders=[made[1].address, made[2].address],
        )
        got = bytearray()
        async with stream:
            async for view in stream:
                got += view
                if len(got) == 2 * MIB:
                    await made[1].stop_serving()
        assert bytes(got) == data

    run(tmp_path, 3, test)


def test_a_foreign_blob_under_the_id_is_refused(tmp_path: Path) -> None:
    """P7: a peer's sound file that is not what the catalog names is not served."""

    async def test(made: list[Node]) -> None:
        written = await made[0].write(blob(1), body(SIZE), made[:1], quorum=1)
        made[0].file(blob(1)).unlink()
        await made[1].put(blob(1), body(SIZE + 1))
        with pytest.raises(Corruption):
            await made[0].read(written, made[:2])

    run(tmp_path, 2, test)


def test_pull(tmp_path: Path) -> None:
    """Design 10: a member pulls what it misses from a good holder, verified; what is here and sound is not copied again."""

    async def test(made: list[Node]) -> None:
        data = body(SIZE)
        written = await made[0].write(blob(1), data, made[:2])
        flip(made[0].file(blob(1)), 5)
        holders = [node.address for node in made[:2]]
        for is_first in (True, False):
            is_copied = await made[2].reader.pull(
                blob_id=blob(1), size_bytes=SIZE, crc64=written.crc64, holders=holders
            )
            assert is_copied == is_first
            for node in made[:2]:
                await node.stop_serving()
        assert len(await made[2].read(written, [made[2]])) == SIZE
        with pytest.raises(Unavailable):
            await made[2].reader.pull(
                blob_id=blob(2), size_bytes=5, crc64=bytes(8), holders=holders
            )
        assert made[2].stored() == [blob(1).hex()]

    run(tmp_path, 3, test)


def test_pull_a_bundle(tmp_path: Path) -> None:
    """Issue 5: small blobs come together, verified against the catalog; what a holder cannot give is left out."""

    async def test(made: list[Node]) -> None:
        source, target = made
        wanted = []
        for number, size in enumerate((20_000, 70_000, 100_000, RESYNC_BUNDLE_BLOB_BYTES + 1), 1):
            stored = await source.put(blob(number), body(size))
            wanted.append(WantedBlob(blob(number), size, stored.crc64))
        wanted.append(WantedBlob(blob(9), 20_000, bytes(8)))
        await target.put(blob(2), body(70_000))  # is here
        flip(source.file(blob(3)), 5)
        bundles = BundleReader(target.files, target.peers, self_id=target.id)
        assert bundles.source(blob(1), [target.address]) is None
        assert bundles.source(blob(1), [target.address, source.address]) == source.address
        assert await bundles.pull(source.address, wanted) == frozenset()  # an older one
        BundleServer(source.files).serve(source.server)
        other = [WantedBlob(blob(1), 20_000, bytes(8))]
        assert await bundles.pull(source.address, other) == frozenset()
        assert target.stored() == [blob(2).hex()]

        assert await bundles.pull(source.address, wanted) == {blob(1)}

        assert target.stored() == [blob(1).hex(), blob(2).hex()]
        assert len(await target.read(await source.put(blob(1), body(20_000)), [target])) == 20_000
        await source.stop_serving()
        assert await bundles.pull(source.address, wanted) == frozenset()

    run(tmp_path, 2, test)


def test_status_numbers_are_those_of_http() -> None:
    """Whoever reads a trace knows them."""
    assert [Status.OK, Status.NOT_HERE, Status.NO_SPACE] == [200, 404, 507]


def test_clients_end_their_probes(tmp_path: Path) -> None:
    """P18: a closed client leaves no task behind."""

    async def test(made: list[Node]) -> None:
        client = PeerClient(made[0].identity)
        client.suspect(PeerAddress(node=NodeId("n9@9"), address="127.0.0.1:1"))
        await client.close()
        assert not client.is_suspect(NodeId("n9@9"))

    run(tmp_path, 1, test)
