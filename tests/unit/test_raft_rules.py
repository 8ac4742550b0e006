"""The pure rules of Raft around the core: sanitizer, member lists, reads, elections, snapshots."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sos.raft.api import LogDetached
from sos.raft.elections import PreVoteRound, grants_pre_vote
from sos.raft.members import ChangeRefusal, ListHistory, Member, MemberList, check_change
from sos.raft.messages import Append
from sos.raft.reads import BarrierQuestions, LocalBarrier, ReadRounds
from sos.raft.sanitize import (
    Fresh,
    Matched,
    Rejected,
    Verdict,
    WouldCutCommitted,
    judge_append,
)
from sos.raft.snapshot import (
    InstallDecision,
    SnapshotPoint,
    check_attached,
    decide_install,
    must_finish_install,
)


@dataclass
class FakeLog:
    """Terms of the entries from ``first_index`` on."""

    first_index: int
    terms: list[int]

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.terms) - 1

    def term_at(self, index: int, /) -> int:
        assert index >= self.first_index
        return self.terms[index - self.first_index]


LOG = FakeLog(10, [1, 1, 2, 2, 3])  # entries 10 to 14


def _append(prev_index: int, prev_term: int, *terms: int) -> Append:
    return Append(9, 0, prev_index, prev_term, list(terms), [b"\x01"] * len(terms))


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        (_append(14, 3), Matched(14)),
        (_append(12, 2), Matched(12)),  # a heartbeat says nothing about what follows
        (_append(10, 1, 1, 2, 2), Matched(13)),  # an old append, late: nothing is cut (D4)
        (_append(14, 3, 3, 4), Fresh(0, 14, 3, False, 16)),
        (_append(12, 2, 2, 3, 4), Fresh(2, 14, 3, False, 15)),
        (_append(12, 2, 2, 4), Fresh(1, 13, 2, True, 14)),
        (_append(13, 2, 4), Fresh(0, 13, 2, True, 14)),
        (_append(14, 2, 4), Rejected()),
        (_append(15, 3, 4), Rejected()),
        (_append(9, 1, 1), Rejected()),
        (_append(10, 1, 1, 5), WouldCutCommitted(12)),
        (_append(11, 1, 5), WouldCutCommitted(12)),
    ],
)
def test_only_the_first_difference_cuts(message: Append, verdict: Verdict) -> None:
    """P1: what is in the log and matches stays there (pysyncobj.md, item 6; Raft dissertation 3.5)."""
    assert judge_append(LOG, 12, message) == verdict


A, B, C, D = (Member(node=f"{name}@{0:016x}", address="x") for name in "abcd")
B2 = Member(node=f"b@{1:016x}", address="x")
ABC = MemberList(members=(A, B, C))


def _check(proposed: MemberList, *, own: bool = True, last: bool = True) -> ChangeRefusal | None:
    return check_change(
        ABC, proposed, leader=A.node, own_term_committed=own, last_list_committed=last
    )


def test_one_member_at_a_time() -> None:
    """P10: lists that differ by one member have overlapping majorities (protocols.md 3.1)."""
    leaving = Member(node=B.node, address="x", leaving=True)

    assert _check(ABC.with_member(D)) is None
    assert _check(ABC.without(C.node)) is None
    assert _check(ABC.with_member(leaving)) is None
    assert _check(ABC.without(B.node).with_member(B2)) is ChangeRefusal.NOT_ONE_MEMBER
    assert _check(ABC.without(B.node).without(C.node)) is ChangeRefusal.NOT_ONE_MEMBER
    assert _check(ABC) is ChangeRefusal.NOT_ONE_MEMBER


def test_a_list_waits_for_the_one_before() -> None:
    """P10: split brain otherwise (D5; protocols.md 3.2)."""
    assert _check(ABC.with_member(D), own=False) is ChangeRefusal.OWN_TERM_NOT_COMMITTED
    assert _check(ABC.with_member(D), last=False) is ChangeRefusal.LAST_LIST_NOT_COMMITTED


def test_other_lists_are_refused() -> None:
    """A leader hands over before it goes (protocols.md 3.5)."""
    assert _check(ABC.without(A.node)) is ChangeRefusal.REMOVES_LEADER
    assert _check(MemberList(members=())) is ChangeRefusal.WOULD_BE_EMPTY


def test_one_name_has_one_incarnation() -> None:
    """P16: a wiped member is another one (protocols.md 1.1)."""
    with pytest.raises(AssertionError):
        MemberList(members=(A, B, B2))


def test_the_list_in_force_follows_the_log() -> None:
    """A list is in force when appended; truncation brings the one before back (protocols.md 3.1)."""
    lists = ListHistory(base_index=5, base=ABC)
    with_d = ABC.with_member(D)

    lists.append(8, with_d)
    lists.append(11, with_d.without(B.node))
    assert (lists.in_force_index, lists.in_force) == (11, with_d.without(B.node))
    assert not lists.truncate_from(12)
    assert lists.truncate_from(9)
    assert (lists.in_force_index, lists.in_force) == (8, with_d)
    lists.applied(8)
    assert not lists.truncate_from(9)
    assert lists.in_force == with_d
    lists.reset(20, ABC)
    assert (lists.in_force_index, lists.in_force) == (20, ABC)


VOTERS = frozenset({"a", "b", "c"})


def test_a_round_needs_a_majority_after_it_began() -> None:
    """P8: only an answer to this question, in this term, of a voter, counts (Raft dissertation 6.4)."""
    rounds: ReadRounds[str] = ReadRounds(seq=100, again_s=1.0)
    rounds.add("first")
    seq = rounds.begin(now_s=0.0, term=3, commit_index=7)
    assert seq == 101

    rounds.answered("b", 100, 3)
    rounds.answered("b", 101, 2)
    rounds.answered("stranger", 101, 3)
    assert rounds.finished(term=3, voters=VOTERS, self_node="a") == []
    rounds.answered("b", 101, 3)
    assert rounds.finished(term=4, voters=VOTERS, self_node="a") == []
    assert rounds.finished(term=3, voters=VOTERS, self_node="a") == [(7, ["first"])]
    assert rounds.idle


def test_waiters_share_rounds_and_none_blocks() -> None:
    """All that came before a round share it; a lost answer does not hold up the next (P17)."""
    rounds: ReadRounds[str] = ReadRounds(seq=0, again_s=1.0)
    rounds.add("one")
    rounds.add("two")
    assert rounds.begin(now_s=0.0, term=3, commit_index=7) == 1
    rounds.add("three")
    assert rounds.begin(now_s=0.5, term=3, commit_index=8) is None
    assert rounds.begin(now_s=1.0, term=3, commit_index=9) == 2

    rounds.answered("c", 2, 3)

    done = rounds.finished(term=3, voters=VOTERS, self_node="a")
    assert done == [(7, ["one", "two"]), (9, ["three"])]


def test_a_leader_alone_confirms_itself() -> None:
    """A cluster of one needs nobody."""
    rounds: ReadRounds[str] = ReadRounds(seq=0, again_s=1.0)
    rounds.add("one")
    rounds.begin(now_s=0.0, term=1, commit_index=4)

    assert rounds.finished(term=1, voters=frozenset({"a"}), self_node="a") == [(4, ["one"])]


def _nobody(index: int | None) -> None:
    """Not called."""


def test_a_question_is_asked_once_and_again() -> None:
    """One question at a time; without an answer it is asked anew, and the late answer counts for nothing."""
    questions = BarrierQuestions(seq=5, again_s=1.0, pause_s=0.1)
    waiter = LocalBarrier(_nobody, 3.0)
    questions.add(waiter)
    assert questions.next_question(now_s=0.0) == 6
    assert questions.next_question(now_s=0.9) is None
    assert questions.next_question(now_s=1.0) == 7

    assert questions.answered(6) == []
    questions.unanswered(7, now_s=1.0)
    assert questions.answered(7) == []
    assert questions.next_question(now_s=1.05) is None
    assert questions.next_question(now_s=1.1) == 9
    assert questions.answered(9) == [waiter]
    assert questions.idle


def test_late_waiters_are_taken_out() -> None:
    """Every barrier ends by its deadline (P17)."""
    questions = BarrierQuestions(seq=5, again_s=1.0, pause_s=0.1)
    waiters = [LocalBarrier(_nobody, deadline_s) for deadline_s in (1.0, 2.0)]
    for waiter in waiters:
        questions.add(waiter)

    assert questions.drop(lambda waiter: waiter.deadline_s <= 1.5) == waiters[:1]
    assert questions.take_all() == waiters[1:]


def test_a_majority_of_grants_lets_an_election_begin() -> None:
    """P17: one node alone disturbs nobody (Raft dissertation 9.6)."""
    round_ = PreVoteRound(round_s=0.5, resend_s=0.1)
    assert not round_.due(now_s=0.0, term=4, voters=VOTERS, self_node="a")
    assert round_.ask(now_s=0.0)
    assert not round_.ask(now_s=0.05)

    round_.granted_by("stranger", 4)
    round_.granted_by("b", 3)
    assert not round_.due(now_s=0.1, term=4, voters=VOTERS, self_node="a")
    round_.granted_by("b", 4)
    assert round_.due(now_s=0.2, term=4, voters=VOTERS, self_node="a")
    assert not round_.due(now_s=0.3, term=4, voters=VOTERS, self_node="a")


def test_grants_of_an_old_round_are_void() -> None:
    """A grant says that no leader was heard of *now*."""
    round_ = PreVoteRound(round_s=0.5, resend_s=0.1)
    round_.due(now_s=0.0, term=4, voters=VOTERS, self_node="a")
    round_.granted_by("b", 4)

    assert not round_.due(now_s=0.6, term=4, voters=VOTERS, self_node="a")


@pytest.mark.parametrize(
    ("candidate", "heard_s", "leads", "granted"),
    [
        ((3, 9), 1.0, False, True),
        ((4, 1), 1.0, False, True),
        ((3, 8), 1.0, False, False),
        ((2, 99), 1.0, False, False),
        ((3, 9), 0.4, False, False),
        ((3, 9), 1.0, True, False),
    ],
)
def test_who_helps_a_candidate(
    candidate: tuple[int, int], heard_s: float, leads: bool, granted: bool
) -> None:
    """P17: a log that is up to date, and no leader in sight (pysyncobj.md, item 7)."""
    assert granted == grants_pre_vote(
        candidate_log=candidate,
        own_log=(3, 9),
        leader_heard_s_ago=heard_s,
        election_s_min=0.5,
        leads_with_quorum=leads,
    )


def _point(index: int, term: int) -> SnapshotPoint:
    entries = ((b"\x01", index - 1, term), (b"\x01", index, term))
    return SnapshotPoint(index=index, term=term, entries=entries)


@pytest.mark.parametrize(
    ("point", "decision"),
    [
        (_point(12, 2), InstallDecision.IGNORE),
        (_point(11, 1), InstallDecision.IGNORE),
        (_point(13, 2), InstallDecision.RAISE_COMMIT),
        (_point(14, 3), InstallDecision.RAISE_COMMIT),
        (_point(14, 4), InstallDecision.INSTALL),
        (_point(20, 4), InstallDecision.INSTALL),
    ],
)
def test_a_matching_log_is_kept(point: SnapshotPoint, decision: InstallDecision) -> None:
    """P1: what follows a snapshot in the log may be acknowledged (pysyncobj.md 1.3; Raft, section 7)."""
    assert decide_install(LOG, 12, point) is decision


def test_an_install_that_a_crash_cut_is_finished() -> None:
    """P22: the catalog's pointer moved, the journal was not reset yet (protocols.md 6)."""
    point = _point(20, 4)

    assert must_finish_install(LOG, (20, 4), point)
    assert not must_finish_install(LOG, (14, 3), None)
    assert not must_finish_install(LOG, (21, 4), point)  # it went on since: not ours to repair
    assert not must_finish_install(LOG, (13, 2), _point(13, 2))


@pytest.mark.parametrize("applied", [(15, 3), (14, 2), (9, 1)])
def test_a_log_that_lost_something_is_not_used(applied: tuple[int, int]) -> None:
    """P16: such a node comes back as a wiped one (protocols.md 1.2)."""
    check_attached(LOG, (14, 3))

    with pytest.raises(LogDetached):
        check_attached(LOG, applied)
