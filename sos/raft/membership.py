"""Who is counted and who is fed: the list in force, learners, and members on their way out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from sos.raft import messages as m
from sos.raft.api import Log, NodeId
from sos.raft.engine import COMMAND, SosRaft
from sos.raft.feed import Feed
from sos.raft.members import ListHistory, MemberList, check_change

SCAN_ENTRIES: Final = 4096


class Membership:
    """Tells the core and the feed whenever a member list comes into force or is cut away."""

    def __init__(
        self,
        *,
        self_id: NodeId,
        core: SosRaft,
        feed: Feed,
        applied_index: int,
        members: MemberList,
        recovered: MemberList | None = None,
    ) -> None:
        self.self_id = self_id
        self._core = core
        self._feed = feed
        self._lists = ListHistory(base_index=applied_index, base=members, recovered=recovered)
        self._learners: frozenset[NodeId] = frozenset()
        self._departing: dict[
            NodeId, int
        ] = {}  # removed member -> index of the list that removed it
        self.voters: frozenset[NodeId] = self._lists.in_force.nodes
        self._use()

    @property
    def in_force(self) -> MemberList:
        return self._lists.in_force

    @property
    def unrecorded(self) -> MemberList | None:
        """The survivors' list of `sos recover`, until the log holds it (protocols.md 3.7)."""
        return self._lists.unrecorded

    @property
    def is_applied(self) -> bool:
        """Whether the state machine has the list in force, and so whom it removed."""
        return self._lists.in_force is self._lists.base

    @property
    def learners(self) -> frozenset[NodeId]:
        return self._learners

    @property
    def self_votes(self) -> bool:
        return self.self_id in self.voters

    def connected_voters(self) -> list[NodeId]:
        """The other voters that are connected, in order."""
        voters = self.voters - {self.self_id}
        return sorted(node for node in voters if self._core.is_connected(node))

    def is_fed(self, peer: NodeId) -> bool:
        """Whether a leader sends entries to ``peer``, and so expects its answers."""
        if peer in self._learners or peer in self._departing:
            return True
        return peer != self.self_id and peer in self.voters

    def fed_peers(self) -> list[NodeId]:
        """Those who are connected, in order."""
        peers = self.voters | self._learners | self._departing.keys()
        return sorted(n for n in peers if n != self.self_id and self._core.is_connected(n))

    # --- the log ----------------------------------------------------------------------------------
    def scan(self, log: Log, first: int, batch_bytes: int) -> None:
        """Find the lists in the part of the log that the state machine has not applied."""
        while first <= log.last_index:
            entries = log.read_entries(first, SCAN_ENTRIES, batch_bytes)
            self.note(first, [entry[0] for entry in entries])
            first = entries[-1][1] + 1

    def note(self, first: int, commands: Sequence[bytes]) -> None:
        """Put the lists among new entries in force (protocols.md 3.1: when appended)."""
        for at, command in enumerate(commands):
            if command[:2] == COMMAND + m.MEMBERS_BYTE:
                self._lists.append(first + at, m.decode_members(command[1:]))
                self._use()

    def cut_from(self, index: int) -> None:
        """The log lost its entries from ``index`` on, and with them their lists."""
        if self._lists.truncate_from(index):
            self._use()

    def applied(self, index: int) -> None:
        self._lists.applied(index)

    def reset(self, index: int, members: MemberList) -> None:
        """A snapshot replaced everything."""
        self._lists.reset(index, members)
        self._use()

    # --- a leader's part --------------------------------------------------------------------------
    def append_own(self, index: int, payload: bytes) -> bool:
        """A leader's own list, to stand at ``index``; False if the rules forbid it."""
        proposed = m.decode_members(payload)
        lists = self._lists
        refusal = check_change(
            lists.in_force,
            proposed,
            leader=self.self_id,
            own_term_committed=self._core.own_term_committed(),
            last_list_committed=lists.in_force_index <= self._core.commit_index(),
            must_record=lists.unrecorded is not None,
        )
        if refusal is not None:
            return False
        for node in self.voters - proposed.nodes:
            self._departing[node] = index
        lists.append(index, proposed)
        self._use()
        return True

    def set_learners(self, nodes: Collection[NodeId]) -> None:
        self._learners = frozenset(nodes) - {self.self_id}
        self._use()

    def before_leading(self) -> None:
        """Who an earlier leadership saw out is not ours to see out."""
        self._departing.clear()
        self._use()

    def see_out(self) -> bool:
        """Once a list is committed, whom it removes gets that list and nothing after it (protocols.md 3.4).

        Returns: whether there is something to send.
        """
        commit_index = self._core.commit_index()
        is_due = False
        for node, index in list(self._departing.items()):
            if index > commit_index:
                continue
            if self._core.match_index(node) >= index or not self._core.is_connected(node):
                del self._departing[node]
                self._use()
            else:
                self._feed.set_limit(node, index)
                is_due = True
        return is_due

    def leads_with_quorum(self, silent_s: float) -> bool:
        """Whether this leader heard from a majority within ``silent_s``."""
        if not self._core.is_leader():
            return False
        voters = self.voters - {self.self_id}
        heard = sum(1 for node in voters if self._core.heard_s_ago(node) < silent_s)
        return (heard + 1) * 2 > len(voters) + 1

    def _use(self) -> None:
        self.voters = self._lists.in_force.nodes
        for node in [node for node in self._departing if node in self.voters]:
            del self._departing[node]  # named again
        self._core.set_peers(self.voters, self._learners | frozenset(self._departing))
        self._feed.set_limits({node: index - 1 for node, index in self._departing.items()})
