"""What `sos recover` makes of a survivor's list, and what it refuses (protocols.md 3.7)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sos.catalog.codec import decode_member_list
from sos.catalog.model import NodeId
from sos.core.recovery import Survey, next_epoch, plan
from sos.errors import StartRefused
from sos.raft.members import ChangeRefusal, ListHistory, Member, MemberList, check_change
from sos.raft.messages import MessageRefused, decode_members, encode_members

MEMBERS = tuple(Member(node=f"{name}@{0:016x}", address=f"{name}:1") for name in "abcde")
A, B, C, D, E = MEMBERS
ALL = MemberList(members=MEMBERS)


def _survey(members: MemberList = ALL, *counted: MemberList, recorded: bool = True) -> Survey:
    return Survey(
        node=NodeId(A.node),
        epoch=members.epoch,
        members=members,
        counted=counted or (members,),
        is_recorded=recorded,
        last_index=9,
        applied_index=7,
    )


def test_the_survivors_go_on_in_a_new_epoch() -> None:
    """3.7: nothing is lost with members - majority + 1 of them; fewer may lose something."""
    made = plan(_survey(), ["a", "c", "e"])
    assert [m.node for m in made.survivors.members] == [A.node, C.node, E.node]
    assert made.lost == (B.node, D.node)
    assert (made.may_lose, made.is_done) == (False, False)
    assert made.survivors.epoch == next_epoch(0, [E.node, A.node, C.node])
    assert plan(_survey(), ["a", "b"]).may_lose


def test_whoever_is_given_another_list_is_in_another_epoch() -> None:
    """P10: two sets of survivors with a node in common never talk to each other."""
    epochs = {next_epoch(0, [A.node, other.node]) for other in (B, C, D, E)}
    assert len(epochs) == 4
    assert min(next_epoch(max(epochs), [A.node]), next_epoch(min(epochs), [A.node])) > max(epochs)
    assert all(0 < epoch < 2**63 for epoch in epochs)


def test_a_second_recover_counts_from_what_was_acknowledged() -> None:
    """P1: a list that no entry holds has acknowledged nothing: what may be lost is judged by the one before."""
    first = plan(_survey(), ["a", "b", "c"]).survivors
    again = plan(_survey(first, ALL, recorded=False), ["a", "b", "c"])
    assert again.is_done
    assert again.survivors.epoch == first.epoch

    second = plan(_survey(first, ALL, recorded=False), ["a", "b"])

    assert second.may_lose
    assert second.survivors.epoch >> 32 == 2
    grown = MemberList(members=(A, B, C, D))
    assert plan(_survey(grown, MemberList(members=(A, B, C)), grown), ["a", "d"]).may_lose


@pytest.mark.parametrize(
    ("only", "words"),
    [
        (["b", "c"], "whose directory this is"),
        (["a", "x"], "is not a member"),
        (["a", f"b@{1:016x}"], "is not a member"),
        (["a", "b", "c", "d", "e"], "nobody to leave out"),
        ([], "whose directory this is"),
    ],
)
def test_what_makes_no_sense_is_refused(only: list[str], words: str) -> None:
    """Bad input: one line that says why, nothing changed."""
    with pytest.raises(StartRefused, match=words):
        plan(_survey(), only)


def test_a_node_that_is_no_member_is_no_survivor() -> None:
    """P16: a wiped member has nothing that counts."""
    survey = replace(_survey(), node=NodeId(f"a@{9:016x}"))
    with pytest.raises(StartRefused, match="no member"):
        plan(survey, ["a", "b"])


def test_the_survivors_list_stands_above_older_ones_until_it_is_in_the_log() -> None:
    """3.7: also above lists of entries that come into the log later, and again after it was cut away."""
    survivors = MemberList(members=(A, B), epoch=7)
    lists = ListHistory(base_index=5, base=ALL, recovered=survivors)

    def stand() -> tuple[MemberList, MemberList | None]:
        return lists.in_force, lists.unrecorded

    assert stand() == (survivors, survivors)
    lists.append(6, ALL.without(E.node))
    assert lists.in_force == survivors
    assert lists.recorded == (ALL, ALL.without(E.node))

    lists.append(8, survivors)
    assert stand() == (survivors, None)
    assert lists.truncate_from(8)
    assert stand() == (survivors, survivors)
    lists.append(8, survivors)
    lists.append(9, survivors.with_member(C))
    lists.applied(9)
    assert stand() == (survivors.with_member(C), None)


def test_nothing_comes_before_the_survivors_list() -> None:
    """3.7: exactly one step of several members, once; then one member at a time, within the epoch."""
    survivors = MemberList(members=(A, B), epoch=7)

    def check(proposed: MemberList, *, must_record: bool) -> ChangeRefusal | None:
        return check_change(
            survivors,
            proposed,
            leader=A.node,
            own_term_committed=True,
            last_list_committed=True,
            must_record=must_record,
        )

    assert check(survivors, must_record=True) is None
    assert check(survivors.with_member(C), must_record=True) is ChangeRefusal.RECOVERY_NOT_RECORDED
    assert check(survivors.with_member(C), must_record=False) is None
    older = replace(survivors.with_member(C), epoch=0)
    assert check(older, must_record=False) is ChangeRefusal.OTHER_EPOCH


def test_a_list_with_an_epoch_is_the_same_for_raft_and_catalog() -> None:
    """House style 7: without an epoch the bytes are those of the release before; with one they have a version."""
    survivors = MemberList(members=(A, B), epoch=next_epoch(0, [A.node, B.node]))
    payload = encode_members(survivors)
    assert decode_members(payload) == survivors
    epoch, members = decode_member_list(payload)
    assert epoch == survivors.epoch
    assert [member.node for member in members] == [A.node, B.node]
    assert decode_member_list(encode_members(ALL))[0] == 0
    assert payload[1:4] != encode_members(ALL)[1:4]
    broken = payload.replace(b"\xcf", b"\xd3", 1)[:8] + b"\xff" + payload[9:]
    with pytest.raises(MessageRefused):
        decode_members(broken[:20])
