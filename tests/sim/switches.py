"""Switches: each turns off one hook of the list in decision record 1, in tests alone.

A switch exists to show that its hook is needed and that the checks would notice: ``test_switches.py`` runs the
same schedule with it and without it. Nothing in ``sos/`` knows of switches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from sos.raft import following, membership, snapshot
from sos.raft import node as node_module
from sos.raft.api import Refused, RefusedReason
from sos.raft.candidacy import Candidacy
from sos.raft.engine import SosRaft
from sos.raft.feed import Feed
from sos.raft.following import Following
from sos.raft.journal import FileJournal
from sos.raft.journal_format import Vote
from sos.raft.messages import Append, AppendReply
from sos.raft.node import RaftNode
from sos.raft.proposals import Proposals
from sos.raft.reads import ReadRounds
from sos.raft.sanitize import Fresh, LogView, Rejected, Verdict, judge_append
from sos.raft.vote import VoteFile
from tests.faults.simdisk import SimDisk
from tests.sim.bed import Bed


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """``point``: of the hook list; ``promise``: what is broken without the hook (faults.md 1)."""

    point: int
    promise: str
    turn_off: Callable[[pytest.MonkeyPatch], None]


def _vote_in_memory(patch: pytest.MonkeyPatch) -> None:
    """The term is durable, whom the vote went to is only remembered."""
    plain = VoteFile.save

    def save(self: Any, vote: Vote) -> None:
        plain(self, Vote(term=vote.term, voted_for=None))
        self.vote = vote

    patch.setattr(VoteFile, "save", save)


def _no_fsync(patch: pytest.MonkeyPatch) -> None:
    """Every sync of every disk is a lie, from its first file on."""
    plain = SimDisk.mkdir

    def mkdir(self: SimDisk, path: str) -> None:
        plain(self, path)
        self.pending.clear()
        self.durable_names = dict(self.names)
        self.ignore_syncs = True

    patch.setattr(SimDisk, "mkdir", mkdir)


def _ack_before_sync(patch: pytest.MonkeyPatch) -> None:
    def reply(self: Any, peer: str, next_index: int, *, reset: bool, success: bool) -> None:
        self._send(peer, AppendReply(self._core.term(), next_index, reset, success))

    patch.setattr(Following, "reply", reply)


def _leader_never_syncs(patch: pytest.MonkeyPatch) -> None:
    """The leader counts itself although its own copy is not durable."""
    plain_tick, plain_sync = RaftNode.tick, FileJournal.sync

    def tick(self: Any) -> None:
        self._log.sync_off = self.is_leader
        plain_tick(self)

    def sync(self: Any) -> None:
        if not getattr(self, "sync_off", False):
            plain_sync(self)

    def commit(self: Any, index: int) -> None:
        self._commit_index = index

    patch.setattr(RaftNode, "tick", tick)
    patch.setattr(FileJournal, "sync", sync)
    patch.setattr(FileJournal, "setRaftCommitIndex", commit)


def _cut_always(patch: pytest.MonkeyPatch) -> None:
    """As the library does: whatever comes replaces everything after the entry before (D4)."""

    def judge(log: LogView, commit_index: int, message: Append) -> Verdict:
        verdict = judge_append(log, commit_index, message)
        if isinstance(verdict, Rejected) or not message.terms:
            return verdict
        prev, count = message.prev_index, len(message.terms)
        return Fresh(0, prev, message.prev_term, prev < log.last_index, prev + count)

    patch.setattr(following, "judge_append", judge)


def _commit_unmatched(patch: pytest.MonkeyPatch) -> None:
    """A heartbeat commits whatever is in the receiver's own log (D3)."""
    plain = Following.on_append

    def on_append(self: Any, peer: str, message: Append) -> None:
        plain(self, peer, message)
        self.told_commit(min(message.commit_index, self._log.last_index))

    patch.setattr(Following, "on_append", on_append)


def _replies_of_any_term(patch: pytest.MonkeyPatch) -> None:
    plain = RaftNode._on_append_reply

    def on_reply(self: Any, peer: str, reply: AppendReply) -> None:
        plain(self, peer, AppendReply(self.term, reply.next_index, reply.reset, reply.success))

    patch.setattr(RaftNode, "_on_append_reply", on_reply)


def _votes_counted_twice(patch: pytest.MonkeyPatch) -> None:
    plain = Candidacy.on_vote

    def on_vote(self: Any, peer: str, message: Any) -> None:
        plain(self, peer, message)
        self._votes.clear()

    patch.setattr(Candidacy, "on_vote", on_vote)


def _newer_term_unheard(patch: pytest.MonkeyPatch) -> None:
    def adopt(self: SosRaft, node: str, term: int) -> None:
        """As the library: nobody tells a leader that it is old."""

    patch.setattr(SosRaft, "adopt_term", adopt)


