"""Virtual time, seeded streams, and the trace of a run."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable
from random import Random

START_S = 1000.0
READING_S = 1e-6  # each reading of a clock takes this long: two loops of the library end only when time passes


class World:
    """An event queue. Every fault stream is its own, so a new draw in one does not shift the others."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = START_S
        self.network = Random(f"{seed}/network")
        self.disk = Random(f"{seed}/disk")
        self.process = Random(f"{seed}/process")
        self.clock = Random(f"{seed}/clock")
        self.load = Random(f"{seed}/load")
        self.schedule = Random(f"{seed}/schedule")
        self.counts: Counter[str] = Counter()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` after ``delay_s``; at equal times in the order of these calls."""
        self._order += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._order, action))

    def run_until(self, stop: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= stop:
            due, _, action = heapq.heappop(queue)
            self.now = max(self.now, due)
            action()
        self.now = max(self.now, stop)

    def run_for(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    def wait_for(self, condition: Callable[[], bool], seconds: float, step_s: float = 0.02) -> bool:
        """Run until ``condition`` holds; False if it does not within ``seconds``."""
        stop = self.now + seconds
        while not condition():
            if self.now >= stop:
                return False
            self.run_for(step_s)
        return True

    def note(self, text: str) -> None:
        """One line of the trace."""
        self._digest.update(f"{self.now:.6f} {text}\n".encode())

    def count(self, name: str, more: int = 1) -> None:
        """A sometimes-counter: what must happen now and then for a run to mean anything."""
        self.counts[name] += more

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


class SimClock:
    """One node's clock: an offset and a rate of its own, never back, a microsecond per reading."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._offset = world.clock.uniform(0.0, 1e6)
        self._origin = world.now
        self.rate = 1.0
        self._last = self._offset
        self.spent_s = 0.0  # within the present event: a slow sync

    def monotonic(self) -> float:
        value = self._offset + (self._world.now + self.spent_s - self._origin) * self.rate
        self._last = max(self._last + READING_S, value)
        return self._last

    def wall_ms(self) -> int:
        return 1_760_000_000_000 + int(self._world.now * 1000)

    def set_rate(self, rate: float) -> None:
        self._offset += (self._world.now - self._origin) * self.rate
        self._origin = self._world.now
        self.rate = rate


class SimIds:
    """Ids from a seeded stream."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)
