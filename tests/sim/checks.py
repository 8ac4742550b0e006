"""The promises, checked at every step; a violation names the promise of ``faults.md`` section 1."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from sos.raft.api import EntryKind, LogEntry
from tests.sim.machine import KEYS


class Violation(AssertionError):
    """A broken promise."""

    def __init__(self, promise: str, what: str) -> None:
        super().__init__(f"{promise}: {what}")
        self.promise = promise


@dataclass(slots=True)
class Checker:
    """What all nodes together have said so far."""

    committed: dict[int, tuple[int, int]] = field(default_factory=dict)  # index -> (term, checksum)
    digests: dict[int, object] = field(default_factory=dict)
    acked: dict[int, int] = field(default_factory=dict)  # index -> operation
    acked_max: int = 0
    written: dict[int, int] = field(
        default_factory=dict
    )  # key -> index of its last acknowledged write
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)  # an attempt may still take effect
    places: dict[int, list[int]] = field(default_factory=dict)  # operation -> indexes
    answers: dict[int, object] = field(default_factory=dict)  # operation -> first answer
    number_of: Callable[[bytes], int] = lambda payload: 0
    remembers: bool = False
    leaders: dict[int, str] = field(default_factory=dict)  # term -> node
    votes: dict[tuple[str, int], str] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)

    def fail(self, promise: str, what: str) -> None:
        self.violations.append(Violation(promise, what))

    def applied(self, node: str, entry: LogEntry, digest: object) -> bool:
        """``node`` applied ``entry``; True if it is the first to. ``digest`` is None where it is not known."""
        mark = (entry.term, zlib.crc32(entry.payload))
        known = self.committed.setdefault(entry.index, mark)
        if known != mark:
            if entry.index in self.acked:
                self.fail("P1", f"acknowledged entry {entry.index} was replaced on {node}")
            self.fail("P10", f"entry {entry.index} differs on {node}: {known} and {mark}")
            return False
        if digest is not None and self.digests.setdefault(entry.index, digest) != digest:
            self.fail("P11", f"state of {node} differs at {entry.index}")
        if known is not mark:
            return False
        if entry.kind is EntryKind.OPERATIONS:
            self._placed(self.number_of(entry.payload), entry.index)
        return True

    def _placed(self, operation: int, index: int) -> None:
        if operation in self.refused:
            self.fail("P3", f"operation {operation} was refused and took effect at {index}")
        places = self.places.setdefault(operation, [])
        places.append(index)
        if len(places) > 1 and not self.remembers:
            self.fail("P4", f"operation {operation} took effect at {places}")

    def acknowledged(self, operation: int, index: int, answer: object) -> None:
        if index not in self.places.get(operation, ()):
            self.fail("P1", f"operation {operation} acknowledged at {index}, not applied there")
        if self.answers.setdefault(operation, answer) != answer:
            self.fail("P4", f"operation {operation} got another answer the second time")
        self.acked[index] = operation
        key = operation % KEYS
        self.written[key] = max(self.written.get(key, 0), index)
        self.acked_max = max(self.acked_max, index)

    def was_refused(self, operation: int) -> None:
        if operation in self.unknown:
            return  # a resend: what was refused is this attempt, an earlier one may take effect yet
        self.refused.add(operation)
        if operation in self.places:
            self.fail("P3", f"operation {operation} was refused after it took effect")

    def was_unknown(self, operation: int) -> None:
        """Once one attempt was unknown, no later refusal makes the operation's outcome definite."""
        self.unknown.add(operation)

    def leads(self, node: str, term: int) -> None:
        other = self.leaders.setdefault(term, node)
        if other != node:
            self.fail("P9", f"{node} and {other} lead term {term}")

    def voted(self, node: str, term: int, candidate: str) -> None:
        other = self.votes.setdefault((node, term), candidate)
        if other != candidate:
            self.fail("P9", f"{node} voted for {other} and {candidate} in term {term}")

    def barrier(self, node: str, index: int, acked_before: int) -> None:
        if index < acked_before:
            self.fail(
                "P8", f"barrier on {node} gave {index}, {acked_before} was acknowledged before"
            )

    def read(self, node: str, key: int, written: int, written_before: int) -> None:
        if written < written_before:
            self.fail(
                "P2", f"{node} read key {key} of {written}, {written_before} was acknowledged"
            )

    def at_rest(self, node: str, applied: int, digest: object) -> None:
        """All faults have ended and ``node`` had time."""
        if applied < self.acked_max:
            self.fail("P1", f"{node} ends at {applied}, {self.acked_max} was acknowledged")
        elif self.digests.get(applied, digest) != digest:
            self.fail("P11", f"state of {node} differs at {applied}, at rest")
