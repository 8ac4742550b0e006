"""Core-to-core connections over real sockets, in one process: helpers of the transport's and formation's tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from sos.clock import Clock, SystemClock, SystemIds
from sos.raft.boots import PeerBoots
from sos.raft.handshake import LocalIdentity
from sos.raft.links import TransportSettings
from sos.raft.transport import NodeTransport
from tests.faults.simdisk import SimDisk

KEY = b"the cluster key of these tests"
CLUSTER = b"c" * 16
DEADLINE_S = 10.0
_PORTS = iter(range(14000, 32000))


def listening_socket(port: int = 0) -> socket.socket:
    """A listener on loopback, on a port that outgoing connections never take."""
    while True:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port or next(_PORTS)))
            sock.listen(256)
        except OSError:
            sock.close()
            if port:
                raise
        else:
            return sock


def address_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"{host}:{port}"


def node_id(name: str, incarnation: int = 0) -> str:
    return f"{name}@{incarnation:016x}"


async def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for ``condition``; fails with ``what`` after the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not condition():
        assert loop.time() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.002)


@dataclass
class Recorder:
    """A RaftHandler that writes down what happens."""

    events: list[tuple[str, str]] = field(default_factory=list)
    frames: list[tuple[str, bytes]] = field(default_factory=list)

    def on_connected(self, peer: str, /) -> None:
        self.events.append(("+", peer))

    def on_disconnected(self, peer: str, /) -> None:
        self.events.append(("-", peer))

    def on_frame(self, peer: str, frame: bytes, /) -> None:
        assert self.is_connected(peer), "a frame outside of its connection"
        self.frames.append((peer, frame))

    def is_connected(self, peer: str) -> bool:
        own = [sign for sign, node in self.events if node == peer]
        assert own == ["+", "-"] * (len(own) // 2) + ["+"] * (len(own) % 2), own
        return len(own) % 2 == 1


@dataclass
class Node:
    """A transport with its listener and a recorder."""

    transport: NodeTransport
    listener: socket.socket
    handler: Recorder

    @property
    def id(self) -> str:
        return self.transport.identity.node

    @property
    def address(self) -> str:
        return address_of(self.listener)

    async def close(self) -> None:
        await self.transport.close()
        self.listener.close()


def make_node(
    name: str,
    *,
    incarnation: int = 0,
    boot: int = 1,
    cluster_id: bytes | None = CLUSTER,
    epoch: int = 0,
    key: bytes = KEY,
    clock: Clock | None = None,
    listener: socket.socket | None = None,
    settings: TransportSettings | None = None,
    boots: PeerBoots | None = None,
) -> Node:
    listener = listener or listening_socket()
    handler = Recorder()
    transport = NodeTransport(
        identity=LocalIdentity(
            node=node_id(name, incarnation), boot=boot, cluster_id=cluster_id, epoch=epoch
        ),
        key=key,
        listener=listener,
        clock=clock or SystemClock(),
        ids=SystemIds(),
        boots=boots or PeerBoots.load(SimDisk(), "/"),
        settings=settings or TransportSettings(),
    )
    transport.set_raft_handler(handler)
    return Node(transport, listener, handler)


async def start_all(*nodes: Node) -> None:
    """Start them, each dialing all others."""
    for node in nodes:
        node.transport.set_peers({other.id.partition("@")[0]: other.address for other in nodes})
        await node.transport.start()


async def connected(*nodes: Node) -> None:
    """Wait until each is connected to all others."""
    wanted = {node.id for node in nodes}
    await until(
        lambda: all(set(node.transport.connected()) == wanted - {node.id} for node in nodes),
        "all connected",
    )


async def close_all(*nodes: Node) -> None:
    for node in nodes:
        await node.close()
