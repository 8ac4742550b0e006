"""What strangers, and an authenticated node that lies, can do at the node port: nothing (faults.md 3.6, 85 to 87)."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
import sys
import tracemalloc
from pathlib import Path

import pytest
import uvloop

from sos.clock import SystemClock
from sos.limits import MIB
from sos.raft import formation_messages
from sos.raft.frames import CHANNEL_FORMATION, CHANNEL_PING, CHANNEL_RAFT, FrameWriter
from sos.raft.handshake import (
    HELLO_BYTES,
    MESSAGE_BYTES,
    NONCE_BYTES,
    Claim,
    Handshake,
    RefusalCode,
    SessionKeys,
)
from sos.raft.links import TransportSettings
from sos.raft.messages import decode
from tests.integration.nodeports import (
    CLUSTER,
    KEY,
    Node,
    close_all,
    connected,
    make_node,
    node_id,
    start_all,
    until,
)

WAIT_S = 5.0


class Raw:
    """A client that speaks as much of the protocol as a test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sent = b""

    @classmethod
    async def dial(cls, node: Node) -> Raw:
        host, port = node.listener.getsockname()[:2]
        return cls(*await asyncio.open_connection(host, port))

    async def send(self, data: bytes) -> None:
        self.sent += data
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Whatever the node still says until it closes."""
        try:
            async with asyncio.timeout(WAIT_S):
                return await self.reader.read()
        except ConnectionResetError:
            return b""

    async def close(self) -> None:
        self.writer.transport.abort()

    async def shake_hands(
        self,
        *,
        cluster_id: bytes | None = CLUSTER,
        session: bytes = b"session!",
        connection: int = 1,
    ) -> SessionKeys:
        handshake = Handshake(dialing=True, key=KEY, nonce=os.urandom(NONCE_BYTES))
        await self.send(handshake.hello())
        handshake.take_hello(await self.reader.readexactly(HELLO_BYTES))
        claim = Claim(
            node=node_id("n7"),
            boot=1,
            cluster_id=cluster_id,
            epoch=0,
            session=session,
            wall_ms=SystemClock().wall_ms(),
            connection=connection,
            wanted="",
        )
        await self.send(handshake.claim(claim))
        assert isinstance(handshake.open(await self.reader.readexactly(MESSAGE_BYTES)), Claim)
        keys = handshake.session_keys()
        await self.send(handshake.acceptance())
        return keys


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return (os.open, (str(self.path), os.O_CREAT | os.O_WRONLY))


async def _pair() -> tuple[Node, Node]:
    settings = TransportSettings(unauthenticated_s_max=1.0)
    one, two = make_node("n1", settings=settings), make_node("n2", settings=settings)
    await start_all(one, two)
    await connected(one, two)
    return one, two


async def _still_works(one: Node, two: Node) -> None:
    """The peers were not disturbed: the same connection carries frames both ways."""
    assert one.handler.events == [("+", two.id)]
    before = len(two.handler.frames)
    assert one.transport.send(two.id, b"still here")
    await until(lambda: len(two.handler.frames) > before, "peers go on")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4,
        b"\x00" * 4096,
        b"\xff" * 4096,
        os.urandom(65536),
        struct.pack(">I", 2**31) + b"x" * 4096,
        b"SOSN\x01\x00\x00\x00" + b"n" * 32 + b"\x01" * 4096,
        b"SOSN\x09\x00\x00\x00" + b"n" * 32,
        b"\xdf\xff\xff\xff\xff" * 1000,
    ],
    ids=["http", "zeros", "ones", "random", "2 GiB", "hello + junk", "version 9", "msgpack map"],
)
def test_garbage_is_closed_and_peers_go_on(garbage: bytes) -> None:
    """faults.md 85, 86: closed before any payload is parsed; nothing else is disturbed."""

    async def scenario() -> None:
        one, two = await _pair()
        raw = await Raw.dial(one)
        await raw.send(garbage)
        answer = await raw.rest()
        assert len(answer) <= HELLO_BYTES + MESSAGE_BYTES
        await _still_works(one, two)
        await raw.close()
        await close_all(one, two)

    uvloop.run(scenario())


def test_a_pickle_runs_nowhere(tmp_path: Path) -> None:
    """pysyncobj.md D8: no pickle is reachable from the socket, before or after the handshake."""

    async def scenario() -> None:
        one, two = await _pair()
        bomb = pickle.dumps(Bomb(tmp_path / "boom"))
        stranger = await Raw.dial(one)
        await stranger.send(bomb.ljust(4096, b"\0"))
        await stranger.rest()
        one.handler.on_frame = lambda peer, frame: _check(frame)  # type: ignore[method-assign]
        member = await Raw.dial(one)
        keys = await member.shake_hands()
        await member.send(_frames(keys, CHANNEL_RAFT, bomb))
        await member.rest()
        assert not (tmp_path / "boom").exists()
        await stranger.close()
        await member.close()
        await close_all(one, two)

    uvloop.run(scenario())


def _check(frame: bytes) -> None:
    """What the engine does with a frame first. Raises: MessageRefused."""
    decode(frame)


def _frames(keys: SessionKeys, channel: int, *payloads: bytes) -> bytes:
    writer, parts = FrameWriter(keys.send), list[bytes]()
    for payload in payloads:
        writer.seal_into(parts, channel, payload)
    return b"".join(parts)


def test_half_a_handshake_is_closed_in_time() -> None:
    """faults.md 85: a socket that stops in the middle of any message is closed after a while."""

    async def scenario() -> None:
        one, two = await _pair()
        handshake = Handshake(dialing=True, key=KEY, nonce=os.urandom(NONCE_BYTES))
        for data in (b"", b"S", handshake.hello()[:-1], handshake.hello() + b"\x01" * 100):
            raw = await Raw.dial(one)
            await raw.send(data)
            await raw.rest()
            await raw.close()
        await _still_works(one, two)
        await close_all(one, two)

    uvloop.run(scenario())


def test_a_wrong_key_learns_nothing_but_that() -> None:
    """P20: without the cluster key nothing is told: neither name, cluster nor members."""

    async def scenario() -> None:
        one, two = await _pair()
        raw = await Raw.dial(one)
        handshake = Handshake(dialing=True, key=b"wrong", nonce=os.urandom(NONCE_BYTES))
        await raw.send(handshake.hello())
        await raw.reader.readexactly(HELLO_BYTES)
        await raw.send(b"\x01" * MESSAGE_BYTES)
        answer = await raw.rest()
        assert len(answer) == MESSAGE_BYTES
        assert b"n1" not in answer
        assert CLUSTER not in answer
        assert one.transport.refused_connections == 1
        await raw.close()
        await _still_works(one, two)
        await close_all(one, two)

    uvloop.run(scenario())


def test_a_recorded_connection_cannot_be_replayed() -> None:
    """faults.md 28: recorded Raft traffic replayed by a third host: dropped and counted, none accepted."""

    async def scenario() -> None:
        one, two = await _pair()
        original = await Raw.dial(one)
        keys = await original.shake_hands()
        await original.send(_frames(keys, CHANNEL_RAFT, b"vote for me"))
        await until(lambda: (node_id("n7"), b"vote for me") in one.handler.frames, "the original")
        await original.close()
        accepted = len(one.handler.frames)
        replay = await Raw.dial(one)
        await replay.send(original.sent)
        await replay.rest()
        assert len(one.handler.frames) == accepted
        assert one.transport.refused_connections >= 1
        await replay.close()
        await close_all(one, two)

    uvloop.run(scenario())


def test_what_an_older_connection_still_delivers_is_dropped() -> None:
    """faults.md 27: two living connections of one peer: only the newer counts, the old one's bytes are dropped."""

    async def scenario() -> None:
        one, two = await _pair()
        old, new = await Raw.dial(one), await Raw.dial(one)
        old_keys = await old.shake_hands(connection=1)
        old_writer = _frames(old_keys, CHANNEL_RAFT, b"old 1", b"old 2")
        await old.send(old_writer[: len(old_writer) // 2])
        await until(lambda: (node_id("n7"), b"old 1") in one.handler.frames, "the first is taken")
        new_keys = await new.shake_hands(connection=2)
        await new.send(_frames(new_keys, CHANNEL_RAFT, b"new"))
        await until(lambda: (node_id("n7"), b"new") in one.handler.frames, "the new one counts")
        old.writer.write(old_writer[len(old_writer) // 2 :])
        await old.rest()
        frames = [frame for peer, frame in one.handler.frames if peer == node_id("n7")]
        assert frames == [b"old 1", b"new"]
        signs = [sign for sign, peer in one.handler.events if peer == node_id("n7")]
        assert signs == ["+", "-", "+"]
        await old.close()
        await new.close()
        await close_all(one, two)

    uvloop.run(scenario())


@pytest.mark.parametrize("what", ["replay", "length", "mac", "channel", "raft before formed"])
def test_an_authenticated_node_that_lies_loses_its_connection(what: str) -> None:
    """faults.md 87: replayed, overlong, forged and misplaced frames end that connection, and only that."""

    async def scenario() -> None:
        one, two = await _pair()
        raw = await Raw.dial(one)
        unformed = what == "raft before formed"
        keys = await raw.shake_hands(cluster_id=None if unformed else CLUSTER)
        frame = _frames(keys, CHANNEL_RAFT, b"x")
        data = {
            "replay": frame + frame,
            "length": frame + struct.pack(">IQB", 2**31, 1, CHANNEL_RAFT) + b"x" * 4096,
            "mac": frame[:-1] + bytes([frame[-1] ^ 1]),
            "channel": _frames(keys, 77, b"x"),
            "raft before formed": frame,
        }[what]
        await raw.send(data)
        await raw.rest()
        assert one.transport.refused_frames == 1
        assert node_id("n7") not in one.transport.connected()
        received = [f for peer, f in one.handler.frames if peer == node_id("n7")]
        assert len(received) <= 1
        await raw.close()
        assert ("+", two.id) in one.handler.events
        assert ("-", two.id) not in one.handler.events
        await close_all(one, two)

    uvloop.run(scenario())


BOMBS = {
    "deep": b"\x91" * 100_000 + b"\xc0",
    "map of 2^31": b"\xdf\x80\x00\x00\x00" + b"\xc0" * 100,
    "array of 2^31": b"\xdd\x80\x00\x00\x00" + b"\xc0" * 100,
    "duplicate keys": b"\x82\x01\x01\x01\x02",
    "wrong types": b"\x93\x01\xc0\xc3",
    "unknown message": b"\x91\x7f",
    "string of 2^31": b"\xdb\x80\x00\x00\x00abc",
    "empty": b"",
    "extension": b"\xd4\x01\x00",
}


@pytest.mark.parametrize("channel", [CHANNEL_RAFT, CHANNEL_FORMATION], ids=["raft", "formation"])
@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_msgpack_bombs_after_authentication(bomb: bytes, channel: int) -> None:
    """faults.md 86: bombs from an authenticated peer end its connection; memory stays flat."""

    async def scenario() -> None:
        one, two = await _pair()
        one.handler.on_frame = lambda peer, frame: _check(frame)  # type: ignore[method-assign]
        one.transport.set_formation_handler(_FormationStub())
        raw = await Raw.dial(one)
        keys = await raw.shake_hands(cluster_id=CLUSTER if channel == CHANNEL_RAFT else None)
        tracemalloc.start()
        await raw.send(_frames(keys, channel, bomb))
        await raw.rest()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * MIB
        assert one.transport.refused_frames == 1
        await raw.close()
        await close_all(one, two)

    uvloop.run(scenario())


class _FormationStub:
    """Decodes as the formation does, and nothing else."""

    def on_connected(self, claim: Claim, /) -> None:
        del claim

    def on_disconnected(self, peer: str, /) -> None:
        del peer

    def on_message(self, peer: str, payload: bytes, /) -> None:
        formation_messages.decode(payload)


def test_many_idle_sockets_hold_little_and_lock_nobody_out() -> None:
    """faults.md 85, 86: 200 idle sockets; a legitimate peer still connects, memory and descriptors come back."""

    async def scenario() -> None:
        one, two = await _pair()
        descriptors = len(os.listdir("/proc/self/fd"))
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        idle = []
        for _ in range(200):
            sock = socket.socket()
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, one.listener.getsockname())
            idle.append(sock)
        pending = one.transport._pending
        await until(lambda: 0 < len(pending) <= 64, "no more than 64 wait")
        held = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert held < 200 * 8192
        three = make_node("n3")
        three.transport.set_peers({"n1": one.address})
        await three.transport.start()
        await until(lambda: three.id in one.transport.connected(), "a legitimate peer connects")
        assert one.transport.send(two.id, b"still here")
        await until(lambda: (one.id, b"still here") in two.handler.frames, "peers go on")
        await until(lambda: len(pending) == 0, "the idle ones are closed")
        for sock in idle:
            sock.close()
        await close_all(three)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "descriptors are back")
        assert ("-", two.id) not in one.handler.events
        await close_all(one, two)

    uvloop.run(scenario())


def test_a_refused_peer_that_keeps_dialing_costs_no_descriptor() -> None:
    """faults.md 29: no descriptor is lost, however often a connection is reset or refused."""

    async def scenario() -> None:
        one, two = await _pair()
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            raw = await Raw.dial(one)
            await raw.send(b"\x00" * HELLO_BYTES)
            await raw.close()
        wrong = make_node("n3", key=b"another")
        wrong.transport.set_peers({"n1": one.address})
        await wrong.transport.start()
        await until(
            lambda: any(link.refusal is RefusalCode.OTHER_KEY for link in wrong.transport.status()),
            "refused",
        )
        await close_all(wrong)
        await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, "descriptors are back")
        await _still_works(one, two)
        await close_all(one, two)

    uvloop.run(scenario())


def test_no_pickle_is_imported_by_the_transport() -> None:
    """faults.md section 6, mutants M43 to M47: a test that no pickle is reachable from a socket."""
    for name in ("handshake", "frames", "connection", "dialing", "listening", "transport"):
        module = sys.modules[f"sos.raft.{name}"]
        assert "pickle" not in vars(module)
    assert CHANNEL_PING == 0
