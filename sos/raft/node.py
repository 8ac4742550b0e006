"""One member's Raft: proposals, barriers and frames in; applied entries and frames out.

One thread calls everything. A turn (``tick``) goes: take proposals and send them; make durable and acknowledge
what came in; let the core elect, commit and apply; make durable what is left. So followers write while the leader
writes, and one sync serves all that came since the last turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Final, assert_never

from sos.clock import Clock, IdSource
from sos.errors import EXIT_BUG, EXIT_DISK, FatalStop
from sos.raft import messages as m
from sos.raft.api import (
    BarrierDone,
    Links,
    Log,
    NodeId,
    PeerStatus,
    ProposeDone,
    RaftSettings,
    Refused,
    RefusedReason,
    StateMachine,
)
from sos.raft.applying import Applying
from sos.raft.barriers import Barriers
from sos.raft.candidacy import Candidacy
from sos.raft.engine import SosRaft, check_library
from sos.raft.feed import Feed
from sos.raft.following import Following
from sos.raft.members import MemberList
from sos.raft.membership import Membership
from sos.raft.proposals import Proposals
from sos.raft.snapshot import (
    InstallDecision,
    SnapshotPoint,
    check_attached,
    decide_install,
    must_finish_install,
)

SWEEP_S: Final = 0.1  # how often deadlines are looked at


class RaftNode:
    """The facade; see the package's docstring."""

    def __init__(
        self,
        *,
        self_id: NodeId,
        members: MemberList,
        journal: Log,
        machine: StateMachine,
        links: Links,
        clock: Clock,
        ids: IdSource,
        settings: RaftSettings | None = None,
        installed_at: SnapshotPoint | None = None,
        recovered: MemberList | None = None,
    ) -> None:
        """``members``: the list as of the machine's applied index; ``installed_at``: the snapshot it began from;
        ``recovered``: the survivors' list of `sos recover`.

        Raises: StartRefused, LogDetached.
        """
        self.self_id = self_id
        self.wake: Callable[[], None] = _nothing
        self.on_app: Callable[[NodeId, bytes], None] = _drop_app
        self.on_need_snapshot: Callable[[NodeId, int], None] = _drop_need
        self.room_bytes: Callable[[], int] = _unlimited  # free bytes of the disk; see RaftSettings
        self.has_apply_room: Callable[[], bool] = _always  # for what is applied next
        self._settings = settings = settings or RaftSettings()
        self._log = journal
        self._machine = machine
        self._links = links
        self._clock = clock
        self._feed_due = False
        self._sweep_at_s = clock.monotonic()
        self._awake = False
        self._heir: NodeId | None = None  # of a hand-over: None, whoever is ready first

        check_library()
        applied = machine.applied()
        if must_finish_install(journal, applied, installed_at):
            assert installed_at is not None
            _finish_install(journal, installed_at)
        core = self._core = SosRaft(
            self_id=self_id,
            journal=journal,
            hooks=self,
            clock=clock,
            random=Random(ids.random_bytes(8)),  # noqa: S311  # election timeouts, no secrets
            settings=settings,
        )
        check_attached(journal, applied)
        noted = min(journal.getRaftCommitIndex(), journal.last_index)
        core.start_at(applied[0], max(applied[0], noted))
        self._make_parts(members, recovered, ids)
        self._membership.scan(journal, applied[0] + 1, settings.batch_bytes)
        journal.sync()

    def _make_parts(self, members: MemberList, recovered: MemberList | None, ids: IdSource) -> None:
        core, log, clock, settings = self._core, self._log, self._clock, self._settings
        self._feed = Feed(core=core, log=log, send=self._links.send, settings=settings)
        self._membership = membership = Membership(
            self_id=self.self_id,
            core=core,
            feed=self._feed,
            applied_index=core.applied_index(),
            members=members,
            recovered=recovered,
        )
        self._candidacy = Candidacy(
            core=core,
            log=log,
            membership=membership,
            send=self._send,
            clock=clock,
            settings=settings,
        )
        self._following = Following(
            core=core,
            log=log,
            membership=membership,
            candidacy=self._candidacy,
            send=self._send,
        )
        self._proposals = Proposals(
            core=core, log=log, membership=membership, clock=clock, settings=settings
        )
        self._applying = Applying(
            core=core,
            log=log,
            machine=self._machine,
            membership=membership,
            proposals=self._proposals,
            clock=clock,
            settings=settings,
            wake=self._wake,
        )
        self._barriers = Barriers(
            core=core,
            membership=membership,
            send=self._send,
            clock=clock,
            settings=settings,
            # an answer to a former life's question must not match one of ours
            first_seq=int.from_bytes(ids.random_bytes(7), "big"),
        )

    # --- what it shows ----------------------------------------------------------------------------
    @property
    def is_leader(self) -> bool:
        """Only for routing: a cut-off leader believes in itself for a while. Reads take a barrier."""
        return self._core.is_leader()

    @property
    def leader(self) -> NodeId | None:
        return self._core.leader()

    @property
    def term(self) -> int:
        return self._core.term()

    @property
    def commit_index(self) -> int:
        return self._core.commit_index()

    @property
    def applied_index(self) -> int:
        return self._core.applied_index()

    @property
    def members(self) -> MemberList:
        """The list in force, committed or not."""
        return self._membership.in_force

    def match_index(self, node: NodeId) -> int:
        """The highest index that a fed node is known to hold durably, while this node leads."""
        return self._core.match_index(node)

    @property
    def may_change_members(self) -> bool:
        """Whether this leader may append a list now, and has applied the last one (protocols.md 3.2)."""
        return self._core.own_term_committed() and self._membership.is_applied

    @property
    def list_to_record(self) -> MemberList | None:
        """What this leader must propose before any other list: the survivors' list of `sos recover`."""
        is_able = self._core.is_leader() and self._core.own_term_committed()
        return self._membership.unrecorded if is_able else None

    @property
    def is_recovering(self) -> bool:
        """Whether the log does not hold the list of `sos recover` yet: all survivors must come together first."""
        return self._membership.unrecorded is not None

    @property
    def unacked_bytes_peak(self) -> int:
        """The most that was ever on the way to one peer without acknowledgement."""
        return self._feed.unacked_bytes_peak

    def peers(self) -> tuple[PeerStatus, ...]:
        """The other members and the learners, for status."""
        core, leads, membership = self._core, self.is_leader, self._membership
        return tuple(
            PeerStatus(
                node=node,
                voter=node in membership.voters,
                learner=node in membership.learners,
                connected=core.is_connected(node),
                match_index=core.match_index(node) if leads else None,
                heard_s_ago=core.heard_s_ago(node) if leads else None,
            )
            for node in sorted((membership.voters | membership.learners) - {self.self_id})
        )

    # --- what the core of the process calls -------------------------------------------------------
    def tick(self) -> None:
        """One turn. Raises: FatalStop, and nothing else."""
        self._awake = False
        self._guarded(self._turn)

    def propose(self, payload: bytes, done: ProposeDone) -> None:
        """Append ``payload`` to the log; ``done`` is called once, perhaps at once. Leader only."""
        if self._core.is_leader() and not self._has_entry_room():
            done(Refused(reason=RefusedReason.QUEUE_FULL))
            return
        if self._proposals.add(payload, done):
            self._wake()

    def barrier(self, done: BarrierDone) -> None:
        """``done(index)``: once this node applied ``index``, its state holds all acknowledged before the call."""

        def answered(index: int | None) -> None:
            if index is not None and index > self._core.applied_index():
                self._applying.want(index)
                self._wake()
            done(index)

        self._barriers.add(answered)
        self._guarded(self._barriers.turn)  # at once: it needs nothing of a turn

    def send_app(self, peer: NodeId, payload: bytes) -> bool:
        """Send bytes of the core's own; False: they certainly did not go."""
        return self._links.send(peer, m.APP_BYTE + payload)

    def set_learners(self, nodes: Collection[NodeId]) -> None:
        """Nodes that are fed while this node leads, and counted for nothing."""
        self._membership.set_learners(nodes)

    def transfer_leadership(self, to: NodeId | None = None) -> bool:
        """Hand over to a member that holds the whole log; proposals wait meanwhile, for at most an election.

        ``to``: to nobody else. Returns: whether there is somebody to hand over to. It worked when ``is_leader``
        turns False.
        """
        heirs = self._membership.connected_voters()
        if not self._core.is_leader() or not heirs or (to is not None and to not in heirs):
            return False
        self._heir = to
        self._proposals.held_until_s = self._clock.monotonic() + self._settings.election_s_max
        self._wake()
        return True

    def compact(self, durable_index: int) -> None:
        """The state machine holds ``durable_index`` durably: entries before the one below it may go.

        Raises: FatalStop.
        """
        log = self._log
        keep_from = min(durable_index, self._core.applied_index()) - 1
        if keep_from > log.first_index:
            self._guarded(lambda: log.deleteEntriesTo(keep_from - log.first_index))

    def hold_log_from(self, index: int | None) -> None:
        """Keep the log from ``index`` on while a snapshot of that index is being served."""
        self._log.hold_from(index)

    def snapshot_point(self, index: int | None = None) -> SnapshotPoint | None:
        """Where a copy of the state machine at ``index`` (default: applied) stands; None if the log lacks it."""
        at = self._core.applied_index() if index is None else index
        if at > self._core.applied_index() or at - 1 < self._log.first_index:
            return None
        before = self._log.read_entries(at - 1, 1, self._settings.batch_bytes)[0]
        last = self._log.read_entries(at, 1, self._settings.batch_bytes)[0]
        return SnapshotPoint(index=at, term=last[2], entries=(before, last))

    def install(
        self, point: SnapshotPoint, members: MemberList, swap: Callable[[], None]
    ) -> InstallDecision:
        """Use a fetched copy of the state machine, if it is of use.

        Order (protocols.md 6): the term is durable, ``swap()`` makes the copy current durably, then the journal
        is reset. Proposals at or below its index become unknown. Raises: FatalStop.
        """
        decision = decide_install(self._log, self._core.commit_index(), point)
        if decision is InstallDecision.RAISE_COMMIT:
            self._following.told_commit(point.index)
        elif decision is InstallDecision.INSTALL:
            self._guarded(lambda: self._install(point, members, swap))
        self._wake()
        return decision

    def close(self) -> None:
        """Answer everybody who waits, and close the journal. Raises: FatalStop."""
        self._proposals.close()
        self._barriers.close()
        self._guarded(self._log.sync)
        self._guarded(self._log.close)

    # --- what the links call ----------------------------------------------------------------------
    def on_connected(self, peer: NodeId) -> None:
        """A new connection; what was sent over an older one may be lost."""
        self._core.use_clock()
        self._core.set_connected(peer, True)
        if self._core.is_leader() and self._membership.is_fed(peer):
            self._feed.connected(peer)
            self._feed_due = True
            self._wake()

    def on_disconnected(self, peer: NodeId) -> None:
        """No connection any more."""
        self._core.use_clock()
        self._core.set_connected(peer, False)
        if peer == self._core.leader():
            self._candidacy.leader_is_gone()
            self._barriers.leader_is_gone()

    def on_frame(self, peer: NodeId, frame: bytes) -> None:
        """One frame, in order within its connection. Raises: MessageRefused (close it), FatalStop."""
        message = m.decode(frame)
        self._guarded(lambda: self._receive(peer, message))

    # --- the turn ---------------------------------------------------------------------------------
    def _turn(self) -> None:
        core, log = self._core, self._log
        self._candidacy.turn()
        if self._proposals.are_queued and self._proposals.take():
            self.send_appends()  # at once: the library would wait for its next heartbeat
            self._links.flush()  # before the own sync, which blocks this thread
        if self._following.flush_replies():
            self._links.flush()  # an acknowledgement does not wait for apply
        self._following.advance_commit()
        core.library_tick()
        if core.is_leader():
            self._lead()
        else:
            self._proposals.refuse_queued()
        self._barriers.turn()
        log.sync()  # the leader's own copy, while the followers write theirs
        self._following.flush_replies()
        now = self._clock.monotonic()
        if now >= self._sweep_at_s:
            self._sweep_at_s = now + SWEEP_S
            self._proposals.sweep(now)
            self._barriers.sweep(now)

    def _lead(self) -> None:
        if self._feed_due:
            self._feed_due = False
            for peer in self._membership.fed_peers():
                self._feed.catch_up(peer)
        if self._proposals.are_held:
            self._hand_over()
        if self._membership.see_out():
            self._feed_due = True

    def _hand_over(self) -> None:
        last = self._log.last_index
        for peer in self._membership.connected_voters():
            if self._core.match_index(peer) == last and self._heir in (None, peer):
                self._send(peer, m.Transfer(self._core.term()))
                return

    # --- hooks of the core ------------------------------------------------------------------------
    def may_campaign(self) -> bool:
        has_room = self.room_bytes() >= self._settings.vote_room_bytes
        return has_room and self._candidacy.may_campaign()

    def before_leading(self) -> None:
        """Everything that belonged to an earlier leadership is void."""
        self._feed.reset()
        self._membership.before_leading()

    def send_appends(self) -> None:
        """Entries or a heartbeat to everybody who is connected."""
        self._core.next_heartbeat_in(self._settings.heartbeat_s)
        for peer in self._membership.fed_peers():
            self._feed.send_to(peer)

    def apply_committed(self) -> bool:
        has_work = self._core.commit_index() > self._core.applied_index()
        if has_work and not self.has_apply_room():
            return False
        return self._applying.turn()

    def core_send(self, node: NodeId, message: Mapping[str, object]) -> None:
        """The few messages that the core makes itself; acknowledgements wait for the sync."""
        kind = message["type"]
        if kind == "next_node_idx":
            next_index, success = message["next_node_idx"], message["success"]
            assert isinstance(next_index, int)
            assert isinstance(success, bool)
            reset = bool(message["reset"])
            self._following.reply_of_core(node, next_index, reset=reset, success=success)
        elif kind == "request_vote":
            if self._core.is_connected(node):
                log_term, log_index = self._candidacy.log_end()
                self._send(node, m.RequestVote(self._core.term(), log_index, log_term))
        elif kind == "response_vote":
            self._send(node, m.Vote(self._core.term()))
        else:
            raise FatalStop(f"raft: the core sends {kind}", exit_code=EXIT_BUG)

    # --- frames -----------------------------------------------------------------------------------
    def _receive(self, peer: NodeId, message: m.Message) -> None:
        core = self._core
        if self._lacks_vote_room(message):
            return  # as if it had not come yet
        match message:
            case m.App():
                self.on_app(peer, message.payload)
                return
            case m.Append() | m.NeedSnapshot() if not self._has_entry_room():
                self._following.only_hear(peer, message.term)
            case m.Append():
                self._following.on_append(peer, message)
            case m.AppendReply():
                self._on_append_reply(peer, message)
            case m.ReadAsk():
                is_current = message.term == core.term()
                self._send(peer, m.ReadAnswer(message.seq, core.term(), is_current))
                return
            case m.ReadAnswer():
                if message.term <= core.term():
                    self._barriers.confirmed_by(peer, message)
                    return
                self._adopt(peer, message.term)
            case m.BarrierAsk():
                self._barriers.asked_by(peer, message)
                return
            case m.BarrierAnswer():
                commits = self._following.on_barrier_answer(message)
                self._barriers.answered(message)
                if not commits:
                    return
            case m.NeedSnapshot():
                if self._following.on_need_snapshot(peer, message):
                    self.on_need_snapshot(peer, message.first_index)
            case m.RequestVote():
                self._candidacy.on_request(peer, message)
            case m.Vote():
                self._candidacy.on_vote(peer, message)
            case m.PreVote():
                self._candidacy.on_pre_vote(peer, message)
            case m.PreVoteOk():
                self._candidacy.on_pre_vote_ok(peer, message)
            case m.NewerTerm():
                self._adopt(peer, message.term)
            case m.Transfer():
                self._candidacy.on_transfer(peer, message)
            case _:
                assert_never(message)
        self._wake()

    def _has_entry_room(self) -> bool:
        return self.room_bytes() >= self._settings.entry_room_bytes

    def _lacks_vote_room(self, message: m.Message) -> bool:
        """Whether ``message`` may want a vote or a term written, and the disk has no room even for that."""
        match message:
            case m.App() | m.ReadAsk() | m.BarrierAsk() | m.BarrierAnswer() | m.PreVote():
                return False
            case m.RequestVote() | m.Vote() | m.PreVoteOk() | m.Transfer() | m.NewerTerm():
                wants = True
            case m.Append() | m.AppendReply() | m.ReadAnswer() | m.NeedSnapshot():
                wants = message.term > self._core.term()
            case _:
                assert_never(message)
        return wants and self.room_bytes() < self._settings.vote_room_bytes

    def _on_append_reply(self, peer: NodeId, reply: m.AppendReply) -> None:
        core = self._core
        self._adopt(peer, reply.term)
        if reply.term == core.term() and core.is_leader() and self._membership.is_fed(peer):
            self._feed_due |= self._feed.replied(peer, reply)

    def _adopt(self, peer: NodeId, term: int) -> None:
        """Whoever knows a higher term ends ours."""
        if term > self._core.term():
            self._core.adopt_term(peer, term)

    # --- helpers ----------------------------------------------------------------------------------
    def _install(self, point: SnapshotPoint, members: MemberList, swap: Callable[[], None]) -> None:
        # its source may follow a leader that this node never heard: a log must not be newer than the vote
        self._adopt(self.self_id, point.term)
        swap()
        assert self._machine.applied() == (point.index, point.term)
        self._log.reset_to(list(point.entries))
        self._core.start_at(point.index, point.index)
        self._membership.reset(point.index, members)
        self._proposals.skipped_to(point.index)
        self._following.installed(point.index)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Whatever goes wrong inside ends the process: replicas must not drift apart. Raises: FatalStop."""
        self._core.use_clock()
        try:
            action()
        except FatalStop:
            raise
        except OSError as error:
            raise FatalStop(f"raft: {error}", exit_code=EXIT_DISK) from error
        except Exception as error:
            raise FatalStop(f"raft: {error!r}", exit_code=EXIT_BUG) from error

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self.wake()

    def _send(self, peer: NodeId, message: m.Message) -> None:
        self._links.send(peer, m.encode(message))


def _finish_install(log: Log, point: SnapshotPoint) -> None:
    """Reset the journal to what an installed copy begins with. Raises: FatalStop, DiskFull."""
    if point.term > log.getCurrentTerm():
        log.setCurrentTerm(point.term, None)  # first: a log must not be newer than the vote
    log.reset_to(list(point.entries))


def _always() -> bool:
    return True


def _unlimited() -> int:
    """Nobody watches the disk."""
    return 1 << 62


def _nothing() -> None:
    """No loop yet."""


def _drop_app(peer: NodeId, payload: bytes) -> None:
    """No core yet."""


def _drop_need(peer: NodeId, index: int) -> None:
    """No core yet."""
