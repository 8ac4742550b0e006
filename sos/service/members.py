"""Where the members' blob ports are, as this node's core says, and as tests override it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sos.blob.handshake import PeerAddress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sos.catalog.model import NodeId
    from sos.link import NodeState
    from sos.service.access import CatalogLink


class MemberAddresses:
    """The blob ports of the members in force. ``overrides``: by node name, for tests that cut a link."""

    def __init__(self, link: CatalogLink, overrides: Mapping[str, str] | None = None) -> None:
        self._link = link
        self._overrides = dict(overrides or {})
        self._state: NodeState | None = None
        self._addresses: tuple[PeerAddress, ...] = ()

    def all(self) -> tuple[PeerAddress, ...]:
        """Every member of the list in force, this node among them."""
        state = self._link.state
        if state is not self._state:
            self._state = state
            self._addresses = tuple(
                PeerAddress(
                    node=member.node,
                    address=self._overrides.get(member.name, member.blob_address),
                )
                for member in state.members
            )
        return self._addresses

    def of(self, nodes: frozenset[NodeId]) -> tuple[PeerAddress, ...]:
        """The members among ``nodes``; who left the list cannot be asked, and counts for nothing."""
        return tuple(address for address in self.all() if address.node in nodes)
