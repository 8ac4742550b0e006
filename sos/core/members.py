"""The member list as Raft has it, as the catalog has it, and as gateways see it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sos.catalog import model
from sos.catalog.model import NodeId
from sos.link.protocol import MemberState
from sos.raft.members import Member, MemberList


def to_raft_list(members: Sequence[model.Member], *, epoch: int = 0) -> MemberList:
    """The catalog's list in Raft's form and order."""
    rows = [
        Member(
            node=member.node,
            address=member.address,
            blob_address=member.blob_address,
            s3_address=member.s3_address,
            leaving=member.leaving,
        )
        for member in members
    ]
    return MemberList(members=tuple(sorted(rows, key=lambda row: row.node)), epoch=epoch)


def blob_quorum(members: MemberList) -> int:
    """How many staying members must hold a new blob (the rule of ``catalog.rules.blob.write_quorum``)."""
    staying = sum(not member.leaving for member in members.members)
    return max(1, min(members.majority, staying))


def member_states(
    members: MemberList, *, own: NodeId, connected: Collection[str]
) -> tuple[MemberState, ...]:
    """What gateways see; a node always reaches itself."""
    return tuple(
        MemberState(
            node=NodeId(member.node),
            name=member.name,
            address=member.address,
            blob_address=member.blob_address,
            s3_address=member.s3_address,
            is_reachable=member.node == own or member.node in connected,
            is_voter=not member.leaving,
        )
        for member in members.members
    )
