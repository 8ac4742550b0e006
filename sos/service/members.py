"""Where the members' blob ports are, as this node's core says, and as tests override it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sos.blob.handshake import PeerAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sos.catalog.model import NodeId
    from sos.link import NodeState
    from sos.link.protocol import MemberState
    from sos.service.access import CatalogLink


class MemberAddresses:
    """The blob ports of the members in force, and of nodes beside them. ``overrides``: by node name, for tests that cut a link."""

    def __init__(self, link: CatalogLink, overrides: Mapping[str, str] | None = None) -> None:
        self._link = link
        self._overrides = dict(overrides or {})
        self._state: NodeState | None = None
        self._addresses: tuple[PeerAddress, ...] = ()
        self._staying: tuple[PeerAddress, ...] = ()
        self._others: tuple[PeerAddress, ...] = ()

    def all(self) -> tuple[PeerAddress, ...]:
        """Every member of the list in force, this node among them."""
        state = self._link.state
        if state is not self._state:
            self._state = state
            self._addresses = self._of_states(state.members)
            self._staying = self._of_states(one for one in state.members if one.is_voter)
            self._others = self._of_states(state.others)
        return self._addresses

    def staying(self) -> tuple[PeerAddress, ...]:
        """Those who get new blobs: what a leaving member holds counts for no quorum (protocols.md 3.6)."""
        self.all()
        return self._staying

    def _of_states(self, states: Iterable[MemberState]) -> tuple[PeerAddress, ...]:
        return tuple(
            PeerAddress(
                node=member.node,
                address=self._overrides.get(member.name, member.blob_address),
            )
            for member in states
        )

    def of(self, nodes: frozenset[NodeId]) -> tuple[PeerAddress, ...]:
        """Of ``nodes`` those that can be asked: members, and learners that have copies and count for nothing yet."""
        return tuple(address for address in (*self.all(), *self._others) if address.node in nodes)
