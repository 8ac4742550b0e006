"""A formed node: Raft over the catalog, driven from the loop, with all that hangs on its turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sos.catalog.codec import decode_formation
from sos.catalog.model import BlobId, Command, FormationRecord, NodeId, Result
from sos.catalog.store import CatalogStore
from sos.clock import Clock, IdSource
from sos.config import Config
from sos.core import table
from sos.core.barriers import Barriers
from sos.core.catchup import CatchUp
from sos.core.change_requests import ChangeRequests
from sos.core.changes import Changes
from sos.core.contacts import Contacts
from sos.core.disk_watch import DiskWatch
from sos.core.driver import MemberDriver
from sos.core.gossip import REPORT_S, Peers
from sos.core.holders import HolderReports
from sos.core.inbox import Inbox
from sos.core.jobs import Jobs
from sos.core.log_holds import LogHolds
from sos.core.members import blob_quorum, member_states, to_raft_list
from sos.core.proposer import OwnProposals, Proposer, Row
from sos.core.rounds import Rounds
from sos.core.scrubs import Scrubs
from sos.core.snapshots import SnapshotFetch, decode_point
from sos.core.sync_times import SyncTimes
from sos.disk_sizes import disk_sizes
from sos.errors import EXIT_REMOVED, FatalStop
from sos.limits import COMMIT_S_MAX, DRAIN_S_MAX, MIB
from sos.link.protocol import Barrier, NodeState
from sos.link.server import Connection, LinkServer
from sos.raft.api import RaftSettings
from sos.raft.identity import Formed, Identity
from sos.raft.journal import FileJournal
from sos.raft.messages import decode_members
from sos.raft.node import RaftNode
from sos.raft.transport import NodeTransport
from sos.telemetry import log

_TICK_S: Final = 0.02
_SECOND_S: Final = 1.0
# A transaction of the catalog costs about 0.9 ms of CPU besides its rows, most of it in the kernel: 7 writes in
# one take 146 us each, 28 take 95. Readers do not wait: a barrier asks for what it needs.
_APPLY_GATHER_S: Final = 0.04
_DOUBT_BITS: Final = 32
_ANSWER_MAX: Final = 255  # a later release may know more answers than this one
_REMOVED_S: Final = 1.5  # so long a removed node still answers whoever asked it for that
_OLD_GENERATION_S: Final = 30.0  # gateways change to a new generation with their next view


class Member:
    """Everything of a core that exists once the node belongs to a cluster. Belongs to one loop."""

    def __init__(
        self,
        *,
        config: Config,
        identity: Identity,
        journal: FileJournal,
        store: CatalogStore,
        transport: NodeTransport,
        link: LinkServer,
        clock: Clock,
        ids: IdSource,
        sync_times: SyncTimes,
        stop: Callable[[BaseException], None],
    ) -> None:
        assert isinstance(identity.formation, Formed)
        self.record: FormationRecord = decode_formation(identity.formation.record)
        self.node = identity.node
        self.data = Path(config.node.data)
        self.store = store
        self._config = config
        self._clock = clock
        self._transport = transport
        self._link = link
        self.stop = stop
        self._loop = asyncio.get_running_loop()
        boundary, listed = store.boundary(), store.members()
        self.sync_times = sync_times
        self.disk = DiskWatch(config.node.data, sizes=disk_sizes(config))
        self.raft = RaftNode(
            self_id=self.node,
            members=to_raft_list(listed.members, epoch=listed.epoch),
            recovered=decode_members(identity.recovered) if identity.recovered else None,
            journal=journal,
            machine=store,
            links=transport,
            clock=clock,
            ids=ids,
            settings=RaftSettings(
                apply_gather_s=_APPLY_GATHER_S,
                entry_room_bytes=self.disk.floor_bytes,
                vote_room_bytes=min(self.disk.floor_bytes // 8, MIB),
            ),
            installed_at=None if boundary is None else decode_point(boundary),
        )
        self.raft.wake = self._schedule_tick
        self.raft.room_bytes = self.disk.room_bytes
        self.raft.has_apply_room = self._has_apply_room
        self.proposer = Proposer(self.raft, clock=clock, lowest_level=self._lowest_level)
        self.barriers = Barriers(self.raft)
        self.own = OwnProposals(
            self.proposer,
            clock=clock,
            session=ids.random_bytes(8),
            applied=lambda: self.raft.applied_index,
        )
        # Of another life of this process it is always another one: what died with it was perhaps not reported.
        self.doubt = identity.boot << _DOUBT_BITS
        self.holders = HolderReports(
            self.own.propose, node=self.node, boot=identity.boot, on_doubt=self._raise_doubt
        )
        self.jobs = Jobs(link)
        self.catch_up = CatchUp(clock=clock, start_job=self.jobs.start, cancel_job=self.jobs.cancel)
        self.peers = Peers(clock=clock)
        self.scrubs = Scrubs(
            node=self.node,
            start_job=self.jobs.start,
            broadcast=self.broadcast,
            clock=clock,
            ids=ids,
        )
        self.snapshots = SnapshotFetch(
            raft=self.raft,
            store=store,
            start_job=self.jobs.start,
            cancel_job=self.jobs.cancel,
        )
        self.snapshots.installed = self._on_installed
        self.log_holds = LogHolds(raft=self.raft, store=store, clock=clock)
        self.raft.on_need_snapshot = lambda peer, index: self.snapshots.need(NodeId(peer), index)
        self.contacts = Contacts(
            node=self.node,
            config=config,
            raft=self.raft,
            store=store,
            transport=transport,
            clock=clock,
        )
        self.changes = Changes(clock=clock)
        self.driver = MemberDriver(
            node=self.node,
            clock=clock,
            raft=self.raft,
            store=store,
            contacts=self.contacts,
            peers=self.peers,
            catch_up=self.catch_up,
            changes=self.changes,
            views=lambda: table.member_views(self),
            away_s_min=config.test.wiped_away_s,
            level=self._needed_level,
        )
        self.change_requests = ChangeRequests(
            self.raft,
            self.changes,
            barrier=self.barriers.request,
            situation=self.driver.situation,
            removed=lambda: self.node if self._is_removed else None,
        )
        self._list = self.raft.members  # as it was last followed
        self._rounds = Rounds(self, clock=clock, floor_age_s=config.test.orphan_age_s)
        inbox = Inbox(
            raft=self.raft,
            proposer=self.proposer,
            peers=self.peers,
            snapshots=self.snapshots,
            scrubs=self.scrubs,
            contacts=self.contacts,
            change_requests=self.change_requests,
            log_holds=self.log_holds,
        )
        self.raft.on_app = inbox.take
        self._is_tick_due = False
        self._is_closed = False
        self._is_removed = self._is_ending = False
        self._is_leader = False
        self._leader: str | None = None
        self._pushed = NodeState()
        self._timers: list[asyncio.TimerHandle] = []
        self._handed_over = asyncio.Event()
        self.ticks = 0

    # --- life -------------------------------------------------------------------------------------
    def start(self) -> None:
        """Take part: dial the members, tick, tell the gateways."""
        self.disk.look()
        self.follow_list()
        self._transport.set_raft_handler(self)
        self._every(_TICK_S, self._tick)
        self._every(REPORT_S, self._rounds.report)
        self._every(_SECOND_S, self._rounds.each_second)
        self._every(self._config.test.sweep_period_s, self._rounds.sample_floor)
        self.push_state()

    def _every(self, seconds: float, action: Callable[[], None]) -> None:
        slot = len(self._timers)

        def run() -> None:
            self._timers[slot] = self._loop.call_later(seconds, run)
            action()

        self._timers.append(self._loop.call_later(seconds, run))

    async def drain(self, deadline_s: float) -> None:
        """Hand the leadership over, if somebody can take it."""
        self._handed_over.clear()
        if not self.raft.transfer_leadership():
            return
        try:
            async with asyncio.timeout(deadline_s):
                await self._handed_over.wait()
        except TimeoutError:
            log.warning("core.drain.still_leader")

    def quiesce(self) -> None:
        """Turn no more: what still arrives finds nobody."""
        self._is_closed = True
        for timer in self._timers:
            timer.cancel()

    def close(self) -> None:
        """Answer everybody who waits; close journal and catalog. After ``quiesce``."""
        self.proposer.refuse_waiting()
        self.raft.close()
        self.store.close()

    # --- turns ------------------------------------------------------------------------------------
    def _schedule_tick(self) -> None:
        if not self._is_tick_due:
            self._is_tick_due = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._is_tick_due = False
        if self._is_closed:
            return
        self.ticks += 1
        try:
            self.raft.tick()
        except FatalStop as error:
            self.stop(error)
            return
        self._link.applied_index = self.raft.applied_index
        self.barriers.release()
        self.driver.turn()
        if self.raft.members is not self._list:
            self.follow_list()
        leader = self.raft.leader
        if leader != self._leader or self.raft.is_leader != self._is_leader:
            self._leader_changed(leader)

    def _leader_changed(self, leader: str | None) -> None:
        self._leader = leader
        self.proposer.give_up(lambda old: old != leader)
        if self._is_leader != self.raft.is_leader:
            self._is_leader = self.raft.is_leader
            if not self._is_leader:
                self._handed_over.set()
                self._rounds.stepped_down()
                self.proposer.refuse_waiting()
            self.catch_up.reset()
            self.driver.reset()
        log.info("core.leader", leader=leader, term=self.raft.term, self_leads=self._is_leader)
        self.push_state()

    # --- what the transport calls -----------------------------------------------------------------
    def on_connected(self, peer: str) -> None:
        if self._is_closed:
            return
        self.raft.on_connected(peer)
        self.push_state()

    def on_disconnected(self, peer: str) -> None:
        if self._is_closed:
            return
        self.raft.on_disconnected(peer)
        self.peers.forget(NodeId(peer))
        self.contacts.newcomers.forget(NodeId(peer))
        self.contacts.relocated.forget(NodeId(peer))
        self.proposer.give_up(lambda leader: leader == peer)
        self.push_state()

    def on_frame(self, peer: str, frame: bytes) -> None:
        """Raises: MessageRefused (the transport closes that connection)."""
        if self._is_closed:
            return
        try:
            self.raft.on_frame(peer, frame)
        except FatalStop as error:
            self.stop(error)

    # --- what gateways ask ------------------------------------------------------------------------
    def submit(self, connection: Connection, rows: list[Row]) -> None:
        self.proposer.submit(rows, connection)

    def barrier(self, connection: Connection, round_number: int) -> None:
        def done(index: int | None) -> None:
            if index is None:
                connection.fail_barrier(round_number)
            else:
                barrier = Barrier(generation=self.store.generation, index=index)
                connection.pass_barrier(round_number, barrier)

        self.barriers.request(done)

    def report_holders(
        self,
        connection: Connection,
        report: int,
        gained: tuple[BlobId, ...],
        lost: tuple[BlobId, ...],
    ) -> None:
        self.holders.add(gained, lost, lambda is_done: connection.answer_holders(report, is_done))

    def gateway_lost(self, connection: Connection) -> None:
        """Its jobs ended with it, and perhaps it knew of lost copies that it had not told yet."""
        self.jobs.gateway_lost(connection)
        self._raise_doubt()

    @property
    def has_gateway(self) -> bool:
        """Whether gateway 0, which works on jobs, is there."""
        return self._link.first_gateway() is not None

    def _raise_doubt(self) -> None:
        self.doubt += 1

    def connected(self) -> tuple[str, ...]:
        """Peers with an open connection."""
        return self._transport.connected()

    async def propose(self, command: Command, *, deadline_s: float = COMMIT_S_MAX) -> Result:
        """A command of the core's own. Raises: Unavailable, OutcomeUnknown."""
        return await self.own.propose(command, deadline_s=deadline_s)

    async def is_ready(self) -> bool:
        """Whether a linearizable request succeeds now: a gateway serves, and one barrier passes."""
        if not self._link.is_serving:
            return False
        done: asyncio.Future[int | None] = self._loop.create_future()

        def passed(index: int | None) -> None:
            if not done.done():
                done.set_result(index)

        self.barriers.request(passed)
        try:
            async with asyncio.timeout(RaftSettings().barrier_s_max + 1.0):
                return await done is not None
        except TimeoutError:
            return False

    # --- now and then -----------------------------------------------------------------------------
    def broadcast(self, payload: bytes) -> None:
        """To every connected peer."""
        for peer in self._transport.connected():
            self.raft.send_app(peer, payload)

    def _lowest_level(self) -> int:
        """What every member applies; the leader proposes nothing above it."""
        nodes = [NodeId(row.node) for row in self.raft.members.members]
        return self.peers.lowest_level(nodes, active=self.applied_level())

    def applied_level(self) -> int:
        """The level that the catalog has: no build below it can serve it any more."""
        with self.store.view() as view:
            return view.level()

    def _needed_level(self) -> int:
        """What a newcomer must apply: a command of this level is in the catalog, or on its way there."""
        return max(self.applied_level(), self.proposer.level)

    def _on_installed(self) -> None:
        self.push_state()
        self._loop.call_later(_OLD_GENERATION_S, self._remove_old_generations)

    def _remove_old_generations(self) -> None:
        """In a thread: unlinking a large file takes longer than an election timeout."""
        if not self._is_closed:
            self._loop.run_in_executor(None, self.store.remove_old_generations)

    # --- pictures ---------------------------------------------------------------------------------
    def push_state(self) -> None:
        """Tell the gateways, if anything changed."""
        members = self.raft.members
        leader = self.raft.leader
        state = NodeState(
            node=self.node,
            cluster_id=self.record.cluster_id,
            is_formed=True,
            generation=self.store.generation,
            applied_index=self.raft.applied_index,
            leader=None if leader is None else NodeId(leader),
            is_leader=self.raft.is_leader,
            members=member_states(members, own=self.node, connected=self._transport.connected()),
            write_quorum=blob_quorum(members),
            is_disk_low=self._is_disk_low(),
            others=self.contacts.others(self.driver.learners),
            is_removed=self._is_ending,
        )
        if state != self._pushed:
            self._pushed = state
            self._link.push_state(state)

    def _has_apply_room(self) -> bool:
        """The catalog's disk can take the next entries, also if a foreign process fills it meanwhile."""
        needed = self.disk.floor_bytes // 4
        return self.disk.room_bytes() >= needed and self.store.keep_room(needed)

    def _is_disk_low(self) -> bool:
        """New writes are refused: this disk is low, or so many others are that no majority has room."""
        if self.disk.is_low:
            return True
        reports = [self.peers.report(NodeId(m.node)) for m in self.raft.members.members]
        low = sum(report is not None and report.is_disk_low for report in reports)
        return len(reports) - low < self.raft.members.majority

    def follow_list(self) -> None:
        """Dial the members in force, know whom lists removed; a node that was removed itself ends here."""
        self._list = self.raft.members
        try:
            self.contacts.look()
        except FatalStop as error:
            if error.exit_code == EXIT_REMOVED:
                self._end_removed(error)
            else:
                self.stop(error)  # put back to an older state: nothing more may leave it
        self.push_state()

    def _end_removed(self, error: FatalStop) -> None:
        """Say so for a moment, then let the gateways drain: the node ends with the last of them."""
        if self._is_removed:
            return
        self._is_removed = True
        log.error("core.removed", why=str(error))

        def drain() -> None:
            self._is_ending = True
            self.push_state()

        self._loop.call_later(_REMOVED_S, drain)
        self._loop.call_later(_REMOVED_S + DRAIN_S_MAX, self.stop, error)
