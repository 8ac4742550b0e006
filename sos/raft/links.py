"""What the transport and its users agree on: settings, handlers, and the status of a link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from sos.limits import PEER_DEAD_S, PEER_PING_S
from sos.raft.api import NodeId
from sos.raft.connection import OUTPUT_BYTES_MAX
from sos.raft.handshake import Claim, RefusalCode

UNAUTHENTICATED_MAX: Final = 64  # the oldest gives way: a proof of the key takes milliseconds
UNAUTHENTICATED_S_MAX: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings:
    """Times in seconds and bounds; tests make them small."""

    ping_s: float = PEER_PING_S
    dead_s: float = PEER_DEAD_S
    unauthenticated_s_max: float = UNAUTHENTICATED_S_MAX
    unauthenticated_max: int = UNAUTHENTICATED_MAX
    output_bytes_max: int = OUTPUT_BYTES_MAX


class RaftHandler(Protocol):
    """The Raft side: peers of the same cluster only."""

    def on_connected(self, peer: NodeId, /) -> None: ...

    def on_disconnected(self, peer: NodeId, /) -> None: ...

    def on_frame(self, peer: NodeId, frame: bytes, /) -> None: ...


class FormationHandler(Protocol):
    """Peers of which at least one, they or this node, is not formed."""

    def on_connected(self, claim: Claim, /) -> None: ...

    def on_disconnected(self, peer: NodeId, /) -> None: ...

    def on_message(self, peer: NodeId, payload: bytes, /) -> None:
        """May raise MessageRefused."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """One name that is dialed, or an address to join (then without a name). ``trouble``: why it is not connected, or what is odd although it is."""

    name: str
    address: str
    node: NodeId | None
    connected: bool
    trouble: str | None
    refusal: RefusalCode | None
    skew_ms: int | None
    refused_by_peer: bool = False  # of ``refusal``
