"""What the cores tell each other twice a second: reports to all, the leader's status table to all.

Compares digests of the catalog at equal index: two that differ mean that replicas have diverged, and the
node whose digest is not the leader's stops (design, section 8).
"""

from __future__ import annotations

from typing import Any, Final

from sos.catalog.model import NodeId
from sos.clock import Clock
from sos.core.messages import NodeReport
from sos.errors import EXIT_DAMAGE, FatalStop

REPORT_S: Final = 0.5
_FRESH_S: Final = 3.0  # a table or report older than this is no longer shown


class Peers:
    """The newest report of each peer, and the newest table of the leader."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._reports: dict[NodeId, tuple[float, NodeReport]] = {}
        self._table: tuple[float, NodeId, dict[str, Any]] | None = None

    def take_report(self, peer: NodeId, report: NodeReport) -> None:
        self._reports[peer] = (self._clock.monotonic(), report)

    def forget(self, peer: NodeId) -> None:
        """``peer`` is not connected any more."""
        self._reports.pop(peer, None)

    def report(self, peer: NodeId) -> NodeReport | None:
        """The peer's last report, if it is fresh."""
        taken = self._reports.get(peer)
        if taken is None or self._clock.monotonic() - taken[0] > _FRESH_S:
            return None
        return taken[1]

    def applied(self, peer: NodeId) -> int | None:
        """The applied index of the peer's last report, if it is fresh."""
        report = self.report(peer)
        return None if report is None else report.applied_index

    def take_table(self, peer: NodeId, table: dict[str, Any]) -> None:
        self._table = (self._clock.monotonic(), peer, table)

    def table(self, leader: NodeId | None) -> dict[str, Any] | None:
        """The leader's last table, if it is fresh."""
        if self._table is None or leader is None:
            return None
        at, peer, table = self._table
        is_fresh = self._clock.monotonic() - at <= _FRESH_S
        return table if peer == leader and is_fresh else None


def check_digests(own: dict[int, bytes], peer: NodeId, report: NodeReport) -> None:
    """Equal index, equal digest. Raises: FatalStop when they differ."""
    for index, digest in report.digests:
        mine = own.get(index)
        if mine is not None and mine != digest:
            raise FatalStop(
                f"the catalogs of this node and of {peer} differ at log index {index}",
                exit_code=EXIT_DAMAGE,
            )