def _no_pre_vote(patch: pytest.MonkeyPatch) -> None:
    """Whoever is connected to anybody campaigns, as in the library."""

    def may_campaign(self: Any) -> bool:
        return bool(self._membership.connected_voters())

    patch.setattr(Candidacy, "may_campaign", may_campaign)


def _apply_again(patch: pytest.MonkeyPatch) -> None:
    """A restart replays the log from its beginning, as the library does (1.8)."""
    plain = SosRaft.start_at

    def start_at(self: SosRaft, applied_index: int, commit_index: int) -> None:
        plain(self, 1 if applied_index == commit_index else applied_index, commit_index)

    patch.setattr(SosRaft, "start_at", start_at)


def _install_over_log(patch: pytest.MonkeyPatch) -> None:
    def decide(log: LogView, commit_index: int, point: Any) -> snapshot.InstallDecision:
        if point.index <= commit_index:
            return snapshot.InstallDecision.IGNORE
        return snapshot.InstallDecision.INSTALL

    patch.setattr(node_module, "decide_install", decide)


def _install_before_term(patch: pytest.MonkeyPatch) -> None:
    """A copy of a newer term replaces the log, and the vote file stays as it is."""
    plain = RaftNode._adopt

    def adopt(self: Any, peer: str, term: int) -> None:
        if peer != self.self_id:
            plain(self, peer, term)

    patch.setattr(RaftNode, "_adopt", adopt)


def _lost_leadership_is_definite(patch: pytest.MonkeyPatch) -> None:
    """LEADER_CHANGED taken for a failure: 6.7 % of those had been applied (D9)."""
    plain = Proposals.refuse_queued

    def refuse(self: Any) -> None:
        plain(self)
        for index in list(self._waiting):
            self._waiting.pop(index).done(Refused(reason=RefusedReason.NOT_LEADER))

    patch.setattr(Proposals, "refuse_queued", refuse)


def _no_prompt_send(patch: pytest.MonkeyPatch) -> None:
    """New entries wait for the next heartbeat."""
    plain = Proposals.take

    def take(self: Any) -> bool:
        plain(self)
        return False

    patch.setattr(Proposals, "take", take)


def _barrier_without_majority(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReadRounds, "is_confirmed", staticmethod(lambda *_: True))


def _barrier_before_own_term(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SosRaft, "own_term_committed", SosRaft.is_leader)


def _lists_unguarded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(membership, "check_change", lambda *_, **__: None)


def _no_window(patch: pytest.MonkeyPatch) -> None:
    """Everything that is in the log is sent, whatever the peer has acknowledged."""
    plain = Feed.__init__

    def init(self: Any, **parts: Any) -> None:
        plain(self, **{**parts, "settings": replace(parts["settings"], unacked_bytes_max=2**40)})

    patch.setattr(Feed, "__init__", init)


def _counted_by_name(patch: pytest.MonkeyPatch) -> None:
    """A wiped node comes back under its old node id."""
    patch.setattr(Bed, "next_incarnation", lambda self, name: name)


SWITCHES: Final[dict[str, Switch]] = {
    "vote_in_memory": Switch(point=3, promise="P9", turn_off=_vote_in_memory),
    "no_fsync": Switch(point=4, promise="P1", turn_off=_no_fsync),
    "ack_before_sync": Switch(point=4, promise="P12", turn_off=_ack_before_sync),
    "leader_never_syncs": Switch(point=4, promise="P12", turn_off=_leader_never_syncs),
    "counted_by_name": Switch(point=5, promise="P9", turn_off=_counted_by_name),
    "cut_always": Switch(point=6, promise="P1", turn_off=_cut_always),
    "commit_unmatched": Switch(point=6, promise="P10", turn_off=_commit_unmatched),
    "replies_of_any_term": Switch(point=6, promise="P12", turn_off=_replies_of_any_term),
    "votes_counted_twice": Switch(point=6, promise="P9", turn_off=_votes_counted_twice),
    "newer_term_unheard": Switch(point=6, promise="P17", turn_off=_newer_term_unheard),
    "no_pre_vote": Switch(point=7, promise="P17", turn_off=_no_pre_vote),
    "apply_again": Switch(point=8, promise="P22", turn_off=_apply_again),
    "install_over_log": Switch(point=9, promise="P1", turn_off=_install_over_log),
    "install_before_term": Switch(point=9, promise="P1", turn_off=_install_before_term),
    "lost_leadership_is_definite": Switch(
        point=10, promise="P3", turn_off=_lost_leadership_is_definite
    ),
    "no_prompt_send": Switch(point=11, promise="P17", turn_off=_no_prompt_send),
    "barrier_without_majority": Switch(point=12, promise="P8", turn_off=_barrier_without_majority),
    "barrier_before_own_term": Switch(point=12, promise="P8", turn_off=_barrier_before_own_term),
    "lists_unguarded": Switch(point=13, promise="P10", turn_off=_lists_unguarded),
    "no_window": Switch(point=16, promise="P18", turn_off=_no_window),
}
