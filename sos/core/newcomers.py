"""Connected nodes that the member list does not hold: what each says of itself twice a second.

A node that lost its disk comes back like this, under its name and a new incarnation, and so does one that is
new (protocols.md 1.4: an incarnation that is merely unknown is welcome). Until a committed list holds it, it
counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sos.catalog.model import NodeId
from sos.clock import Clock
from sos.levels import FIRST

_FRESH_S: Final = 3.0
_KNOWN_MAX: Final = 64  # all hold the cluster key; a broken one must not fill the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """One of them. ``asks``: it wants to be admitted without a word of an operator."""

    node: NodeId
    address: str
    blob_address: str
    s3_address: str
    asks: bool
    version: str
    level: int = FIRST  # what its build applies (``sos.levels``)

    @property
    def name(self) -> str:
        return self.node.partition("@")[0]


class Newcomers:
    """The newest announcement of each connected one. Every member listens: the next leader knows them too."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[NodeId, tuple[float, Newcomer]] = {}

    def take(self, newcomer: Newcomer) -> None:
        """It announced itself."""
        if newcomer.node in self._heard or len(self._heard) < _KNOWN_MAX:
            self._heard[newcomer.node] = (self._clock.monotonic(), newcomer)

    def forget(self, node: NodeId) -> None:
        """It is not connected any more."""
        self._heard.pop(node, None)

    def known(self) -> dict[NodeId, Newcomer]:
        """Those who announced themselves within 3 s and are connected, by node id in its order."""
        now = self._clock.monotonic()
        for node in [node for node, (at, _) in self._heard.items() if now - at > _FRESH_S]:
            del self._heard[node]
        return {node: self._heard[node][1] for node in sorted(self._heard)}
