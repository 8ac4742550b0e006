"""Who is admitted to the member list, and whose place is cleared for it: the leader's next step. Pure.

A member that lost its disk comes back under a new incarnation, and is admitted by two entries, never one
(protocols.md 3.3): the list without the old incarnation; when that is committed and the newcomer has the log but
for moments, the list with the new one. One entry that exchanged them would lose a write or elect two leaders.

Nothing is remembered between two looks: whoever leads goes on from the list in force and from the catalog, which
knows whom lists removed. It votes before it holds every blob (docs/decisions/0040).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sos.catalog.model import NodeId, Removal
from sos.core.newcomers import Newcomer
from sos.levels import FIRST
from sos.raft.members import Member, MemberList

_NEAR_ENTRIES: Final = 1000
# A newcomer that is this close is let in. It gets what it lacks before the list that names it, as the log has an
# order, so the rest is a matter of moments; on a busy cluster a slow one would never have every committed entry.
CLOSE_ENTRIES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """Why a node does not connect. ``is_hopeless``: waiting does not mend it."""

    address: str
    why: str
    is_hopeless: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a leader knows when it decides about members; ``connected`` holds the leader itself."""

    leader: NodeId
    members: MemberList  # in force
    may_change: (
        bool  # an entry of the own term is committed, and the last list applied (protocols.md 3.2)
    )
    commit_index: int
    connected: frozenset[NodeId]
    unreachable_s: Mapping[NodeId, float] = field(default_factory=dict)  # members not connected
    away_s_min: float = 10.0  # so long a member was away before a wiped one takes its place
    newcomers: Mapping[NodeId, Newcomer] = field(default_factory=dict)  # neither listed nor removed
    learners: frozenset[NodeId] = frozenset()  # fed now
    match_index: Mapping[NodeId, int] = field(default_factory=dict)  # of members and learners
    applied_index: Mapping[NodeId, int] = field(default_factory=dict)  # as they told last
    in_sync: frozenset[NodeId] = frozenset()  # also learners
    # Compared in full, and owing nothing that was named before the list in force (``core.leaving``).
    whole: frozenset[NodeId] = frozenset()
    blobs_owed: Mapping[NodeId, int] = field(default_factory=dict)  # of those that were compared
    eta_s: Mapping[NodeId, float] = field(default_factory=dict)  # of their resyncs that run
    removals: tuple[Removal, ...] = ()  # the newest last
    relocated: Mapping[NodeId, Newcomer] = field(default_factory=dict)  # members with other ports
    absent: Mapping[str, Absent] = field(default_factory=dict)  # by name that is dialed in vain
    level: int = FIRST  # what a newcomer must apply (``sos.levels``)

    def can_commit(self, members: MemberList) -> bool:
        """Whether a majority of ``members`` is connected."""
        return len(members.nodes & self.connected) >= members.majority


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeList:
    """Append this list, which differs from the one in force by one member."""

    members: MemberList
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """The leader itself stands in the way of the next step: another one is to lead."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Nothing can be done now. ``is_near``: what is waited for comes within moments, so look at every turn."""

    reason: str
    is_near: bool = False


Step = ProposeList | HandOver | Wait


def learners(situation: Situation) -> frozenset[NodeId]:
    """Whom to feed: those whose name is a member's or is to come back, and those who ask."""
    members = situation.members
    names = {member.name for member in members.members if not member.leaving}
    return frozenset(
        node
        for node, newcomer in situation.newcomers.items()
        if (newcomer.name in names or _may_enter(newcomer, situation))
        and newcomer.level >= situation.level  # it could not start on what it would get
    )


def next_step(situation: Situation) -> Step | None:
    """The first thing that can be done for anybody; else what the first one waits for; None: nobody is there."""
    waits: list[Wait] = []
    for step in _steps(situation):
        if not isinstance(step, Wait):
            return step
        waits.append(step)
    return next((wait for wait in waits if wait.is_near), waits[0] if waits else None)


def warnings(situation: Situation) -> list[str]:
    """What every newcomer waits for."""
    return [step.reason for step in _steps(situation) if isinstance(step, Wait)]


