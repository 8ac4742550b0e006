"""Carries out, while this node leads, what the member list needs next: decided by ``admission`` and ``changes``.

One list entry at a time; Raft itself refuses one that the rules forbid (``raft/members.py``). Nothing is kept here
that the next leader would need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sos.catalog.model import NodeId, Removal
from sos.catalog.store import CatalogStore
from sos.clock import Clock
from sos.core import admission
from sos.core.admission import HandOver, ProposeList, Situation, Step, Wait
from sos.core.catchup import CatchUp, MemberView
from sos.core.contacts import Contacts
from sos.core.gossip import Peers
from sos.core.leaving import holds_all_before
from sos.core.newcomers import Newcomer
from sos.failpoints import hit
from sos.levels import FIRST
from sos.raft.api import Applied, ProposeOutcome
from sos.raft.members import MemberList
from sos.raft.messages import encode_members
from sos.raft.node import RaftNode
from sos.telemetry import log

_HAND_OVER_S: Final = 3.0  # an attempt holds writes for at most an election


class ChangesWanted(Protocol):
    """What a person asked for (``changes.Changes``)."""

    def next_step(self, situation: Situation) -> Step | None: ...

    def learners(self, situation: Situation) -> frozenset[NodeId]:
        """Whom to feed for it."""
        ...

    def expected(self, situation: Situation) -> dict[str, str]:
        """Address by name of a node that is to be added and is not here."""
        ...

    def reset(self) -> None: ...


class MemberDriver:
    """The leader's part; ``reset`` when the leadership goes."""

    def __init__(
        self,
        *,
        node: NodeId,
        clock: Clock,
        raft: RaftNode,
        store: CatalogStore,
        contacts: Contacts,
        peers: Peers,
        catch_up: CatchUp,
        changes: ChangesWanted,
        views: Callable[[], list[MemberView]],
        away_s_min: float,
        level: Callable[[], int] = lambda: FIRST,
    ) -> None:
        """``views``: what the leader knows of the copies of members and learners. ``level``: what a newcomer must apply."""
        self._node = node
        self._raft = raft
        self._store = store
        self._contacts = contacts
        self._peers = peers
        self._catch_up = catch_up
        self._changes = changes
        self._views = views
        self._is_proposing = False
        self._away_s_min = away_s_min
        self._level = level
        self._is_near = False
        self._told = ""
        self._clock = clock
        self._hand_over_at_s = 0.0
        self._heir = 0
        self.learners: dict[NodeId, Newcomer] = {}
        self.warnings: list[str] = []

    def reset(self) -> None:
        """This node leads no longer, or only now."""
        self._is_near = False
        self._told = ""
        self.learners = {}
        self.warnings = []
        self._contacts.expected = {}
        self._raft.set_learners(())
        self._changes.reset()

    def situation(self, views: Sequence[MemberView] | None = None) -> Situation:
        """What this leader knows now."""
        raft = self._raft
        views = self._views() if views is None else views
        reports = {view.node: self._peers.report(view.node) for view in views}
        removals = self._removals()
        out = {removal.node for removal in removals}
        etas = {view.node: self._catch_up.eta_s(view.node) for view in views}
        return Situation(
            leader=self._node,
            members=raft.members,
            may_change=raft.may_change_members and not self._is_proposing,
            commit_index=raft.commit_index,
            connected=frozenset({self._node, *(view.node for view in views if view.is_connected)}),
            unreachable_s=self._contacts.away_s(),
            away_s_min=self._away_s_min,
            newcomers={
                node: newcomer
                for node, newcomer in self._contacts.strangers().items()
                if node not in out  # its last word may be younger than its removal
            },
            learners=frozenset(self.learners),
            match_index={
                NodeId(peer.node): peer.match_index or 0 for peer in raft.peers() if peer.connected
            },
            applied_index={
                node: report.applied_index for node, report in reports.items() if report is not None
            },
            in_sync=frozenset(view.node for view in views if self._catch_up.is_in_sync(view)),
            whole=self._whole(raft.members, views),
            blobs_owed={
                view.node: view.blobs_owed for view in views if self._catch_up.is_compared(view)
            },
            eta_s={node: eta for node, eta in etas.items() if eta is not None},
            removals=removals,
            relocated=self._contacts.relocated.known(),
            absent=self._contacts.absent(),
            level=self._level(),
        )

    def _whole(self, members: MemberList, views: Sequence[MemberView]) -> frozenset[NodeId]:
        """Asked for only while somebody is leaving: it reads rows."""
        if not any(member.leaving for member in members.members):
            return frozenset()
        staying = {NodeId(member.node) for member in members.members if not member.leaving}
        with self._store.view() as catalog:
            index = catalog.member_list().index
            # Who is away for a while comes back with its copies, unless it is the one that leaves.
            sources = staying | {view.node for view in views if view.is_connected}
            return frozenset(
                view.node
                for view in views
                if view.node in staying
                and self._catch_up.is_compared(view)
                and holds_all_before(catalog, view.node, index, others=frozenset(sources))
            )

    def _removals(self) -> tuple[Removal, ...]:
        with self._store.view() as view:
            return view.removals()

    def update(self, views: Sequence[MemberView]) -> None:
        """Look, and do the next thing. Twice a second while this node leads."""
        self._advance(self.situation(views))

    def turn(self) -> None:
        """At every turn of Raft: a newcomer on a busy cluster is close to the end of the log for moments only."""
        raft = self._raft
        if not (self._is_near and raft.is_leader and raft.may_change_members):
            return
        close = raft.commit_index - admission.CLOSE_ENTRIES
        if not self.learners or any(raft.match_index(node) >= close for node in self.learners):
            self._advance(self.situation())

    def _advance(self, situation: Situation) -> None:
        step, wanted = admission.next_step(situation), self._changes.next_step(situation)
        is_near = any(isinstance(one, Wait) and one.is_near for one in (step, wanted))
        if wanted is not None and (step is None or isinstance(step, Wait)):
            step = wanted
        self._contacts.expected = self._changes.expected(situation)
        self._feed(situation, admission.learners(situation) | self._changes.learners(situation))
        self.warnings = admission.warnings(situation)
        self._is_near = is_near
        if isinstance(step, ProposeList):
            self._propose(step, situation)
        elif isinstance(step, HandOver):
            self._hand_over(step, situation)
        elif isinstance(step, Wait):
            self._tell(step.reason)

    def _hand_over(self, step: HandOver, situation: Situation) -> None:
        """To one after the other, with pauses: writes wait during each attempt, and an heir may be unable to lead."""
        now = self._clock.monotonic()
        heirs = sorted(
            member.node
            for member in situation.members.members
            if member.node in situation.connected - {self._node} and not member.leaving
        )
        if not heirs or now < self._hand_over_at_s:
            return
        self._hand_over_at_s = now + _HAND_OVER_S
        self._tell(step.why)
        self._raft.transfer_leadership(heirs[self._heir % len(heirs)])
        self._heir += 1

    def _tell(self, text: str) -> None:
        """Each reason once, not twice a second; numbers in it do not make it another one."""
        shape = "".join(character for character in text if not character.isdigit())
        if shape != self._told:
            self._told = shape
            log.info("core.members.waits", why=text)

    def _feed(self, situation: Situation, wanted: frozenset[NodeId]) -> None:
        learners = {
            node: newcomer for node, newcomer in situation.newcomers.items() if node in wanted
        }
        if learners.keys() != self.learners.keys():
            log.info("core.members.learners", nodes=sorted(learners))
            self._raft.set_learners(learners.keys())
        self.learners = learners

    def _propose(self, step: ProposeList, situation: Situation) -> None:
        if not situation.may_change:
            return
        self._is_proposing = True
        nodes = [member.node for member in step.members.members]
        log.info("core.members.proposed", members=nodes, why=step.why)

        def done(outcome: ProposeOutcome) -> None:
            self._is_proposing = False
            if isinstance(outcome, Applied):
                hit("member.entry.after")
                log.info("core.members.committed", members=nodes, index=outcome.index)
            else:
                log.warning("core.members.not_committed", members=nodes, outcome=repr(outcome))

        hit("member.entry.before")
        self._raft.propose(encode_members(step.members), done)
