"""What an append may still do to the log of the node that got it; this is what makes the core correct. Pure.

PySyncObj cuts everything after ``prev_index`` whenever anything comes, also when all of it is already there
(pysyncobj.md 1.4): an acknowledged suffix is dropped for a moment again and again, and a leader's death in
that moment loses it. Here only the first entry that really differs may cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from sos.raft.messages import Append


class LogView(Protocol):
    """Index range and terms of the log as it is now."""

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    def term_at(self, index: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Rejected:
    """The entry before does not match: the leader has to go back."""


@dataclass(frozen=True, slots=True)
class Matched:
    """All of it is in the log already, up to ``last_index``."""

    last_index: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """The log ends at, or differs after, the entry before command number ``skip``.

    ``cuts``: entries of the log from that index on are replaced.
    """

    skip: int
    prev_index: int
    prev_term: int
    cuts: bool
    last_index: int


@dataclass(frozen=True, slots=True)
class WouldCutCommitted:
    """A committed entry would be replaced: somewhere the protocol is broken, so stop."""

    index: int


Verdict: TypeAlias = Rejected | Matched | Fresh | WouldCutCommitted


def judge_append(log: LogView, commit_index: int, message: Append) -> Verdict:
    """Compare ``message`` with the log (Raft dissertation 3.5: delete only on a *conflicting* entry)."""
    first, last = log.first_index, log.last_index
    prev = message.prev_index
    if prev < first or prev > last or log.term_at(prev) != message.prev_term:
        return Rejected()
    terms = message.terms
    count = len(terms)
    skip, prev_term = 0, message.prev_term
    while skip < count and prev + 1 + skip <= last and log.term_at(prev + 1 + skip) == terms[skip]:
        prev_term = terms[skip]
        skip += 1
    if skip == count:
        return Matched(prev + count)
    cut_index = prev + 1 + skip
    if cut_index <= last and cut_index <= commit_index:
        return WouldCutCommitted(cut_index)
    return Fresh(skip, prev + skip, prev_term, cut_index <= last, prev + count)
