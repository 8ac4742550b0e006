"""Whether a change of the members is sound, what comes next for it, and what to tell. Pure.

A change is the state that is wanted, not a step: each turn, whoever leads derives the next step from the list in
force. So nothing is lost with the command, the node it asks, or the leader, and a change that is done is "already".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from sos.catalog.model import NodeId
from sos.core.admission import HandOver, ProposeList, Situation, Step, Wait, let_in
from sos.core.change_words import Action, Change, ChangeAnswer, ChangeState
from sos.raft.members import Member, MemberList
from sos.settings import parse_address

_NEAR_ENTRIES: Final = 1000
_GONE: Final = "; it cannot be reached: what the others do not have is lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``step``: what the leader does next for it; None: nothing is left, or nothing can be done."""

    answer: ChangeAnswer
    step: Step | None = None


def judge(change: Change, situation: Situation) -> Verdict:
    """Where ``change`` is, and its next step."""
    verdict = _judge(change, situation)
    if isinstance(verdict.step, ProposeList | HandOver) and not situation.may_change:
        wait = Wait(reason=f"{change} goes on when the last change is stored")
        return replace(verdict, step=wait)
    return verdict


def _judge(change: Change, situation: Situation) -> Verdict:
    if change.action is Action.ADD:
        return _judge_add(change.name, change.address, situation)
    if change.action is Action.REMOVE:
        return _judge_remove(change.name, situation)
    if change.action is Action.MOVE:
        return _judge_move(change, situation)
    return _judge_replace(change, situation)


def _judge_add(name: str, address: str, situation: Situation) -> Verdict:
    owner = _owner_of(address, situation, other_than=name)
    if owner is not None:
        return _refused(
            f"{address} is the address of {owner}: every member has an address of its own"
        )
    member = member_of(situation, name)
    if member is not None:
        return _judge_listed(member, address, situation)
    newcomer = next((one for one in situation.newcomers.values() if one.name == name), None)
    if newcomer is None:
        return _judge_absent(name, address, situation)
    if newcomer.address != address:
        return _refused(f"{name} says that its address is {newcomer.address}, not {address}")
    step = let_in(newcomer, situation)
    if isinstance(step, ProposeList):
        return _working(f"{name} becomes a member", step)
    assert isinstance(step, Wait)
    return _working(step.reason, step)


def _judge_absent(name: str, address: str, situation: Situation) -> Verdict:
    """To be added, and not here: the leader dials it, to find out why."""
    where = f"{name} at {address}"
    absent = situation.absent.get(name)
    if absent is None or absent.address != address:
        return _working(f"waiting for {where} to connect")
    if absent.is_hopeless:
        return _refused(f"{where}: {absent.why}")
    return _working(f"waiting for {where} to connect: {absent.why}")


def _judge_listed(member: Member, address: str, situation: Situation) -> Verdict:
    """To be added, and in the list."""
    name, node = member.name, NodeId(member.node)
    if member.address != address:
        return _refused(
            f"{name} is a member with the address {member.address}: "
            f"to change it, `sos member move {name} {address}`"
        )
    if member.leaving:
        step = ProposeList(
            members=situation.members.with_member(replace(member, leaving=False)),
            why=f"{name} stays",
        )
        return _working(f"{name} stays: its mark as leaving is taken back", step)
    if node in situation.in_sync and situation.may_change:
        return _done(f"{name} at {address} is a member and in sync")
    if node not in situation.connected:
        return _working(f"{name} is a member; waiting for it to connect")
    owed = situation.blobs_owed.get(node)
    text = f"{name} is a member and {'gets the blobs' if owed else 'catches up'}"
    if owed is None:
        return _working(f"{name} is a member; its blobs are being compared")
    progress = {"blobs owed": owed} if owed else {}
    return _working(text, progress=progress, eta_s=situation.eta_s.get(node))


def _judge_remove(name: str, situation: Situation) -> Verdict:
    member = member_of(situation, name)
    if member is None:
        if any(one.name == name and one.asks for one in situation.newcomers.values()):
            return _working(f"{name} is being admitted again; it is removed after that")
        if any(removal.node.partition("@")[0] == name for removal in situation.removals):
            return _done(f"{name} is no member")
        return _refused(_unknown(name, situation))
    rest = situation.members.without(member.node)
    if not rest.members:
        return _refused(f"{name} is the last member: stop it, and the cluster is gone")
    obstacle = _no_majority(rest, situation)
    if obstacle is not None and not member.leaving:
        return _refused(f"without {name} no majority would work: {obstacle}")
    if obstacle is not None:
        return _working(f"{name} is leaving; {obstacle}")
    if situation.leader == member.node:
        return _hand_over(member, rest, situation)
    if not member.leaving:
        step: Step = ProposeList(
            members=situation.members.with_member(replace(member, leaving=True)),
            why=f"{name} is leaving",
        )
        return _working(f"{name} is marked as leaving", step)
    return _see_out(member, rest, situation)


def _hand_over(leader: Member, rest: MemberList, situation: Situation) -> Verdict:
    """Writes wait while a leader hands over: not before another member has nearly all of the log."""
    near = situation.commit_index - _NEAR_ENTRIES
    if any(situation.match_index.get(NodeId(node), -1) >= near for node in rest.nodes):
        return _working(
            f"{leader.name} leads: it hands over first", HandOver(why=f"{leader.name} is removed")
        )
    text = f"{leader.name} leads, and hands over once another member has caught up in the log"
    return _working(text, Wait(reason=text))


