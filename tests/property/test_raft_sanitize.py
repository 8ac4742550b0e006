"""The sanitizer against its meaning: the log becomes the leader's where they differ, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sos.raft.messages import Append
from sos.raft.sanitize import Fresh, Matched, Rejected, WouldCutCommitted, judge_append


@dataclass
class Log:
    """Terms of the entries from ``first_index`` on."""

    first_index: int
    terms: list[int]

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.terms) - 1

    def term_at(self, index: int, /) -> int:
        return self.terms[index - self.first_index]


@st.composite
def meetings(draw: st.DrawFn) -> tuple[Log, int, Append, list[int]]:
    """A follower, its commit index, and an append cut from a leader's log that holds all that is committed."""
    common = sorted(draw(st.lists(st.integers(1, 3), min_size=1, max_size=6)))
    own = sorted(draw(st.lists(st.integers(4, 6), max_size=5)))
    theirs = sorted(draw(st.lists(st.integers(7, 9), max_size=5)))
    first = draw(st.integers(1, 4))
    leader = common + theirs  # entry 1 is leader[0]
    log = Log(first, (common + own)[first - 1 :] or [9])
    commit_index = draw(st.integers(0, len(common)))
    prev = draw(st.integers(1, len(leader)))
    count = draw(st.integers(0, len(leader) - prev))
    terms = leader[prev : prev + count]
    return log, commit_index, Append(9, 0, prev, leader[prev - 1], terms, [b"\x01"] * count), leader


@given(meetings())
def test_a_verdict_keeps_what_matches_and_takes_the_rest(
    meeting: tuple[Log, int, Append, list[int]],
) -> None:
    """P1, P10: log matching holds after every append, and no matching entry is dropped for a moment (D4)."""
    log, commit_index, message, leader = meeting
    before = dict(enumerate(log.terms, log.first_index))
    end = message.prev_index + len(message.terms)

    match judge_append(log, commit_index, message):
        case Rejected():
            assert before.get(message.prev_index) != message.prev_term
        case Matched(last_index):
            assert last_index == end
            assert all(before[at] == leader[at - 1] for at in range(message.prev_index, end + 1))
        case Fresh(skip, prev_index, prev_term, cuts, last_index):
            assert last_index == end
            assert (prev_index, prev_term) == (message.prev_index + skip, before[prev_index])
            dropped = [at for at in before if at > prev_index]
            assert cuts == bool(dropped)
            assert not cuts or before[prev_index + 1] != leader[prev_index]
            assert all(at > commit_index for at in dropped)
        case WouldCutCommitted():
            raise AssertionError("a leader holds everything that is committed")
