"""Sources of time and of ids, passed in as objects so that tests and the simulator control them."""

from __future__ import annotations

import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """Wall and monotonic time are separate: nothing that orders or expires may use wall time."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch; may jump either way."""
        ...


class IdSource(Protocol):
    """Random bytes for ids."""

    def random_bytes(self, count: int) -> bytes: ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ShiftedClock(SystemClock):
    """A wall clock that is off by the seconds in a file, which may change at any time; for tests of real nodes."""

    def __init__(self, offset_file: str) -> None:
        self._offset_file = offset_file

    def wall_ms(self) -> int:
        try:
            with open(self._offset_file, encoding="ascii") as stream:
                offset_s = float(stream.read() or 0)
        except FileNotFoundError:
            offset_s = 0.0
        return super().wall_ms() + round(offset_s * 1000)


def node_clock(offset_file: str) -> Clock:
    """The clock of a node's process: the machine's, unless a test names a file to shift it by."""
    return ShiftedClock(offset_file) if offset_file else SystemClock()


class SystemIds:
    """The kernel's random source."""

    def random_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


class ManualClock:
    """A clock that moves only when told; for tests."""

    def __init__(self, *, monotonic: float = 1000.0, wall_ms: int = 1_760_000_000_000) -> None:
        self._monotonic = monotonic
        self._wall_ms = wall_ms

    def monotonic(self) -> float:
        return self._monotonic

    def wall_ms(self) -> int:
        return self._wall_ms

    def advance(self, seconds: float) -> None:
        """Move both clocks ``seconds`` ahead."""
        self._monotonic += seconds
        self._wall_ms += round(seconds * 1000)


class ManualIds:
    """Ids that count up; for tests."""

    def __init__(self) -> None:
        self._count = 0

    def random_bytes(self, count: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(count, "big")
