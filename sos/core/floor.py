"""The sweep floor: how far back an upload may have begun and still be named (protocols.md 4.4)."""

from __future__ import annotations

from collections import deque

from sos.clock import Clock


class FloorSamples:
    """(monotonic time, applied index) of this node; a new leader uses its own samples.

    No wall clock and no file time is trusted. A node that just started has no old samples, so its floor
    rises only after ``age_s``: orphans live longer, never shorter.
    """

    def __init__(self, *, clock: Clock, age_s: float) -> None:
        self._clock = clock
        self._age_s = age_s
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, applied_index: int) -> None:
        """Note where the log is now."""
        self._samples.append((self._clock.monotonic(), applied_index))

    def floor(self) -> int | None:
        """The newest index that was applied at least ``age_s`` ago; None when nothing is that old."""
        oldest_allowed = self._clock.monotonic() - self._age_s
        floor = None
        while self._samples and self._samples[0][0] <= oldest_allowed:
            floor = self._samples.popleft()[1]
        if floor is not None:
            self._samples.appendleft((oldest_allowed, floor))
        return floor
