"""Member changes by command: what is asked, what the leader does next, what is told (protocols.md 3; P12, P16)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from sos.catalog import model
from sos.catalog.model import BlobId, NodeId, OwedBlob, Removal
from sos.catalog.rules.blob import write_quorum
from sos.core.admission import Absent, HandOver, ProposeList, Situation, Wait
from sos.core.change_rules import judge, moved
from sos.core.change_words import Action, BadChange, Change, ChangeState, parse_change
from sos.core.changes import Changes
from sos.core.leaving import holds_all_before
from sos.core.members import blob_quorum
from sos.core.newcomers import Newcomer
from sos.raft.members import Member, MemberList


def _node(name: str) -> NodeId:
    return NodeId(f"{name}@{name.encode().hex():0>16}")


def _member(name: str, *, leaving: bool = False) -> Member:
    number = int(name[1:])
    return Member(
        node=_node(name),
        address=f"10.0.0.{number}:7000",
        blob_address=f"10.0.0.{number}:7001",
        s3_address=f"10.0.0.{number}:9000",
        leaving=leaving,
    )


def _list(*names: str, leaving: str = "") -> MemberList:
    return MemberList(members=tuple(_member(name, leaving=name == leaving) for name in names))


def _situation(*names: str, leader: str = "n1", leaving: str = "", **more: Any) -> Situation:
    nodes = frozenset(map(_node, names))
    given: dict[str, Any] = {
        "leader": _node(leader),
        "members": _list(*names, leaving=leaving),
        "may_change": True,
        "commit_index": 100,
        "connected": nodes,
        "in_sync": nodes,
    }
    return Situation(**given | more)


def _newcomer(name: str, *, asks: bool = False) -> dict[str, Any]:
    """A newcomer that has all of the log and is fed."""
    member = _member(name)
    newcomer = Newcomer(
        node=_node(name),
        address=member.address,
        blob_address=member.blob_address,
        s3_address=member.s3_address,
        asks=asks,
        version="1",
    )
    connected = frozenset(map(_node, ("n1", "n2", "n3", name)))
    return {
        "newcomers": {newcomer.node: newcomer},
        "learners": frozenset({newcomer.node}),
        "match_index": {newcomer.node: 100},
        "connected": connected,
        "in_sync": connected,
    }


def _add(name: str) -> Change:
    return Change(action=Action.ADD, name=name, address=_member(name).address)


def _remove(name: str) -> Change:
    return Change(action=Action.REMOVE, name=name)


def _replace(old: str, new: str) -> Change:
    return Change(action=Action.REPLACE, name=old, new=new, address=_member(new).address)


def _proposed(change: Change, situation: Situation) -> MemberList:
    step = judge(change, situation).step
    assert isinstance(step, ProposeList), step
    return step.members


# --- what is asked --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"action": "drop", "name": "n1"}, "add, remove, replace or move"),
        ({"action": "remove", "name": "N 1"}, "no node name"),
        ({"action": "add", "name": "n4"}, "expected HOST:PORT"),
        ({"action": "add", "name": "n4", "address": "h:99999"}, "expected HOST:PORT"),
        ({"action": "move", "name": "n4", "address": "h:40000"}, "outside 32768-60999"),
        ({"action": "replace", "name": "n1", "new": "n1", "address": "h:1"}, "cannot replace itself"),
        ({"action": "remove", "name": 7}, "are texts"),
        (["remove"], "add, remove, replace or move"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_a_line(document: object, told: str) -> None:
    """Issue 5: bad input is one line that says what is wrong, nothing is asked of anybody."""
    with pytest.raises(BadChange, match=told):
        parse_change(document)


# --- add ------------------------------------------------------------------------------------------
def test_a_newcomer_is_fed_and_then_added() -> None:
    """Decision 40: it has the log but for moments before it votes."""
    ready = _situation("n1", "n2", "n3", **_newcomer("n4"))
    assert _proposed(_add("n4"), ready) == _list("n1", "n2", "n3", "n4")
    behind = replace(ready, match_index={_node("n4"): 35})
    assert isinstance(judge(_add("n4"), behind).step, Wait)
    unfed = replace(ready, learners=frozenset())
    assert isinstance(judge(_add("n4"), unfed).step, Wait)
    busy = replace(ready, may_change=False)
    assert isinstance(judge(_add("n4"), busy).step, Wait)


def test_an_added_member_is_done_when_it_is_in_sync() -> None:
    """The command ends when the member counts; repeating it says so."""
    situation = _situation("n1", "n2", "n3")
    assert judge(_add("n3"), situation).answer.state is ChangeState.DONE
    lagging = replace(
        situation, in_sync=frozenset(), blobs_owed={_node("n3"): 7}, eta_s={_node("n3"): 2.0}
    )
    answer = judge(_add("n3"), lagging).answer
    assert (answer.state, answer.progress, answer.eta_s) == (
        ChangeState.WORKING,
        {"blobs owed": 7},
        2.0,
    )


def test_who_does_not_come_is_told_why() -> None:
    """Issue 5: unreachable is waited for, another cluster or key is refused; nothing changes."""
    situation = _situation("n1", "n2", "n3")
    absent = Absent(address=_member("n4").address, why="not reachable: refused", is_hopeless=False)
    assert judge(_add("n4"), situation).answer.step == "waiting for n4 at 10.0.0.4:7000 to connect"
    answer = judge(_add("n4"), replace(situation, absent={"n4": absent})).answer
    assert answer.state is ChangeState.WORKING
    assert "not reachable" in answer.step
    other = replace(absent, why="it belongs to another cluster", is_hopeless=True)
    verdict = judge(_add("n4"), replace(situation, absent={"n4": other}))
    assert verdict.answer.state is ChangeState.REFUSED
    assert verdict.step is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (Change(action=Action.ADD, name="n4", address="10.0.0.2:7000"), "is the address of n2"),
        (Change(action=Action.ADD, name="n2", address="10.0.0.9:7000"), "sos member move n2"),
        (Change(action=Action.MOVE, name="n2", address="10.0.0.3:7000"), "is the address of n3"),
        (Change(action=Action.MOVE, name="n9", address="10.0.0.9:7000"), "unknown member n9"),
        (_remove("n9"), "unknown member n9; members are n1, n2, n3"),
        (_replace("n9", "n4"), "unknown member n9"),
    ],
)
def test_what_cannot_be_is_refused(change: Change, told: str) -> None:
    """Issue 5: one line, nothing changed."""
    verdict = judge(change, _situation("n1", "n2", "n3"))
    assert verdict.answer.state is ChangeState.REFUSED
    assert told in verdict.answer.reason
    assert verdict.step is None


# --- remove ---------------------------------------------------------------------------------------
def test_a_removal_marks_waits_and_removes() -> None:
    """protocols.md 3.6: not before a majority of the rest holds every blob that was there at the mark."""
    assert _proposed(_remove("n3"), _situation("n1", "n2", "n3")) == _list(
        "n1", "n2", "n3", leaving="n3"
    )
    marked = _situation("n1", "n2", "n3", leaving="n3")
    verdict = judge(_remove("n3"), marked)
    assert isinstance(verdict.step, Wait)
    half = replace(marked, whole=frozenset({_node("n1"), _node("n3")}))
    assert isinstance(judge(_remove("n3"), half).step, Wait)
    whole = replace(marked, whole=frozenset({_node("n1"), _node("n2")}))
    assert _proposed(_remove("n3"), whole) == _list("n1", "n2")
    gone = _situation("n1", "n2", removals=(Removal(node=_node("n3"), leaving=True),))
    assert judge(_remove("n3"), gone).answer.state is ChangeState.DONE


def test_a_leader_hands_over_before_it_is_removed() -> None:
    """protocols.md 3.5: the library's leader counts itself always."""
    match = {_node("n1"): 5, _node("n2"): 99}
    situation = _situation("n1", "n2", "n3", leader="n3", match_index=match)
    assert isinstance(judge(_remove("n3"), situation).step, HandOver)
    marked = replace(situation, members=_list("n1", "n2", "n3", leaving="n3"))
    assert isinstance(judge(_remove("n3"), marked).step, HandOver)
    # Writes would wait for as long as nobody else has the log.
    behind = replace(situation, commit_index=5000)
    assert isinstance(judge(_remove("n3"), behind).step, Wait)


