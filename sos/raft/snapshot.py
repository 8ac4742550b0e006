"""Rules of snapshots that travel out of band: what a copy carries, and what may be done with one. Pure.

The state machine itself is the snapshot. The library's way commits whatever is in the receiver's own log
while a snapshot comes (pysyncobj.md 1.3) and throws away acknowledged entries behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from sos.raft.api import LogDetached
from sos.raft.sanitize import LogView

BoundaryEntry: TypeAlias = tuple[bytes, int, int]  # command, index, term


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotPoint:
    """Where a copy of the state machine stands in the log: entries S-1 and S travel with the copy."""

    index: int
    term: int
    entries: tuple[BoundaryEntry, BoundaryEntry]

    def __post_init__(self) -> None:
        before, last = self.entries
        assert (last[1], last[2]) == (self.index, self.term)
        assert before[1] == self.index - 1


class InstallDecision(Enum):
    """What a received copy is good for."""

    IGNORE = "ignore"  # this node has committed as much
    RAISE_COMMIT = "raise_commit"  # the log holds entry S: only the commit index moves
    INSTALL = "install"


def decide_install(log: LogView, commit_index: int, point: SnapshotPoint) -> InstallDecision:
    """Keep a log that holds entry S with the same term: what follows S there may be acknowledged (Raft, 7)."""
    if point.index <= commit_index:
        return InstallDecision.IGNORE
    if log.first_index <= point.index <= log.last_index and log.term_at(point.index) == point.term:
        return InstallDecision.RAISE_COMMIT
    return InstallDecision.INSTALL


def must_finish_install(
    log: LogView, applied: tuple[int, int], point: SnapshotPoint | None
) -> bool:
    """Whether a crash cut an install between the new catalog and the journal's reset (protocols.md 6).

    ``point``: what the catalog says it was installed at; None if it grew from the formation record. A catalog
    that has applied more since then was reset already: there a journal that does not fit is damage.
    """
    if point is None or applied != (point.index, point.term):
        return False
    if log.last_index < log.first_index:
        return False  # no install leaves it empty: it was lost, and its votes with it
    return not _holds(log, point.index, point.term)


def check_attached(log: LogView, applied: tuple[int, int]) -> None:
    """The log continues the state machine.

    Raises: LogDetached, if the entry applied last is not in the log: this node lost something.
    """
    index, term = applied
    if not _holds(log, index, term):
        raise LogDetached(
            f"catalog is at entry {index} of term {term}, which the journal "
            f"({log.first_index} to {log.last_index}) does not hold"
        )


def _holds(log: LogView, index: int, term: int) -> bool:
    return log.first_index <= index <= log.last_index and log.term_at(index) == term
