"""The table of members: what the leader knows of each, as it is shared and as `sos status` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sos.catalog.model import NodeId
from sos.core.catchup import MemberView
from sos.core.newcomers import Newcomer
from sos.raft.members import Member as RaftMember

if TYPE_CHECKING:
    from sos.core.member import Member

# Behind the commit index: a moment of writes, not a backlog. Enough to begin a resync, not to be called in sync.
_CAUGHT_UP_ENTRIES: Final = 2000


def member_views(member: Member) -> list[MemberView]:
    """What this node knows of the copies of each member and learner; owed counts are the catalog's."""
    connected = {*member.connected(), member.node}
    commit = member.raft.commit_index
    listed = [NodeId(row.node) for row in member.raft.members.members]
    learners = [node for node in member.driver.learners if node not in listed]
    views = []
    with member.store.view() as view:
        # What a member misses is kept in mind from its list entry on, once that is applied.
        owing = {row.node for row in view.members()}
        for node in (*listed, *learners):
            report = member.peers.report(node)
            copies = view.member_copies(node)
            applied = -1 if report is None else report.applied_index
            views.append(
                MemberView(
                    node=node,
                    is_connected=node in connected,
                    has_gateway=report is not None and report.has_gateway,
                    is_caught_up=applied >= 0 and commit - applied <= _CAUGHT_UP_ENTRIES,
                    is_up_to_date=member.peers.is_up_to_date(node),
                    doubt=-1 if report is None else report.doubt,
                    blobs_owed=0 if copies is None else copies.blobs_owed,
                    bytes_owed=0 if copies is None else copies.bytes_owed,
                    is_listed=node in listed and node in owing,
                )
            )
    return views


def member_rows(member: Member, views: list[MemberView]) -> list[dict[str, Any]]:
    """The leader's table, as `sos status` shows it."""
    by_node: dict[NodeId, Newcomer | RaftMember] = {**member.driver.learners}
    by_node |= {NodeId(listed.node): listed for listed in member.raft.members.members}
    rows = []
    for view in views:
        listed = by_node[view.node]
        report = member.peers.report(view.node)
        disk = member.peers.disk(view.node)
        is_compared = member.catch_up.is_compared(view)
        rows.append(
            {
                "name": listed.name,
                "node": view.node,
                "address": listed.address,
                "s3": listed.s3_address,
                "reachable": view.is_connected,
                "voter": view.is_listed,
                "leaving": isinstance(listed, RaftMember) and listed.leaving,
                "applied_index": None if report is None else report.applied_index,
                "in_sync": member.catch_up.is_in_sync(view),
                "blobs_owed": view.blobs_owed if is_compared else None,
                "bytes_owed": view.bytes_owed if is_compared else None,
                "eta_s": member.catch_up.eta_s(view.node),
                "resync": member.catch_up.resync(view.node),
                "disk_low": report is not None and report.is_disk_low,
                "free_bytes": None if report is None else report.free_bytes,
                "disk_full": disk is not None and disk.is_full,
                "sync_ms": None if disk is None or disk.sync_s is None else disk.sync_s * 1000,
                "version": None if report is None else report.version,
                "level": None if report is None else report.level,
            }
        )
    return rows
