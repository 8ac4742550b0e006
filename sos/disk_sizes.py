"""What a node keeps for itself of its disk, in step with the size of that: a small disk is not all reserve."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from sos.limits import (
    JOURNAL_KEPT_BYTES_MAX,
    JOURNAL_KEPT_BYTES_MIN,
    JOURNAL_SEGMENT_BYTES,
    MIB,
)
from sos.settings import Config, TestConfig

_DEFAULTS: Final = TestConfig()
_BESIDE_SEGMENT_BYTES: Final = 16 * MIB  # pages of the catalog while a segment fills


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSizes:
    """Bytes. Below ``reserve`` no new writes are taken, below ``floor`` no log entries."""

    reserve: int
    floor: int
    segment: int
    journal_kept_min: int
    journal_kept_max: int


def disk_sizes(config: Config) -> DiskSizes:
    """The sizes for the disk of the data directory, which exists. What a test set stays as it is."""
    space = os.statvfs(config.node.data)
    return sizes_for(space.f_blocks * space.f_frsize, config.test)


def sizes_for(total_bytes: int, test: TestConfig) -> DiskSizes:
    """All defaults from 8 GiB on. Below, a delete must still find a segment's room in what the reserve leaves."""
    reserve = test.disk_reserve_bytes
    if reserve == _DEFAULTS.disk_reserve_bytes:
        reserve = min(reserve, total_bytes // 8)
    segment = test.journal_segment_bytes
    if segment == JOURNAL_SEGMENT_BYTES:
        segment = min(segment, total_bytes // 64)
    kept = test.journal_kept_bytes
    if kept == JOURNAL_KEPT_BYTES_MIN:
        kept = min(kept, total_bytes // 8)
    return DiskSizes(
        reserve=reserve,
        # below it not even a delete fits for certain: it may begin a journal segment
        floor=min(reserve // 4, segment + _BESIDE_SEGMENT_BYTES),
        segment=segment,
        journal_kept_min=kept,
        journal_kept_max=max(kept, min(JOURNAL_KEPT_BYTES_MAX, total_bytes // 4)),
    )
