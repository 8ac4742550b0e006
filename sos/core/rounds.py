"""What a member does at intervals: report, look at disk, log and digests, raise the sweep floor; and, leading, care for all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sos import __version__, levels
from sos.catalog.model import NodeId, RaiseSweepFloor
from sos.clock import Clock
from sos.core import messages, table
from sos.core.catchup import MemberView
from sos.core.floor import FloorSamples
from sos.core.gossip import check_digests
from sos.core.handover import DiskReport, HandOver, Successor
from sos.core.messages import NodeReport
from sos.errors import FatalStop, OutcomeUnknown, Unavailable
from sos.raft.messages import encode_members
from sos.telemetry import log

if TYPE_CHECKING:
    from sos.core.member import Member


class Rounds:
    """Of one member; its timers call."""

    def __init__(self, member: Member, *, clock: Clock, floor_age_s: float) -> None:
        self._member = member
        self._hand_over = HandOver(clock)
        self._floor = FloorSamples(clock=clock, age_s=floor_age_s)
        self._floor_task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._digests: dict[int, bytes] = {}
        self._differs_at: int | None = None

    def stepped_down(self) -> None:
        """This node leads no longer."""
        self._hand_over.stepped_down()

    def report(self) -> None:
        """Tell the peers where this node stands; the leader also cares for members and shares its table."""
        node = self._member
        report = NodeReport(
            applied_index=node.raft.applied_index,
            digests=tuple(self._digests.items())[-4:],
            is_disk_low=node.disk.is_low,
            has_gateway=node.has_gateway,
            version=__version__,
            free_bytes=node.disk.free_bytes,
            doubt=node.doubt,
            level=levels.LEVEL,
        )
        disk = DiskReport(sync_s=node.sync_times.typical_s(), is_full=node.disk.is_full)
        payloads = (messages.encode_report(report), messages.encode_disk(disk))
        connected = node.connected()
        for peer in connected:
            for payload in payloads:
                node.raft.send_app(peer, payload)
        node.peers.take_report(node.node, report, commit_index=node.raft.commit_index)
        node.peers.take_disk(node.node, disk)
        node.contacts.announce()
        node.follow_list()
        if node.raft.is_leader:
            self._record_recovery()
            node.driver.update(table.member_views(node))
            views = table.member_views(node)  # again: the driver may have taken learners in
            self._mind_own_disk(disk, views)
            leaving = {row.node for row in node.raft.members.members if row.leaving}
            node.catch_up.update([view for view in views if view.node not in leaving])
            frame = messages.encode_table(
                {
                    "members": table.member_rows(node, views),
                    "warnings": node.driver.warnings,
                }
            )
            for peer in connected:
                node.raft.send_app(peer, frame)
        node.proposer.expire()
        node.own.expire()
        node.scrubs.update()
        node.push_state()

    def _mind_own_disk(self, own: DiskReport, views: list[MemberView]) -> None:
        """A leader whose disk is too slow or full hands over to a member whose disk is clearly better."""
        node = self._member
        staying = {m.node for m in node.raft.members.members if not m.leaving} - {node.node}
        successors = [
            Successor(node=view.node, disk=disk)
            for view in views
            if view.node in staying
            and view.is_connected
            and view.is_up_to_date
            and view.has_gateway
            and (disk := node.peers.disk(view.node)) is not None
        ]
        heir = self._hand_over.choose(own, successors)
        if heir is not None and node.raft.transfer_leadership(heir):
            log.warning("core.leader.hands_over", to=heir, sync_s=own.sync_s, is_full=own.is_full)

    def _record_recovery(self) -> None:
        """After `sos recover` the survivors' list goes into the log before any other (protocols.md 3.7)."""
        node = self._member
        survivors = node.raft.list_to_record
        if survivors is not None:
            nodes = [member.node for member in survivors.members]
            log.warning("core.recovered", members=nodes, epoch=survivors.epoch)
            node.raft.propose(encode_members(survivors), lambda _: None)

    def each_second(self) -> None:
        node = self._member
        if node.disk.look():
            log.warning(
                "core.disk",
                is_low=node.disk.is_low,
                free_bytes=node.disk.free_bytes,
            )
            node.push_state()
        node.log_holds.update(node.peers.applied)
        node.raft.compact(node.store.durable_index)
        node.store.clear_stale_readers()
        with node.store.view() as view:
            self._digests = dict(view.digests().kept)
        self._check_digests()

    def _check_digests(self) -> None:
        node = self._member
        members = node.raft.members
        reports = [
            node.peers.report(NodeId(m.node)) for m in members.members if m.node != node.node
        ]
        known = [report for report in reports if report is not None]
        try:
            differs = check_digests(self._digests, known, majority=members.majority)
        except FatalStop as error:
            node.stop(error)
            return
        if differs is not None and differs != self._differs_at:
            log.error("core.digests.differ", index=differs)
        self._differs_at = differs

    def sample_floor(self) -> None:
        node = self._member
        self._floor.sample(node.raft.applied_index)
        floor = self._floor.floor()
        if not node.raft.is_leader or floor is None or self._floor_task is not None:
            return
        with node.store.view() as view:
            if floor <= view.sweep_floor():
                return
        self._floor_task = self._loop.create_task(self._raise_floor(floor))

    async def _raise_floor(self, floor: int) -> None:
        try:
            await self._member.own.propose(RaiseSweepFloor(floor_index=floor))
        except (Unavailable, OutcomeUnknown) as error:
            log.info("core.floor.later", floor=floor, why=str(error))
        finally:
            self._floor_task = None
