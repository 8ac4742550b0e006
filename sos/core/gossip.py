"""What the cores tell each other twice a second: reports to all, the leader's status table to all.

Compares digests of the catalog at equal index: two that differ mean that replicas have diverged, and a node
that stands against a majority stops (design, section 8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sos.catalog.model import NodeId
from sos.clock import Clock
from sos.core.handover import DiskReport
from sos.core.messages import NodeReport
from sos.errors import EXIT_DAMAGE, FatalStop

REPORT_S: Final = 0.5
_FRESH_S: Final = 3.0  # a table or report older than this is no longer shown
_UP_TO_DATE_S: Final = (
    1.5  # nor does an older report say that its sender keeps up: two may get lost
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """A report, and what this node knew when it came."""

    at: float
    report: NodeReport
    commit_index: int
    keeps_up: bool


class Peers:
    """The newest report of each peer, and the newest table of the leader."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[NodeId, _Heard] = {}
        self._disks: dict[NodeId, tuple[float, DiskReport]] = {}
        self._table: tuple[float, NodeId, dict[str, Any]] | None = None
        self._levels: dict[NodeId, int] = {}  # kept while a peer is away: it comes back as it was

    def take_report(self, peer: NodeId, report: NodeReport, *, commit_index: int) -> None:
        """``commit_index``: this node's, now."""
        now = self._clock.monotonic()
        before = self._fresh(peer, _UP_TO_DATE_S)
        due = commit_index if before is None else before.commit_index
        self._heard[peer] = _Heard(
            at=now,
            report=report,
            commit_index=commit_index,
            keeps_up=report.applied_index >= due,
        )
        self._levels[peer] = report.level

    def lowest_level(self, nodes: Collection[NodeId], *, active: int) -> int:
        """What all ``nodes`` apply, by their last words; at least ``active``, which the cluster needs already.

        One that never spoke since this process began counts as ``active``, for what it had to apply was no more.
        """
        return min((max(self._levels.get(node, active), active) for node in nodes), default=active)

    def forget(self, peer: NodeId) -> None:
        """``peer`` is not connected any more."""
        self._heard.pop(peer, None)
        self._disks.pop(peer, None)

    def take_disk(self, peer: NodeId, disk: DiskReport) -> None:
        self._disks[peer] = (self._clock.monotonic(), disk)

    def disk(self, peer: NodeId) -> DiskReport | None:
        """What the peer last said of its disk, if that is fresh."""
        at, disk = self._disks.get(peer, (0.0, None))
        return disk if self._clock.monotonic() - at <= _FRESH_S else None

    def _fresh(self, peer: NodeId, seconds: float) -> _Heard | None:
        heard = self._heard.get(peer)
        if heard is None or self._clock.monotonic() - heard.at > seconds:
            return None
        return heard

    def report(self, peer: NodeId) -> NodeReport | None:
        """The peer's last report, if it is fresh."""
        heard = self._fresh(peer, _FRESH_S)
        return None if heard is None else heard.report

    def applied(self, peer: NodeId) -> int | None:
        """The applied index of the peer's last report, if it is fresh."""
        report = self.report(peer)
        return None if report is None else report.applied_index

    def is_up_to_date(self, peer: NodeId) -> bool:
        """Whether ``peer`` had applied in its last report all that was committed at the one before.

        A distance in entries would be wrong both ways: under load a member that keeps up is always some hundred
        behind, and one that stands still a few short of the end never gets them.
        """
        heard = self._fresh(peer, _UP_TO_DATE_S)
        return heard is not None and heard.keeps_up

    def take_table(self, peer: NodeId, table: dict[str, Any]) -> None:
        self._table = (self._clock.monotonic(), peer, table)

    def table(self, leader: NodeId | None) -> dict[str, Any] | None:
        """The leader's last table, if it is fresh."""
        if self._table is None or leader is None:
            return None
        at, peer, table = self._table
        is_fresh = self._clock.monotonic() - at <= _FRESH_S
        return table if peer == leader and is_fresh else None


def check_digests(
    own: Mapping[int, bytes], others: Sequence[NodeReport], *, majority: int
) -> int | None:
    """Equal index, equal digest: a node that stands alone against a majority of the members stops.

    The leader has no better claim than others: one leader that rotted would stop all good members. Where no
    majority is known nobody decides: a third report will.
    Returns: the highest index at which others differ from this node, None when nobody does. Raises: FatalStop.
    """
    differs: int | None = None
    theirs = [dict(report.digests) for report in others]
    for index, mine in own.items():
        votes = Counter([mine, *(digests[index] for digests in theirs if index in digests)])
        if len(votes) == 1:
            continue
        differs = index if differs is None else max(index, differs)
        digest, count = votes.most_common(1)[0]
        if digest != mine and count >= majority:
            raise FatalStop(
                f"the catalog of this node differs from that of {count} others at log index {index}",
                exit_code=EXIT_DAMAGE,
            )
    return differs
