"""Links between nodes: connections that carry bytes in order, and what may befall them.

Inside a living connection nothing is lost or reordered (that is TCP): a cut or a stall holds bytes back until
it heals, or until the connection dies for silence. What was on its way then is lost, or comes late, after the
first bytes of the next connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import combinations
from typing import Protocol

from tests.sim.world import World

DEAD_S = 2.0  # silence after which a side closes
PING_S = 0.5
REDIAL_S = 0.2


class Endpoint(Protocol):
    """What the network needs of a node."""

    name: str

    @property
    def is_up(self) -> bool: ...
    @property
    def is_running(self) -> bool: ...
    def link_up(self, peer: str) -> None: ...
    def link_down(self, peer: str) -> None: ...
    def frame(self, peer: str, data: bytes) -> None: ...


class Connection:
    """One connection; each side closes, and learns of it, in its own time."""

    def __init__(self, one: str, two: str, now: float) -> None:
        self.open = {one: True, two: True}
        self.heard = {one: now, two: now}
        self.queues: dict[str, deque[tuple[float, bytes]]] = {one: deque(), two: deque()}

    def peer(self, side: str) -> str:
        one, two = self.open
        return two if side == one else one


class Network:
    """All links of a cluster."""

    def __init__(self, world: World, names: list[str]) -> None:
        self.world = world
        self.names = list(names)
        self.nodes: dict[str, Endpoint] = {}
        self.cut: set[tuple[str, str]] = set()  # directed: (from, to)
        self.delay_s = (0.0002, 0.003)
        self.late_share = 0.0  # of lost connections, whose last bytes arrive after all
        self.drop: Callable[[str, str, bytes], bool] | None = None  # a directed test's own rule
        self.received: dict[tuple[str, str], float] = {}  # (receiver, sender) -> when last
        self.frames = 0
        self._connections: dict[tuple[str, str], Connection] = {}
        for one, two in combinations(names, 2):
            world.at(0.0, lambda one=one, two=two: self._watch(one, two))  # type: ignore[misc]

    # --- what nodes do ----------------------------------------------------------------------------
    def send(self, source: str, target: str, data: bytes, spent_s: float) -> bool:
        connection = self._connections.get(_pair(source, target))
        if connection is None or not connection.open[source]:
            return False
        low, high = self.delay_s
        due = self.world.now + spent_s + self.world.network.uniform(low, high)
        queue = connection.queues[target]
        if queue and queue[-1][0] > due:
            due = queue[-1][0]
        queue.append((due, data))
        self.world.at(due - self.world.now, lambda: self._arrive(connection, source, target))
        return True

    def died(self, name: str, *, silently: bool) -> None:
        """The process of ``name`` is gone: its kernel says so to the peers, or with its machine nobody does."""
        for pair, connection in self._connections.items():
            if name in pair and connection.open[name]:
                connection.open[name] = False
                peer = connection.peer(name)
                if not silently and (name, peer) not in self.cut:
                    self._close_later(connection, peer)

    def replace(self, old: str, new: str) -> None:
        """A node comes back under another node id, at the same place."""
        if old == new:
            return
        self.names[self.names.index(old)] = new
        del self.nodes[old]
        for peer in self.names:
            if peer != new:
                self._watch(*_pair(peer, new))

    # --- what befalls them ------------------------------------------------------------------------
    def cut_off(self, source: str, target: str) -> None:
        self.cut.add((source, target))

    def isolate(self, name: str) -> None:
        """No bytes to or from ``name``; everybody finds out by the silence."""
        for peer in self.names:
            if peer != name:
                self.cut |= {(name, peer), (peer, name)}

    def heal(self) -> None:
        """Everything that was held back goes on."""
        self.cut.clear()
        for connection in self._connections.values():
            self._go_on(connection)

    def heal_between(self, names: list[str]) -> None:
        """Cuts between ``names`` end."""
        self.cut = {pair for pair in self.cut if not (pair[0] in names and pair[1] in names)}
        for connection in self._connections.values():
            self._go_on(connection)

    def reset(self, one: str, two: str) -> None:
        """The connection breaks; both sides notice soon."""
        connection = self._connections.get(_pair(one, two))
        if connection is None:
            return
        late = self.world.network.random() < self.late_share
        for side in (one, two):
            if late:
                self._come_late(connection, side)
            connection.queues[side].clear()
            self._close_later(connection, side)

    # --- inner life -------------------------------------------------------------------------------
    def _watch(self, one: str, two: str) -> None:
        """Dial, and close what is silent; for ever."""
        self.world.at(
            REDIAL_S * self.world.network.uniform(0.8, 1.2), lambda: self._watch(one, two)
        )
        connection = self._connections.get(_pair(one, two))
        now = self.world.now
        if connection is not None:
            for side in (one, two):
                peer = connection.peer(side)
                if (
                    connection.open[peer]
                    and self._runs(peer)
                    and (peer, side) not in self.cut
                    and connection.open[side]
                ):
                    connection.heard[side] = now
                elif (
                    connection.open[side]
                    and now - connection.heard[side] > DEAD_S
                    and self._runs(side)
                ):
                    self._close(connection, side)
            if all(connection.open.values()):
                return
        if not self._runs(one) or not self._runs(two):
            return
        if (one, two) in self.cut or (two, one) in self.cut:
            return
        self._connect(one, two)

    def _connect(self, one: str, two: str) -> None:
        old = self._connections.get(_pair(one, two))
        if old is not None:
            for side in (one, two):
                if self.world.network.random() < self.late_share:
                    self._come_late(old, side)
                if old.open[side]:
                    self._close(old, side)
        self._connections[_pair(one, two)] = Connection(one, two, self.world.now)
        self.nodes[one].link_up(two)
        self.nodes[two].link_up(one)

    def _runs(self, name: str) -> bool:
        return name in self.nodes and self.nodes[name].is_running

    def _arrive(self, connection: Connection, source: str, target: str) -> None:
        if (source, target) not in self.cut:
            self._deliver(connection, source, target)

    def _deliver(self, connection: Connection, source: str, target: str) -> None:
        queue = connection.queues[target]
        while queue and queue[0][0] <= self.world.now + 1e-9:
            _, data = queue.popleft()
            if connection.open[target]:
                connection.heard[target] = self.world.now
                self._hand_over(source, target, data)

    def _hand_over(self, source: str, target: str, data: bytes) -> None:
        node = self.nodes.get(target)
        if node is None or not node.is_up:
            return
        if self.drop is not None and self.drop(source, target, data):
            return
        self.frames += 1
        self.received[(target, source)] = self.world.now
        node.frame(source, data)

    def _go_on(self, connection: Connection) -> None:
        for side in list(connection.open):
            if (connection.peer(side), side) not in self.cut:
                self._deliver(connection, connection.peer(side), side)

    def _come_late(self, connection: Connection, side: str) -> None:
        """The old connection's last bytes arrive after the new one's first."""
        source = connection.peer(side)
        for _, data in connection.queues[side]:
            delay_s = self.world.network.uniform(0.0, 3.0)
            self.world.count("late_frame")
            self.world.at(delay_s, lambda data=data: self._hand_over(source, side, data))  # type: ignore[misc]

    def _close_later(self, connection: Connection, side: str) -> None:
        delay_s = self.world.network.uniform(*self.delay_s)
        self.world.at(delay_s, lambda: self._close(connection, side))

    def _close(self, connection: Connection, side: str) -> None:
        if not connection.open[side]:
            return
        connection.open[side] = False
        node = self.nodes.get(side)
        peer = connection.peer(side)
        if (
            node is not None
            and node.is_up
            and self._connections.get(_pair(side, peer)) is connection
        ):
            node.link_down(peer)
        if connection.open[peer] and (side, peer) not in self.cut:
            self._close_later(connection, peer)


def _pair(one: str, two: str) -> tuple[str, str]:
    return (one, two) if one < two else (two, one)