def _steps(situation: Situation) -> Iterator[Step]:
    """One per newcomer: at most one of a name, for two of them would both be waited for."""
    for newcomer in situation.newcomers.values():
        listed = _named(situation.members, newcomer.name)
        if listed is not None:
            if not listed.leaving:
                yield _clear_place(listed, newcomer, situation)
        elif _may_enter(newcomer, situation):
            yield let_in(newcomer, situation)
        else:
            yield Wait(
                reason=f"{newcomer.name} at {newcomer.address} waits to be admitted: "
                f"`sos member add {newcomer.name}={newcomer.address}`"
            )


def _may_enter(newcomer: Newcomer, situation: Situation) -> bool:
    """Without an operator: it asks, or its name was removed only because it had lost its disk."""
    if _named(situation.members, newcomer.name) is not None:
        return False
    if newcomer.asks:
        return True
    last = next(
        (one for one in reversed(situation.removals) if _name(one.node) == newcomer.name), None
    )
    return last is not None and not last.leaving


def _clear_place(old: Member, newcomer: Newcomer, situation: Situation) -> Step:
    """The first entry: the old incarnation goes, for what it promised is forgotten (protocols.md 1.6, 3.3, 3.7)."""
    name, node = newcomer.name, NodeId(old.node)
    if newcomer.level < situation.level:
        return _too_old(newcomer)
    away_s = situation.unreachable_s.get(node, 0.0)
    if newcomer.address != old.address:
        return Wait(
            reason=f"two nodes carry the name {name}: the member at {old.address} "
            f"{'cannot be reached' if node not in situation.connected else 'is connected'}, and an empty one "
            f"at {newcomer.address}. If the disk of {name} is lost and the empty one is to take its place: "
            f"`sos member move {name} {newcomer.address}`; else stop it"
        )
    if node in situation.connected or away_s < situation.away_s_min:
        return Wait(
            reason=f"{name} came back without its data; its old incarnation {node} is removed once it was "
            f"away for {situation.away_s_min:.0f} s"
        )
    rest = situation.members.without(old.node)
    if not rest.members or not situation.can_commit(rest):
        away = sorted(_name(one) for one in rest.nodes - situation.connected)
        return Wait(
            reason=f"quorum_impossible: {name} came back without its data and cannot be admitted while "
            f"{', '.join(away) or 'every other member'} cannot be reached"
        )
    if not situation.may_change:
        return _before_change(name)
    return ProposeList(members=rest, why=f"{node} lost its data and came back as {newcomer.node}")


def let_in(newcomer: Newcomer, situation: Situation) -> Step:
    """The second entry, or the only one of a new member."""
    name, node = newcomer.name, newcomer.node
    members = situation.members
    if newcomer.level < situation.level:
        return _too_old(newcomer)
    taken = next((m.name for m in members.members if m.address == newcomer.address), None)
    if taken is not None:
        return Wait(
            reason=f"{name} says that its address is {newcomer.address}, which is that of {taken}"
        )
    match = situation.match_index.get(node, 0)
    behind = situation.commit_index - match
    if node not in situation.learners or match <= 0 or behind > CLOSE_ENTRIES:
        return Wait(
            reason=f"{name} gets the catalog before it votes: {max(match, 0)} of "
            f"{situation.commit_index} log entries",
            is_near=node in situation.learners and behind <= _NEAR_ENTRIES,
        )
    proposed = members.with_member(
        Member(
            node=node,
            address=newcomer.address,
            blob_address=newcomer.blob_address,
            s3_address=newcomer.s3_address,
        )
    )
    if not situation.can_commit(proposed):
        away = sorted(_name(one) for one in members.nodes - situation.connected)
        return Wait(reason=f"{name} is admitted once {', '.join(away)} can be reached")
    if not situation.may_change:
        return _before_change(name)
    return ProposeList(members=proposed, why=f"{node} has the log")


def _too_old(newcomer: Newcomer) -> Wait:
    return Wait(
        reason=f"{newcomer.name} runs sos {newcomer.version}, which cannot apply what this cluster has stored: start "
        "it with the version of the other nodes"
    )


def _before_change(name: str) -> Wait:
    return Wait(reason=f"{name} is admitted after the change that is under way", is_near=True)


def _named(members: MemberList, name: str) -> Member | None:
    return next((member for member in members.members if member.name == name), None)


def _name(node: str) -> str:
    return node.partition("@")[0]
