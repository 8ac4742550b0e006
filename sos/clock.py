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

    def jump_wall(self, seconds: float) -> None:
        """Move the wall clock alone, as an operator or NTP would."""
        self._wall_ms += round(seconds * 1000)


class ManualIds:
    """Ids that count up; for tests."""

    def __init__(self) -> None:
        self._count = 0

    def random_bytes(self, count: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(count, "big")
