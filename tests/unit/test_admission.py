"""Admission of newcomers: the table of the leader's next steps (protocols.md 1.6, 3.2, 3.3, 3.7)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sos.catalog.model import NodeId, Removal
from sos.clock import ManualClock
from sos.core import messages
from sos.core.admission import ProposeList, Situation, Wait, learners, next_step, warnings
from sos.core.newcomers import Newcomer, Newcomers
from sos.raft.members import Member, MemberList


def _node(name: str, incarnation: int = 0) -> NodeId:
    return NodeId(f"{name}@{incarnation:016x}")


def _member(name: str, incarnation: int = 0, *, leaving: bool = False) -> Member:
    return Member(node=_node(name, incarnation), address=f"{name}:9300", leaving=leaving)


def _list(*members: Member) -> MemberList:
    return MemberList(members=tuple(sorted(members, key=lambda member: member.node)))


def _newcomer(name: str, *, address: str | None = None, asks: bool = False) -> Newcomer:
    return Newcomer(
        node=_node(name, 1),
        address=f"{name}:9300" if address is None else address,
        blob_address=f"{name}:9301",
        s3_address=f"{name}:9000",
        asks=asks,
        version="1",
    )


THREE = _list(_member("a"), _member("b"), _member("c"))
TWO = _list(_member("a"), _member("b"))
WIPED = _newcomer("c")
GONE = Removal(node=_node("c"), leaving=False)
LEFT = Removal(node=_node("c"), leaving=True)


def _situation(
    members: MemberList = THREE,
    *newcomers: Newcomer,
    connected: str = "ab",
    away_s: float = 60.0,
    match: int = 100,
    removals: tuple[Removal, ...] = (),
    may_change: bool = True,
) -> Situation:
    """``a`` leads; ``connected``: names of members; every newcomer is a learner that holds ``match`` of 100 entries."""
    up = {_node(name) for name in connected}
    strangers = {newcomer.node: newcomer for newcomer in newcomers}
    return Situation(
        leader=_node("a"),
        members=members,
        may_change=may_change,
        commit_index=100,
        connected=frozenset({*up, *strangers}),
        unreachable_s={NodeId(node): away_s for node in members.nodes - up},
        newcomers=strangers,
        learners=frozenset(strangers),
        match_index=dict.fromkeys(strangers, match),
        removals=removals,
    )


FIRST = "without the old incarnation"
SECOND = "with the newcomer"


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (_situation(THREE), None),
        (_situation(THREE, WIPED), FIRST),
        (_situation(THREE, WIPED, match=0), FIRST),
        (_situation(THREE, WIPED, away_s=9.9), "away for 10 s"),
        (_situation(THREE, WIPED, connected="abc"), "away for 10 s"),
        (_situation(THREE, WIPED, may_change=False), "under way"),
        (_situation(THREE, _newcomer("c", address="x:1")), "two nodes carry the name c"),
        (_situation(THREE, WIPED, connected="a"), "quorum_impossible"),
        (_situation(TWO, _newcomer("b"), connected="a"), FIRST),
        (_situation(_list(_member("a")), _newcomer("a"), connected=""), "quorum_impossible"),
        (_situation(_list(_member("a"), _member("c", leaving=True)), WIPED, connected="a"), None),
        (_situation(TWO, WIPED, removals=(GONE,)), SECOND),
        (_situation(TWO, WIPED, removals=(GONE,), match=35), "35 of 100"),
        (_situation(TWO, WIPED, removals=(GONE,), match=36), SECOND),
        (_situation(TWO, WIPED, removals=(GONE,), match=0), "0 of 100"),
        (_situation(TWO, WIPED, removals=(GONE,), may_change=False), "under way"),
        (_situation(TWO, WIPED, removals=(GONE,), connected="a"), SECOND),
        (_situation(TWO, WIPED, removals=(LEFT,)), "sos member add c=c:9300"),
        (_situation(TWO, WIPED, removals=(LEFT, GONE)), SECOND),
        (_situation(TWO, WIPED, removals=(GONE, LEFT)), "sos member add c=c:9300"),
        (_situation(TWO, WIPED), "sos member add c=c:9300"),
        (_situation(TWO, _newcomer("c", asks=True), removals=(LEFT,)), SECOND),
        (_situation(TWO, _newcomer("d", asks=True), match=3), "3 of 100"),
        (_situation(TWO, _newcomer("d", address="b:9300", asks=True)), "is that of b"),
        (_situation(THREE, _newcomer("d", asks=True), connected="a"), "b, c can be reached"),
    ],
    ids=range(25),
)
def test_the_next_step(situation: Situation, expected: str | None) -> None:
    """P8, P16: by two entries, never one; nothing without a majority, the 10 s and every committed entry."""
    step = next_step(situation)
    before = situation.members
    if expected == FIRST:
        (newcomer,) = situation.newcomers.values()
        assert isinstance(step, ProposeList)
        assert step.members.nodes == before.nodes - {_node(newcomer.name)}
    elif expected == SECOND:
        (newcomer,) = situation.newcomers.values()
        assert isinstance(step, ProposeList)
        assert step.members.nodes == before.nodes | {newcomer.node}
    elif expected is None:
        assert step is None
    else:
        assert isinstance(step, Wait)
        assert expected in step.reason
        assert step.reason in warnings(situation)


def test_one_who_waits_does_not_hold_up_another() -> None:
    """Design 10: what can be done is done."""
    waits = _newcomer("b", address="x:1")
    situation = _situation(THREE, waits, WIPED)
    step = next_step(situation)
    assert isinstance(step, ProposeList)
    assert step.members == TWO
    assert len(warnings(situation)) == 1


def test_who_is_fed() -> None:
    """protocols.md 1.4: those who may become members catch up before; others wait for a word of an operator."""
    asks, waits = _newcomer("d", asks=True), _newcomer("e")
    situation = _situation(THREE, WIPED, asks, waits)
    assert learners(situation) == {WIPED.node, asks.node}
    halfway = _situation(TWO, WIPED, removals=(GONE,))
    assert learners(halfway) == {WIPED.node}
    leaving = _list(_member("a"), _member("b"), _member("c", leaving=True))
    assert not learners(_situation(leaving, WIPED))


def test_newcomers_are_forgotten() -> None:
    """Only who is connected and spoke within 3 s is one; a broken peer does not fill the memory."""
    clock = ManualClock()
    newcomers = Newcomers(clock=clock)
    newcomers.take(WIPED)
    newcomers.take(_newcomer("d"))
    assert list(newcomers.known()) == [WIPED.node, _node("d", 1)]
    newcomers.forget(_node("d", 1))
    assert newcomers.known() == {WIPED.node: WIPED}
    clock.advance(3.1)
    assert newcomers.known() == {}
    for number in range(1000):
        newcomers.take(replace(WIPED, node=_node("x", number)))
    assert len(newcomers.known()) < 100


def test_the_messages_of_joining() -> None:
    """P20: what does not fit the schema is refused as a whole."""
    kind, fields = messages.decode_app(messages.encode_join(WIPED))
    assert kind is messages.AppKind.JOIN
    assert messages.check_join(WIPED.node, fields) == WIPED
    kind, rows = messages.decode_app(messages.encode_members(THREE.members))
    assert kind is messages.AppKind.MEMBERS
    assert messages.check_members(rows) == THREE.members
    for bad in ([], [1, "", "", True, ""], ["x" * 1000, "", "", True, ""]):
        with pytest.raises(messages.AppRefused):
            messages.check_join(WIPED.node, bad)
    for wrong in ([], ["x"], [[["a@1", "", "", "", False]]], [[[_node("a"), "", "", ""]]]):
        with pytest.raises(messages.AppRefused):
            messages.check_members(wrong)
