"""The member list: its form, the rules of changing it, and which list is in force. Pure.

A list entry holds the whole list, is in force when appended, and differs from the one before by exactly
one member (protocols.md 3.1). Members are counted by ``name@incarnation``, never by name (protocols.md 1.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

NODE_ID: Final = re.compile(r"[a-z0-9-]{1,32}@[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A voter. ``leaving``: counts for no blob quorum any more (protocols.md 3.6)."""

    node: str
    address: str
    blob_address: str = ""
    s3_address: str = ""
    leaving: bool = False

    @property
    def name(self) -> str:
        return self.node.partition("@")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberList:
    """All voters, in order of node id. ``epoch``: of the last `sos recover`; 0 if there was none."""

    members: tuple[Member, ...]
    epoch: int = 0

    def __post_init__(self) -> None:
        names = [member.name for member in self.members]
        assert len(set(names)) == len(names), "one name, one incarnation"
        assert all(NODE_ID.fullmatch(member.node) for member in self.members)
        assert list(self.members) == sorted(self.members, key=lambda member: member.node)

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(member.node for member in self.members)

    @property
    def majority(self) -> int:
        return len(self.members) // 2 + 1

    def without(self, node: str) -> MemberList:
        """The list that removes ``node``."""
        return replace(self, members=tuple(m for m in self.members if m.node != node))

    def with_member(self, member: Member) -> MemberList:
        """The list that adds ``member``, or changes the one of the same node id."""
        others = [m for m in self.members if m.node != member.node]
        return replace(self, members=tuple(sorted([*others, member], key=lambda m: m.node)))


class ChangeRefusal(Enum):
    """Why a leader must not append a list."""

    OWN_TERM_NOT_COMMITTED = "own_term_not_committed"
    LAST_LIST_NOT_COMMITTED = "last_list_not_committed"
    NOT_ONE_MEMBER = "not_one_member"
    WOULD_BE_EMPTY = "would_be_empty"
    REMOVES_LEADER = "removes_leader"
    RECOVERY_NOT_RECORDED = "recovery_not_recorded"
    OTHER_EPOCH = "other_epoch"


def check_change(
    current: MemberList,
    proposed: MemberList,
    *,
    leader: str,
    own_term_committed: bool,
    last_list_committed: bool,
    must_record: bool = False,
) -> ChangeRefusal | None:
    """Why ``leader`` must not append ``proposed`` after ``current``; None if it may (protocols.md 3.1, 3.2, 3.5).

    Exchanging an incarnation changes two members, so a wiped one needs two entries (3.3): one entry
    would lose a write or elect two leaders. ``must_record``: ``current`` is what `sos recover` made of the survivors
    and no entry holds it yet: nothing else may be appended first.
    """
    if not own_term_committed:
        return (
            ChangeRefusal.OWN_TERM_NOT_COMMITTED
        )  # Raft dissertation 4.1, the bug of 2015; model T1
    if not last_list_committed:
        return ChangeRefusal.LAST_LIST_NOT_COMMITTED
    if not proposed.members:
        return ChangeRefusal.WOULD_BE_EMPTY
    if leader not in proposed.nodes:
        return ChangeRefusal.REMOVES_LEADER  # the core counts itself always: hand over first
    if must_record:
        return None if proposed == current else ChangeRefusal.RECOVERY_NOT_RECORDED
    if proposed.epoch != current.epoch:
        return ChangeRefusal.OTHER_EPOCH
    before = {member.node: member for member in current.members}
    after = {member.node: member for member in proposed.members}
    changed = [node for node in before.keys() | after.keys() if before.get(node) != after.get(node)]
    return None if len(changed) == 1 else ChangeRefusal.NOT_ONE_MEMBER


@dataclass(slots=True)
class ListHistory:
    """The lists that may be in force: the state machine's, and those of entries that are not applied yet.

    ``recovered``: the survivors' list of `sos recover`. It stands above every list of an older epoch, wherever in
    the log that is, until an entry holds it.
    """

    base_index: int
    base: MemberList
    recovered: MemberList | None = None
    _appended: list[tuple[int, MemberList]] = field(default_factory=list)

    @property
    def in_force(self) -> MemberList:
        return self.unrecorded or self._newest

    @property
    def unrecorded(self) -> MemberList | None:
        """The list of `sos recover`, as long as the log of this node does not hold it."""
        recovered = self.recovered
        is_newer = recovered is not None and recovered.epoch > self._newest.epoch
        return recovered if is_newer else None

    @property
    def _newest(self) -> MemberList:
        return self._appended[-1][1] if self._appended else self.base

    @property
    def recorded(self) -> tuple[MemberList, ...]:
        """Every list that entries may have been acknowledged under: the state machine's, and those after it."""
        return (self.base, *(members for _, members in self._appended))

    @property
    def in_force_index(self) -> int:
        """The index of the entry that put the list in force, or the state machine's applied index."""
        return self._appended[-1][0] if self._appended else self.base_index

    def append(self, index: int, members: MemberList) -> None:
        assert index > self.in_force_index
        self._appended.append((index, members))

    def truncate_from(self, index: int) -> bool:
        """Forget lists at or above ``index``; True if the list in force changed."""
        kept = [item for item in self._appended if item[0] < index]
        changed = len(kept) != len(self._appended)
        self._appended = kept
        return changed

    def applied(self, index: int) -> None:
        """All up to ``index`` is in the state machine: its lists cannot be truncated any more."""
        while self._appended and self._appended[0][0] <= index:
            self.base_index, self.base = self._appended.pop(0)

    def reset(self, index: int, members: MemberList) -> None:
        """A snapshot at ``index`` replaced everything."""
        self.base_index, self.base = index, members
        self._appended = []
