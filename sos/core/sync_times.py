"""How long this node's disk takes for a sync: what a slow disk is known by, here and to the leader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Final

from sos.clock import Clock
from sos.disk import SystemDisk, SystemFile

_KEPT: Final = 8  # one hiccup is not a slow disk, four of eight are
_KEPT_S: Final = 10.0  # an idle journal says nothing of the disk as it is now
_SAMPLES_MIN: Final = 3


class SyncTimes:
    """The last syncs of journal and vote."""

    def __init__(self, clock: Clock) -> None:
        self.clock: Final = clock
        self.observe: Callable[[float], None] = _ignore  # a histogram, once somebody counts
        self.last_s = 0.0
        self._recent: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # (when, seconds)

    def note(self, seconds: float) -> None:
        """A sync ended that took ``seconds``."""
        self.last_s = seconds
        self._recent.append((self.clock.monotonic(), seconds))
        self.observe(seconds)

    def typical_s(self) -> float | None:
        """The median of the last syncs; None when too few were made of late to tell."""
        since = self.clock.monotonic() - _KEPT_S
        recent = [seconds for at, seconds in self._recent if at >= since]
        return median(recent) if len(recent) >= _SAMPLES_MIN else None


class TimedFile(SystemFile):
    """A file whose syncs are timed."""

    __slots__ = ("_times",)

    def __init__(self, fd: int, path: str, times: SyncTimes) -> None:
        super().__init__(fd, path)
        self._times = times

    def fsync(self) -> None:
        started = self._times.clock.monotonic()
        super().fsync()
        self._times.note(self._times.clock.monotonic() - started)

    def fdatasync(self) -> None:
        started = self._times.clock.monotonic()
        super().fdatasync()
        self._times.note(self._times.clock.monotonic() - started)


class TimedDisk(SystemDisk):
    """The machine's disk; how long syncs of its files take is noted in ``times``."""

    def __init__(self, times: SyncTimes) -> None:
        self.times: Final = times

    def _file(self, fd: int, path: str) -> TimedFile:
        return TimedFile(fd, path, self.times)


def _ignore(seconds: float) -> None:
    """Nobody counts."""
