"""The JSON of `sos status` (design, section 4), from a formed member or from a node that still waits."""

from __future__ import annotations

from typing import Any

from sos import __version__
from sos.catalog.model import NodeId
from sos.core.member import Member
from sos.core.table import member_rows, member_views


def formed_status(member: Member, *, is_ready: bool, warnings: list[str]) -> dict[str, Any]:
    """What this node knows; the members' table is the leader's, so that every node shows the same."""
    raft = member.raft
    leader = raft.leader
    rows = shown_members(member)
    voters = [row for row in rows if row["voter"]]
    reachable = sum(bool(row["reachable"]) for row in voters)
    lost = [row["name"] for row in voters if not row["reachable"]]
    counters = _counters(member)
    return {
        "cluster_id": member.record.cluster_id.hex(),
        "node": member.node,
        "leader": leader,
        "term": raft.term,
        "ready": is_ready,
        "members": rows,
        "commit_index": raft.commit_index,
        "applied_index": raft.applied_index,
        **_risk(voters, quorum=raft.members.majority),
        "quorum_impossible": lost if reachable < raft.members.majority else None,
        "version": __version__,
        "level": member.applied_level(),
        "disk": {
            "free_bytes": member.disk.free_bytes,
            "total_bytes": member.disk.total_bytes,
            "low": member.disk.is_low,
            "full": member.disk.is_full,
            "last_sync_ms": member.sync_times.last_s * 1000,
        },
        **counters,
        "damaged_blobs": member.scrubs.damaged_blobs,
        "warnings": [
            *(warnings + _member_warnings(member)),
            *_damage_warnings(member.scrubs.damaged_blobs),
        ],
    }


def _damage_warnings(damaged_blobs: int | None) -> list[str]:
    if not damaged_blobs:
        return []
    return [
        f"{damaged_blobs} blobs are damaged on all members, and what names them cannot be read: `sos scrub` lists "
        "them; write those objects again from your copy"
    ]


def _member_warnings(member: Member) -> list[str]:
    """What newcomers wait for, as the leader sees it, and this node itself if it is one."""
    leader = member.raft.leader
    if leader == member.node:
        return member.driver.warnings
    table = member.peers.table(None if leader is None else NodeId(leader))
    told = table.get("warnings") if table is not None else None
    if isinstance(told, list):
        return [text for text in told if isinstance(text, str)]
    return member.contacts.warnings_without_leader()


def shown_members(member: Member) -> list[dict[str, Any]]:
    """The leader's rows, one per member, or this node's own where no leader tells."""
    leader = member.raft.leader
    if leader == member.node:
        return member_rows(member, member_views(member))
    table = member.peers.table(None if leader is None else NodeId(leader))
    if table is not None and isinstance(table.get("members"), list):
        rows: list[dict[str, Any]] = table["members"]
        return rows
    # Without a leader nobody knows who is in sync: reachability as this node sees it.
    rows = member_rows(member, member_views(member))
    for row in rows:
        row.update(in_sync=False, blobs_owed=None, bytes_owed=None, eta_s=None, resync=None)
    return rows


def _risk(rows: list[dict[str, Any]], *, quorum: int) -> dict[str, int | None]:
    """Blobs with too few, or no, reachable holders: 0 where that is certain, else null, never a guess.

    A reachable member that was compared and owes nothing holds every blob.
    """
    whole = sum(bool(row["reachable"]) and row["blobs_owed"] == 0 for row in rows)
    return {
        "blobs_at_risk": 0 if whole >= quorum else None,
        "unreachable_blobs": 0 if whole >= 1 else None,
    }


def _counters(member: Member) -> dict[str, Any]:
    with member.store.view() as view:
        counters = view.counters()
        digests = view.digests()
    return {
        "buckets": counters.bucket_count,
        "objects": counters.object_count,
        "object_bytes": counters.size_bytes,
        "blobs": counters.blob_count,
        "sweep_floor": counters.sweep_floor,
        "digest": {"index": digests.applied_index, "chain": digests.chain.hex()},
    }


def waiting_status(*, node: str, waiting: tuple[str, ...]) -> dict[str, Any]:
    """A node that does not belong to a cluster yet, and what it waits for."""
    return {
        "cluster_id": None,
        "node": node,
        "leader": None,
        "term": 0,
        "ready": False,
        "members": [],
        "commit_index": 0,
        "applied_index": 0,
        "blobs_at_risk": None,
        "unreachable_blobs": None,
        "damaged_blobs": None,
        "quorum_impossible": None,
        "version": __version__,
        "waiting": list(waiting),
        "warnings": [],
    }
