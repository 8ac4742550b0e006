"""Authenticated connections between cores; ``NodeTransport`` is the engine's ``Links``.

    transport = NodeTransport(identity=LocalIdentity(node=..., boot=..., cluster_id=None | 16 bytes, epoch=0),
                              key=..., listener=<bound, listening socket>, clock=..., ids=...,
                              boots=PeerBoots.load(disk, DATA))
    transport.set_raft_handler(handler)   .on_connected(peer) .on_disconnected(peer) .on_frame(peer, frame)
    transport.set_formation_handler(h)    .on_connected(claim) .on_disconnected(peer) .on_message(peer, payload)
    await transport.start()  ...  await transport.close()
    transport.set_peers({"n2": "10.0.0.2:9300"})   whom to dial, by name; call it again on any change; a test
                                                   that moves a link through a proxy passes the proxy's address
    transport.set_joins(["10.0.0.1:9300"])         whom to dial, whatever its name, until a cluster is known
    transport.set_membership(members=..., removed=...)   incarnations: a member keeps its name, a removed one is refused
    transport.set_identity(identity)      formation is done: every connection is made anew under the cluster's id
    transport.send(peer, frame) -> bool   False: not connected, or the peer does not read; nothing was queued
    transport.connected() ; transport.status() -> tuple[LinkStatus, ...] ; transport.refused_frames

Handlers are called in the loop's thread, ``on_frame`` only between ``on_connected`` and ``on_disconnected`` of
that peer. ``on_frame`` may raise MessageRefused: the connection is closed. Anything else it raises reaches the
loop's exception handler (the core's, which stops the process).

Both sides dial. Each attempt to a peer has a number, higher than any that peer or we have used; an open
connection is replaced only by one with a higher number, or by a peer that restarted, and what the old one still
delivers is dropped. When both dial at once, the connection of the higher name stands. Source: pysyncobj.md,
point 5; protocols.md 1.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from sos.clock import Clock, IdSource
from sos.limits import CLOCK_SKEW_S_MAX, PEER_PING_S
from sos.raft.api import NodeId
from sos.raft.boots import PeerBoots
from sos.raft.connection import Connection, Ended, Stage
from sos.raft.dialing import Dialer
from sos.raft.frames import CHANNEL_FORMATION, CHANNEL_PING, CHANNEL_RAFT
from sos.raft.handshake import (
    ANY_NAME,
    HARMLESS,
    NONCE_BYTES,
    SESSION_BYTES,
    Acquaintances,
    Claim,
    LiveLink,
    LocalIdentity,
    Refusal,
    RefusalCode,
    judge,
    skew_ms,
)
from sos.raft.links import FormationHandler, LinkStatus, RaftHandler, TransportSettings
from sos.raft.listening import Listener
from sos.raft.messages import MessageRefused
from sos.telemetry import log

_TICK_S: Final = PEER_PING_S / 2
_REPEAT_LOG_S: Final = 60.0
_LOGGED_MAX: Final = 256


@dataclass(slots=True)
class _Trouble:
    text: str
    refusal: RefusalCode | None
    by_peer: bool = False


class NodeTransport:
    """All connections of one core. Everything happens in the loop's thread."""

    def __init__(
        self,
        *,
        identity: LocalIdentity,
        key: bytes,
        listener: socket.socket,
        clock: Clock,
        ids: IdSource,
        boots: PeerBoots,
        settings: TransportSettings | None = None,
    ) -> None:
        self.identity = identity
        self.refused_frames = 0  # wrong MAC, replayed, too long, not of the schema
        self.refused_connections = 0  # either side refused, or there was no proof of the key
        self._key = key
        self._listener = Listener(listener, self._accepted)
        self._clock = clock
        self._ids = ids
        self._settings = settings or TransportSettings()
        self._session = ids.random_bytes(SESSION_BYTES)
        self._raft: RaftHandler | None = None
        self._formation: FormationHandler | None = None
        self._links: dict[NodeId, Connection] = {}
        self._pending: dict[Connection, None] = {}  # not yet open; oldest first
        self._answered: dict[str, Connection] = {}  # accepted, our claim is sent
        self._claimed: dict[str, Connection] = {}  # dialed, our claim is sent
        self._numbers: dict[str, int] = {}  # highest connection number per name
        self._boots = boots
        self._members: frozenset[NodeId] = frozenset()
        self._removed: frozenset[NodeId] = frozenset()
        self._dialers: dict[str, Dialer] = {}
        self._joins: dict[str, Dialer] = {}  # by address: the name is known when it answers
        self._join_links: dict[str, Connection] = {}  # the last one that each of them made
        self._join_troubles: dict[str, _Trouble] = {}
        self._troubles: dict[str, _Trouble] = {}
        self._logged: dict[tuple[str, str], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tick_due = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- for the core --------------------------------------------------------------------------------
    def set_raft_handler(self, handler: RaftHandler) -> None:
        """From now on, and for peers that are already connected."""
        self._raft = handler
        for peer, connection in tuple(self._links.items()):
            if connection.joint:
                handler.on_connected(peer)

    def set_formation_handler(self, handler: FormationHandler) -> None:
        """From now on, and for peers that are already connected."""
        self._formation = handler
        for connection in tuple(self._links.values()):
            if not connection.joint and connection.peer is not None:
                handler.on_connected(connection.peer)

    async def start(self) -> None:
        """Accept and dial."""
        loop = self._loop = asyncio.get_running_loop()
        self._listener.start(loop)
        self._tick_due = loop.time() + _TICK_S
        self._timer = loop.call_later(_TICK_S, self._tick)
        for dialer in (*self._dialers.values(), *self._joins.values()):
            dialer.start(loop)

    async def close(self) -> None:
        """End every connection and task; the listening socket stays its owner's."""
        dialers = (*self._dialers.values(), *self._joins.values())
        self._dialers, self._joins = {}, {}
        for dialer in dialers:
            await dialer.stop()
        await self._listener.stop()
        if self._timer is not None:
            self._timer.cancel()
        for connection in (*self._links.values(), *self._pending):
            connection.close(Ended("this node stops"))
        self._loop = None
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Dial these names at these addresses (HOST:PORT), and no others; open connections stay."""
        wanted = {
            name: address for name, address in addresses.items() if name != self.identity.name
        }
        for name, dialer in tuple(self._dialers.items()):
            if wanted.get(name) != dialer.address:
                del self._dialers[name]
                self._troubles.pop(name, None)
                dialer.cancel()
        for name, address in wanted.items():
            if name not in self._dialers:
                dialer = Dialer(
                    name=name,
                    address=address,
                    own_name=self.identity.name,
                    connection=self._new_connection,
                    is_connected=self._is_connected_name,
                    failed=self._dial_failed,
                    ids=self._ids,
                )
                self._dialers[name] = dialer
                if self._loop is not None:
                    dialer.start(self._loop)

    def set_joins(self, addresses: Collection[str]) -> None:
        """Dial these (HOST:PORT) while no node of a cluster is connected: nodes of it, their names unknown."""
        for address in [address for address in self._joins if address not in addresses]:
            self._joins.pop(address).cancel()
            self._join_links.pop(address, None)
            self._join_troubles.pop(address, None)
        for address in addresses:
            if address not in self._joins:
                dialer = self._joins[address] = self._join_dialer(address)
                if self._loop is not None:
                    dialer.start(self._loop)

    def _join_dialer(self, address: str) -> Dialer:
        def connection(wanted: str) -> Connection:
            made = self._join_links[address] = self._new_connection(wanted)
            return made

        def is_connected(_: str) -> bool:
            last = self._join_links.get(address)
            is_open = last is not None and last.was_opened and last.ended is None
            return is_open or self._knows_cluster()

        return Dialer(
            name=ANY_NAME,
            address=address,
            own_name=self.identity.name,
            connection=connection,
            is_connected=is_connected,
            failed=lambda _, ended: self._join_failed(address, ended),
            ids=self._ids,
        )

    def _knows_cluster(self) -> bool:
        """Whether a node that belongs to a cluster is connected."""
        return any(
            link.peer is not None and link.peer.cluster_id is not None
            for link in self._links.values()
        )

    def set_membership(self, *, members: Collection[NodeId], removed: Collection[NodeId]) -> None:
        """The incarnations in force, and those that a committed list removed: their connections end."""
        self._members = frozenset(members)
        self._removed = frozenset(removed)
        for peer in self._removed & self._links.keys():
            refusal = Refusal(code=RefusalCode.REMOVED)
            self._links[peer].close(Ended(refusal.text, refusal=refusal.code))

    def set_identity(self, identity: LocalIdentity) -> None:
        """This node formed, or its epoch rose: end all connections and shake hands anew."""
        assert identity.name == self.identity.name
        self.identity = identity
        for connection in (*self._links.values(), *self._pending):
            connection.close(Ended("this node formed"))

    def send(self, peer: NodeId, frame: bytes, /) -> bool:
        """Queue a Raft frame to a peer of the same cluster; False: it certainly will not go."""
        connection = self._links.get(peer)
        return connection is not None and connection.send(CHANNEL_RAFT, frame)

    def flush(self) -> None:
        """Write what is queued; otherwise it leaves at the end of this turn of the loop."""
        for connection in self._links.values():
            connection.flush()

    def send_formation(self, peer: NodeId, payload: bytes) -> bool:
        """Queue a message of the formation."""
        connection = self._links.get(peer)
        return connection is not None and connection.send(CHANNEL_FORMATION, payload)

    def connected(self) -> tuple[NodeId, ...]:
        """Peers of the same cluster with an open connection."""
        return tuple(peer for peer, link in self._links.items() if link.joint)

    def claims(self) -> tuple[Claim, ...]:
        """What every connected peer, of whatever kind, said of itself."""
        return tuple(link.peer for link in self._links.values() if link.peer is not None)

    def status(self) -> tuple[LinkStatus, ...]:
        """Every name that is dialed, and the addresses to join, without a name, while no cluster is connected."""
        named = tuple(self._status_of(name, dialer) for name, dialer in self._dialers.items())
        return named if self._knows_cluster() else (*named, *map(self._join_status, self._joins))

    def _join_status(self, address: str) -> LinkStatus:
        trouble = self._join_troubles.get(address)
        return LinkStatus(
            name=ANY_NAME,
            address=address,
            node=None,
            connected=False,
            trouble=None if trouble is None else trouble.text,
            refusal=None if trouble is None else trouble.refusal,
            skew_ms=None,
        )

    def _status_of(self, name: str, dialer: Dialer) -> LinkStatus:
        link = self._link_to(name)
        claim = link.peer if link is not None else None
        skew = link.skew_ms if link is not None else None
        if link is not None and skew is not None:
            skew -= round(self._clock_base_ms() - link.clock_base_ms)
        trouble = self._troubles.get(name)
        text = trouble.text if trouble is not None and link is None else None
        if skew is not None and abs(skew) > CLOCK_SKEW_S_MAX * 1000:
            text = f"its clock differs by {skew / 1000:.0f} s from this node's"
        return LinkStatus(
            name=name,
            address=dialer.address,
            node=claim.node if claim is not None else None,
            connected=link is not None,
            trouble=text,
            refusal=trouble.refusal if trouble is not None and link is None else None,
            skew_ms=skew,
            refused_by_peer=trouble is not None and link is None and trouble.by_peer,
        )

    def _clock_base_ms(self) -> float:
        """Changes only when somebody sets this machine's wall clock."""
        return self._clock.wall_ms() - self._clock.monotonic() * 1000

    # --- Switchboard: called by connections -------------------------------------------------------------
    def own_claim(self, connection: Connection) -> Claim | None:
        identity = self.identity
        number, wanted = connection.number, ""
        if connection.wanted is not None:
            wanted = connection.wanted
            if self._is_connected_name(wanted):
                return None
            number = self._numbers[wanted] = self._numbers.get(wanted, 0) + 1
            self._claimed[wanted] = connection
        elif connection.peer is not None:
            older = self._answered.get(connection.peer.name)
            if older is not None:
                older.close(Ended("replaced by a newer connection"))
            self._answered[connection.peer.name] = connection
        return Claim(
            node=identity.node,
            boot=identity.boot,
            cluster_id=identity.cluster_id,
            epoch=identity.epoch,
            session=self._session,
            wall_ms=self._clock.wall_ms(),
            connection=number,
            wanted=wanted,
        )

    def judge_claim(self, connection: Connection, claim: Claim) -> Refusal | None:
        refusal = judge(
            self.identity,
            self._session,
            claim,
            wanted=connection.wanted,
            wall_ms=self._clock.wall_ms(),
            known=self._acquaintances(),
        )
        own_dial = self._claimed.get(claim.name)
        if refusal is None and connection.wanted is None and own_dial is not None:
            if self.identity.name > claim.name:
                return Refusal(code=RefusalCode.CROSSING_CONNECTION)
            own_dial.close(Ended("the other side dialed at the same time"))
        if refusal is None:
            self._boots.saw(claim.node, claim.boot)  # durable before this side agrees
        return refusal

    def opened(self, connection: Connection) -> None:
        claim = connection.peer
        assert claim is not None
        self._forget(connection)
        for peer, link in tuple(self._links.items()):
            if peer == claim.node or peer.partition("@")[0] == claim.name:
                link.close(Ended("replaced by a newer connection"))
        self._links[claim.node] = connection
        self._numbers[claim.name] = max(self._numbers.get(claim.name, 0), connection.number)
        self._troubles.pop(claim.name, None)
        skew = connection.skew_ms = skew_ms(claim, self._clock.wall_ms())
        connection.clock_base_ms = self._clock_base_ms()
        connection.joint = None not in (claim.cluster_id, self.identity.cluster_id)
        if abs(skew) > CLOCK_SKEW_S_MAX * 1000:
            log.warning("transport.clock_skew", peer=claim.node, skew_ms=skew)
        log.info(
            "transport.connected",
            peer=claim.node,
            remote=connection.remote,
            dialed=connection.wanted is not None,
            version=connection.version,
        )
        if connection.joint:
            if self._raft is not None:
                self._raft.on_connected(claim.node)
        elif self._formation is not None:
            self._formation.on_connected(claim)

    def received(self, connection: Connection, channel: int, payload: bytes) -> None:
        assert connection.peer is not None
        peer = connection.peer.node
        try:
            if channel == CHANNEL_RAFT and connection.joint:
                if self._raft is not None:
                    self._raft.on_frame(peer, payload)
            elif channel == CHANNEL_FORMATION and not connection.joint:
                if self._formation is not None:
                    self._formation.on_message(peer, payload)
            else:
                raise MessageRefused(f"channel {channel} on this connection")
        except MessageRefused as error:
            self.refused_frames += 1
            connection.close(Ended(f"a message that no correct peer sends: {error}"))

    def closed(self, connection: Connection) -> None:
        self._forget(connection)
        ended = connection.ended
        assert ended is not None
        claim = connection.peer
        if claim is not None and self._links.get(claim.node) is connection:
            self._on_link_lost(connection, claim, ended)
        elif connection.wanted is None:
            self._note_refused(connection, ended)
        if connection.wanted is not None and ended.refusal is RefusalCode.STALE_CONNECTION:
            self._numbers[connection.wanted] = max(
                self._numbers.get(connection.wanted, 0), connection.number
            )

    def _on_link_lost(self, connection: Connection, claim: Claim, ended: Ended) -> None:
        del self._links[claim.node]
        if ended.wrong_frame:
            self.refused_frames += 1
        self._troubles[claim.name] = _Trouble(ended.text, ended.refusal)
        log.info(
            "transport.disconnected", peer=claim.node, remote=connection.remote, why=ended.text
        )
        if claim.name in self._dialers:
            self._dialers[claim.name].lost()
        for dialer in self._joins.values():
            dialer.lost()
        if connection.joint:
            if self._raft is not None:
                self._raft.on_disconnected(claim.node)
        elif self._formation is not None:
            self._formation.on_disconnected(claim.node)

    # --- who is who -----------------------------------------------------------------------------------
    def _acquaintances(self) -> Acquaintances:
        live = [
            LiveLink(
                node=link.peer.node,
                boot=link.peer.boot,
                session=link.peer.session,
                connection=link.number,
            )
            for link in self._links.values()
            if link.peer is not None
        ]
        return Acquaintances(
            members=self._members, removed=self._removed, boots=self._boots.highest, live=live
        )

    def _link_to(self, name: str) -> Connection | None:
        for peer, link in self._links.items():
            if peer.partition("@")[0] == name:
                return link
        return None

    def _is_connected_name(self, name: str) -> bool:
        """Open, or about to be by the other side's dialing."""
        return name in self._answered or self._link_to(name) is not None

    def _forget(self, connection: Connection) -> None:
        """It does not wait for its opening any more."""
        self._pending.pop(connection, None)
        if connection.wanted is not None:
            if self._claimed.get(connection.wanted) is connection:
                del self._claimed[connection.wanted]
        elif connection.peer is not None and self._answered.get(connection.peer.name) is connection:
            del self._answered[connection.peer.name]
            if not connection.was_opened and connection.peer.name in self._dialers:
                self._dialers[connection.peer.name].lost()

    # --- accepting and dialing --------------------------------------------------------------------------
    def _new_connection(self, wanted: str | None) -> Connection:
        assert self._loop is not None
        connection = Connection(
            self,
            key=self._key,
            nonce=self._ids.random_bytes(NONCE_BYTES),
            wanted=wanted,
            loop=self._loop,
            output_bytes_max=self._settings.output_bytes_max,
        )
        self._pending[connection] = None
        return connection

    def _accepted(self) -> Connection:
        self._make_room()
        return self._new_connection(None)

    def _make_room(self) -> None:
        """The oldest unauthenticated connection gives way: strangers cannot lock peers out by waiting."""
        accepted = [one for one in self._pending if one.wanted is None]
        for connection in accepted[: len(accepted) + 1 - self._settings.unauthenticated_max]:
            connection.close(Ended("too many connections without a proof of the cluster key"))

    def _dial_failed(self, name: str, ended: Ended) -> None:
        if ended.refusal in HARMLESS or self._link_to(name) is not None:
            return
        if ended.refusal is not None or not self._has_other_key(name):
            self._troubles[name] = _Trouble(ended.text, ended.refusal, ended.by_peer)
        address = self._dialers[name].address if name in self._dialers else ""
        self._log_once(
            "transport.dial.failed", name, ended.text, peer=name, address=address, why=ended.text
        )

    def _join_failed(self, address: str, ended: Ended) -> None:
        if ended.refusal in HARMLESS or self._knows_cluster():
            return
        self._join_troubles[address] = _Trouble(ended.text, ended.refusal)
        self._log_once(
            "transport.dial.failed", address, ended.text, peer="", address=address, why=ended.text
        )

    def _has_other_key(self, name: str) -> bool:
        """While forming: such a node ends at once, and that it is gone now is not what a person must know."""
        trouble = self._troubles.get(name)
        is_forming = self.identity.cluster_id is None
        return is_forming and trouble is not None and trouble.refusal is RefusalCode.OTHER_KEY

    def _note_refused(self, connection: Connection, ended: Ended) -> None:
        """Somebody dialed here and was not let in, or did not let us."""
        if ended.refusal is None or ended.refusal in HARMLESS:
            return
        claim = connection.peer
        node = claim.node if claim is not None else None
        if claim is not None and self._link_to(claim.name) is None:
            self._troubles[claim.name] = _Trouble(ended.text, ended.refusal)
        if ended.refusal is RefusalCode.OTHER_KEY and self.identity.cluster_id is None:
            # who that is nobody can tell from here: a dialed name says it itself, if it is still there
            for name, dialer in self._dialers.items():
                if not self._has_other_key(name):  # else two of them would dial each other for ever
                    dialer.lost()
        self.refused_connections += 1
        self._log_once(
            "transport.refused",
            node or connection.remote.rpartition(":")[0],
            ended.refusal.name,
            remote=connection.remote,
            peer=node,
            by_peer=ended.by_peer,
            why=ended.text,
        )

    # --- time -------------------------------------------------------------------------------------------
    def _tick(self) -> None:
        """Ping, drop the dead, and end what did not prove the key in time."""
        loop = self._loop
        if loop is None:
            return
        now = loop.time()
        late = now - self._tick_due > self._settings.ping_s
        for connection in tuple(self._links.values()):
            if late:
                # This process stood still: what its peers sent meanwhile is not read yet.
                connection.heard_at = now
            elif now - connection.heard_at > self._settings.dead_s:
                connection.close(Ended(f"silent for {self._settings.dead_s:g} s"))
                continue
            if now - connection.sent_at > self._settings.ping_s - _TICK_S:
                connection.send(CHANNEL_PING, b"")
            connection.shrink()
        for connection in tuple(self._pending):
            waits = now - connection.created_at
            if waits > self._settings.unauthenticated_s_max or (
                connection.stage is Stage.ACCEPTANCE and waits > self._settings.dead_s
            ):
                connection.close(Ended("the handshake did not end in time"))
        self._tick_due = now + _TICK_S
        self._timer = loop.call_later(_TICK_S, self._tick)

    def _log_once(self, event: str, *same: str, **fields: object) -> None:
        """A line now, and the next of the same kind only after a while: dialing repeats every second."""
        key = (event, " ".join(same))
        now = self._clock.monotonic()
        if now - self._logged.get(key, -_REPEAT_LOG_S) >= _REPEAT_LOG_S:
            if len(self._logged) >= _LOGGED_MAX:
                self._logged.clear()
            self._logged[key] = now
            log.warning(event, **fields)
