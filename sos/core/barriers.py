"""Read barriers of the gateways: Raft's read index, then this node's own applied state."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Protocol


class ReadIndex(Protocol):
    """What barriers need of Raft."""

    @property
    def applied_index(self) -> int: ...

    def barrier(self, done: Callable[[int | None], None]) -> None: ...


class Barriers:
    """Waits for the read index, then until this node applied it (Raft dissertation, section 6.4)."""

    def __init__(self, raft: ReadIndex) -> None:
        self.on_passed: Callable[[float], None] = _ignore  # seconds that a barrier took
        self._raft = raft
        self._waiting: list[tuple[int, int, Callable[[int | None], None]]] = []
        self._count = 0

    def request(self, done: Callable[[int | None], None]) -> None:
        """Call ``done`` with an index that is applied here and covers all that was acknowledged before.

        ``None``: no majority confirmed the leader in time.
        """

        asked = time.perf_counter()

        def passed(index: int | None) -> None:
            if index is not None:
                self.on_passed(time.perf_counter() - asked)
            done(index)

        def confirmed(index: int | None) -> None:
            if index is None or index <= self._raft.applied_index:
                passed(index)
                return
            self._count += 1
            heapq.heappush(self._waiting, (index, self._count, passed))

        self._raft.barrier(confirmed)

    def release(self) -> None:
        """Answer those whose index is applied by now; called after every tick."""
        while self._waiting and self._waiting[0][0] <= self._raft.applied_index:
            index, _, done = heapq.heappop(self._waiting)
            done(index)

    @property
    def waiting(self) -> int:
        return len(self._waiting)


def _ignore(seconds: float) -> None:
    """Nobody counts."""
