"""Keeps the log behind copies of this node's catalog while members fetch them.

A member that installs a copy goes on from the log right after it: what a busy leader compacted meanwhile would
make it begin again, for ever. The fetching core asks, and renews; so a hold outlives nobody for long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sos.catalog.model import NodeId
from sos.catalog.store import CatalogStore
from sos.clock import Clock
from sos.raft.node import RaftNode

RENEW_S: Final = 2.0
# Also after the last renewal: the member installs, and is fed from there.
_HELD_S: Final = 30.0


@dataclass(slots=True)
class _Hold:
    fetch: int
    index: int
    until_s: float


class LogHolds:
    """One hold per member, of its newest fetch."""

    def __init__(self, *, raft: RaftNode, store: CatalogStore, clock: Clock) -> None:
        self._raft = raft
        self._store = store
        self._clock = clock
        self._holds: dict[NodeId, _Hold] = {}

    def asked(self, peer: NodeId, *, fetch: int) -> None:
        """``peer`` fetches a copy, which shows at least what is applied now; 0: it gave up."""
        hold = self._holds.get(peer)
        until_s = self._clock.monotonic() + _HELD_S
        if fetch == 0:
            self._holds.pop(peer, None)
        elif hold is not None and hold.fetch == fetch:
            hold.until_s = until_s
            return
        else:
            # One less: the entry before the copy's travels with it.
            index = min(self._store.durable_index, self._raft.applied_index) - 1
            self._holds[peer] = _Hold(fetch, index, until_s)
        self._apply()

    def expire(self) -> None:
        """Forget who has not asked for long."""
        now = self._clock.monotonic()
        over = [peer for peer, hold in self._holds.items() if hold.until_s <= now]
        for peer in over:
            del self._holds[peer]
        if over:
            self._apply()

    def _apply(self) -> None:
        self._raft.hold_log_from(min((h.index for h in self._holds.values()), default=None))
