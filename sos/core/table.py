"""The table of members: what the leader knows of each, as it is shared and as `sos status` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sos.catalog.model import NodeId
from sos.core.catchup import MemberView

if TYPE_CHECKING:
    from sos.core.member import Member

# Behind the commit index: a moment of writes, not a backlog. Enough to begin a resync, not to be called in sync.
_CAUGHT_UP_ENTRIES: Final = 2000


def member_views(member: Member) -> list[MemberView]:
    """What this node knows of each member's copies; owed counts are the catalog's."""
    connected = {*member.connected(), member.node}
    commit = member.raft.commit_index
    views = []
    with member.store.view() as view:
        for listed in member.raft.members.members:
            node = NodeId(listed.node)
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
                )
            )
    return views


def member_rows(member: Member, views: list[MemberView]) -> list[dict[str, Any]]:
    """The leader's table, as `sos status` shows it."""
    by_node = {listed.node: listed for listed in member.raft.members.members}
    rows = []
    for view in views:
        listed = by_node[view.node]
        report = member.peers.report(view.node)
        is_compared = member.catch_up.is_compared(view)
        rows.append(
            {
                "name": listed.name,
                "address": listed.address,
                "s3": listed.s3_address,
                "reachable": view.is_connected,
                "voter": True,
                "applied_index": None if report is None else report.applied_index,
                "in_sync": member.catch_up.is_in_sync(view),
                "blobs_owed": view.blobs_owed if is_compared else None,
                "bytes_owed": view.bytes_owed if is_compared else None,
                "eta_s": member.catch_up.eta_s(view.node),
                "disk_low": report is not None and report.is_disk_low,
                "free_bytes": None if report is None else report.free_bytes,
                "version": None if report is None else report.version,
            }
        )
    return rows