def test_a_removal_leaves_a_working_majority() -> None:
    """Issue 5: what would leave none is refused with the names; one that is marked waits for them."""
    away = frozenset({_node("n1"), _node("n3")})
    verdict = judge(_remove("n3"), _situation("n1", "n2", "n3", connected=away))
    assert verdict.answer.state is ChangeState.REFUSED
    assert "n2 cannot be reached" in verdict.answer.reason
    marked = _situation("n1", "n2", "n3", connected=away, leaving="n3")
    verdict = judge(_remove("n3"), marked)
    assert (verdict.answer.state, verdict.step) == (ChangeState.WORKING, None)
    unreachable = _situation("n1", "n2", "n3", connected=frozenset(map(_node, ("n1", "n2"))))
    assert isinstance(judge(_remove("n3"), unreachable).step, ProposeList)
    assert judge(_remove("n1"), _situation("n1")).answer.state is ChangeState.REFUSED


# --- replace and move -----------------------------------------------------------------------------
def test_replace_adds_before_it_removes() -> None:
    """One request, in the order that never leaves fewer copies."""
    change = _replace("n3", "n4")
    first = _situation("n1", "n2", "n3", **_newcomer("n4"))
    assert _proposed(change, first) == _list("n1", "n2", "n3", "n4")
    second = _situation("n1", "n2", "n3", "n4")
    assert _proposed(change, second) == _list("n1", "n2", "n3", "n4", leaving="n3")
    unready = replace(second, in_sync=frozenset())
    assert judge(change, unready).step is None
    assert judge(change, _situation("n1", "n2", "n4")).answer.state is ChangeState.DONE


