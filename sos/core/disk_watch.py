"""Free space: new writes are refused long before zero; deletes, reads and elections go on (design, 11)."""

from __future__ import annotations

import os
from typing import Final

from sos.disk_sizes import DiskSizes

_RELEASE_FACTOR: Final = 1.25  # low ends only when clearly above the reserve: no flapping


class DiskWatch:
    """Whether the data directory's disk is below its reserve, and how much of that is left."""

    def __init__(self, path: str, *, sizes: DiskSizes) -> None:
        self._path = path
        self._reserve_bytes = sizes.reserve
        self.floor_bytes: Final = sizes.floor
        self.is_low = False
        self.free_bytes = 0
        self.total_bytes = 0

    def look(self) -> bool:
        """Look again; True when ``is_low`` changed."""
        self._measure()
        factor = _RELEASE_FACTOR if self.is_low else 1.0
        was_low, self.is_low = self.is_low, self.free_bytes < self._reserve_bytes * factor
        return was_low != self.is_low

    @property
    def is_full(self) -> bool:
        """Not even the reserve is left: this node takes no log entries, and must not lead."""
        return self.free_bytes < self.floor_bytes

    def room_bytes(self) -> int:
        """Free bytes now. Never remembered: a foreign process fills a small disk within milliseconds."""
        self._measure()
        return self.free_bytes

    def _measure(self) -> None:
        stat = os.statvfs(self._path)
        self.free_bytes = stat.f_bavail * stat.f_frsize
        self.total_bytes = stat.f_blocks * stat.f_frsize
