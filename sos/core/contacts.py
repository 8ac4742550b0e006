"""Whom this node dials and believes: members of its list, what members told it, and whom lists removed.

Level-triggered: looked at twice a second, and at once when the list in force changes. A node that the list does
not hold (``newcomers.py``) announces itself to everybody it reaches; members answer with the list of now, because
its catalog may be as old as the formation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from sos import __version__, levels
from sos.catalog.model import NodeId
from sos.catalog.store import CatalogStore
from sos.clock import Clock
from sos.config import Config
from sos.core import messages
from sos.core.admission import Absent
from sos.core.newcomers import Newcomer, Newcomers
from sos.errors import EXIT_DAMAGE, EXIT_REMOVED, FatalStop
from sos.link.protocol import MemberState
from sos.raft.handshake import RefusalCode
from sos.raft.members import Member
from sos.raft.node import RaftNode
from sos.raft.transport import NodeTransport
from sos.telemetry import log

# What waiting does not mend.
_HOPELESS: Final = frozenset(
    {
        RefusalCode.OTHER_KEY,
        RefusalCode.OTHER_VERSION,
        RefusalCode.OTHER_CLUSTER,
        RefusalCode.OTHER_NAME,
        RefusalCode.NAME_TAKEN,
        RefusalCode.SELF,
        RefusalCode.SAME_NAME,
        RefusalCode.DUPLICATE_IDENTITY,
        RefusalCode.REMOVED,
        RefusalCode.NOT_A_NODE,
    }
)
_OTHER_ADDRESS_S: Final = 3.0  # so long one of two addresses of a name is tried


class Contacts:
    """One formed node's view of the others."""

    def __init__(
        self,
        *,
        node: NodeId,
        config: Config,
        raft: RaftNode,
        store: CatalogStore,
        transport: NodeTransport,
        clock: Clock,
    ) -> None:
        self.newcomers = Newcomers(clock=clock)
        self.relocated = Newcomers(
            clock=clock
        )  # members whose list entry has other ports than they do
        self.expected: dict[
            str, str
        ] = {}  # a node that is to be added: looked for, so that it can be said what is wrong
        self.removed: frozenset[NodeId] = frozenset()
        self._node = node
        self._config = config
        self._raft = raft
        self._store = store
        self._transport = transport
        self._clock = clock
        self._told: tuple[Member, ...] = ()  # by a member, while this node is none
        self._away_since: dict[NodeId, float] = {}
        self._dialed: dict[str, str] = {}

    @property
    def is_listed(self) -> bool:
        return self._node in self._raft.members.nodes

    def look(self) -> None:
        """Follow the list in force and the catalog. Raises: FatalStop: this node was removed, or put back."""
        nodes = [NodeId(member.node) for member in self._raft.members.members]
        with self._store.view() as view:
            self.removed = frozenset(one.node for one in view.removals()) - set(nodes)
        if self._is_removed():
            raise FatalStop(
                f"this node ({self._node}) was removed from the cluster; to add it again, empty its data "
                "directory",
                exit_code=EXIT_REMOVED,
            )
        for link in self._transport.status():
            if link.refusal is RefusalCode.OLD_BOOT and link.refused_by_peer:
                raise FatalStop(
                    f"{link.name} saw a later start of this node: its directory was put back to an older state",
                    exit_code=EXIT_DAMAGE,
                )
        self._transport.set_membership(members=nodes, removed=self.removed)
        self._dial()
        self._note_away(nodes)

    def _is_removed(self) -> bool:
        """The own catalog says so, or a member does while no leader that this node could follow is there."""
        if self._node in self.removed:
            return True
        leader = self._raft.leader
        if leader == self._node or leader in self._transport.connected():
            return False
        names = {member.name for member in self._raft.members.members}
        return any(
            link.refusal is RefusalCode.REMOVED and link.refused_by_peer and link.name in names
            for link in self._transport.status()
        )

    def _note_away(self, nodes: list[NodeId]) -> None:
        connected = {*self._transport.connected(), self._node}
        now = self._clock.monotonic()
        self._away_since = {
            node: self._away_since.get(node, now) for node in nodes if node not in connected
        }

    def away_s(self) -> dict[NodeId, float]:
        """For how long members have not been connected."""
        now = self._clock.monotonic()
        return {node: now - since for node, since in self._away_since.items()}

    # --- dialing ----------------------------------------------------------------------------------
    def _dial(self) -> None:
        addresses = self._addresses()
        if addresses != self._dialed:
            self._dialed = addresses
            self._transport.set_peers(addresses)

    def _addresses(self) -> dict[str, str]:
        """By name. Where list and seed list differ, either may be out of date: both are tried in turn.

        A seed that no list holds is dialed by a newcomer only: a member that was removed dials by itself.
        """
        members = self._known_members()
        addresses = self.expected | {member.name: member.address for member in members}
        seeds = {seed.name: str(seed.address) for seed in self._config.node.seeds}
        connected = {peer.partition("@")[0] for peer in self._transport.connected()}
        takes_seed = int(self._clock.monotonic() / _OTHER_ADDRESS_S) % 2 == 1
        for name, address in seeds.items():
            if name in connected and name in self._dialed and name in addresses:
                addresses[name] = self._dialed[name]
            elif (name not in addresses and not self.is_listed) or (
                name in addresses and takes_seed
            ):
                addresses[name] = address
        addresses |= {
            over.name: str(over.address)
            for over in self._config.test.dial
            if over.name in addresses
        }
        addresses.pop(self._config.node.name, None)
        return addresses

    def _known_members(self) -> tuple[Member, ...]:
        """Of the list in force, or of a newer one that a member told."""
        return self._raft.members.members if self.is_listed or not self._told else self._told

    # --- newcomers --------------------------------------------------------------------------------
    def announce(self) -> None:
        """A node that the list does not hold tells everybody that it is there; a member, that its ports are others."""
        config = self._config
        ports = (str(config.node.blob_listen), str(config.s3.listen))
        listed = [
            (m.blob_address, m.s3_address)
            for m in self._raft.members.members
            if m.node == self._node
        ]
        if ports in listed:
            return
        payload = messages.encode_join(
            Newcomer(
                node=self._node,
                address=str(config.node.address),
                blob_address=ports[0],
                s3_address=ports[1],
                asks=bool(config.node.join) and config.membership.admit == "auto",
                version=__version__,
                level=levels.LEVEL,
            )
        )
        for peer in self._transport.connected():
            self._raft.send_app(peer, payload)

    def take_join(self, newcomer: Newcomer) -> None:
        """A newcomer announced itself: remember it, and tell it who the members are."""
        if newcomer.node in self._raft.members.nodes:
            self.relocated.take(newcomer)
            return
        if newcomer.node in self.removed:
            return
        if self._config.membership.admit != "auto":
            newcomer = replace(newcomer, asks=False)
        self.newcomers.take(newcomer)
        if self.is_listed:
            payload = messages.encode_members(self._raft.members.members)
            self._raft.send_app(newcomer.node, payload)

    def take_members(self, members: tuple[Member, ...]) -> None:
        """A member told who the members are now."""
        if not self.is_listed and members != self._told:
            log.info("core.members.told", members=[member.node for member in members])
            self._told = members

    def strangers(self) -> dict[NodeId, Newcomer]:
        """Newcomers that may be admitted: connected, neither listed nor removed."""
        known = self.newcomers.known()
        listed = self._raft.members.nodes
        return {
            node: newcomer
            for node, newcomer in known.items()
            if node not in listed and node not in self.removed
        }

    def absent(self) -> dict[str, Absent]:
        """Who is dialed in vain, by name, and why."""
        return {
            link.name: Absent(
                address=link.address, why=link.trouble, is_hopeless=link.refusal in _HOPELESS
            )
            for link in self._transport.status()
            if link.name and link.trouble is not None and not link.connected
        }

    def warnings_without_leader(self) -> list[str]:
        """What this node knows of nodes that cannot be admitted because nobody leads (protocols.md 3.7)."""
        if not self.is_listed:
            return [f"{self._node} is no member yet, and no leader is there to admit it"]
        listed = {member.name: member for member in self._raft.members.members}
        return [
            f"{newcomer.name} came back without its data, and no majority leads that could admit it: bring the "
            "members that are away back with theirs; if those are lost, too: `sos recover`"
            for newcomer in self.strangers().values()
            if newcomer.name in listed
        ]

    def others(self, learners: Mapping[NodeId, Newcomer]) -> tuple[MemberState, ...]:
        """Nodes beside the list whose blob ports gateways may need: learners, and members of a newer list."""
        connected = self._transport.connected()
        listed = self._raft.members.nodes
        rows = [
            (node, one.address, one.blob_address, one.s3_address) for node, one in learners.items()
        ]
        rows += [
            (NodeId(m.node), m.address, m.blob_address, m.s3_address) for m in self._known_members()
        ]
        return tuple(
            MemberState(
                node=node,
                name=node.partition("@")[0],
                address=address,
                blob_address=blob_address,
                s3_address=s3_address,
                is_reachable=node in connected,
                is_voter=False,
            )
            for node, address, blob_address, s3_address in rows
            if node not in listed
        )
