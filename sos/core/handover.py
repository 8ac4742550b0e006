"""When a leader hands over because of its own disk: too slow for long, or full (faults.md 35, 38). Pure rules.

It never ping-pongs: only a disk that is clearly better is handed to, and at most once a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sos.catalog.model import NodeId
from sos.clock import Clock

_SLOW_SYNC_S: Final = 0.1  # a disk that is well takes 0.2 to 20 ms
_SLOW_FOR_S: Final = 1.5  # three looks in a row
_CLEARLY: Final = 4.0  # so many times faster is better beyond doubt
_TRY_AGAIN_S: Final = 5.0  # nobody held the whole log in time
_REST_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskReport:
    """What a node says of its disk. ``sync_s``: a typical sync of its journal, None when it made too few."""

    sync_s: float | None
    is_full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """A voter that is connected, applied up to date and served by a gateway."""

    node: NodeId
    disk: DiskReport


class HandOver:
    """Asked at every report while this node leads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._slow_since_s: float | None = None
        self._asked_s = float("-inf")
        self._done_s = float("-inf")

    def choose(self, own: DiskReport, successors: Sequence[Successor]) -> NodeId | None:
        """To whom to hand over now, if to anybody. ``own``: of the leader, which this node is."""
        now = self._clock.monotonic()
        is_slow = own.sync_s is not None and own.sync_s >= _SLOW_SYNC_S
        if not is_slow:
            self._slow_since_s = None
        elif self._slow_since_s is None:
            self._slow_since_s = now
        is_slow_for_long = (
            self._slow_since_s is not None and now - self._slow_since_s >= _SLOW_FOR_S
        )
        rests = now - self._done_s < _REST_S or now - self._asked_s < _TRY_AGAIN_S
        if rests or not (is_slow_for_long or own.is_full):
            return None
        better = [one for one in successors if _is_better(one.disk, own)]
        if not better:
            return None
        self._asked_s = now
        return min(better, key=lambda one: (one.disk.sync_s or 0.0, one.node)).node

    def stepped_down(self) -> None:
        """This node leads no more."""
        now = self._clock.monotonic()
        if now - self._asked_s < _TRY_AGAIN_S:
            self._done_s = now
        self._slow_since_s = None


def _is_better(other: DiskReport, own: DiskReport) -> bool:
    if other.is_full:
        return False
    if own.is_full:
        return True
    return (
        other.sync_s is not None
        and own.sync_s is not None
        and other.sync_s * _CLEARLY <= own.sync_s
    )
