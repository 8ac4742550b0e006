"""Keeps the log behind copies of this node's catalog while members fetch them.

A member that installs a copy goes on from the log right after it: what a busy leader compacted meanwhile would
make it begin again, for ever. The fetching core asks, and renews; so a hold outlives nobody for long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sos.catalog.model import NodeId
from sos.catalog.store import CatalogStore
from sos.clock import Clock
from sos.raft.node import RaftNode
from sos.telemetry import log

RENEW_S: Final = 2.0
# Also after the last renewal: the member installs, and is fed from there.
_HELD_S: Final = 10.0
_CAUGHT_UP_ENTRIES: Final = 100  # fewer than any journal keeps


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
        self._held_from: int | None = None

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

    def update(self, applied: Callable[[NodeId], int | None]) -> None:
        """Go along with members that installed their copy, let go of those that caught up or fell silent.

        ``applied``: the applied index that a member last told.
        """
        if not self._holds:
            return
        now = self._clock.monotonic()
        for peer, hold in list(self._holds.items()):
            index = applied(peer)
            is_installed = index is not None and index > hold.index
            if is_installed:
                assert index is not None
                hold.index, hold.until_s = index, now + _HELD_S
            behind = self._raft.applied_index - hold.index
            if hold.until_s <= now or (is_installed and behind <= _CAUGHT_UP_ENTRIES):
                del self._holds[peer]
        self._apply()

    def _apply(self) -> None:
        index = min((hold.index for hold in self._holds.values()), default=None)
        if index != self._held_from:
            log.info("core.log.held", from_index=index, members=sorted(self._holds))
            self._held_from = index
            self._raft.hold_log_from(index)
