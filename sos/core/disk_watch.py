"""Free space: new writes are refused long before zero; deletes, reads and elections go on (design, 11)."""

from __future__ import annotations

import os
from typing import Final

_RELEASE_FACTOR: Final = 1.25  # low ends only when clearly above the reserve: no flapping


class DiskWatch:
    """Whether the data directory's disk is below its reserve."""

    def __init__(self, path: str, *, reserve_bytes: int) -> None:
        self._path = path
        self._reserve_bytes = reserve_bytes
        self.is_low = False
        self.free_bytes = 0
        self.total_bytes = 0

    def look(self) -> bool:
        """Look again; True when ``is_low`` changed."""
        stat = os.statvfs(self._path)
        self.free_bytes = stat.f_bavail * stat.f_frsize
        self.total_bytes = stat.f_blocks * stat.f_frsize
        factor = _RELEASE_FACTOR if self.is_low else 1.0
        was_low, self.is_low = self.is_low, self.free_bytes < self._reserve_bytes * factor
        return was_low != self.is_low