def _see_out(member: Member, rest: MemberList, situation: Situation) -> Verdict:
    """It goes once each blob that was there at its mark lies on a write quorum of the others (protocols.md 3.6).

    Where a majority of the rest holds all of them, each has its quorum; blobs named after the mark count the
    leaving member for nothing.
    """
    holding = situation.whole & rest.nodes
    if len(holding) >= rest.majority:
        is_gone = member.node not in situation.connected
        return _working(
            f"{member.name} is removed" + (_GONE if is_gone else ""),
            ProposeList(members=rest, why=f"{member.name} is removed"),
        )
    behind = [NodeId(m.node) for m in rest.members if m.node not in holding]
    owed = [situation.blobs_owed.get(node) for node in behind]
    names = _names(behind)
    etas = [situation.eta_s[node] for node in behind if node in situation.eta_s]
    return _working(
        f"{names} {'gets' if len(behind) == 1 else 'get'} what only {member.name} and too few others hold",
        Wait(reason=f"{member.name} is leaving; {names} must hold every blob first"),
        {"blobs owed": sum(count or 0 for count in owed)} if None not in owed else {},
        max(etas, default=None),
    )


def _judge_move(change: Change, situation: Situation) -> Verdict:
    name, address = change.name, change.address
    member = member_of(situation, name)
    if member is None:
        return _refused(_unknown(name, situation))
    owner = _owner_of(address, situation, other_than=name)
    if owner is not None:
        return _refused(
            f"{address} is the address of {owner}: every member has an address of its own"
        )
    if member.address == address:
        if not situation.may_change:
            return _working(f"{name} is at {address}; waiting for a majority to store that")
        return _done(f"{name} is at {address}; start it with --listen {address}")
    return _working(
        f"{name} moves to {address}",
        ProposeList(
            members=situation.members.with_member(moved(member, address)),
            why=f"{name} moves to {address}",
        ),
    )


def moved(member: Member, address: str) -> Member:
    """``member`` at another address. Its other ports move along, until it says itself where they are."""
    before, after = parse_address(member.address), parse_address(address)

    def follow(text: str) -> str:
        try:
            old = parse_address(text)
        except ValueError:
            return text
        if old.host != before.host:
            return text
        return str(replace(old, host=after.host))

    blob = member.blob_address
    try:
        offset = parse_address(blob).port - before.port
        port = after.port + offset
        blob = str(replace(parse_address(follow(blob)), port=port if 0 < port < 65536 else 1))
    except ValueError:
        blob = member.blob_address
    return replace(member, address=address, blob_address=blob, s3_address=follow(member.s3_address))


def _judge_replace(change: Change, situation: Situation) -> Verdict:
    """First the new one in, then the old one out."""
    is_new_in = member_of(situation, change.new) is not None
    if member_of(situation, change.name) is None and not is_new_in:
        return _refused(_unknown(change.name, situation))
    added = _judge_add(change.new, change.address, situation)
    if added.answer.state is not ChangeState.DONE:
        return added
    if member_of(situation, change.name) is None:
        return _done(f"{change.new} at {change.address} is a member, {change.name} is none")
    return _judge_remove(change.name, situation)


# --- words --------------------------------------------------------------------------------------------
def member_of(situation: Situation, name: str) -> Member | None:
    return next((member for member in situation.members.members if member.name == name), None)


def _owner_of(address: str, situation: Situation, *, other_than: str) -> str | None:
    owners = (m.name for m in situation.members.members if m.address == address)
    return next((name for name in owners if name != other_than), None)


def _no_majority(rest: MemberList, situation: Situation) -> str | None:
    """Why the members of ``rest`` could commit nothing now; None if they can."""
    if situation.can_commit(rest):
        return None
    away = [NodeId(m.node) for m in rest.members if m.node not in situation.connected]
    return (
        f"{_names(away)} cannot be reached, and {rest.majority} of {len(rest.members)} are needed"
    )


def _names(nodes: list[NodeId]) -> str:
    return ", ".join(node.partition("@")[0] for node in nodes)


def _unknown(name: str, situation: Situation) -> str:
    names = ", ".join(member.name for member in situation.members.members)
    return f"unknown member {name}; members are {names}"


def _working(
    step_text: str,
    step: Step | None = None,
    progress: Mapping[str, int] | None = None,
    eta_s: float | None = None,
) -> Verdict:
    return Verdict(
        answer=ChangeAnswer(
            state=ChangeState.WORKING, step=step_text, progress=progress or {}, eta_s=eta_s
        ),
        step=step,
    )


def _done(reason: str) -> Verdict:
    return Verdict(answer=ChangeAnswer(state=ChangeState.DONE, reason=reason))


def _refused(reason: str) -> Verdict:
    return Verdict(answer=ChangeAnswer(state=ChangeState.REFUSED, reason=reason))


def follow(situation: Situation) -> Step | None:
    """A member says that it takes blobs or S3 requests elsewhere than the list has it, for example after a move."""
    for member in situation.members.members:
        says = situation.relocated.get(NodeId(member.node))
        if says is None or not situation.may_change or not situation.can_commit(situation.members):
            continue
        now = replace(member, blob_address=says.blob_address, s3_address=says.s3_address)
        if now != member:
            why = (
                f"{member.name} takes blobs at {now.blob_address} and requests at {now.s3_address}"
            )
            return ProposeList(members=situation.members.with_member(now), why=why)
    return None


def leaving_of(situation: Situation) -> Member | None:
    return next((member for member in situation.members.members if member.leaving), None)