def test_a_move_takes_the_other_ports_along() -> None:
    """They are right until the node says itself where they are."""
    now = moved(_member("n2"), "10.9.9.9:7500")
    assert (now.address, now.blob_address, now.s3_address) == (
        "10.9.9.9:7500",
        "10.9.9.9:7501",
        "10.9.9.9:9000",
    )
    change = Change(action=Action.MOVE, name="n2", address="10.9.9.9:7500")
    situation = _situation("n1", "n2", "n3")
    assert _proposed(change, situation) == situation.members.with_member(now)
    after = replace(situation, members=situation.members.with_member(now))
    assert judge(change, after).answer.state is ChangeState.DONE


# --- one at a time --------------------------------------------------------------------------------
class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 0


def test_one_change_at_a_time() -> None:
    """A second one is refused with the name of the first; what nobody repeats lapses."""
    clock = _Clock()
    changes = Changes(clock=clock)
    situation = _situation("n1", "n2", "n3")
    assert changes.ask(_add("n4"), situation).state is ChangeState.WORKING
    answer = changes.ask(_remove("n3"), situation)
    assert answer.state is ChangeState.REFUSED
    assert "under way: add n4=10.0.0.4:7000" in answer.reason
    clock.now = 16.0
    assert changes.ask(_remove("n3"), situation).state is ChangeState.WORKING


def test_done_once_is_already_later() -> None:
    """Who worked for it hears done; who repeats it, already."""
    changes = Changes(clock=_Clock())
    lagging = _situation("n1", "n2", "n3", in_sync=frozenset())
    assert changes.ask(_add("n3"), lagging).state is ChangeState.WORKING
    situation = _situation("n1", "n2", "n3")
    assert changes.ask(_add("n3"), situation).state is ChangeState.DONE
    assert changes.ask(_add("n3"), situation).state is ChangeState.ALREADY
    assert changes.next_step(situation) is None


def test_what_is_over_is_in_nobodys_way() -> None:
    """The node that was removed may have told it: then nobody asks the leader again."""
    changes = Changes(clock=_Clock())
    assert changes.ask(_remove("n3"), _situation("n1", "n2", "n3")).state is ChangeState.WORKING
    gone = _situation("n1", "n2", removals=(Removal(node=_node("n3"), leaving=True),))
    assert changes.ask(_remove("n2"), gone).state is ChangeState.WORKING


