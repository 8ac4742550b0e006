"""Elections around the core's own: pre-vote, stickiness, votes counted once, and hand-overs."""

from __future__ import annotations

from sos.clock import Clock
from sos.raft import messages as m
from sos.raft.api import Log, NodeId, RaftSettings
from sos.raft.elections import PreVoteRound, grants_pre_vote
from sos.raft.engine import SosRaft
from sos.raft.membership import Membership


class Candidacy:
    """Decides when this node campaigns, and answers those who would."""

    def __init__(
        self,
        *,
        core: SosRaft,
        log: Log,
        membership: Membership,
        send: m.Send,
        clock: Clock,
        settings: RaftSettings,
    ) -> None:
        self._core = core
        self._log = log
        self._membership = membership
        self._send = send
        self._clock = clock
        self._settings = settings
        self._leader_heard_s = clock.monotonic()
        self._round = PreVoteRound(round_s=settings.election_s_min, resend_s=settings.heartbeat_s)
        self._votes: set[NodeId] = set()
        self._votes_term = 0
        self._now_term: int | None = None  # of the leader that asked for an election at once

    def log_end(self) -> tuple[int, int]:
        """(term, index) of the last entry, in the order of "up to date"."""
        last = self._log.last_index
        return self._log.term_at(last), last

    def may_campaign(self) -> bool:
        """The election deadline has passed: only a majority that would vote for us lets an election begin."""
        membership = self._membership
        if not membership.self_votes:
            return False  # protocols.md 1.5: also a node without peers simply waits
        if self._now_term is not None:
            self._now_term = None
            return True
        now, term = self._clock.monotonic(), self._core.term() + 1
        if self._round.due(
            now_s=now,
            term=term,
            voters=membership.voters,
            self_node=membership.self_id,
            # After `sos recover` an acknowledged entry may be on one survivor alone, and a majority without it.
            needs_all=membership.unrecorded is not None,
        ):
            return True
        if self._round.ask(now_s=now):
            log_term, log_index = self.log_end()
            for peer in membership.connected_voters():
                self._send(peer, m.PreVote(term, log_index, log_term))
        return False

    def turn(self) -> None:
        """A leader that hands over asked for an election at once."""
        if self._now_term is None:
            return
        if self._core.is_leader() or self._core.term() != self._now_term:
            self._now_term = None  # asked for in a term that is over: by now others may have led
        else:
            self._core.campaign_within(-1.0)

    def heard_leader(self) -> None:
        self._leader_heard_s = self._clock.monotonic()

    def leader_is_gone(self) -> None:
        """Its connection ended: replace it sooner than after a silence. Pre-vote makes a mistake harmless."""
        self._leader_heard_s = float("-inf")
        spread_s = self._settings.election_s_min / 2
        self._core.campaign_within(self._core.random_s(spread_s / 20, spread_s))

    def on_pre_vote(self, peer: NodeId, message: m.PreVote) -> None:
        core, settings = self._core, self._settings
        if message.term < core.term():
            self._send(peer, m.NewerTerm(core.term()))
            return
        granted = grants_pre_vote(
            candidate_log=(message.last_term, message.last_index),
            own_log=self.log_end(),
            leader_heard_s_ago=self._clock.monotonic() - self._leader_heard_s,
            election_s_min=settings.election_s_min,
            leads_with_quorum=self._membership.leads_with_quorum(settings.election_s_min),
        )
        if granted:
            self._send(peer, m.PreVoteOk(message.term))

    def on_pre_vote_ok(self, peer: NodeId, message: m.PreVoteOk) -> None:
        if peer in self._membership.voters:
            self._round.granted_by(peer, message.term)

    def on_request(self, peer: NodeId, message: m.RequestVote) -> None:
        """Votes are granted by log alone, also to a candidate that our list does not name (protocols.md 1.5)."""
        self._core.receive(
            peer,
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_term": message.last_term,
                "last_log_index": message.last_index,
            },
        )

    def on_vote(self, peer: NodeId, message: m.Vote) -> None:
        """Count each member's vote once per term: the core counts whatever comes."""
        if message.term != self._core.term() or peer not in self._membership.voters:
            return
        if self._votes_term != message.term:
            self._votes_term = message.term
            self._votes.clear()
        if peer in self._votes:
            return
        self._votes.add(peer)
        self._core.receive(peer, {"type": "response_vote", "term": message.term})

    def on_transfer(self, peer: NodeId, message: m.Transfer) -> None:
        """Campaign at once, without asking whether the leader is gone: it asked for this itself."""
        if message.term == self._core.term() and peer == self._core.leader():
            self._now_term = message.term