def test_the_mark_carries_a_removal_through() -> None:
    """Command, node and leader may die: the next leader goes on; and it can be taken back."""
    clock = _Clock()
    changes = Changes(clock=clock)
    marked = _situation("n1", "n2", "n3", leaving="n3", whole=frozenset({_node("n1"), _node("n2")}))
    step = changes.next_step(marked)
    assert isinstance(step, ProposeList)
    assert step.members == _list("n1", "n2")
    answer = changes.ask(_add("n4"), marked)
    assert "remove n3; `sos member add n3=10.0.0.3:7000` takes it back" in answer.reason
    assert changes.ask(_add("n3"), marked).state is ChangeState.WORKING
    step = changes.next_step(marked)
    assert isinstance(step, ProposeList)
    assert step.members == _list("n1", "n2", "n3")


def test_a_removal_that_is_asked_for_is_not_taken_back() -> None:
    """One person waits for it: another one hears that."""
    clock = _Clock()
    changes = Changes(clock=clock)
    marked = _situation("n1", "n2", "n3", leaving="n3")
    assert changes.ask(_remove("n3"), marked).state is ChangeState.WORKING
    assert changes.ask(_add("n3"), marked).state is ChangeState.REFUSED
    clock.now = 3.0
    assert changes.ask(_add("n3"), marked).state is ChangeState.WORKING


def test_the_list_follows_a_member_that_says_where_its_ports_are() -> None:
    """After a move: blobs and requests reach it where it listens."""
    member = _member("n2")
    says = Newcomer(
        node=_node("n2"),
        address=member.address,
        blob_address="10.0.0.2:7777",
        s3_address=member.s3_address,
        asks=False,
        version="1",
    )
    situation = _situation("n1", "n2", "n3", relocated={_node("n2"): says})
    step = Changes(clock=_Clock()).next_step(situation)
    assert isinstance(step, ProposeList)
    assert step.members == situation.members.with_member(
        replace(member, blob_address="10.0.0.2:7777")
    )


# --- what a leaving member holds ------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_gateways_ask_for_the_quorum_that_apply_demands(count: int) -> None:
    """protocols.md 3.6, 4.2: one rule on both sides, or every write would be made twice."""
    names = [f"n{number + 1}" for number in range(count)]
    for leaving in ("", *(names if count > 1 else ())):
        rows = _list(*names, leaving=leaving).members
        listed = tuple(
            model.Member(
                node=NodeId(row.node),
                name=row.name,
                address=row.address,
                blob_address=row.blob_address,
                s3_address=row.s3_address,
                leaving=row.leaving,
            )
            for row in rows
        )
        assert blob_quorum(MemberList(members=rows)) == write_quorum(listed)


class _Owed:
    """A catalog in which somebody owes these blobs."""

    def __init__(self, holders: dict[BlobId, tuple[NodeId, ...]]) -> None:
        self._holders = holders

    def owed(self, node: NodeId, after: bytes = b"", limit: int = 1000) -> list[OwedBlob]:
        rows = [OwedBlob(blob=blob, size_bytes=1) for blob in sorted(self._holders)]
        return rows[:limit]

    def holders(self, blob: BlobId) -> tuple[NodeId, ...]:
        return self._holders[blob]


def _blob(index: int, number: int = 0) -> BlobId:
    return BlobId(index.to_bytes(8, "big") + number.to_bytes(8, "big"))


def test_only_blobs_from_before_the_mark_hold_a_leaving_member() -> None:
    """protocols.md 3.6: writes that go on are in nobody's way; what nobody has, nobody can bring."""
    node, giver = _node("n1"), frozenset({_node("n2")})

    def holds(holders: dict[BlobId, tuple[NodeId, ...]]) -> bool:
        return holds_all_before(cast("Any", _Owed(holders)), node, 100, others=giver)

    assert holds({})
    assert holds({_blob(100): (_node("n2"),), _blob(101): (_node("n2"),)})
    assert not holds({_blob(99): (_node("n2"),), _blob(101): (_node("n2"),)})
    assert holds({_blob(99): (_node("n7"),), _blob(100): (_node("n2"),)})
    # More than it looks at: it does not know.
    assert not holds({_blob(1, number): () for number in range(300)})
